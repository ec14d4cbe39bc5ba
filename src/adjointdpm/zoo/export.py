"""Export stage: finished weights become the shipped diffusers folder and the two classifiers' files.

The denoiser and the classifiers are stored in float16, text encoder and autoencoder in float32:
plain diffusers loads a text encoder in the type it was stored in and the others in float32, and
only float32 then fits together.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from adjointdpm.zoo.build import build_pipeline

CARD = Path(__file__).with_name("model_card.md")


def _halved(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {k: v.half() if v.is_floating_point() else v for k, v in state.items()}


def export(folder: Path, weights: Path) -> Path:
    """Write `weights/emoji/`, `classifier.safetensors`, `judge.safetensors`; returns the model's folder."""
    pipe = build_pipeline()
    decoder = folder / "decoder.safetensors"
    pipe.vae.load_state_dict(load_file(decoder if decoder.exists() else folder / "autoencoder.safetensors"))
    pipe.unet.load_state_dict(load_file(folder / "unet.safetensors"))
    pipe.text_encoder.load_state_dict(load_file(folder / "text_encoder.safetensors"))
    pipe.unet.to(torch.float16)
    partial, final = weights / "emoji.partial", weights / "emoji"
    shutil.rmtree(partial, ignore_errors=True)
    pipe.save_pretrained(partial, safe_serialization=True)
    for config in partial.glob("*/config.json"):  # nothing that names the machine it was made on
        values = json.loads(config.read_text())
        values.pop("_name_or_path", None)
        config.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n")
    if CARD.exists():
        shutil.copy(CARD, partial / "README.md")
    shutil.rmtree(final, ignore_errors=True)
    partial.rename(final)
    for name in ("classifier", "judge"):
        if (folder / f"{name}.safetensors").exists():
            save_file(_halved(load_file(folder / f"{name}.safetensors")), weights / f"{name}.safetensors")
    _write_checksums(weights)
    return final


def _write_checksums(weights: Path) -> None:
    """`SHA256SUMS` in the format of sha256sum: what `adjointdpm doctor` compares the files with."""
    files = sorted(p for p in weights.rglob("*") if p.is_file() and p.name != "SHA256SUMS")
    lines = [f"{hashlib.sha256(p.read_bytes()).hexdigest()}  {p.relative_to(weights).as_posix()}\n" for p in files]
    (weights / "SHA256SUMS").write_text("".join(lines))
