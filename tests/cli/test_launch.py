"""`manyview train … --processes N`: one group, one result; mistakes once."""

import json
import re
import subprocess
import sys

import pytest

from commands import manyview, one_line
from manyview.foundation.several import free_port

RECIPE = """
data: {source: digits}
views:
  a: {from: image, make: "pad_crop(8, padding=1)"}
  b: {like: a}
branches: {net: {backbone: "test_vit(img_size=8, patch_size=4)", normalize: half}}
relations: [cross_entropy(logits(a))]
train: {steps: 4, batch_size: 8, log_every: 2, schedule: constant(), optimizer: "sgd(lr=0.01)"}
"""


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE)
    return path


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--nodes", "2"], "--nodes and --meet go with --processes, how many each machine starts"),
        (["--processes", "2", "--nodes", "2"], "--nodes: say where the machines meet, --meet HOST:PORT, the same on "
         "all of them"),
        (["--processes", "2", "--nodes", "2", "--meet", "trainer-0"], "--meet: trainer-0 is no HOST:PORT, such as "
         "trainer-0:29500"),
        (["--processes", "2", "train.stepz=3"], "train.stepz: unknown key 'stepz'"),
    ],
    ids=["nodes alone", "nowhere", "no port", "recipe"],
)  # fmt: skip
def test_mistakes_are_told_before_anything_is_started(recipe, tmp_path, options, told):
    assert told in one_line(*manyview("train", recipe, *options, "--out", tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_a_launcher_and_processes_must_agree(recipe, tmp_path, monkeypatch):
    launched = {"RANK": "0", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "4", "MASTER_ADDR": "localhost"}
    for name, value in launched.items():
        monkeypatch.setenv(name, value)
    told = one_line(*manyview("train", recipe, "--processes", "2", "--out", tmp_path / "run"))
    assert told.startswith("--processes 2, but a launcher started 4, 4 on this machine; leave --processes out")


def test_a_meeting_place_that_does_not_answer_is_waited_for_in_two_lines(recipe, tmp_path, monkeypatch):
    words = ["train", recipe, "--out", tmp_path / "run", "--processes", "1", "--nodes", "2"]
    monkeypatch.setenv("MANYVIEW_JOIN_SECONDS", "0.2")
    code, out, err = manyview(*words, "--meet", "192.0.2.1:29500")  # an address that is nobody's (RFC 5737)
    waiting, told = err.splitlines()
    assert (code, out) == (2, "")
    assert re.fullmatch(
        r"manyview: 192\.0\.2\.1:29500 does not answer yet \(.+\); waiting for it, up to 0\.2 s", waiting
    )
    assert re.fullmatch(r"manyview: --meet: 192\.0\.2\.1:29500 did not answer within 0\.2 s \(.+\); name .*", told)
    monkeypatch.setenv("MANYVIEW_JOIN_SECONDS", "ten")
    told = one_line(*manyview(*words, "--meet", "192.0.2.1:29500"))
    assert told == "MANYVIEW_JOIN_SECONDS=ten: seconds that processes wait for one another, above 0"
    assert not (tmp_path / "run").exists()


@pytest.mark.slow(reason="waits for a second for a machine that does not come")
def test_a_machine_that_does_not_come_is_waited_for_as_long_as_is_said(recipe, tmp_path, monkeypatch):
    monkeypatch.setenv("MANYVIEW_JOIN_SECONDS", "1")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # which it would set
    meet = f"localhost:{free_port()}"
    words = ["train", recipe, "--out", tmp_path / "run", "--processes", "1", "--nodes", "2", "--meet", meet]
    code, _, err = manyview(*words)
    assert code == 2
    assert err == (
        f"manyview: 2 machines meet at {meet}; waiting for all, up to 1 s\n"
        f"manyview: fewer than 2 machines came to {meet} within 1 s; start the same command on each, with the same "
        "--nodes and --meet (MANYVIEW_JOIN_SECONDS says how long they wait)\n"
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.slow(reason="starts three interpreters")
def test_processes_are_one_run(recipe, tmp_path):
    """Rows that are gathered and weights that are shared out, and nothing of it is heard."""
    words = ["train", recipe, "--out", tmp_path / "run", "--processes", "2", "--quiet"]
    more = ["relations=['nt_xent(h(a), h(b))']", "train.shard=true", "train.untrained=false"]
    done = subprocess.run([sys.executable, "-m", "manyview", *map(str, words), *more], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert json.loads((tmp_path / "run" / "splits.json").read_text())["processes"] == 2
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "lr" in line] == [2, 4]
    assert (tmp_path / "run" / "result.json").is_file()
    told = one_line(*manyview(*words))  # before any is started
    assert told == f"{tmp_path / 'run'} is not empty; choose another --out, or continue with --resume"
