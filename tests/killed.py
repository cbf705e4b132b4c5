"""Runs in processes of their own that are killed and continued, and whether two are the same bit for bit."""

import json
import multiprocessing
import os
import signal
import sys
import time

import torch

from manyview import cli
from manyview.foundation.files import read_state
from processes import server


def command_line(folder, recipe, *arguments):
    """What `manyview train …` does, with its exit code; in a process of its own it can be killed."""
    torch.set_num_threads(1)
    multiprocessing.set_start_method("fork", force=True)  # for the loader's workers, as where a shell starts it
    sys.argv = ["manyview", "train", str(recipe), *arguments, "--quiet", "--out", str(folder)]
    cli.main()


def start(*arguments):
    process = server().Process(target=command_line, args=arguments)
    process.start()
    return process


def complete(*arguments):
    process = start(*arguments)
    process.join(timeout=120)
    return process.exitcode


def newest_step(folder):
    try:
        lines = (folder / "metrics.jsonl").read_text().splitlines()
    except FileNotFoundError:
        return 0
    return json.loads(lines[-2])["step"] if len(lines) > 1 else 0  # the last may be half a line


def kill_after(folder, step, *arguments):
    """Starts a run and kills it, without warning, once its metrics have passed a step."""
    process = start(folder, *arguments)
    while newest_step(folder) < step:
        assert process.exitcode is None, "ended before it could be killed"
        time.sleep(0.001)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert not (folder / "result.json").exists()


def lines(folder):
    kept = []
    for line in (folder / "metrics.jsonl").read_text().splitlines():
        kept.append({key: value for key, value in json.loads(line).items() if key != "images_per_second"})
    return kept


def assert_equal(one, two, where=""):
    assert type(one) is type(two), where
    if isinstance(one, torch.Tensor):
        assert one.dtype == two.dtype, where
        assert torch.equal(one, two), where
    elif isinstance(one, dict):
        assert one.keys() == two.keys(), where
        for key in one:
            if key not in ("seconds", "waited"):
                assert_equal(one[key], two[key], f"{where}.{key}")
    elif isinstance(one, list):
        assert len(one) == len(two), where
        for number, (left, right) in enumerate(zip(one, two, strict=True)):
            assert_equal(left, right, f"{where}.{number}")
    else:
        assert one == two, where


def assert_same_run(folder, expected):
    assert lines(folder) == lines(expected)
    for name in ("last.pt", "best.pt"):
        assert_equal(read_state(folder / "checkpoints" / name), read_state(expected / "checkpoints" / name), name)
    results = [json.loads((run / "result.json").read_text()) for run in (folder, expected)]
    for result in results:
        del result["seconds"], result["images_per_second"], result["waiting"], result["git"]
    assert results[0] == results[1]
