"""Of two commands that train one run, the second is told of the first; a killed one holds nobody off."""

import os
import signal
import subprocess
import sys

import pytest

from commands import contents, manyview, one_line
from manyview import parse_recipe
from manyview.errors import Held, RunError
from manyview.foundation.lock import marked_as_mine
from manyview.training.held import held
from manyview.training.train import train

RECIPE = """
title: one view of digits
data: {source: digits, limit: 60}
views: {a: {from: image, make: "pad_crop(8, padding=1)"}}
branches: {net: {backbone: cresnet20, normalize: half}}
relations: [cross_entropy(logits(a))]
train: {steps: 2, batch_size: 20}
"""
HOLDER = """
import os, sys, time, pathlib
from manyview.foundation.lock import marked_as_mine
with marked_as_mine(pathlib.Path(sys.argv[1]), "process 7 on \\x1bnode since noon"):
    worker = os.fork()  # as loaders have them, which may outlive it
    if worker:
        print(worker, flush=True)
    time.sleep(300)
"""
pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows holds nobody off")


@pytest.fixture
def holder(tmp_path):
    """(a folder whose run another process trains, that process)."""
    folder = tmp_path / "runs" / "digits" / "seed-0"
    folder.mkdir(parents=True)
    process = subprocess.Popen([sys.executable, "-c", HOLDER, folder / ".lock"], stdout=subprocess.PIPE)
    worker = int(process.stdout.readline())
    yield folder, process
    os.kill(worker, signal.SIGKILL)
    process.kill()
    process.communicate()


def test_a_run_that_another_command_trains_is_left_alone_and_goes_on_once_that_was_killed(holder, tmp_path):
    folder, process = holder
    text = tmp_path / "digits.yaml"
    text.write_text(RECIPE)
    before = contents(folder)
    said = one_line(*manyview("train", text, "--out", folder, "--resume", "--quiet"))
    assert said == (
        rf"{folder} is being trained by process 7 on \x1bnode since noon; wait for its end, or stop it and go on then; "
        f"where that machine is gone, remove {folder / '.lock'}"
    )
    with pytest.raises(Held, match="is being trained"):
        train(parse_recipe(RECIPE), folder, quiet=True)  # which is no less so for one that begins
    assert contents(folder) == before
    process.kill()
    process.wait()
    assert train(parse_recipe(RECIPE), folder, quiet=True)["steps"] == 2  # the lock of a dead one is no run
    assert ".lock" not in contents(folder)


def test_a_comparison_leaves_such_a_run_to_the_other_and_goes_on(holder, tmp_path):
    folder, process = holder
    text = tmp_path / "digits.yaml"
    text.write_text(RECIPE)
    arguments = ("compare", text, f"{text}@other", "--seeds", 1, "--out", tmp_path)
    code, out, err = manyview(*arguments)
    assert (code, err) == (0, "")
    assert f"digits, seed 0: left to another command; {folder} is being trained by process 7" in out
    assert out.endswith("no table yet; missing: digits seed 0\n")
    assert (tmp_path / "runs" / "other" / "seed-0" / "result.json").is_file()
    process.kill()
    process.wait()
    code, out, err = manyview(*arguments)
    assert (code, err) == (0, "")
    assert "1 of 2 runs ended before" in out
    assert "left to another" not in out


def test_who_trains_is_told_by_process_machine_and_time(tmp_path):
    with held(tmp_path / "run", main=True):
        said = (tmp_path / "run" / ".lock").read_text()
    assert said.startswith(f"process {os.getpid()} on ")
    assert not (tmp_path / "run").exists()


def test_a_refused_run_leaves_no_folder_behind_nor_those_above(tmp_path):
    def refuse():
        with held(tmp_path / "far" / "away" / "run", main=True):
            assert (tmp_path / "far" / "away" / "run").is_dir()
            raise RunError("no")

    with pytest.raises(RunError, match="no"):
        refuse()
    assert not (tmp_path / "far").exists()


def test_what_cannot_be_held_holds_nobody_off(tmp_path):
    (tmp_path / "file").write_text("")
    with marked_as_mine(tmp_path / "file" / ".lock", "me"), marked_as_mine(tmp_path / "none" / ".lock", "me"):
        pass
    assert [*tmp_path.iterdir()] == [tmp_path / "file"]
