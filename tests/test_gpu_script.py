"""The parts of `benchmarks/gpu.sh`: one that hangs, dies or fails costs no other, and none of it passes for right.

The parts themselves are run by `benchmarks/gpu.sh --dry`, in `.ci/run`.
"""

import importlib
import os
import time

import pytest
import torch

from scripts import BENCHMARKS, beside


@pytest.fixture(scope="module")
def script():
    """The script's command line, as `python -m gpu` finds it."""
    with beside(BENCHMARKS):
        return importlib.import_module("gpu.__main__")


def right(bench):
    yield {"what": "one", "right": True}
    yield {"what": "two", "seconds": 1.5}


def wrong(bench):
    yield {"what": "three", "right": False}


def hangs(bench):
    yield {"what": "four"}
    time.sleep(600)


def dies(bench):
    yield {"what": "five"}
    os._exit(7)


def fails(bench):
    yield {"what": "six"}
    raise LookupError("no seventh")


@pytest.mark.parametrize(
    ("run", "rows", "told"),
    [
        (right, ["one", "two"], None),
        (wrong, ["three"], None),
        (hangs, ["four"], "ended at its limit"),
        (dies, ["five"], "its process ended by itself, with code 7"),
        (fails, ["six"], "no seventh"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_part_costs_no_other(script, monkeypatch, tmp_path, run, rows, told):
    monkeypatch.setattr(script, "GRACE", 0.2)
    found = {"rows": [], "seconds": 0.0, "ended": None}
    bench = script.Bench(torch.device("cpu"), True, None, tmp_path, 0.0)
    for _ in script.run_part(script.Part(run, 0.5), bench, found, most=5.0):
        pass
    assert [row["what"] for row in found["rows"]] == rows
    assert (told is None) == (found["ended"] is None)
    assert told is None or told in found["ended"]
    assert script.is_right(found) == (run is right)


def test_a_part_without_time_is_not_right(script):
    found = {"rows": [], "seconds": 0.0, "ended": None}
    assert not [*script.run_part(script.Part(right, 1.0), None, found, most=-1.0)]
    assert not script.is_right(found)
    assert script.table({"about": "a machine", "parts": {"late": found}}).endswith("- no time was left\n")
