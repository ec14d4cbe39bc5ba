"""Networks follow the images that they look at."""

from types import SimpleNamespace

import torch
from torch import nn

from adjointdpm.tasks.guide.recogniser import EmbeddedRecogniser
from adjointdpm.tasks.guide.saliency import Features, check_saliency
from adjointdpm.tasks.networks import fit_for
from adjointdpm.zoo.objects import OBJECTS


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.layers = nn.ModuleList([nn.Conv2d(3, 4, 3), nn.Conv2d(4, 8, 3, stride=2)])
            self.last = nn.Linear(8, len(OBJECTS))

    def features(self, image):
        first = torch.tanh(self.layers[0](image))
        return [first, torch.tanh(self.layers[1](first))]

    def forward(self, image):
        return SimpleNamespace(objects=self.last(self.features(image)[-1].mean((2, 3))))


def test_a_network_goes_where_the_images_are_and_they_get_its_number_format():
    net = Net()
    image = fit_for(net, torch.zeros(1, 3, 16, 16, dtype=torch.float64, device="meta"))
    assert image.dtype == torch.float32
    assert all(parameter.is_meta for parameter in net.parameters())
    assert fit_for(lambda x: x, image) is image


def test_the_recogniser_is_on_the_device_of_the_images():
    recogniser = EmbeddedRecogniser(Net(), ["red apple"])
    loss = recogniser.loss(torch.zeros(2, 3, 64, 64, device="meta"), ["red apple"] * 2)
    assert loss.device.type == "meta"


def test_features_of_images_in_double_precision():
    image = torch.rand(1, 3, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    saliency = Features(Net())
    check_saliency(saliency, image)
    assert saliency(image).dtype == torch.float64
    assert torch.allclose(saliency(image), saliency(image.float()).double(), atol=1e-6)
