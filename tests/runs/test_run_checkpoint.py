"""Checkpoints: complete or not there, damage named, disk faults survived."""

import errno
import json

import pytest
import torch

from adjointdpm.errors import InvalidInput
from adjointdpm.runs import Checkpoint, OutputError, load_checkpoint, random_state, save_checkpoint, set_random_state
from adjointdpm.runs import checkpoint as module


def state(value):
    return {"rows": torch.full((2, 3), float(value)), "history": [value, value / 3], "rng": random_state()}


def fail_at(monkeypatch, failing_write, error):
    """Raise `error` in place of one of the writes to come, counted from 1."""
    writes = iter(range(1, 10))
    real = module.atomic_write

    def write(path, data):
        if next(writes) == failing_write:
            raise error
        return real(path, data)

    monkeypatch.setattr(module, "atomic_write", write)
    monkeypatch.setattr("adjointdpm.runs.atomic.atomic_write", write)


def test_the_last_checkpoint_comes_back_and_older_ones_go(tmp_path):
    assert load_checkpoint(tmp_path) is None
    for step in (1, 2, 3):
        save_checkpoint(tmp_path, Checkpoint(step, state(step)))
    found = load_checkpoint(tmp_path)
    assert found.step == 3
    assert torch.equal(found.state["rows"], torch.full((2, 3), 3.0))
    assert found.state["history"] == [3, 1.0]
    assert sorted(f.name for f in tmp_path.iterdir()) == [
        "checkpoint-00000003.safetensors",
        "checkpoint-00000003.state.json",
        "checkpoint.json",
    ]


@pytest.mark.parametrize("failing_write", [1, 2, 3])
def test_a_full_disk_at_any_of_the_three_writes_keeps_the_previous_one(tmp_path, monkeypatch, failing_write):
    save_checkpoint(tmp_path, Checkpoint(1, state(1)))
    fail_at(monkeypatch, failing_write, OutputError(errno.ENOSPC, "cannot write: the disk is full"))
    with pytest.raises(OutputError, match="the disk is full"):
        save_checkpoint(tmp_path, Checkpoint(2, state(2)))
    monkeypatch.undo()
    assert load_checkpoint(tmp_path).step == 1
    assert torch.equal(load_checkpoint(tmp_path).state["rows"], torch.ones(2, 3))


@pytest.mark.parametrize("failing_write", [1, 2, 3])
def test_a_second_checkpoint_of_the_same_step_does_not_touch_the_first(tmp_path, monkeypatch, failing_write):
    """Killed between its files and the manifest, which still names the files of the first."""
    save_checkpoint(tmp_path, Checkpoint(1, state(1)))
    fail_at(monkeypatch, failing_write, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(tmp_path, Checkpoint(1, state(2)))
    monkeypatch.undo()
    assert torch.equal(load_checkpoint(tmp_path).state["rows"], torch.ones(2, 3))
    for value in (3, 4):
        save_checkpoint(tmp_path, Checkpoint(1, state(value)))
    assert torch.equal(load_checkpoint(tmp_path).state["rows"], torch.full((2, 3), 4.0))
    assert len(list(tmp_path.iterdir())) == 3


def test_damage_is_named(tmp_path):
    save_checkpoint(tmp_path, Checkpoint(4, state(4)))
    tensors = tmp_path / "checkpoint-00000004.safetensors"
    whole = bytearray(tensors.read_bytes())
    whole[-1] ^= 1
    tensors.write_bytes(whole)
    with pytest.raises(InvalidInput, match=r"checkpoint-00000004\.safetensors is damaged"):
        load_checkpoint(tmp_path)
    tensors.unlink()
    with pytest.raises(InvalidInput, match=r"checkpoint-00000004\.safetensors is missing"):
        load_checkpoint(tmp_path)
    (tmp_path / "checkpoint.json").write_text("{")
    with pytest.raises(InvalidInput, match=r"checkpoint\.json is not readable JSON"):
        load_checkpoint(tmp_path)


def test_a_checkpoint_of_another_version_is_refused(tmp_path):
    save_checkpoint(tmp_path, Checkpoint(1, state(1)))
    manifest = json.loads((tmp_path / "checkpoint.json").read_text())
    (tmp_path / "checkpoint.json").write_text(json.dumps(manifest | {"version": 99}))
    with pytest.raises(InvalidInput, match="has version 99, this library reads version 1"):
        load_checkpoint(tmp_path)


def test_random_states_continue_where_they_were(tmp_path):
    import random

    import numpy as np

    save_checkpoint(tmp_path, Checkpoint(1, state(1)))
    expected = torch.randn(3), np.random.randn(3).tolist(), random.random()
    set_random_state(load_checkpoint(tmp_path).state["rng"])
    assert torch.equal(torch.randn(3), expected[0])
    assert np.random.randn(3).tolist() == expected[1]
    assert random.random() == expected[2]
