"""`adjointdpm table1`: eq. 6 against eq. 11 on the embedded model or one's own, as in the paper's Table 1.

What is left open is settled here: without `--images`, 2,000 on the embedded model or with `--real`, none on a model of
one's own without it.  The run goes on where it was when the same command is given again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adjointdpm.cli.models import ModelChoice
from adjointdpm.cli.output import check_folder_for_output
from adjointdpm.cli.shell import Shell
from adjointdpm.errors import InvalidInput

if TYPE_CHECKING:
    from adjointdpm.tasks import Table1Config

__all__ = ["Table1Request", "settings", "table1"]


@dataclass(frozen=True, kw_only=True)
class Table1Request:
    """What to run; the fields are the command's options, None where one was not given."""

    quick: bool
    noises: int | None
    images: int | None
    seed: int
    batch: int | None
    real: Path | None
    prompts: Path | None
    sprites: Path | None
    out: Path


def table1(shell: Shell, request: Table1Request, choice: ModelChoice) -> int:
    """Run and print; 0 whichever form is ahead, for either is an answer."""
    config = settings(request, choice)
    check_folder_for_output(config.out)

    from adjointdpm.tasks import reproduce_table1
    from adjointdpm.tasks.table1.outcome import headline

    with shell.progress("table 1", 1000) as update:

        def on_progress(done: int, of: int, what: str) -> None:
            update(1000 * done // of, f"table 1, {what}")

        result = reproduce_table1(config, choice.load(), on_progress=on_progress)
    shown = {k: v for k, v in result.results.items() if k not in ("cells", "config", "environment", "model")}
    cells = [{k: v for k, v in cell.items() if k != "errors"} for cell in result.results["cells"]]
    paths = {"table": result.results_path, "report": result.report_path}
    shell.emit({"command": "table1", "model": choice.name, **shown, "cells": cells, **paths})
    shell.say(*_tables(result.results))
    shell.say(headline(result.results))
    for path in paths.values():
        shell.say(f"{path}")
    return 0


def settings(request: Table1Request, choice: ModelChoice) -> Table1Config:
    """The validated configuration.

    Raises:
        InvalidInput: an unreadable prompts file, or settings that do not go together.
    """
    from pydantic import ValidationError

    from adjointdpm.tasks import Table1Config
    from adjointdpm.tasks.table1.config import QUICK

    embedded = choice.model is None
    fields: dict[str, Any] = {"out": request.out, "seed": request.seed, "scenes": embedded}
    fields |= QUICK if request.quick else {}
    if not embedded and request.real is None:
        fields["images"] = 0
    given: dict[str, Any] = {"noises": request.noises, "images": request.images, "batch": request.batch}
    given |= {"real": request.real, "sprites": request.sprites}
    fields |= {name: value for name, value in given.items() if value is not None}
    if request.prompts is not None:
        fields["prompts"] = _lines(request.prompts)
    try:
        return Table1Config.model_validate(fields)
    except ValidationError as error:
        raise InvalidInput("; ".join(_explained(problem) for problem in error.errors())) from error


def _lines(file: Path) -> tuple[str, ...]:
    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"--prompts {file} cannot be read as text: {error}") from error
    if not any(lines):
        raise InvalidInput(f"--prompts {file} holds no prompt; expected one a line")
    return tuple(line for line in lines if line)


def _explained(problem: Mapping[str, Any]) -> str:
    """One of pydantic's findings, in terms of the command line."""
    message = str(problem["msg"]).removeprefix("Value error, ")
    if problem["loc"]:
        return f"--{str(problem['loc'][0]).replace('_', '-')} {problem['input']!r}: {message}"
    return message


def _tables(results: Mapping[str, Any]) -> list[Any]:
    from rich import box
    from rich.table import Table

    from adjointdpm.tasks.table1.outcome import cell_text
    from adjointdpm.tasks.table1.strips import EQUATION, SOLVER
    from adjointdpm.tasks.table1.verdict import find

    cells = results["cells"]
    nfes = sorted({cell["nfe"] for cell in cells})
    title = "Endpoint error, median over the noises (quartiles)"
    table = Table(title=title, title_justify="left", box=box.SIMPLE, pad_edge=False, collapse_padding=True)
    for name in ("form", "spacing", "solver", *(f"NFE {n}" for n in nfes)):
        table.add_column(name, justify="right" if name.startswith("NFE") else "left")
    for form, spacing, solver in dict.fromkeys((c["form"], c["spacing"], c["solver"]) for c in cells):
        row = [find(cells, form=form, spacing=spacing, solver=solver, nfe=n) for n in nfes]
        figures = ["–" if cell is None else cell_text(cell["error"], "error") for cell in row]
        table.add_row(EQUATION[form], spacing, SOLVER[solver], *figures)
    return [table]
