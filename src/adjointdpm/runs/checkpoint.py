"""Checkpoints: safetensors for tensors, JSON for the rest, a manifest written last.

`checkpoint.json` names the two files of the last complete checkpoint with their sizes and SHA-256.  Because it is
replaced only when both are on the disk, and no file that it names is ever written again, a process killed at any moment
leaves either the new checkpoint or the one before it, never a mix.  Older files are removed afterwards.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adjointdpm.errors import InvalidInput
from adjointdpm.runs.atomic import atomic_write, load_tensors, save_tensors
from adjointdpm.runs.state import pack, unpack

__all__ = ["MANIFEST", "Checkpoint", "load_checkpoint", "save_checkpoint"]

MANIFEST = "checkpoint.json"
VERSION = 1


@dataclass(frozen=True)
class Checkpoint:
    """`step` counts finished optimizer steps; `state` is nested plain values and tensors (see `state.pack`)."""

    step: int
    state: dict[str, Any]


def save_checkpoint(folder: Path | str, checkpoint: Checkpoint) -> Path:
    """Save into `folder`; returns the manifest's path.

    Raises `OutputError` if the disk is full or read-only; the previous checkpoint then stands.
    """
    folder = Path(folder)
    stem = _unused(folder, f"checkpoint-{checkpoint.step:08d}")
    packed, tensors = pack(checkpoint.state)
    files = [
        save_tensors(folder / f"{stem}.safetensors", tensors),
        atomic_write(folder / f"{stem}.state.json", json.dumps({"step": checkpoint.step, "state": packed})),
    ]
    manifest = {
        "version": VERSION,
        "step": checkpoint.step,
        "files": {file.name: {"bytes": file.stat().st_size, "sha256": _sha256(file)} for file in files},
    }
    path = atomic_write(folder / MANIFEST, json.dumps(manifest, indent=1))
    for old in folder.glob("checkpoint-*"):
        if re.fullmatch(r"checkpoint-\d{8}(-\d+)?\.(safetensors|state\.json)", old.name) and old not in files:
            with contextlib.suppress(OSError):  # an old file that stays does no harm
                old.unlink()
    return path


def load_checkpoint(folder: Path | str) -> Checkpoint | None:
    """The last complete checkpoint in `folder`, or None if there is none.

    Raises `InvalidInput` naming the file if one is missing, damaged, or of a newer version of the library.
    """
    folder = Path(folder)
    manifest = folder / MANIFEST
    if not manifest.exists():
        return None
    found = _read_json(manifest)
    if found.get("version") != VERSION:
        raise InvalidInput(
            f"{manifest} has version {found.get('version')!r}, this library reads version {VERSION}: "
            "resume with the version of the library that wrote it, or start in a new folder"
        )
    for name, expected in found["files"].items():
        file = folder / Path(name).name
        if not file.is_file():
            raise InvalidInput(f"the checkpoint's file {file} is missing; start in a new folder")
        if file.stat().st_size != expected["bytes"] or _sha256(file) != expected["sha256"]:
            raise InvalidInput(f"the checkpoint's file {file} is damaged (checksum differs); start in a new folder")
    tensor_file, state_file = sorted(found["files"])
    tensors, _ = load_tensors(folder / tensor_file)
    return Checkpoint(int(found["step"]), unpack(_read_json(folder / state_file)["state"], tensors))


def _unused(folder: Path, stem: str) -> str:
    """`stem`, with a number if there are files of this name: several checkpoints may be made at the same step."""
    names = (stem if k == 0 else f"{stem}-{k}" for k in itertools.count())
    return next(name for name in names if not any(folder.glob(f"{name}.*")))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InvalidInput(f"{path} is not readable JSON ({error}); start in a new folder") from error
    if not isinstance(value, dict):
        raise InvalidInput(f"{path} does not hold a JSON object; start in a new folder")
    return value
