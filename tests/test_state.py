"""A state on disk is whole or absent, and errors say what to do."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import torch

from fakes import tiny_model
from hilum.errors import RunError
from hilum.training.state import copy_state, fingerprint, load_state, save_state, write_atomically

STATE = {
    "weight": torch.arange(24.0).view(2, 3, 2, 2).contiguous(memory_format=torch.channels_last),
    "count": torch.tensor(7),
    "half": torch.tensor([1.5, -2.0], dtype=torch.float64),
    "empty": torch.zeros(0),
}


def test_a_state_comes_back_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "new" / "deep" / "state.safetensors"
    save_state(path, STATE, {"round": "3"})
    loaded = load_state(path)
    assert set(loaded) == set(STATE)
    for name, tensor in STATE.items():
        assert loaded[name].dtype == tensor.dtype
        assert torch.equal(loaded[name], tensor)
    assert fingerprint(loaded) == fingerprint(STATE)
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_a_model_comes_back_as_it_was(tmp_path: Path) -> None:
    model = tiny_model(seed=3)
    save_state(tmp_path / "model.safetensors", model.state_dict())
    other = tiny_model(seed=4)
    other.load_state_dict(load_state(tmp_path / "model.safetensors"))
    assert fingerprint(other.state_dict()) == fingerprint(model.state_dict())


def test_a_copy_does_not_follow_its_module() -> None:
    model = tiny_model()
    copied = copy_state(model)
    before = fingerprint(copied)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    assert fingerprint(copied) == before != fingerprint(model.state_dict())
    assert not any(tensor.requires_grad for tensor in copied.values())


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (errno.ENOSPC, r"free space for .*the disk is full.*--resume"),
        (errno.EDQUOT, r"the disk is full"),
        (errno.EIO, r"Expected to write .*the system says"),
    ],
)
@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failed_write_keeps_the_old_file_and_leaves_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, message: str, step: str
) -> None:
    path = tmp_path / "state.safetensors"
    save_state(path, STATE)
    before = path.read_bytes()

    def fail(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(*((os, "fsync") if step == "fsync" else (Path, "replace")), fail)
    with pytest.raises(RunError, match=message):
        save_state(path, {"weight": torch.ones(9)})
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_cannot_be_made_is_an_error_of_the_run(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RunError, match="Expected to write"):
        write_atomically(tmp_path / "file" / "state.json", b"{}")


@pytest.mark.parametrize("damage", ["cut", "empty", "noise"])
def test_a_damaged_file_is_an_error_that_names_it(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "state.safetensors"
    save_state(path, STATE)
    path.write_bytes({"cut": path.read_bytes()[:-5], "empty": b"", "noise": b"\x80" * 200}[damage])
    with pytest.raises(RunError, match=r"Expected safetensors in .*state\.safetensors.*--resume"):
        load_state(path)


def test_an_absent_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"absent\.safetensors; the file is absent"):
        load_state(tmp_path / "absent.safetensors")


def test_the_fingerprint_sees_names_shapes_types_and_values_and_not_the_order() -> None:
    base = {"a": torch.zeros(4), "b": torch.ones(2)}
    others = [
        {"a": torch.zeros(4), "c": torch.ones(2)},
        {"a": torch.zeros(2, 2), "b": torch.ones(2)},
        {"a": torch.zeros(4, dtype=torch.int32), "b": torch.ones(2)},
        {"a": torch.zeros(4), "b": torch.tensor([1.0, 1.0000001])},
        {"a": torch.zeros(4)},
    ]
    assert fingerprint(dict(reversed(base.items()))) == fingerprint(base)
    assert len({fingerprint(base), *map(fingerprint, others)}) == len(others) + 1
