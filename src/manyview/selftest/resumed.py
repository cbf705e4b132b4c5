"""A run that is killed, and goes on as if nothing had happened."""

from __future__ import annotations

import os
import signal
import tempfile
import threading
import time
import warnings
from pathlib import Path

import torch

from manyview.foundation.files import read_state
from manyview.foundation.several import begins
from manyview.load import parse_recipe
from manyview.selftest.alike import Compared
from manyview.training.train import train

RECIPE = """
seed: 3
data: {source: digits, limit: 64}
views: {a: {from: image, make: "pad_crop(8, padding=1) | flip(0.5)"}, b: {like: a}}
branches:
  net: {backbone: "test_vit(img_size=8, patch_size=4)", normalize: half, z: "mlp(h, 16, 8)"}
  teacher: ema(net, momentum=0.9)
relations: ["cross_entropy(logits(a))", "info_nce(z(a), toward=teacher.z(b), queue=32)"]
train: {steps: 60, batch_size: 8, checkpoint_every: 5 steps, evaluate_every: 60, schedule: cosine(), ema: 0.9,
        track: [], optimizer: "adamw(lr=0.001, weight_decay=0.05)"}
"""
HOW = "killed and resumed"


def kill_and_resume() -> Compared:
    """Kills a run's process once it has a checkpoint, goes on from it, and compares with the unbroken run."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        recipe, broken, whole = parse_recipe(RECIPE), Path(folder) / "broken", Path(folder) / "whole"
        process = begins().Process(target=_killed, args=(str(broken),))
        process.start()
        process.join()
        if process.exitcode != -signal.SIGKILL:
            return Compared("a run", HOW, note=f"it ended with {process.exitcode} before it was killed")
        train(recipe, broken, resume=True, quiet=True)
        train(recipe, whole, quiet=True)
        one, other = (read_state(run / "checkpoints" / "last.pt")["step"] for run in (whole, broken))
        # nothing but the same bits is the same
        same = one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
        return Compared("a run", HOW, state=0.0 if same else float("inf"))


def _killed(folder: str) -> None:
    """Trains in a process that ends without a word as soon as there is a checkpoint."""

    def watch() -> None:
        while not (Path(folder) / "checkpoints" / "last.pt").is_file():
            time.sleep(0.001)
        os.kill(os.getpid(), signal.SIGKILL)

    warnings.simplefilter("ignore")
    threading.Thread(target=watch, daemon=True).start()
    train(parse_recipe(RECIPE), folder, quiet=True)


__all__ = ["kill_and_resume"]
