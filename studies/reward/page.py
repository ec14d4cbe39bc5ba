"""docs/reward.md, its charts and pictures, from the study's figures alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from adjointdpm.formats import save_png
from adjointdpm.report import bar_chart, picture_sheet, to_pil
from adjointdpm.runs import atomic_write
from adjointdpm.tasks.reward.scores import Change
from adjointdpm.zoo.measure import wilson
from studies.reward import design
from studies.reward.design import METHODS, TITLES
from studies.reward.figures import against, compare, summary
from studies.reward.runner import Study, key_of
from studies.template import page_template

__all__ = ["page", "tables", "write_charts", "write_pictures"]

PARTS = {"weights": "LoRA", "noise": "noise"}
SHOWN = 6  # pictures in a row
STILL_SEEN = 0.8  # of the objects recognised before; with fewer, the page says that the images broke


def of(results: dict[str, Any], goal: str, part: str, method: str) -> list[dict[str, Any]]:
    """The runs of a method, by seed."""
    found = [c for c in results["cases"] if (c["goal"], c["part"], c["method"]) == (goal, part, method)]
    return sorted(found, key=lambda case: case["seed"])


def tables(results: dict[str, Any]) -> list[dict[str, Any]]:
    """One entry for each goal and part: a row for each method, and exact against each other one."""
    made = []
    for goal in results["goals"].values():
        for part, methods in METHODS.items():
            runs = {method: of(results, goal["name"], part, method) for method in methods}
            rivals = {
                method: {name: {**c, "is": compare(c)} for name, c in against(runs["exact"], runs[method]).items()}
                for method in methods
                if method != "exact"
            }
            rows = {method: summary(runs[method]) for method in methods}
            made.append({"goal": goal, "part": part, "rows": rows, "rivals": rivals})
    return made


def vocabulary(results: dict[str, Any]) -> dict[str, Any]:
    """Recognised with the words alone and with the learnt rows: by class, together, and the paired change."""
    rows = [
        {"class": c["class"], "words": sum(c["words"]), "learnt": sum(c["learnt"]), "n": len(c["words"])}
        for c in results["classes"]
    ]  # fmt: skip
    n = sum(row["n"] for row in rows)
    together = {name: sum(row[name] for row in rows) for name in ("words", "learnt")}
    before, after = ([float(hit) for c in results["classes"] for hit in c[name]] for name in ("words", "learnt"))
    return {
        "rows": rows,
        "n": n,
        **{
            name: {"count": count, "share": count / n, "interval": wilson(count, n)} for name, count in together.items()
        },
        "change": Change("recognised", before, after).as_dict(),
    }


def write_charts(results: dict[str, Any], images: Path) -> None:
    """For each goal the held-out reward before and after, by method."""
    for goal in results["goals"].values():
        groups, before, after = [], [], []
        for table in tables(results):
            if table["goal"]["name"] != goal["name"]:
                continue
            for method, row in table["rows"].items():
                groups.append(f"{PARTS[table['part']]}, {TITLES[method]}")
                before.append(row["held out"]["before"])
                after.append(row["held out"]["after"])
        series = {"before": before, "after": after}
        png = bar_chart(groups, series, f"held-out reward ({goal['held_out']})")
        atomic_write(images / f"reward_{goal['name']}.png", png)


def write_pictures(study: Study, images: Path) -> None:
    """One sheet for each goal and part: methods by row, images of the first seed by column."""
    seed = study.plan.seeds[0]
    for goal in study.plan.goals:
        for part, methods in METHODS.items():
            stored = {method: study.pictures(key_of(goal.name, part, method, seed)) for method in methods}
            count = len(next(iter(stored.values()))["after"])
            chosen = [round(k * (count - 1) / max(1, min(SHOWN, count) - 1)) for k in range(min(SHOWN, count))]
            rows = [to_pil(next(iter(stored.values()))["before"][chosen])]
            rows += [to_pil(pictures["after"][chosen]) for pictures in stored.values()]
            texts = goal.noise if part == "noise" else [p for p in goal.test for _ in study.plan.test_seeds]
            heads = [texts[i].replace(" background", "") for i in chosen]
            sheet = picture_sheet(rows, heads, ["before", *(TITLES[method] for method in methods)])
            save_png(sheet, images / f"reward_{goal.name}_{part}.png")
    rows, names = [], []
    for what in study.plan.classes:
        pictures = study.pictures(f"class-{what.replace(' ', '-')}-figures")
        rows.append([p for name in ("words", "learnt") for p in to_pil(pictures[name][::4][:3])])
        names.append(what)
    heads = ["words", "", "", "with the rows", "", ""][: len(rows[0])]
    save_png(picture_sheet(rows, heads, names), images / "reward_vocabulary.png")


def page(results: dict[str, Any]) -> str:
    """The page as Markdown: every figure in it comes from `results`."""
    template = page_template(
        Path(__file__).parent,
        signed=lambda value: f"{value:+.3f}",
        number=lambda value: f"{value:.3f}",
        percent=lambda share: f"{100 * share:.0f} %",
        span=lambda pair: "–" if pair is None else f"{pair[0]:.3f} … {pair[1]:.3f}",
        signed_span=lambda pair: "–" if pair is None else f"{pair[0]:+.3f} … {pair[1]:+.3f}",
    )
    made = tables(results)
    gradients = [(t, m) for t in made for m in t["rivals"] if m != "best_of"]
    won = [(t, m) for t, m in gradients if t["rivals"][m]["held out"]["is"] == "higher"]
    lost = [(t, m) for t, m in gradients if t["rivals"][m]["held out"]["is"] == "lower"]
    hacked = [(t, m) for t in made for m, row in t["rows"].items() if row["verdict"] == "hacked"]
    broken = [
        (t, m) for t in made for m, row in t["rows"].items()
        if row["recognised after"] < STILL_SEEN * row["recognised before"]
    ]  # fmt: skip
    return template.render(
        r=results, broken=broken, still_seen=STILL_SEEN, tables=made,
        titles=TITLES, parts=PARTS, won=won, lost=lost, gradients=gradients, hacked=hacked,
        vocabulary=vocabulary(results), design=design,
    )  # fmt: skip
