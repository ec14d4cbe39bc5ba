"""Run folders: locks, resume rules, logs, signals."""

import json
import os
import signal
import subprocess
import sys

import pytest
import torch

from adjointdpm.errors import InvalidInput, NumericalWarning
from adjointdpm.runs import Checkpoint, FolderLock, GracefulStop, OutputError, RunFolder, RunInterrupted, read_jsonl

HOLDER = """
import sys, time
from adjointdpm.runs import FolderLock
with FolderLock(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_folder_in_use_names_process_and_host(tmp_path):
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(OutputError, match=rf"in use by process {holder.pid} on host \S+\. Wait"):
            FolderLock(tmp_path).acquire()
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    with FolderLock(tmp_path):  # the killed holder's lock file is still there, its lock is not
        assert (tmp_path / ".lock-owner.json").exists()
    assert not (tmp_path / ".lock-owner.json").exists()


def test_the_same_process_cannot_open_a_folder_twice(tmp_path):
    with (
        RunFolder(tmp_path, "t", {}),
        pytest.raises(OutputError, match=f"in use by process {os.getpid()}"),
        RunFolder(tmp_path, "t", {}),
    ):
        pass


def test_a_run_is_recorded_and_resumed(tmp_path):
    with RunFolder(tmp_path / "a", "invert", {"lr": 0.1, "seeds": (1, 2)}, {"model": "abc"}) as run:
        assert run.resumed is None
        run.begin()
        for step in (1, 2, 3):
            run.log.write({"step": step})
            if step < 3:
                run.save(Checkpoint(step, {"x": torch.ones(1)}))
    with RunFolder(tmp_path / "a", "invert", {"lr": 0.1, "seeds": [1, 2]}, {"model": "abc"}) as run:
        assert run.resumed.step == 2
        run.begin()
        assert [row["step"] for row in read_jsonl(run.log.path)] == [1, 2]
        run.finish("finished", {"loss": 1.0})
    record = json.loads((tmp_path / "a" / "run.json").read_text())
    assert record["status"] == "finished"
    assert record["results"] == {"loss": 1.0}
    assert record["environment"]["threads"] == torch.get_num_threads()


def test_other_settings_or_another_model_are_refused_naming_the_fields(tmp_path):
    with RunFolder(tmp_path, "invert", {"lr": 0.1, "epochs": 5}, {"unet": "abc"}) as run:
        run.begin()
    before = (tmp_path / "run.json").read_bytes()
    with (
        pytest.raises(InvalidInput, match=r"other settings: lr \(was 0\.1, now 0\.2\)\. Use"),
        RunFolder(tmp_path, "invert", {"lr": 0.2, "epochs": 5}, {"unet": "abc"}),
    ):
        pass
    with (
        pytest.raises(InvalidInput, match=r"model: unet \(was abc, now x\)"),
        RunFolder(tmp_path, "invert", {"lr": 0.1, "epochs": 5}, {"unet": "x"}),
    ):
        pass
    with pytest.raises(InvalidInput, match="holds a run of 'invert', not of 'audit'"), RunFolder(tmp_path, "audit", {}):
        pass
    assert (tmp_path / "run.json").read_bytes() == before


def test_a_run_that_never_begins_leaves_nothing(tmp_path):
    with pytest.raises(InvalidInput, match="bad input"), RunFolder(tmp_path / "new", "t", {}):
        raise InvalidInput("bad input")
    assert not (tmp_path / "new").exists()
    with pytest.raises(InvalidInput, match="bad input"), RunFolder(tmp_path / "a" / "b" / "c", "t", {}):
        raise InvalidInput("bad input")
    assert not (tmp_path / "a").exists()
    (tmp_path / "old").mkdir()
    with RunFolder(tmp_path / "old", "t", {}):
        pass
    assert (tmp_path / "old").exists()


def test_folders_that_are_not_runs_are_left_alone(tmp_path):
    (tmp_path / "photo.png").write_bytes(b"x")
    with pytest.raises(InvalidInput, match=r"not empty and holds no run \(photo\.png"), RunFolder(tmp_path, "t", {}):
        pass
    with pytest.raises(InvalidInput, match="is a file"), RunFolder(tmp_path / "photo.png", "t", {}):
        pass
    with pytest.raises(InvalidInput, match=r"cannot be made: .*photo\.png is a file"):
        RunFolder(tmp_path / "photo.png" / "a" / "b", "t", {}).__enter__()
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "run.json").write_text("[]")
    with pytest.raises(InvalidInput, match="not a readable run record"), RunFolder(tmp_path / "b", "t", {}):
        pass


def test_a_different_environment_warns_naming_it(tmp_path):
    with RunFolder(tmp_path, "t", {}) as run:
        run.begin()
        run.save(Checkpoint(1, {}))
    record = json.loads((tmp_path / "run.json").read_text())
    record["environment"]["threads"] = 1234
    record["environment"]["versions"]["torch"] = "0.1"
    (tmp_path / "run.json").write_text(json.dumps(record))
    with pytest.warns(NumericalWarning, match=r"threads: 1234 -> \d+; torch: 0\.1 -> "), RunFolder(tmp_path, "t", {}):
        pass


def test_half_a_line_at_the_end_of_a_log_is_ignored(tmp_path):
    (tmp_path / "log.jsonl").write_text('{"step": 1}\n{"step": 2}\n{"st')
    assert read_jsonl(tmp_path / "log.jsonl") == [{"step": 1}, {"step": 2}]


LOOP = """
import sys, time
from adjointdpm.runs import GracefulStop
with GracefulStop() as stop:
    print("ready", flush=True)
    for _ in range(600):
        time.sleep(0.1)
        if stop.requested:
            print("saved", flush=True)
            raise stop.interruption("interrupted")
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_lets_the_step_finish_and_gives_its_exit_code(number, code):
    process = subprocess.Popen([sys.executable, "-c", LOOP], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    output, _ = process.communicate(timeout=60)
    assert output == "saved\n"
    assert process.returncode == code


def test_a_second_signal_acts_at_once_and_handlers_are_put_back(request, capsys):
    # a shell's background jobs start with SIGINT ignored, so the test brings the handler that it tests with
    inherited = signal.signal(signal.SIGINT, signal.default_int_handler)
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, inherited))
    before = signal.getsignal(signal.SIGINT)
    with GracefulStop() as stop:
        signal.raise_signal(signal.SIGINT)
        assert stop.requested
        assert capsys.readouterr().err == "stopping after this step; once more stops at once\n"
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert capsys.readouterr().err == ""
    assert signal.getsignal(signal.SIGINT) is before
    error = stop.interruption("stopped after step 3")
    assert isinstance(error, RunInterrupted)
    assert (error.code, str(error)) == (130, "stopped after step 3")


@pytest.mark.parametrize("stderr", [None, "closed", "busy"])
def test_a_signal_is_heard_also_where_nothing_can_be_said(monkeypatch, tmp_path, stderr):
    class Busy:
        def write(self, text):
            raise RuntimeError("reentrant call")

    closed = (tmp_path / "closed").open("w")
    closed.close()
    monkeypatch.setattr("sys.stderr", {None: None, "closed": closed, "busy": Busy()}[stderr])
    with GracefulStop() as stop:
        signal.raise_signal(signal.SIGTERM)
    assert stop.interruption("").code == 143


def test_of_several_processes_one_speaks(capsys):
    with GracefulStop("batch", speaks=False) as stop:
        signal.raise_signal(signal.SIGTERM)
    assert stop.requested and capsys.readouterr() == ("", "")
