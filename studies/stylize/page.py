"""docs/stylize.md and its pictures, from the study's figures and images alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from adjointdpm.formats import save_png
from adjointdpm.report import picture_sheet, to_pil
from adjointdpm.runs import load_tensors
from studies.stylize.design import HALVED, KEPT, METHODS, Plan, Style
from studies.template import page_template

__all__ = ["page", "percent", "write_pictures"]

PER_SHEET = 8
TESTED, RIVALS = "unseen prompts", ("textual_inversion", "dreambooth")


def percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def write_pictures(folder: Path, images: Path, plan: Plan) -> None:
    """One sheet per style (rows: methods, columns: unseen prompts), and one over all styles."""
    sets = plan.sets()
    pairs = sets[TESTED]
    count, total = len(pairs), sum(map(len, sets.values()))
    chosen = [round(k * (count - 1) / max(1, min(PER_SHEET, count) - 1)) for k in range(min(PER_SHEET, count))]
    before = _tested(load_tensors(folder / "before.safetensors")[0]["image"], total, count)
    overview, names = [], []
    for style in plan.styles:
        pictures = {m: load_tensors(folder / style.name / f"{m}.safetensors")[0]["image"] for m in METHODS}
        after = {m: _tested(p, total, count) for m, p in pictures.items()}
        reference = thumbnail(style, before.shape[-1])
        heads = ["the style", *(pairs[i][0].replace(" background", "") for i in chosen)]
        rows = [[reference, *to_pil(before[chosen])]]
        rows += [[reference, *to_pil(after[m][chosen])] for m in METHODS]
        save_png(picture_sheet(rows, heads, ["before", *METHODS.values()]), images / f"stylize_{style.name}.png")
        few = chosen[:4]
        overview.append([reference, *to_pil(before[few]), *to_pil(after["ours"][few])])
        names.append(style.title.split(",")[0])
    some = min(4, len(chosen))
    heads = ["the style", "before", *[""] * (some - 1), "after", *[""] * (some - 1)]
    save_png(picture_sheet(overview, heads, names), images / "stylize.png")


def _tested(images: Tensor, total: int, count: int) -> Tensor:
    """The images of the last set, of all sets' or of its own."""
    if len(images) not in (total, count):
        raise ValueError(f"{len(images)} images where {total} or {count} were made")
    return images[-count:]


def thumbnail(style: Style, side: int) -> Image.Image:
    with Image.open(style.file) as opened:
        return opened.convert("RGB").resize((side, side), Image.Resampling.LANCZOS)


def page(results: dict[str, Any], plan: Plan) -> str:
    """The page as Markdown: every figure in it comes from `results`."""
    meter = results["meters"][0]
    styles, answers = list(plan.styles), {}
    for style in styles:
        found = {m: f[meter] for m, f in results["styles"][style.name]["sets"][TESTED].items()}
        ours = found["ours"]
        answers[style.name] = {
            "halved": ours["drop"]["value"] >= HALVED,
            "kept": ours["kept"]["value"] >= KEPT,
            "ahead": all(ours["both"]["share"] > found[m]["both"]["share"] for m in RIVALS),
        }
    pixels = [results["styles"][style.name]["sets"][TESTED]["pixels"][meter] for style in styles]
    template = page_template(Path(__file__).parent, percent=percent, ranged=_ranged, thousands="{:,}".format)
    counts = {key: sum(answer[key] for answer in answers.values()) for key in ("halved", "kept", "ahead")}
    counts["reached"] = sum(answer["halved"] and answer["kept"] for answer in answers.values())
    counts["pixels"] = sum(f["drop"]["value"] >= HALVED and f["kept"]["value"] >= KEPT for f in pixels)
    return template.render(
        r=results, plan=plan, styles=styles, meter=meter, also=results["meters"][1:], methods=METHODS, tested=TESTED,
        answers=answers, counts=counts, first=results["styles"][styles[0].name], halved=HALVED, kept=KEPT,
        tokens=results["rates"]["token_vectors"],
    )  # fmt: skip


def _ranged(found: dict[str, float]) -> str:
    key = "value" if "value" in found else "share"
    return f"{percent(found[key])} ({100 * found['low']:.0f} … {100 * found['high']:.0f})"
