"""Data stage: the three emoji sets as RGBA sprites at the sizes the captions know.

The sets come from npm packages (``npm pack`` fetches them when absent).  Every drawing is trimmed
to its visible pixels, fitted into a square and resampled with premultiplied alpha, so that one
size word means the same extent in every style; a plain resize would leave each set's own margins
and dark fringes where transparent pixels are black.
"""

from __future__ import annotations

import json
import subprocess
import tarfile
from pathlib import Path

import numpy as np

from adjointdpm.zoo.lexicon import SIZES, STYLES
from adjointdpm.zoo.objects import OBJECTS, SHORT_NAMES

PACKAGES = {
    "emoji-datasource-google": "emoji-datasource-google-16.0.0.tgz",
    "emoji-datasource-twitter": "emoji-datasource-twitter-16.0.0.tgz",
    "@lobehub/fluent-emoji-3d": "lobehub-fluent-emoji-3d-1.1.0.tgz",
}
VERSIONS = {
    "emoji-datasource-google": "16.0.0",
    "emoji-datasource-twitter": "16.0.0",
    "@lobehub/fluent-emoji-3d": "1.1.0",
}


def fetch_packages(folder: Path) -> dict[str, Path]:
    """Paths of the three npm archives, packed into `folder` where they are missing."""
    folder.mkdir(parents=True, exist_ok=True)
    for package, archive in PACKAGES.items():
        if not (folder / archive).exists():
            spec = f"{package}@{VERSIONS[package]}"
            subprocess.run(["npm", "pack", spec], cwd=folder, check=True)
    return {package: folder / archive for package, archive in PACKAGES.items()}


def _read_drawings(archives: dict[str, Path]) -> dict[tuple[str, str], np.ndarray]:
    """RGBA drawings by (word, style), as stored in the archives."""
    from PIL import Image

    google, twitter, fluent = (tarfile.open(archives[p]) for p in PACKAGES)  # noqa: SIM115
    table = google.extractfile("package/emoji.json")
    assert table is not None
    rows = {row["short_name"]: row for row in json.load(table)}
    fluent_names = set(fluent.getnames())
    wanted: dict[tuple[str, str], tuple[tarfile.TarFile, str]] = {}
    for word, short_name in SHORT_NAMES.items():
        row = rows[short_name]
        wanted[word, "shaded"] = google, f"package/img/google/64/{row['image']}"
        wanted[word, "flat"] = twitter, f"package/img/twitter/64/{row['image']}"
        code = row["unified"].lower()
        candidates = [f"package/assets/{c}.webp" for c in (code, code.replace("-fe0f", ""))]
        wanted[word, "3d"] = fluent, next(c for c in candidates if c in fluent_names)
    members = {(id(t), m.name): m for t in (google, twitter, fluent) for m in t.getmembers()}
    drawings = {}
    for key, (archive, name) in sorted(wanted.items(), key=lambda kv: members[id(kv[1][0]), kv[1][1]].offset):
        file = archive.extractfile(members[id(archive), name])
        assert file is not None
        drawings[key] = np.asarray(Image.open(file).convert("RGBA"))
    return drawings


def fit(drawing: np.ndarray, size: int) -> np.ndarray:
    """(H, W, 4) uint8 drawing -> (size, size, 4) uint8, trimmed, centred, premultiplied alpha."""
    from PIL import Image

    rows, cols = np.nonzero(drawing[..., 3] > 16)
    drawing = drawing[rows.min() : rows.max() + 1, cols.min() : cols.max() + 1].astype(np.float32) / 255
    premultiplied = np.concatenate([drawing[..., :3] * drawing[..., 3:], drawing[..., 3:]], axis=-1)
    height, width = drawing.shape[:2]
    scale = size / max(height, width)
    target = (max(1, round(width * scale)), max(1, round(height * scale)))
    planes = [
        np.asarray(Image.fromarray(premultiplied[..., c]).resize(target, Image.Resampling.LANCZOS)) for c in range(4)
    ]
    fitted = np.zeros((size, size, 4), np.float32)
    top, left = (size - target[1]) // 2, (size - target[0]) // 2
    fitted[top : top + target[1], left : left + target[0]] = np.stack(planes, axis=-1).clip(0, 1)
    fitted[..., :3] = np.minimum(fitted[..., :3], fitted[..., 3:])
    return (fitted * 255).round().astype(np.uint8)


def build_sprites(archives_folder: Path, path: Path) -> Path:
    """Write all sprites (premultiplied RGBA, one array a size) to the npz file `path`."""
    drawings = _read_drawings(fetch_packages(archives_folder))
    arrays = {
        name: np.stack([np.stack([fit(drawings[w, s], size) for s in STYLES]) for w in OBJECTS])
        for name, size in SIZES.items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial.npz")
    np.savez_compressed(partial, **arrays)
    partial.rename(path)
    return path
