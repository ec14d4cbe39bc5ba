"""Networks of other packages: the same numbers, with a gradient, or a reason why not."""

import sys
import types

import pytest
import torch
from torch import nn

from adjointdpm.errors import InvalidInput, NotDifferentiable
from adjointdpm.tasks.audit.adapters import from_folder, from_onnx, module_in
from adjointdpm.tasks.audit.network import ClassifierUnderAudit, load_object
from tests.tasks.audit import networks

IMAGES = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)


def normalised(images):
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (MEAN, STD))
    return (images - mean) / std


def check(network, expected):
    """Same logits and same gradient as the plain network on the same images."""
    network.probe(IMAGES)
    x, y = IMAGES.clone().requires_grad_(), IMAGES.clone().requires_grad_()
    ours, theirs = network.logits(x), expected(y)
    assert torch.allclose(ours, theirs, atol=1e-4)
    ours[:, 0].sum().backward()
    theirs[:, 0].sum().backward()
    assert torch.allclose(x.grad, y.grad, atol=1e-4)


@pytest.mark.parametrize("bounds", [(0, 1), (0, 255)])
def test_foolbox(bounds):
    foolbox = pytest.importorskip("foolbox")
    module = networks.tiny().eval()
    preprocessing = {"mean": MEAN, "std": STD, "axis": -3}
    model = foolbox.PyTorchModel(module, bounds=bounds, preprocessing=preprocessing, device="cpu")
    scale = bounds[1] - bounds[0]
    check(ClassifierUnderAudit(model, "foolbox"), lambda x: module(normalised(x * scale)))
    assert module_in(model) is module


@pytest.mark.parametrize("clip", [(0.0, 1.0), (0.0, 255.0)])
def test_art(clip):
    pytest.importorskip("art")
    from art.estimators.classification import PyTorchClassifier

    module = networks.tiny().eval()
    model = PyTorchClassifier(
        module, nn.CrossEntropyLoss(), (3, 16, 16), networks.CLASSES, clip_values=clip, device_type="cpu",
        preprocessing=(torch.tensor(MEAN).view(3, 1, 1).numpy(), torch.tensor(STD).view(3, 1, 1).numpy()),
    )  # fmt: skip
    scale = clip[1] - clip[0]
    check(ClassifierUnderAudit(model, "art"), lambda x: module(normalised(x * scale)))
    assert module_in(model) is module
    assert torch.allclose(
        ClassifierUnderAudit(model, "art").raw(IMAGES), torch.from_numpy(model.predict((scale * IMAGES).numpy())),
        atol=1e-4,
    )  # fmt: skip


def test_arts_preprocessing_outside_torch_is_named():
    pytest.importorskip("art")
    from art.defences.preprocessor import SpatialSmoothing
    from art.estimators.classification import PyTorchClassifier

    model = PyTorchClassifier(
        networks.tiny(), nn.CrossEntropyLoss(), (3, 16, 16), networks.CLASSES, clip_values=(0, 1), device_type="cpu",
        preprocessing_defences=[SpatialSmoothing(window_size=3, channels_first=True)],
    )  # fmt: skip
    with pytest.raises(NotDifferentiable, match="preprocessing step SpatialSmoothing is not torch code"):
        ClassifierUnderAudit(model, "art")


def test_models_of_these_packages_for_other_frameworks_are_refused():
    model = type("TensorFlowModel", (), {"__module__": "foolbox.models.tensorflow", "bounds": None})()
    with pytest.raises(InvalidInput, match="Foolbox's TensorFlowModel; expected its PyTorchModel"):
        ClassifierUnderAudit(model, "foolbox")
    model = type("KerasClassifier", (), {"__module__": "art.estimators.classification.keras"})()
    with pytest.raises(InvalidInput, match="ART's KerasClassifier; expected a PyTorchClassifier"):
        ClassifierUnderAudit(model, "art")


def test_onnx(tmp_path):
    pytest.importorskip("onnx2torch")
    module = networks.tiny().eval()
    path = tmp_path / "tiny.onnx"
    torch.onnx.export(module, (IMAGES,), str(path), dynamo=False, dynamic_axes={"images": {0: "b"}},
                      input_names=["images"])  # fmt: skip
    check(ClassifierUnderAudit(load_object(str(path)), "onnx"), module)


def test_onnx_says_what_is_missing_and_why_it_cannot_be_converted(tmp_path, monkeypatch):
    with pytest.raises(InvalidInput, match="no network file"):
        from_onnx(tmp_path / "none.onnx")
    path = tmp_path / "a.onnx"
    path.write_bytes(b"not a network")
    monkeypatch.setitem(sys.modules, "onnx2torch", None)
    with pytest.raises(InvalidInput, match=r"pip install 'adjointdpm\[onnx\]'"):
        from_onnx(path)

    def convert(name):
        raise NotImplementedError("Converter is not implemented (OperationDescription(operation_type='NonZero'))")

    monkeypatch.setitem(sys.modules, "onnx2torch", types.SimpleNamespace(convert=convert))
    with pytest.raises(NotDifferentiable, match=r"cannot be made differentiable.*NonZero"):
        from_onnx(path)


def test_a_folder_of_a_transformers_classifier(tmp_path):
    from transformers import ResNetConfig, ResNetForImageClassification

    torch.manual_seed(0)
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], num_labels=4, layer_type="basic")
    module = ResNetForImageClassification(config).eval().requires_grad_(False)
    module.save_pretrained(tmp_path / "net")
    (tmp_path / "net" / "preprocessor_config.json").write_text(
        f'{{"do_resize": true, "size": {{"shortest_edge": 32}}, "do_center_crop": true, "crop_size": {{"height": 28, '
        f'"width": 28}}, "do_normalize": true, "image_mean": {list(MEAN)}, "image_std": {list(STD)}}}'
    )

    def expected(x):
        big = nn.functional.interpolate(x, size=(32, 32), mode="bicubic", align_corners=False, antialias=True)
        return module(normalised(big[..., 2:30, 2:30])).logits

    check(ClassifierUnderAudit(load_object(str(tmp_path / "net")), "folder"), expected)


def test_folders_that_hold_no_classifier_are_refused(tmp_path):
    with pytest.raises(InvalidInput, match=r"no config\.json"):
        from_folder(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(InvalidInput, match=r"no \.safetensors weights; pickled"):
        from_folder(tmp_path)


def test_names_stand_for_a_network_its_class_or_what_makes_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(
        "from tests.tasks.audit.networks import Tiny\nnet = Tiny()\ndef make():\n    return Tiny(3)\n"
        "def function(images):\n    return images.mean(dim=(2, 3))\ndef broken():\n    raise KeyError('a')\n"
    )
    assert isinstance(load_object("mine.py:net"), nn.Module)
    assert isinstance(load_object("mine.py:Tiny"), nn.Module)
    assert isinstance(load_object("mine.py:make"), nn.Module)
    assert load_object("mine.py:function")(IMAGES).shape == (2, 3)
    for name, message in (("mine.py:nothing", "no function"), ("mine.py", "expected 'module:function'"),
                          ("mine.py:broken", r"fails at mine\.py:\d+ .*: KeyError"), ("absent:x", "cannot import"),
                          ("https://a.b/c", "address")):  # fmt: skip
        with pytest.raises(InvalidInput, match=message):
            load_object(name)
