"""Table 1 end to end on small random pipelines: figures, files, resumption, and what is refused."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from adjointdpm.errors import InputWarning, InvalidInput
from adjointdpm.runs import OutputError, RunFolder, RunInterrupted, read_jsonl
from adjointdpm.tasks import Table1Config, Table1Result, reproduce_table1
from adjointdpm.tasks.table1 import features, real, run
from adjointdpm.tasks.table1.control import FASTEST, time_features, without_fast_time
from adjointdpm.tasks.table1.parallel import in_order
from adjointdpm.tasks.table1.problem import Problem
from adjointdpm.zoo.lexicon import SIZES, words
from adjointdpm.zoo.objects import OBJECTS
from tests.pipelines import tiny
from tests.support.tiny_pipeline import tiny_pipeline

SMALL = {"noises": 3, "images": 0, "batch": 2, "reference_steps": 4, "nfes": (10,), "spacings": ("logsnr",)}
OWN: dict[str, Any] = {"scenes": False}


def settings(folder: Path, **changes: Any) -> Table1Config:
    return Table1Config(**{"out": folder / "run", **SMALL, **changes})


@pytest.fixture(scope="module")
def pipe() -> Any:
    return tiny_pipeline()


@pytest.fixture(scope="module")
def finished(pipe: Any, tmp_path_factory: pytest.TempPathFactory) -> Table1Result:
    return reproduce_table1(settings(tmp_path_factory.mktemp("table1")), pipe)


def cell_files(folder: Path) -> dict[str, Path]:
    return {path.stem: path for path in sorted((folder / "cells").glob("*.json"))}


def test_it_measures_every_cell_and_reports(finished: Table1Result) -> None:
    results = json.loads(finished.results_path.read_text())
    assert results == json.loads(json.dumps(finished.results))
    assert [(c["form"], c["solver"]) for c in results["cells"]] == [
        (form, solver) for form in ("raw", "exponential") for solver in ("explicit_adams", "ab4")
    ]
    for cell in results["cells"]:
        assert len(cell["errors"]) == 3
        assert 0 < cell["error"]["low"] <= cell["error"]["median"] <= cell["error"]["high"] < 1
        assert cell["steps"] == (4 if cell["solver"] == "explicit_adams" else 10)
    assert {(r["spacing"], r["solver"]) for r in results["orderings"]} == {
        ("logsnr", "explicit_adams"),
        ("logsnr", "ab4"),
    }
    assert results["reference"]["steps"] == 8
    assert 0 < results["reference"]["change"]["median"] < 1
    page = finished.report_path.read_text()
    for word in ("eq. 11 nearer", "NFE 10", "ours", "torchdiffeq"):
        assert word in page
    with Image.open(finished.folder / "strip-10.png") as sheet:
        assert sheet.width > 3 * 16 and sheet.height > 5 * 16
    record = json.loads((finished.folder / "run.json").read_text())
    assert record["status"] == "finished"
    keys = [cell.key for cell in settings(Path()).cells]
    assert [row["cell"] for row in read_jsonl(finished.folder / "log.jsonl")] == [
        *keys,
        *(f"control/{k}" for k in keys),
    ]


def test_the_error_is_that_of_the_same_noise_alone(finished: Table1Result, pipe: Any, tmp_path: Path) -> None:
    from adjointdpm.tasks.table1.measure import relative_errors
    from adjointdpm.tasks.table1.solve import reference, solve

    config = settings(tmp_path)
    problem = Problem(pipe, config)
    one = range(2, 3)
    want = reference(problem.denoiser, problem.noise(one), problem.cond(one), 8)
    for cell, row in zip(config.cells, finished.results["cells"], strict=True):
        x, _ = solve(cell, problem.denoiser, problem.noise(one), problem.cond(one))
        assert float(relative_errors(x, want)) == pytest.approx(row["errors"][2], rel=1e-2)


def test_the_control_is_another_network_for_its_own_time_only(finished: Table1Result, pipe: Any) -> None:
    slow = time_features(pipe.unet)
    assert slow is not None
    assert 0 < int(slow.sum()) < len(slow)
    t = torch.tensor([200.0, 200.5, 201.0])
    whole = pipe.unet.time_proj(t)
    with without_fast_time(pipe.unet):
        part = pipe.unet.time_proj(t)
    assert torch.equal(part, whole * slow)
    turned = (whole[2] - whole[0]).abs()
    assert float(turned[slow].max()) <= FASTEST < float(turned[~slow].max())
    assert torch.equal(pipe.unet.time_proj(t), whole)
    assert time_features(torch.nn.Linear(2, 2)) is None
    control = finished.results["control"]
    assert control["noises"] == 2
    assert [len(cell["errors"]) for cell in control["cells"]] == [2] * 4
    plain = [cell["errors"][:2] for cell in finished.results["cells"]]
    assert all(cell["errors"] != errors for cell, errors in zip(control["cells"], plain, strict=True))


class Killed(Exception):
    pass


def killer(at: str) -> Callable[[int, int, str], None]:
    """Ends the run as SIGKILL would: nothing of ours runs after it that saves anything."""

    def on_progress(done: int, of: int, what: str) -> None:
        if what.startswith(at):
            raise Killed

    return on_progress


def test_a_killed_run_goes_on_and_gives_the_same(finished: Table1Result, pipe: Any, tmp_path: Path) -> None:
    config = settings(tmp_path)
    for at, left in (("reference", 0), ("raw-logsnr-ab4", 1), ("exponential-logsnr-ab4", 3)):
        with pytest.raises(Killed):
            reproduce_table1(config, pipe, on_progress=killer(at))
        assert len(cell_files(config.out)) == left
        assert not (config.out / "table1.json").exists()
    stamps = {path: path.stat().st_mtime_ns for path in cell_files(config.out).values()}
    stamps |= {path: path.stat().st_mtime_ns for path in (config.out / "reference").iterdir()}
    again = reproduce_table1(config, pipe)
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps
    assert len(stamps) == 3 + 2

    def timeless(results: dict[str, Any]) -> list[dict[str, Any]]:
        return [{k: v for k, v in cell.items() if k != "seconds"} for cell in results["cells"]]

    assert timeless(again.results) == timeless(finished.results)


def test_a_signal_ends_the_batch_and_says_how_to_go_on(
    pipe: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = settings(tmp_path)

    def on_progress(done: int, of: int, what: str) -> None:
        if what.startswith("raw"):
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(RunInterrupted, match="the same command, or the same call, goes on") as caught:
        reproduce_table1(config, pipe, on_progress=on_progress)
    assert caught.value.code == 143
    assert capsys.readouterr().err == "stopping after this batch; once more stops at once\n"
    assert json.loads((config.out / "run.json").read_text())["status"] == "interrupted"
    assert reproduce_table1(config, pipe).results["cells"]


def test_progress_adds_up(pipe: Any, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    reproduce_table1(settings(tmp_path), pipe, on_progress=lambda done, of, what: seen.append((done, of)))
    control = 2 * 12 * 2 + 2 * 4 * 10
    assert seen[-1][0] == seen[-1][1] == 3 * 12 * 4 + 3 * 4 * 10 + control
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})


def test_other_settings_another_model_and_a_second_process_are_refused(
    finished: Table1Result, pipe: Any, tmp_path: Path
) -> None:
    config = settings(finished.folder.parent)
    with pytest.raises(InvalidInput, match=r"noises \(was 3, now 4\)"):
        reproduce_table1(config.model_copy(update={"noises": 4}), pipe)
    with pytest.raises(InvalidInput, match="denoiser"):
        reproduce_table1(config, tiny_pipeline(seed=1))
    with RunFolder(tmp_path / "run", "table1", {}), pytest.raises(OutputError, match="in use"):
        reproduce_table1(settings(tmp_path), pipe)


def test_threads_change_nothing(pipe: Any, tmp_path: Path) -> None:
    problem = Problem(pipe, settings(tmp_path))
    parts = [range(2), range(2, 3)]
    one, two = (list(in_order(problem.noise, parts, threads)) for threads in (1, 2))
    assert [part for part, _ in two] == parts
    assert all(torch.equal(a, b) for (_, a), (_, b) in zip(one, two, strict=True))
    assert torch.equal(torch.cat([noise for _, noise in one]), problem.noise(range(3)))


def stripes(images: torch.Tensor) -> np.ndarray[Any, Any]:
    """Four features that see colour and contrast."""
    x = images.double() / 255
    return torch.cat([x.mean(dim=(2, 3)), x.std(dim=(1, 2, 3))[:, None]], dim=1).numpy()


@pytest.fixture
def sprites(tmp_path: Path) -> Path:
    generator = np.random.default_rng(0)
    arrays = {n: generator.integers(0, 255, (len(OBJECTS), 3, s, s, 4), dtype=np.uint8) for n, s in SIZES.items()}
    np.savez(tmp_path / "sprites.npz", **arrays)
    return tmp_path / "sprites.npz"


def test_distances_to_composed_images(
    pipe: Any, sprites: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "efficientnet", lambda device: stripes)
    monkeypatch.setattr(run, "need_features", lambda standard: None)
    result = reproduce_table1(settings(tmp_path, images=8, resamples=20, sprites=sprites), pipe)
    for cell in result.results["cells"]:
        for figure in ("frechet", "kid"):
            assert cell[figure]["low"] <= cell[figure]["value"] <= cell[figure]["high"]
        assert cell["frechet"]["value"] > result.results["real_floor"] > 0
        assert len(cell["errors"]) == 3
    assert "Distance to real images" in result.report_path.read_text()


def test_scenes_are_the_embedded_models_own(sprites: Path, tmp_path: Path) -> None:
    config = settings(tmp_path, images=8, sprites=sprites)
    prompts = real.scene_prompts(config)
    assert len(set(prompts)) == 8
    assert {word for prompt in prompts for word in prompt.split()} <= set(words())
    images = real.real_images(config, (64, 64))
    assert images["real"].shape == images["other"].shape == (8, 3, 64, 64)
    assert torch.equal(images["real"], real.real_images(config, (64, 64))["real"])
    assert not torch.equal(images["real"], images["other"])


def test_an_unconditional_model_with_ones_own_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "real").mkdir()
    for i in range(6):
        Image.new("RGB", (8, 8), (40 * i, 10, 255 - 40 * i)).save(tmp_path / "real" / f"{i}.png")
    monkeypatch.setattr(run, "inception", lambda: stripes)
    monkeypatch.setattr(run, "need_features", lambda standard: None)
    pipe = tiny.unconditional("DDPM", clip_sample=True)
    config = settings(tmp_path, **OWN, images=5, resamples=20, real=tmp_path / "real")
    with pytest.warns(InputWarning, match="clip_sample of the scheduler is left out"):
        result = reproduce_table1(config, pipe)
    assert all(cell["frechet"]["value"] > 0 for cell in result.results["cells"])
    assert result.results["real_floor"] is None


def test_a_text_conditioned_model_takes_its_prompts_in_turns(tmp_path: Path) -> None:
    pipe = tiny.stable_diffusion()
    problem = Problem(pipe, settings(tmp_path, **OWN, prompts=("red apple", "blue cat")))
    assert problem.prompts == ["red apple", "blue cat", "red apple"]
    rows = problem.cond(range(3))["encoder_hidden_states"]
    assert torch.equal(rows[0], rows[2]) and not torch.equal(rows[0], rows[1])


@pytest.mark.parametrize(
    ("make", "changes", "words"),
    [
        (tiny.unconditional, {}, "takes no text"),
        (tiny.stable_diffusion, OWN, "give prompts"),
        (tiny.unconditional, {**OWN, "prompts": ("cat",)}, "leave them out"),
        (tiny.stable_diffusion_3, {**OWN, "prompts": ("cat",)}, "alpha = 0"),
        (lambda: object(), {}, "expected a diffusers pipeline"),
    ],
)
def test_models_that_do_not_fit(make: Any, changes: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=words):
        reproduce_table1(settings(tmp_path, **changes), make())
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"nfes": (9,)}, "10"),
        ({"images": 1}, "at least 2"),
        ({"prompts": ("cat",)}, "of one's own"),
        ({**OWN, "images": 2}, "give real"),
        ({**OWN, "prompts": (" ",)}, "empty"),
        ({"spacings": ("karras",)}, "quadratic"),
        ({"noises": 1}, "2"),
    ],
)
def test_settings_that_do_not_fit(changes: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=words):
        settings(tmp_path, **changes)


def test_what_is_missing_is_named_before_any_work(pipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InvalidInput, match=r"adjointdpm\[efficientnet\]"):
        features.need_features(standard=False)
    with pytest.raises(InvalidInput, match=r"adjointdpm\[fid\]"):
        features.need_features(standard=True)
    with pytest.raises(InvalidInput, match=r"adjointdpm\[paper\]"):
        reproduce_table1(settings(tmp_path), pipe)
    monkeypatch.undo()
    monkeypatch.setattr(run, "need_features", lambda standard: None)
    with pytest.raises(InvalidInput, match=r"zoo\.train data"):
        reproduce_table1(settings(tmp_path, images=4, sprites=tmp_path / "none.npz"), pipe)
    with pytest.raises(InvalidInput, match="at least 2 images"):
        reproduce_table1(settings(tmp_path, **OWN, images=4, real=tmp_path), tiny.unconditional())
    assert not (tmp_path / "run").exists()
