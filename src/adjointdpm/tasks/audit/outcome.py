"""What an audit leaves behind: results.json with every rate, a report, and in classifier mode by flag what was found.

In filter mode nothing but counts ever reaches this file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from adjointdpm.formats import save_png
from adjointdpm.report import Chart, Code, Facts, Pictures, Section, Table, Text, render_report, to_pil
from adjointdpm.report.blocks import Block
from adjointdpm.runs import RunFolder, atomic_write, save_tensors
from adjointdpm.tasks.audit.afterwards import RESULTS_FILE, forget
from adjointdpm.tasks.audit.chart import METHOD_NAMES, calls_chart, tau_chart
from adjointdpm.tasks.audit.config import AuditConfig
from adjointdpm.tasks.audit.responsible import PAGE, statement
from adjointdpm.tasks.audit.samples import Sample
from adjointdpm.tasks.audit.tally import LEAST_GROUP, OTHERS

__all__ = ["FOUND_FILE", "REPORT_FILE", "headline", "share_text", "unreached", "write_outcome"]

REPORT_FILE, FOUND_FILE = "report.html", "found.safetensors"
SHOWN = 24  # pairs of pictures in the report
VERDICT = {True: "passed", False: "LOOK", None: "not asked"}  # of a sanity check
Pair = tuple[Sample, Tensor, Tensor]  # (3, H, W) clean and found, after the pipeline's safety checker
Triples = Mapping[int, Mapping[str, Any]]


def write_outcome(
    run: RunFolder,
    config: AuditConfig,
    results: dict[str, Any],
    again: str,
    pairs: Sequence[Pair] = (),
    found: Triples | None = None,
) -> None:
    """Report and data first, the record last.

    Args:
        run: the opened and begun folder.
        config: the settings.
        results: of `run_audit`.
        again: how to repeat the run.
        pairs: pictures, in classifier mode with `images`.
        found: by sample the triple of each bound, likewise.
    """
    for sample, clean, after in pairs:
        for name, image in (("clean", clean), ("found", after)):
            save_png(to_pil(image)[0], run.path / "images" / f"{sample.index:04d}-{name}.png")
    if found:
        tensors = {f"{i}.{part}": f[part] for i, f in found.items() for part in ("raw", "clipped")}
        tensors |= {f"{i}.success": torch.tensor(f["success"]) for i, f in found.items()}
        save_tensors(run.path / FOUND_FILE, tensors)
    atomic_write(run.path / REPORT_FILE, report(run, config, results, again, pairs))
    atomic_write(run.path / RESULTS_FILE, json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    run.finish("finished", {key: results[key] for key in ("headline", "n", "unreached")})
    if config.mode == "filter":
        forget(run)


def headline(config: AuditConfig, results: Mapping[str, Any]) -> str:
    """The answer in two sentences."""
    if not results["n"]:
        return f"Nothing was measured: all {results['dropped']} samples triggered special_care on the way."
    rates = results["methods"]["exact"]["rates"]
    last = rates[-1]
    subject = "the filter misses" if config.mode == "filter" else "the classifier fails on"
    text = (
        f"Within {config.bound_text(last['tau'])} of the noise {subject} {share_text(last)} of "
        f"{_samples(results['n'])} that it had right"
    )
    half = next((row for row in rates if row["share"] >= 0.5), None)
    if half is not None and half is not last:
        text += f", and at least half of them within {config.bound_text(half['tau'])}"
    best = results["methods"].get("best_of_n")
    if best is not None:
        text += f". Best of n random draws at equal network calls: {share_text(best['rates'][-1])}"
    return text + "."


def _samples(count: int) -> str:
    return "1 sample" if count == 1 else f"{count} samples"


def unreached(config: AuditConfig) -> str:
    """That no verdict changed, and what is kept of the search."""
    text = f"No verdict changed within the largest bound, {config.bound_text(config.taus[-1])}"
    return f"{text}; the noises that came nearest are in {FOUND_FILE}." if config.images else f"{text}."


def share_text(rate: Mapping[str, Any]) -> str:
    """A rate in percent with its interval, – where nothing was counted."""
    return f"{100 * rate['share']:.0f} % ({100 * rate['low']:.0f}–{100 * rate['high']:.0f})" if rate["n"] else "–"


def report(
    run: RunFolder, config: AuditConfig, results: Mapping[str, Any], again: str, pairs: Sequence[Pair] = ()
) -> str:
    """The report as HTML."""
    sections = [
        Section("How often the verdict changes", _rates(config, results)),
        Section("How cheaply", [Chart(calls_chart(results["methods"]), "share of samples against network calls")]),
        Section("Exact gradients against the others, sample by sample", [_paired(config, results)]),
        Section("Which samples count", _excluded(config, results)),
        Section("Can it be believed?", [_sanity(results)]),
    ]
    if results["transfer"]:
        rows = [[name, share_text(rate), str(rate["n"])] for name, rate in results["transfer"].items()]
        words = "Images found against the audited network, of classes that the other one names right when clean."
        sections.append(Section("Other networks on the same images", [Table(["network", "wrong", "of"], rows, words)]))
    if results.get("hardening"):
        sections.append(Section("After hardening", _hardening(config, results["hardening"])))
    if pairs:
        rows = [[to_pil(clean)[0], to_pil(found)[0]] for _, clean, found in pairs[:SHOWN]]
        names = [f"{s.prompt}, seed {s.seed}" for s, _, _ in pairs[:SHOWN]]
        sections.append(Section("Pictures", [Pictures(["clean", "verdict changed"], rows, names)]))
    sections.append(Section("Settings", [Facts(_facts(config, results)), Code(again, "The same again:")]))
    rules = Text(f"Rules, intended users and how to report a weakness: {PAGE}")
    sections.append(Section("Responsible use", [Text(statement(config.owner, config.purpose)), rules]))
    versions = run.record["environment"]["versions"]
    footer = (
        f"adjointdpm {versions['adjointdpm']}, torch {versions['torch']}, diffusers {versions['diffusers']}; "
        f"{run.record['environment']['threads']} threads on {run.record['environment']['device']}; "
        f"started {run.record['started']}."
    )
    return render_report(f"Audit of {results['network']}", results["headline"], sections, footer)


def _rates(config: AuditConfig, results: Mapping[str, Any]) -> list[Block]:
    taus = [row["tau"] for row in results["methods"]["exact"]["rates"]]
    rows = [
        [METHOD_NAMES.get(name, name), *(share_text(row) for row in found["rates"])]
        for name, found in results["methods"].items()
    ]
    judged = "and the judge still sees the class" if results["judged"] else "(nobody judged what the image shows)"
    caption = f"Share of samples whose verdict changed {judged}, with 95 % Wilson intervals."
    without = [
        [METHOD_NAMES.get(name, name), *(share_text(row["verdict_changed"]) for row in found["rates"])]
        for name, found in results["methods"].items()
    ]
    header = ["", *(config.bound_text(tau) for tau in taus)]
    chart = Chart(tau_chart(results["methods"], "bound τ"), "share of samples against the bound")
    return [
        *([Text(unreached(config))] if results["unreached"] else []),
        Table(header, rows, caption),
        chart,
        Table(header, without, "The same whatever the judge says."),
    ]


def _paired(config: AuditConfig, results: Mapping[str, Any]) -> Table:
    rows = []
    for name, found in results["methods"].items():
        for row in found["rates"]:
            pair = row.get("against_exact")
            if pair is not None:
                cells = [str(pair["exact_only"]), str(pair["this_only"]), f"{pair['p']:.2g}"]
                rows.append([METHOD_NAMES.get(name, name), config.bound_text(row["tau"]), *cells])
    header = ["against", "bound", "exact alone", "it alone", "p"]
    return Table(header, rows, "Samples on which one of the two succeeded; McNemar's exact test.", text_columns=2)


def _excluded(config: AuditConfig, results: Mapping[str, Any]) -> list[Block]:
    clean = results["clean"]
    facts = [
        ("samples", str(clean["samples"])),
        ("verdict wrong to start with", f"{clean['wrong']}, left out"),
        ("judge does not see the class", f"{clean['not_shown']}, left out"),
        ("counted", str(results["n"])),
    ]
    if config.mode == "filter":
        dropped = clean["dropped"] + results["dropped"]
        facts.insert(3, ("special_care triggered", f"{dropped}, dropped and not looked at"))
    rows = [[name, share_text(rate), str(rate["n"])] for name, rate in _sorted(results["groups"])]
    head = "concept" if config.mode == "filter" else "class"
    caption = "Exact gradients, largest bound; most affected first."
    if OTHERS in results["groups"]:
        caption += f" Concepts of fewer than {LEAST_GROUP} samples are not shown on their own."
    return [Facts(facts), Table([head, "changed", "samples"], rows, caption)]


def _sorted(groups: Mapping[str, Any]) -> list[tuple[str, Any]]:
    return sorted(groups.items(), key=lambda item: -item[1]["share"])


def _sanity(results: Mapping[str, Any]) -> Table:
    rows = [[c["name"], VERDICT[c["passed"]], c["finding"]] for c in results["sanity"]]
    return Table(["check", "", "finding"], rows, "The six checks of AutoAttack.", text_columns=3)


def _hardening(config: AuditConfig, found: Mapping[str, Any]) -> list[Block]:
    header = [
        "held-out noises",
        *(config.bound_text(row["tau"]) for row in found["before"]["rates"]),
        "right when clean",
    ]
    rows = [
        [when, *(share_text(row) for row in found[when]["rates"]), share_text(found[when]["accuracy"])]
        for when in ("before", "after")
    ]
    words = (
        f"Learnt from {found['images']} images in memory; control images that kept their verdict: "
        f"{share_text(found['control_kept'])}. Weights: {found['weights']}."
    )
    if found.get("special_care"):
        care = found["special_care"]
        words += f" special_care: on {care['before']} of {care['n']} control images before, on {care['after']} after."
    return [Table(header, rows, "Verdict changed by exact gradients against the network as it was then."), Text(words)]


def _facts(config: AuditConfig, results: Mapping[str, Any]) -> list[tuple[str, str]]:
    calls = results["calls"]
    seeds = f"{config.seed} to {config.seed + results['clean']['samples'] - 1}"
    facts = [
        ("mode", config.mode),
        ("network", results["network"]),
        ("loss", config.loss_name + (f", target {config.target_class}" if config.target_class is not None else "")),
        ("optimiser", f"{config.optimiser}, step {config.relative_step:g} τ, restarts {config.restarts}"),
        ("network calls", f"{calls['bound']} for each image and bound: {config.iterations} exact steps of "
                          f"{calls['steps']['exact']}, an image {calls['forward']}"),
        ("sampler", f"{config.steps} steps, guidance {config.guidance_scale:g}; {results['generator']}"),
        ("noises", f"seeds {seeds}, one a sample"),
        ("time", f"{results['seconds']:.0f} s"),
    ]  # fmt: skip
    facts += [(f"{METHOD_NAMES.get(name, name)} left out", why) for name, why in results["left_out"].items()]
    return facts
