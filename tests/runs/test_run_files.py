"""Atomic files, tensors without pickle, nested state."""

import errno
import json
import os
import pickle
import stat

import pytest
import torch

from adjointdpm.errors import InvalidInput
from adjointdpm.runs import OutputError, atomic_write, load_tensors, save_tensors
from adjointdpm.runs.state import pack, unpack


def test_a_write_that_fails_half_way_keeps_the_old_file_and_no_litter(tmp_path, monkeypatch):
    path = atomic_write(tmp_path / "a.json", "old")

    def full(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match=r"a\.json: the disk is full.*unchanged"):
        atomic_write(path, "new")
    assert path.read_text() == "old"
    assert [f.name for f in tmp_path.iterdir()] == ["a.json"]


def test_a_read_only_disk_is_named(tmp_path, monkeypatch):
    def read_only(*args, **kwargs):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("tempfile.mkstemp", read_only)
    with pytest.raises(OSError, match="read-only; choose another folder"):
        atomic_write(tmp_path / "a.json", "new")


def test_files_have_ordinary_permissions(tmp_path):
    atomic_write(tmp_path / "a", b"x")
    (tmp_path / "b").write_bytes(b"x")
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == stat.S_IMODE((tmp_path / "b").stat().st_mode)


def test_tensors_and_metadata_come_back(tmp_path):
    tensors = {"a": torch.randn(3, 2), "b": torch.arange(4), "c": torch.randn(2, 3).t(), "d": torch.tensor(1.5)}
    save_tensors(tmp_path / "t.safetensors", tensors, {"who": "me"})
    loaded, metadata = load_tensors(tmp_path / "t.safetensors")
    assert metadata["who"] == "me"
    for name, tensor in tensors.items():
        assert loaded[name].dtype == tensor.dtype
        assert torch.equal(loaded[name], tensor)


def _explodes() -> None:
    raise AssertionError("code in a pickle was run")


class _Bomb:
    def __reduce__(self):
        return _explodes, ()


def test_a_header_whose_length_looks_like_a_pickle_is_read(tmp_path):
    seen = set()
    for length in range(400, 900, 8):  # the file begins with the length of its header, in bytes
        path = save_tensors(tmp_path / "x.safetensors", {"a": torch.ones(2)}, {"note": "n" * length})
        seen.add(path.read_bytes()[:2])
        assert torch.equal(load_tensors(path)[0]["a"], torch.ones(2))
    assert b"\x80\x02" in seen


def test_pickles_are_refused_by_name_and_never_run(tmp_path):
    torch.save({"a": torch.zeros(1)}, tmp_path / "new.pt")
    torch.save({"a": torch.zeros(1)}, tmp_path / "old.safetensors", _use_new_zipfile_serialization=False)
    (tmp_path / "bomb.bin").write_bytes(pickle.dumps(_Bomb()))
    for name in ("new.pt", "old.safetensors", "bomb.bin"):
        with pytest.raises(InvalidInput, match=rf"{name} is a pickled file"):
            load_tensors(tmp_path / name)


def test_cut_damaged_and_absent_files_are_refused_by_name(tmp_path):
    whole = save_tensors(tmp_path / "whole.safetensors", {"a": torch.randn(100)}).read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[:-40])
    (tmp_path / "text.safetensors").write_text("this is no tensor file at all")
    (tmp_path / "empty.safetensors").write_bytes(b"")
    for name in ("cut", "text", "empty"):
        with pytest.raises(InvalidInput, match=rf"{name}\.safetensors is not a readable safetensors"):
            load_tensors(tmp_path / f"{name}.safetensors")
    with pytest.raises(InvalidInput, match=r"no file .*absent\.safetensors"):
        load_tensors(tmp_path / "absent.safetensors")


def test_an_optimizer_state_survives_packing_through_json(tmp_path):
    weight = torch.randn(4, requires_grad=True)
    optimizer = torch.optim.AdamW([weight], lr=0.1)
    weight.square().sum().backward()
    optimizer.step()
    packed, tensors = pack({"optimizer": optimizer.state_dict(), "history": [0.1, 1 / 3, None, True, "x"]})
    save_tensors(tmp_path / "s.safetensors", tensors)
    back = unpack(json.loads(json.dumps(packed)), load_tensors(tmp_path / "s.safetensors")[0])
    assert back["history"] == [0.1, 1 / 3, None, True, "x"]
    state, expected = back["optimizer"], optimizer.state_dict()
    assert state["param_groups"] == expected["param_groups"]
    for name, value in expected["state"][0].items():
        assert torch.equal(state["state"][0][name], value)


def test_what_cannot_be_stored_is_named():
    with pytest.raises(TypeError, match=r"cannot store set at 'state\.a\.0'"):
        pack({"a": [{1, 2}]})
    with pytest.raises(InvalidInput, match="lacks"):
        unpack({"$": "tensor", "key": "gone"}, {})


def test_the_same_tensors_and_metadata_are_the_same_bytes(tmp_path):
    tensors = {"a": torch.arange(3), "b": torch.zeros(2, 2, dtype=torch.float16)}
    words = {"steps": "10", "solver": "ab4", "guidance": "3", "form": "räw", "spacing": "uniform"}
    files = [
        save_tensors(tmp_path / f"{k}.safetensors", tensors, dict(sorted(words.items(), reverse=k % 2 == 0)))
        for k in range(8)
    ]
    assert len({file.read_bytes() for file in files}) == 1
    found, kept = load_tensors(files[0])
    assert kept == words
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())
