"""Trackers: what they get, what they leave behind, and that none of them stops a run."""

import importlib.util
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from adjointdpm.errors import InputWarning, InvalidInput
from adjointdpm.tasks.team import Team
from adjointdpm.tasks.tracking import open_tracker


class Run:
    """Stands for a run of wandb, which is not installed here."""

    def __init__(self, **settings: Any) -> None:
        self.settings = settings
        self.logged: list[tuple[dict[str, float], int]] = []
        self.finished = False

    def log(self, values: dict[str, float], step: int) -> None:
        self.logged.append((values, step))

    def finish(self) -> None:
        self.finished = True


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[Run]:
    made: list[Run] = []

    def init(**settings: Any) -> Run:
        made.append(Run(**settings))
        return made[-1]

    module = types.ModuleType("wandb")
    module.__spec__ = importlib.util.spec_from_loader("wandb", loader=None)
    module.init = init  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wandb", module)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    return made


def test_no_tracker_takes_everything(tmp_path: Path) -> None:
    tracker = open_tracker("none", tmp_path, {})
    tracker.log(1, {"loss": 1.0})
    tracker.close()
    assert list(tmp_path.iterdir()) == []


def test_wandb_is_offline_unless_the_user_says_otherwise(
    runs: list[Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracker = open_tracker("wandb", tmp_path / "run", {"lr": 0.1})
    assert runs == []  # nothing begins before the first figures
    tracker.log(1, {"loss": 2.0})
    tracker.log(2, {"loss": 1.0})
    tracker.close()
    (run,) = runs
    assert run.settings["mode"] == "offline"
    assert run.settings["config"] == {"lr": 0.1}
    assert run.logged == [({"loss": 2.0}, 1), ({"loss": 1.0}, 2)]
    assert run.finished
    monkeypatch.setenv("WANDB_MODE", "online")
    again = open_tracker("wandb", tmp_path / "run", {})
    again.log(3, {})
    assert runs[1].settings["mode"] == "online"
    assert runs[1].settings["id"] == run.settings["id"]  # a resumed run goes on in the same one
    assert runs[1].settings["resume"] == "allow"


def test_a_tracker_that_fails_is_given_up_and_the_run_goes_on(runs: list[Run], tmp_path: Path) -> None:
    tracker = open_tracker("wandb", tmp_path, {})
    tracker.log(1, {"loss": 1.0})
    runs[0].log = lambda *a, **k: (_ for _ in ()).throw(ConnectionError("no network"))  # type: ignore[method-assign]
    with pytest.warns(InputWarning, match="wandb is given up, the run goes on: no network"):
        tracker.log(2, {"loss": 1.0})
    tracker.log(3, {"loss": 1.0})
    tracker.close()
    assert len(runs) == 1


def test_only_the_main_process_tracks(runs: list[Run], tmp_path: Path) -> None:
    tracker = open_tracker("wandb", tmp_path, {}, Team(1, 2))
    tracker.log(1, {"loss": 1.0})
    tracker.close()
    assert runs == []


def test_a_missing_package_is_named_with_its_extra_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name in ("wandb", "tensorboard") else find(name)
    )
    for name in ("wandb", "tensorboard"):
        with pytest.raises(InvalidInput, match=rf"pip install 'adjointdpm\[{name}\]'"):
            open_tracker(name, tmp_path, {})
    with pytest.raises(InvalidInput, match="expected one of none, tensorboard, wandb"):
        open_tracker("mlflow", tmp_path, {})
    assert list(tmp_path.iterdir()) == []


def test_tensorboard_files_can_be_read_back(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for steps in ((1, 2), (3,)):  # the second is the resumed run
        tracker = open_tracker("tensorboard", tmp_path, {})
        for step in steps:
            tracker.log(step, {"loss": 1 / step})
        tracker.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("loss")] == [(s, pytest.approx(1 / s)) for s in (1, 2, 3)]
