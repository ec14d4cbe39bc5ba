"""Regenerates every figure of the embedded model: ``python -m adjointdpm.zoo.evaluate``.

Reads the shipped weights and the composed drawings (data stage), writes
`studies/embedded_model/results.json`, the training log beside it, sample sheets and the page
`docs/embedded-model.md`.  `--frechet N` sets the number of images of the Fréchet distance (0 leaves it as
it was); it needs the `efficientnet` extra.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from adjointdpm.zoo.captions import caption
from adjointdpm.zoo.compose import Sprites, compose
from adjointdpm.zoo.draw import draw_scenes
from adjointdpm.zoo.load import WEIGHTS, classifier, emoji, judge
from adjointdpm.zoo.measure import efficientnet_features, frechet_distance, generate, gradient_energy, recognised, share
from adjointdpm.zoo.page import write_page
from adjointdpm.zoo.prompts import Row, evaluation_prompts, scenes_of
from adjointdpm.zoo.rules import background_obeyed, effect_obeyed, effect_of, rule_quality
from adjointdpm.zoo.sheets import write_sheets
from adjointdpm.zoo.sprites import build_sprites

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

SEED, STEPS, GUIDANCE = 1000, 20, 2.5


def evaluate_prompts(pipe: StableDiffusionPipeline, sprites: Sprites) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Recognition, rules and edges on the committed prompts; also the images, for the sheets."""
    network, figures, images = judge(), {}, {}
    for name, rows in evaluation_prompts().items():
        made = generate(pipe, [row["prompt"] for row in rows], SEED, STEPS, GUIDANCE)
        images[name] = made
        figures[name] = judged(made, rows, network)
        real = compose(scenes_of(rows), sprites, torch.Generator().manual_seed(SEED))
        figures[name]["judge_on_real"] = judged(real, rows, network)
        energy = {"generated": gradient_energy(made), "real": gradient_energy(real)}
        figures[name]["gradient_energy"] = energy | {"ratio": energy["generated"] / energy["real"]}
        figures[name] |= obedience(made, rows, sprites)
        figures[name]["failures"] = [
            row["prompt"] for row, right in zip(rows, recognised(network(made), rows)[0], strict=True) if not right
        ]
    return figures, images


def judged(images: Tensor, rows: list[Row], network: torch.nn.Module) -> dict[str, Any]:
    with torch.no_grad():
        objects, styles = recognised(network(images), rows)
    return {"object": share(objects), "style": share(styles)}


def obedience(images: Tensor, rows: list[Row], sprites: Sprites) -> dict[str, Any]:
    """Effect and background words by the pixel rules, altogether and by word."""
    effects: dict[str, list[bool]] = {}
    grounds: dict[str, list[bool]] = {}
    for image, row in zip(images, rows, strict=True):
        if effect_of(row) != "none":
            effects.setdefault(effect_of(row), []).append(effect_obeyed(image, row, sprites))
        grounds.setdefault(row["kind"], []).append(background_obeyed(image, row, sprites))
    return {
        "effect": share([ok for found in effects.values() for ok in found]),
        "effect_by_word": {k: f"{sum(v)}/{len(v)}" for k, v in sorted(effects.items())},
        "background": share([ok for found in grounds.values() for ok in found]),
        "background_by_kind": {k: f"{sum(v)}/{len(v)}" for k, v in sorted(grounds.items())},
    }


@torch.no_grad()
def evaluate_autoencoder(pipe: StableDiffusionPipeline, sprites: Sprites, n: int = 1000) -> dict[str, float]:
    """PSNR on composed images drawn from another seed than the training's."""
    g = torch.Generator().manual_seed(77_000_023)
    real = compose(draw_scenes(n, g, include_held_out=True), sprites, g)
    passed = torch.cat([pipe.vae.decode(pipe.vae.encode(2 * x - 1).latents).sample for x in real.split(50)])
    error = ((0.5 + 0.5 * passed).clamp(0, 1) - real).square()
    each = -10 * error.mean(dim=(1, 2, 3)).log10()
    return {"psnr": float(-10 * error.mean().log10()), "psnr_mean_of_images": float(each.mean()), "n": n}


