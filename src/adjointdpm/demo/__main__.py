"""The demo's command line: progress bars on the terminal, a report on the disk."""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

from adjointdpm.errors import AdjointDPMError


def main(arguments: list[str] | None = None) -> int:
    """Run the demo; returns the exit code (0, or 1 with one line that says what was wrong)."""
    parser = argparse.ArgumentParser(
        prog="python -m adjointdpm.demo", description="Invert two effects; write a report."
    )
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder of the report (default: demo)")
    parser.add_argument("--epochs", type=int, default=None, help="optimisation steps for each effect (default: 50)")
    parser.add_argument("--threads", type=int, default=None, help="CPU threads (default: all, at most 8)")
    options = parser.parse_args(arguments)
    if options.epochs is not None and options.epochs < 1:
        parser.error(f"--epochs {options.epochs}: expected at least 1")
    try:
        print(run(options.out.resolve(), options.epochs, options.threads))
    except AdjointDPMError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except (KeyboardInterrupt, SystemExit) as stopped:  # the latter in an optimisation, with its exit code
        print("interrupted; run it again to go on", file=sys.stderr)
        code = getattr(stopped, "code", 130)
        return code if isinstance(code, int) else 1
    return 0


def run(out: Path, epochs: int | None = None, threads: int | None = None) -> Path:
    """Everything; returns the path of the report."""
    began = time.perf_counter()
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    console = Console()
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed:.0f}/{task.total:.0f}"))
    with Progress(
        *columns, TimeElapsedColumn(), TimeRemainingColumn(), TextColumn("{task.fields[note]}"), console=console
    ) as bars:
        loading = bars.add_task("load the embedded model", total=1, note="")
        import torch

        import adjointdpm as ad
        from adjointdpm import zoo
        from adjointdpm.demo import job
        from adjointdpm.demo.page import report
        from adjointdpm.runs import atomic_write

        torch.set_num_threads(threads or min(8, os.cpu_count() or 1))
        generator = ad.differentiable(zoo.emoji(), wrt=("cond",))
        bars.advance(loading)

        checking = bars.add_task("check the gradient", total=len(job.CHECK_STEPS), note="")
        checks = []
        for steps in job.CHECK_STEPS:
            checks.append(job.check_gradient(generator, steps))
            bars.advance(checking)
        for c in checks:
            console.print(
                f"{c.steps} steps: exact differs from plain backprop by {c.error:.1e}; "
                f"peak {c.exact_mb:.0f} MB instead of {c.full_mb:.0f} MB",
                soft_wrap=True,
            )
        shown = []
        for one in job.DEMONSTRATIONS:
            total = epochs or job.EPOCHS
            task: TaskID = bars.add_task(f"invert {one.effect}", total=total, note="")

            def step(done: int, _: int, loss: float, task: TaskID = task) -> None:
                bars.update(task, completed=done, note=f"loss {loss:.4f}")

            result = job.learn(generator, one, out / "runs", total, step)
            bars.update(task, completed=total)
            drawing = bars.add_task(f"draw unseen prompts with {one.effect}", total=1, note="")
            shown.append(job.show(generator, one, result))
            bars.advance(drawing)
            console.print(
                f"{one.effect}: {100 * shown[-1].gap:.0f} % of the gap to the true effect closed on unseen prompts, "
                f"the object recognised in {shown[-1].recognised[2]} of {len(shown[-1].prompts)} images",
                soft_wrap=True,
            )
        folder = Path(zoo.emoji_folder())
        page = report(shown, checks, shown[0].result.record, job.seconds_since(began), folder)
        return atomic_write(out / "report.html", page).resolve()


if __name__ == "__main__":
    sys.exit(main())
