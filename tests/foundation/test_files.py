"""Files are whole or not there, and a checkpoint holds no code."""

import json
import os
import pickle
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch

from manyview.errors import RunError
from manyview.foundation.files import read_state, write_atomically, write_bytes, write_json, write_state, write_text


def test_what_is_written_is_read(tmp_path):
    write_text(tmp_path / "deep" / "er" / "text", "Grüße\n")
    assert (tmp_path / "deep" / "er" / "text").read_bytes() == "Grüße\n".encode()
    write_bytes(tmp_path / "bytes", b"\x00\xff")
    assert (tmp_path / "bytes").read_bytes() == b"\x00\xff"
    write_json(tmp_path / "json", {"a": [1, None, 0.5]})
    assert json.loads((tmp_path / "json").read_text()) == {"a": [1, None, 0.5]}
    state = {"step": {"w": torch.randn(3, 2)}, "run": {"number": 7, "best": -float("inf"), "skipped": ["a line"]}}
    write_state(tmp_path / "state", state)
    read = read_state(tmp_path / "state")
    assert torch.equal(read["step"]["w"], state["step"]["w"])
    assert read["run"] == state["run"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bytes", "deep", "json", "state"]


@pytest.mark.parametrize("exists", [False, True])
def test_a_failure_leaves_what_was_there(tmp_path, exists):
    path = tmp_path / "file"
    if exists:
        path.write_text("old")

    def write(temporary):
        temporary.write_text("half")
        raise OSError("no space left")

    with pytest.raises(RunError, match=r"^cannot write .*file: no space left$"):
        write_atomically(path, write)
    assert [p.name for p in tmp_path.iterdir()] == ["file"] * exists
    assert not exists or path.read_text() == "old"


def test_values_that_cannot_be_written_leave_nothing(tmp_path):
    with pytest.raises(TypeError):
        write_json(tmp_path / "json", {"a": object()})
    with pytest.raises((TypeError, AttributeError, pickle.PicklingError)):
        write_state(tmp_path / "state", {"a": lambda: None})
    assert list(tmp_path.iterdir()) == []


def test_the_old_file_is_whole_until_the_new_one_is(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    seen = []

    def write(temporary):
        temporary.write_text("ne")
        seen.append(path.read_text())
        temporary.write_text("new")

    write_atomically(path, write)
    assert seen == ["old"]
    assert path.read_text() == "new"


class Harmful:
    """Unpickling it would make a folder."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("plain", [False, True], ids=["torch.save", "pickle"])
def test_a_checkpoint_with_code_is_refused_and_not_run(tmp_path, plain):
    path, trace = tmp_path / "last.pt", tmp_path / "was run"
    if plain:
        path.write_bytes(pickle.dumps({"step": Harmful(trace)}, protocol=2))
    else:
        torch.save({"step": Harmful(trace)}, path)
    with pytest.raises(RunError, match=r"last\.pt is damaged, or holds more than tensors: \S") as caught:
        read_state(path)
    assert "\n" not in str(caught.value)
    assert not trace.exists()
    # the file is as harmful as it looks
    torch.load(path, weights_only=False) if not plain else pickle.loads(path.read_bytes())
    assert trace.is_dir()


def test_what_trainers_keep_beside_weights_is_read(tmp_path):
    kept = {"args": Namespace(lr=0.1), "best": np.float64(91.5), "epoch": np.int64(3), "loss": np.float32(0.5)}
    torch.save({"w": torch.ones(2), **kept}, tmp_path / "w.pt")
    found = read_state(tmp_path / "w.pt")
    assert {name: found[name] for name in kept} == kept
    torch.save({"w": torch.ones(2), **kept, "where": Path("x")}, tmp_path / "w.pt")
    with pytest.raises(RunError, match=r"tensors: it names pathlib\.\w+, which is code; write the weights alone"):
        read_state(tmp_path / "w.pt")


@pytest.mark.parametrize("length", [0, 1, 100, 1000, -1])
def test_a_damaged_checkpoint_is_one_line(tmp_path, length):
    path = tmp_path / "last.pt"
    write_state(path, {"w": torch.randn(100)})
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(RunError, match=r"last\.pt is damaged") as caught:
        read_state(path)
    assert "\n" not in str(caught.value)
