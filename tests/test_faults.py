"""Samples of what `benchmarks/faults/` does at length: runs that are killed, and files that are damaged."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

FAULTS = Path(__file__).parents[1] / "benchmarks" / "faults"
STATES = ("averaged", "queue", "flexmatch", "sam", "large")


def figures(script, tmp_path, *arguments):
    """What a script writes; it forks, so it has a process of its own, without threads."""
    out = tmp_path / "figures.json"
    ended = subprocess.run(
        [sys.executable, FAULTS / script, *arguments, "--out", out], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stdout[-2000:] + ended.stderr[-2000:]
    return json.loads(out.read_text())


@pytest.mark.slow(reason="twenty runs are killed and continued")
def test_twenty_kills_end_as_unbroken_runs(tmp_path):
    found = figures("kills.py", tmp_path, "--kills", "20", "--states", *STATES)
    assert found["kills"] == 20
    assert found["writing"] == 4
    assert found["by_state"].keys() == {*STATES}
    assert found["differing"] == []


@pytest.mark.slow(reason="an interpreter is started that forks")
def test_damaged_files_are_refused_or_read_as_they_were(tmp_path):
    found = figures("fuzz.py", tmp_path, "--share", "0.04")
    assert all(each["faults"] == [] for each in found.values())
    assert found["checkpoints"]["refused"] > found["checkpoints"]["read"]