def evaluate_frechet(pipe: StableDiffusionPipeline, sprites: Sprites, n: int) -> dict[str, float]:
    """Generated against composed images of the same `n` random scenes; the floor is real against real."""
    g = torch.Generator().manual_seed(5_000_011)
    scenes = draw_scenes(n, g)
    prompts = [caption(scenes, i) for i in range(n)]
    made = efficientnet_features(generate(pipe, prompts, 50_000, STEPS, GUIDANCE, batch=50))
    real = efficientnet_features(compose(scenes, sprites, g))
    other = efficientnet_features(compose(draw_scenes(n, g), sprites, g))
    return {
        "n": n,
        "dimensions": made.shape[1],
        "generated": frechet_distance(made, real),
        "real_floor": frechet_distance(other, real),
    }


def evaluate_speed(pipe: StableDiffusionPipeline, runs: int = 7) -> dict[str, float | int]:
    """Median seconds for one image at the evaluation's settings."""
    times = []
    for seed in range(runs + 1):
        start = time.perf_counter()
        generate(pipe, ["flat cat on blue stripes"], seed, STEPS, GUIDANCE)
        times.append(time.perf_counter() - start)
    return {
        "seconds_per_image": sorted(times[1:])[runs // 2],
        "steps": STEPS,
        "guidance": GUIDANCE,
        "threads": torch.get_num_threads(),
    }


def evaluate_classifiers(sprites: Sprites, vae: torch.nn.Module) -> dict[str, Any]:
    """Both networks on augmentations from a seed that training did not use."""
    from adjointdpm.zoo.train_classifiers import held_out_accuracy
    from adjointdpm.zoo.training import Run

    out = {}
    for name, network in (("classifier", classifier()), ("judge", judge())):
        run = Run(Path("."), name, 0.0)
        out[name] = held_out_accuracy(network, sprites, vae, torch.Generator().manual_seed(99_000_017), run)
    return out


def sizes(weights: Path) -> dict[str, float]:
    """Shipped megabytes by part."""
    files = {
        "model": weights / "emoji",
        "classifier": weights / "classifier.safetensors",
        "judge": weights / "judge.safetensors",
    }
    mega = {
        k: sum(f.stat().st_size for f in ([p] if p.is_file() else p.rglob("*")) if f.is_file()) / 1e6
        for k, p in files.items()
    }
    return {k: round(v, 2) for k, v in mega.items()} | {"total": round(sum(mega.values()), 2)}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m adjointdpm.zoo.evaluate", description=__doc__.split("\n\n")[0])
    parser.add_argument("--work", type=Path, default=Path(".cache/zoo"), help="folder of sprites and training log")
    parser.add_argument("--packages", type=Path, default=Path(".cache/npm"))
    parser.add_argument("--weights", type=Path, default=WEIGHTS)
    parser.add_argument("--out", type=Path, default=Path("studies/embedded_model"))
    parser.add_argument("--page", type=Path, default=Path("docs/embedded-model.md"))
    parser.add_argument("--frechet", type=int, default=2000, help="images of the Fréchet distance, 0 to keep the last")
    parser.add_argument("--rules", action="store_true", help="measure the pixel rules on composed images again")
    chosen = parser.parse_args(arguments)
    if not (chosen.work / "sprites.npz").exists():
        build_sprites(chosen.packages, chosen.work / "sprites.npz")
    sprites, pipe = Sprites.load(chosen.work / "sprites.npz"), emoji()
    chosen.out.mkdir(parents=True, exist_ok=True)
    path = chosen.out / "results.json"
    results: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    figures, images = evaluate_prompts(pipe, sprites)
    results |= {"prompts": figures, "speed": evaluate_speed(pipe), "sizes_mb": sizes(chosen.weights)}
    results["autoencoder"] = evaluate_autoencoder(pipe, sprites)
    results["classifiers"] = evaluate_classifiers(sprites, pipe.vae)
    if chosen.rules or "rules_on_real" not in results:  # depends on drawings and rules alone
        results["rules_on_real"] = rule_quality(evaluation_prompts()["even"][::4], sprites)
    if chosen.frechet:
        results["frechet"] = evaluate_frechet(pipe, sprites, chosen.frechet)
    path.write_text(json.dumps(results, indent=2) + "\n")
    if (chosen.work / "log.jsonl").exists():
        shutil.copy(chosen.work / "log.jsonl", chosen.out / "training_log.jsonl")
    write_sheets(images, pipe, chosen.out)
    write_page(results, chosen.out, chosen.page)
    print(f"wrote {path}, {chosen.page}")


if __name__ == "__main__":
    main()
