"""docs/guide.md and its pictures, from the study's figures alone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from adjointdpm.formats import save_png
from adjointdpm.report import picture_sheet, to_pil
from adjointdpm.runs import load_tensors
from studies.guide.defaults import ASKED, CIRCLES, DATA, DISCS, figures_of
from studies.guide.design import BLEND, BOXES, KEPT, Plan, Question
from studies.guide.measure import MEASURES
from studies.guide.runner import Study, methods_of
from studies.guide.summary import answers, cases, counted, median_interval, summarise
from studies.template import page_template

__all__ = ["page", "write_pictures"]

SHOWN = {
    "plain": "unguided",
    "start": "its start",
    "exact": "exact gradient",
    "words": "best of n",
    "one_step": "one-step gradient",
    "universal": "guidance while sampling",
}
TIMES = 2
CLOSE = 0.8  # an overlap that looks like the box itself


def write_pictures(study: Study, images: Path, plan: Plan) -> None:
    """One sheet for each group: a row for each prompt and noise, a column for each method."""
    for group in dict.fromkeys(q.group for q in plan.questions):
        questions = [q for q in plan.questions if q.group == group]
        rows, names = [], []
        for question in questions:
            for prompt in question.prompts:
                file = study.folder / question.name / prompt.replace(" ", "-") / "pictures.safetensors"
                pictures, _ = load_tensors(file)
                columns = [to_pil(pictures[m].float() / 255) for m in methods_of(question)]
                for case in range(len(columns[0])):
                    rows.append([_framed(column[case], question) for column in columns])
                    title = question.title.replace("×", "x")  # the picture's font has no such sign
                    names.append(f"{title}: {prompt}" if case == 0 else "")
        heads = [SHOWN[m] for m in methods_of(questions[0])]
        save_png(picture_sheet(rows, heads, names, scale=1), images / f"guide_{group}.png")


def _framed(picture: Any, question: Question) -> Any:
    """Twice as large, with the box that was asked for."""
    from PIL import ImageDraw

    large = picture.resize((TIMES * picture.width, TIMES * picture.height), 0)
    box = dict(question.wish).get("box")
    if isinstance(box, tuple):
        left, top, right, bottom = (TIMES * edge for edge in box)
        pen = ImageDraw.Draw(large)
        pen.rectangle((left, top, right - 1, bottom - 1), outline=(255, 255, 255))
        pen.rectangle((left + 1, top + 1, right - 2, bottom - 2), outline=(0, 0, 0))
    return large


def page(results: Mapping[str, Any], plan: Plan) -> str:
    """The page as Markdown: every figure in it comes from `results`."""
    figures = results["questions"]
    groups = {g: [q for q in plan.questions if q.group == g] for g in ("box", "keep", "wish")}
    summaries = {g: summarise(figures, qs, methods_of(qs[0])) for g, qs in groups.items() if qs}
    rows = {
        q.name: {m: median_interval(cases(figures, [q], m, "values")) for m in methods_of(q)} for q in plan.questions
    }
    seen = {q.name: {m: cases(figures, [q], m, "recognised") for m in methods_of(q)} for q in plan.questions}
    template = page_template(Path(__file__).parent, interval=interval, share=share, thousands="{:,}".format)
    first = figures[plan.questions[0].name][plan.questions[0].prompts[0]]
    measured = json.loads(DATA.read_text(encoding="utf-8"))
    noise = [n for q in plan.questions for p in q.prompts for n in figures[q.name][p]["noise"]]
    return template.render(
        r=results,
        plan=plan,
        groups=groups,
        summaries=summaries,
        rows=rows,
        seen=seen,
        met=answers(summaries["box"]),
        shown=SHOWN,
        methods={q.name: methods_of(q) for q in plan.questions},
        measures=MEASURES,
        first=first,
        lengths=(min(n["length"] for n in noise), max(n["length"] for n in noise)),
        deviances=sorted(n["deviance"] for n in noise),
        boxes=len(BOXES),
        blend=BLEND,
        boxed={m: sum(v >= CLOSE for v in counted(figures, groups["box"], m)) for m in methods_of(groups["box"][0])},
        kept=len(KEPT),
        defaults=figures_of(measured, ASKED),
        discs=figures_of(measured, DISCS),
        circles=figures_of(measured, CIRCLES),
    )


def interval(found: Mapping[str, float], digits: int = 2) -> str:
    return f"{found['median']:.{digits}f} ({found['low']:.{digits}f} to {found['high']:.{digits}f})"


def share(found: Mapping[str, float]) -> str:
    return f"{found['right']}/{found['n']} ({100 * found['low']:.0f} to {100 * found['high']:.0f} %)"
