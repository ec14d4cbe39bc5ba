"""The command line of the benchmark; see the package's docstring."""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from pathlib import Path

import torch

from benchmarks.gradients import analytic, budget, compiled, cost, empty, equal_time, errors, guided, selective
from benchmarks.gradients.plan import FULL, QUICK, TINY
from benchmarks.gradients.store import Store

HERE = Path(__file__).parent.parent
RESULTS, DOCS = HERE / "results" / "gradients", HERE.parent / "docs"
SECTIONS = {
    "analytic": analytic.measure,
    "errors": errors.measure,
    "guided": guided.measure,
    "empty": empty.measure,
    "budget": budget.measure,
    "selective": selective.measure,
    "cost": cost.measure,
    "equal_time": equal_time.measure,
    "compile": compiled.measure,
}


def main(arguments: list[str] | None = None) -> None:
    import benchmarks.gradients as package
    from benchmarks.gradients.page import print_tables, write_page

    parser = argparse.ArgumentParser(
        prog="benchmarks.gradients", description=package.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="few steps and turns; prints the table, writes nothing")
    parser.add_argument("--tiny", action="store_true", help="does everything run? its figures mean nothing")
    parser.add_argument("--page", action="store_true", help="only write the page again")
    parser.add_argument("--only", nargs="+", choices=tuple(SECTIONS), help="these sections; they are resumed")
    parser.add_argument("--fresh", action="store_true", help="measure anew what is there")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--results", type=Path, default=RESULTS, help=argparse.SUPPRESS)
    parser.add_argument("--docs", type=Path, default=DOCS, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    warnings.filterwarnings("ignore", category=UserWarning)
    plan = QUICK if options.quick else TINY if options.tiny else FULL
    unwritten = options.quick or (options.tiny and options.results == RESULTS)
    stores = {}
    for name, section in SECTIONS.items():
        stores[name] = Store(None if unwritten else options.results / f"{name}.json", options.fresh)
        if options.page or (options.only and name not in options.only):
            continue
        began = time.perf_counter()
        section(stores[name], plan)
        print(f"{name}: {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
    if unwritten:
        print_tables({name: store.rows for name, store in stores.items()})
    else:
        write_page(options.results, options.docs)


if __name__ == "__main__":
    main()
