"""docs/audit.md and its pictures, from the study's figures alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from adjointdpm.formats import save_png
from adjointdpm.report import picture_sheet
from adjointdpm.runs import atomic_write
from adjointdpm.tasks.audit.chart import METHOD_NAMES, calls_chart, tau_chart
from studies.audit.design import CASES, TESTED, Case
from studies.template import page_template

CHARTS = {"embedded": "audit_embedded", "food": "audit_food"}
RIVALS = ("best_of_n", "one_step")
PER_SHEET = 6


def percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def write_pictures(results: Mapping[str, Any], folder: Path | None, images: Path) -> None:
    """Charts of the main cases, and a sheet of clean and found images of (a) where its run is at hand."""
    for name, stem in CHARTS.items():
        found = results["cases"].get(name, {})
        if "methods" in found:
            atomic_write(images / f"{stem}_tau.png", tau_chart(found["methods"], "bound τ on the noise (l∞)"))
            atomic_write(images / f"{stem}_calls.png", calls_chart(found["methods"]))
    if folder is not None and (folder / "embedded" / "images").is_dir():
        _sheet(folder / "embedded" / "images", images / "audit.png")


def _sheet(folder: Path, file: Path) -> None:
    """Every so-manieth pair of clean and found image."""
    from PIL import Image

    clean = sorted(folder.glob("*-clean.png"))
    count = min(PER_SHEET, len(clean))
    chosen = [clean[round(k * (len(clean) - 1) / max(1, count - 1))] for k in range(count)]
    if not chosen:
        return
    rows = []
    for kind in ("clean", "found"):
        opened = [Image.open(str(path).replace("-clean", f"-{kind}")).convert("RGB") for path in chosen]
        rows.append(opened)
    save_png(picture_sheet(rows, (), ("right verdict", "changed verdict")), file)


def page(results: Mapping[str, Any]) -> str:
    """The page as Markdown: every figure in it comes from `results`."""
    template = page_template(Path(__file__).parent, percent=percent, rate=rate, p=p_value)
    cases: dict[str, Case] = {case.name: case for case in CASES}
    main = results["cases"]["embedded"]
    tests = []
    for name, tau in TESTED:
        case = results["cases"].get(name, {"methods": {}})
        for method in (m for m in RIVALS if m in case["methods"]):
            tests.append((case, tau, method, at(case, "exact", tau), at(case, method, tau)))
    return template.render(
        r=results,
        cases=cases,
        main=main,
        names=METHOD_NAMES,
        tests=tests,
        met=lambda test: test["p"] < results["level"] and test["exact_only"] > test["this_only"],
        hardened=[(cases[name], results["cases"][name]) for name in ("harden_classifier", "harden_filter")
                  if results["cases"].get(name, {}).get("hardening")],
        plain=[(cases[name], results["cases"][name]) for name in cases
               if not name.startswith("harden") and name in results["cases"]],
    )  # fmt: skip


def at(case: Mapping[str, Any], method: str, tau: float) -> Mapping[str, Any]:
    """The figures of a method at one bound."""
    found: Mapping[str, Any] = next(row for row in case["methods"][method]["rates"] if row["tau"] == tau)
    return found


def rate(row: Mapping[str, Any]) -> str:
    """A share with its interval."""
    return f"{100 * row['share']:.0f} % ({100 * row['low']:.0f}–{100 * row['high']:.0f})" if row["n"] else "–"


def p_value(p: float) -> str:
    return f"{p:.1e}" if p < 0.001 else f"{p:.3f}"
