"""--model, --device, --dtype: a loaded frozen pipeline or one message that says what is wrong with which file."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from adjointdpm.cli.models import ModelChoice, load_pipeline, torch_device, torch_dtype
from adjointdpm.errors import InvalidInput


@pytest.fixture
def folder(tiny_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_folder, tmp_path / "model"))


def refused(model: Path | str, **options: str) -> str:
    with pytest.raises(InvalidInput) as caught:
        load_pipeline(str(model), device="cpu", **options)
    return str(caught.value)


def test_a_folder_loads_frozen_in_eval_mode_and_the_asked_dtype(tiny_folder: Path) -> None:
    pipe = ModelChoice(str(tiny_folder), device="cpu", dtype="float64").load()
    parameters = [p for part in (pipe.unet, pipe.vae, pipe.text_encoder) for p in part.parameters()]
    assert not any(p.requires_grad for p in parameters)
    assert {p.dtype for p in parameters} == {torch.float64}
    assert not pipe.unet.training


def test_no_such_folder() -> None:
    assert "./nowhere" in refused("./nowhere")
    assert "no such folder" in refused("a/b/c")
    assert "no such folder" in refused("../x/y")


def test_a_file_is_not_a_folder(folder: Path) -> None:
    message = refused(folder / "model_index.json")
    assert "from_single_file" in message


def test_no_index(folder: Path) -> None:
    message = refused(folder / "unet")
    assert "model_index.json" in message
    assert "config.json" in message


@pytest.mark.parametrize("text", ["{", "[]", '{"_class_name": "NoSuchPipeline"}', "{}"])
def test_broken_index(folder: Path, text: str) -> None:
    (folder / "model_index.json").write_text(text)
    assert "model_index.json" in refused(folder)


def test_truncated_weights_are_named(folder: Path) -> None:
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    message = refused(folder)
    assert str(file) in message
    assert "1000 bytes" in message


def test_html_page_instead_of_weights(folder: Path) -> None:
    file = folder / "vae" / "diffusion_pytorch_model.safetensors"
    file.write_text("<html>404</html>" * 20)
    assert str(file) in refused(folder)


def test_empty_weights(folder: Path) -> None:
    file = folder / "text_encoder" / "model.safetensors"
    file.write_bytes(b"")
    assert str(file) in refused(folder)


def test_pickled_weights_are_refused_unopened(folder: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (folder / "exploded",))  # type: ignore[return-value]

    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    torch.save({"weight": Bomb()}, folder / "unet" / "diffusion_pytorch_model.bin")
    message = refused(folder)
    assert "pickled" in message
    assert "diffusion_pytorch_model.bin" in message
    assert "save_pretrained" in message
    assert not (folder / "exploded").exists()


def test_missing_weights_and_parts(folder: Path) -> None:
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    assert "no .safetensors file" in refused(folder)
    shutil.rmtree(folder / "unet")
    assert str(folder / "unet") in refused(folder)


def test_variant(folder: Path) -> None:
    for part, stem in (
        ("unet", "diffusion_pytorch_model"),
        ("vae", "diffusion_pytorch_model"),
        ("text_encoder", "model"),
    ):
        (folder / part / f"{stem}.safetensors").rename(folder / part / f"{stem}.fp16.safetensors")
    assert "--variant fp16" in refused(folder)
    assert "'fp32'" in refused(folder, variant="fp32")
    assert load_pipeline(str(folder), device="cpu", variant="fp16") is not None


def test_shapes_that_do_not_fit_are_one_message(folder: Path) -> None:
    config = json.loads((folder / "unet" / "config.json").read_text())
    (folder / "unet" / "config.json").write_text(json.dumps({**config, "cross_attention_dim": 48}))
    assert "could not be loaded" in refused(folder)


def test_hub_id_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    message = refused("nobody/no-such-model")
    assert "HF_HUB_OFFLINE" in message
    assert "nobody/no-such-model" in message


@pytest.mark.parametrize("name", ["gpu", "cuda:99", "meta", "cpu:3", ""])
def test_devices_that_are_not_there(name: str) -> None:
    with pytest.raises(InvalidInput, match="--device"):
        torch_device(name)


def test_device_and_dtype_names() -> None:
    assert torch_device("cpu") == torch.device("cpu")
    assert torch_device("auto").type in ("cpu", "cuda")
    assert torch_dtype("bfloat16") is torch.bfloat16
    with pytest.raises(InvalidInput, match="float8"):
        torch_dtype("float8")
