"""`adjointdpm doctor`: everything there, and each thing that can be missing."""

from __future__ import annotations

import hashlib
import shutil
import sys
import types
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from adjointdpm import zoo
from adjointdpm.cli import requirements
from adjointdpm.cli.doctor import CHECKSUMS


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch, tiny_folder: Path, tmp_path: Path) -> Path:
    """The library's metadata as an installed one has it, and a tiny model in the place of the embedded one."""
    lines = ["torch>=2.6", "numpy>=1.26", 'no-such-metric>=1; extra == "metric"', 'ruff>=0.1; extra == "dev"']
    groups = types.SimpleNamespace(get_all=lambda name: ["metric", "dev"])
    monkeypatch.setattr(requirements.metadata, "requires", lambda name: lines)
    monkeypatch.setattr(requirements.metadata, "metadata", lambda name: groups)
    folder = tmp_path / "weights" / "emoji"
    shutil.copytree(tiny_folder, folder)
    monkeypatch.setattr(zoo, "emoji_folder", lambda: folder, raising=False)
    return folder


def test_all_there(cli: Callable[..., Any], installed: Path) -> None:
    ran = cli("doctor", "--json")
    found = ran.document
    assert ran.code == 0, found["problems"]
    assert found["ok"]
    assert {package["name"] for package in found["packages"]} == {"torch", "numpy"}
    assert found["extras"]["metric"][0]["remedy"] == "pip install 'adjointdpm[metric]'"
    assert "dev" not in found["extras"]
    assert found["device"]["torch_threads"] >= 1
    assert found["embedded_model"]["found"]
    assert found["environment"]["HF_HUB_OFFLINE"] == "1"
    assert found["memory"]["disk_free_mib"] > 0
    text = cli("doctor")
    assert text.code == 0
    assert "Nothing that is required is missing." in text.out
    assert "pip install 'adjointdpm[metric]'" in text.out
    assert "model hub: off" in text.out


def test_a_required_package_that_is_missing_old_or_broken(
    cli: Callable[..., Any], installed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = ["torch>=99.1", "numpy>=1.26", "no-such-package>=3"]
    monkeypatch.setattr(requirements.metadata, "requires", lambda name: lines)
    monkeypatch.setitem(sys.modules, "numpy", None)  # an import of it raises
    found = cli("doctor", "--json")
    assert found.code == 1
    problems = "\n".join(found.document["problems"])
    assert "torch: older than 99.1: pip install --upgrade 'torch>=99.1'" in problems
    assert "no-such-package: not installed: pip install 'no-such-package>=3'" in problems
    assert "numpy: installed but does not import" in problems


def test_not_installed(cli: Callable[..., Any], installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> list[str]:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(requirements.metadata, "requires", absent)
    ran = cli("doctor")
    assert ran.code == 1
    assert "pip install -e ." in ran.out


def test_damaged_and_missing_weights(cli: Callable[..., Any], installed: Path) -> None:
    file = installed / "unet" / "diffusion_pytorch_model.safetensors"
    whole = file.read_bytes()
    listing = installed.parent / CHECKSUMS
    listing.write_text(f"{hashlib.sha256(whole).hexdigest()}  emoji/unet/{file.name}\n")
    assert cli("doctor", "--json").document["embedded_model"]["checksums"] == "as shipped"
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))  # the header is sound, one bit of the weights is not
    ran = cli("doctor")
    assert ran.code == 1
    assert "differs from what was shipped" in ran.out
    file.write_bytes(whole[:5000])
    assert "truncated or corrupted" in cli("doctor").out
    file.unlink()
    assert cli("doctor", "--json").document["problems"]


def test_broken_torchvision_is_told_but_no_failure(
    cli: Callable[..., Any], installed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = metadata.version
    monkeypatch.setattr(requirements.metadata, "version", lambda n: "0.99" if n == "torchvision" else real(n))
    monkeypatch.setitem(sys.modules, "torchvision", None)
    ran = cli("doctor")
    assert ran.code == 0
    assert "pip uninstall torchvision" in ran.out


def test_requirements_of_the_real_metadata_are_read() -> None:
    assert {"torch", "diffusers", "typer"} <= {package.name for package in requirements.required()}
    assert all(not package.problem for package in requirements.required())
