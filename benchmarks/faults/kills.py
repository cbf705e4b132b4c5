"""Runs of every kind of state are killed at random moments, and end bit for bit as the unbroken ones.

    python benchmarks/faults/kills.py --kills 20             # a sample; a thousand take about half an hour of a core
    python benchmarks/faults/kills.py --kills 1000 --seed 1 --out kills.json

Every run is forked from one process that has imported everything. SIGKILL comes at a random moment; every fifth time
while a checkpoint is written: at a random one of its steps (before its temporary file is opened, before a name is given
or taken away), or some hundreds of microseconds behind it. A run is killed a few times, continued each time, left to
end, and its metrics, checkpoints and result are compared with those of a run that nothing happened to. Exits with 1
where one differs.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

import manyview.training.train as training
from manyview.foundation.files import read_state
from manyview.load import load_recipe

MEMORY = "/dev/shm"  # where nothing waits for a disk, which SIGKILL does not ask about
TIMES = 3  # kills of one run, before it is left to end
SOON = 0.002  # seconds behind a step of writing
TOLD = ("seconds", "images_per_second", "waiting", "git")  # of a result, which hang on the clock and on commits
HEAD = """
seed: 1
data: {source: digits, val_fraction: 0.03, render: memory, %s}
train: {steps: 12, batch_size: 8, log_every: 1, checkpoint_every: 2 steps, evaluate_every: 2, track: []%s}
"""
PAIR = """
views: {a: {from: image, make: "pad_crop(8, padding=1) | jitter(0.2, 0.2, 0.2, 0.1)"}, b: {like: a}}
branches:
  net: {backbone: "cresnet20(drop_rate=0.2)", normalize: half, z: "projector(h, 16, hidden=%d)"}%s
"""
TEACHER = "\n  teacher: ema(net, momentum=0.9, schedule='cosine')"
STREAMS = """
views:
  x: {from: image}
  weak: {from: unlabeled, make: flip(0.5)}
  strong: {from: unlabeled, make: "pad_crop(8, padding=2)"}
branches: {net: {backbone: cresnet20, normalize: half}}
"""
DINO = """
views: {a: {from: image, make: "pad_crop(8, padding=1)"}, b: {like: a}}
branches:
  net: {backbone: cresnet20, normalize: half, z: "dino_head(h, 24, hidden=16, bottleneck=8, freeze=4)"}
  teacher: ema(net, momentum=0.9)
"""


def _recipe(relations: str, networks: str, data: str = "limit: 48", train: str = "") -> str:
    return HEAD % (data, train) + networks + f'relations: ["{relations}"]\n'


LABELS = "cross_entropy(logits(a), logits(b))"
QUEUE = "info_nce(z(a), toward=teacher.z(b), queue=20, temperature=0.2)"
FEW = "labels_per_class: 2, unlabeled: all, unlabeled_limit: 64"
STATES = {
    "sgd": _recipe(LABELS, PAIR % (8, ""), train=', optimizer: "sgd(lr=0.05, momentum=0.9)"'),
    "adam": _recipe(LABELS, PAIR % (8, ""), train=', optimizer: "adamw(lr=0.01)", clip: 1.0'),
    "averaged": _recipe(LABELS, PAIR % (8, ""), train=", ema: 0.9, keep: best"),
    "parts": _recipe(QUEUE, PAIR % (8, TEACHER), train=", accumulate: 2"),
    "queue": _recipe(QUEUE, PAIR % (8, TEACHER), train=', schedule: "cosine(warmup=\'4 steps\')"'),
    "prototypes": _recipe("swav(z(a), z(b), prototypes=12, freeze=3)", PAIR % (8, "")),
    "centre": _recipe("dino(z(a), z(b), toward=teacher, warmup=6, teacher_temperature=(0.04, 0.07))", DINO,
                      train=', optimizer: "adamw(lr=0.001, weight_decay=0.04, decay_to=0.4)"'),
    "sam": _recipe(LABELS, PAIR % (8, ""), train=', optimizer: "sam(sgd(lr=0.05, momentum=0.9), adaptive=True)"'),
    "flexmatch": _recipe('cross_entropy(logits(x))", "pseudo_label(logits(strong), toward=stop(logits(weak)), '
                         'threshold=flex(0.5))', STREAMS, FEW, ", unlabeled_per_labeled: 2"),
    "freematch": _recipe('cross_entropy(logits(x))", "pseudo_label(logits(strong), toward=stop(logits(weak)), '
                         'threshold=free())', STREAMS, FEW, ", unlabeled_per_labeled: 2"),
    "large": _recipe("nt_xent(z(a), z(b), temperature=0.2)", PAIR % (16000, ""),
                     train=', optimizer: "sgd(lr=0.05, momentum=0.9)"'),  # written by a thread, while it goes on
}  # fmt: skip
"""Kind of state -> recipe."""


@dataclass
class Tally:
    """What came of the kills: how many, how many of them in a checkpoint's writing, and runs that differ."""

    kills: int = 0
    writing: int = 0
    runs: int = 0
    by_state: dict[str, int] = field(default_factory=dict)
    differing: list[str] = field(default_factory=list)


def train(recipe: Path, folder: Path, at: tuple[int, float] | None = None) -> None:
    """A run to its end, in this process; at: dies at so many steps of writing checkpoints, or seconds behind them."""
    if at is not None:
        _die_while_writing(*at)
    training.train(load_recipe(recipe), folder, resume=True, quiet=True)


def _die_while_writing(count: int, delay: float) -> None:
    """Counts what Python does to files of a folder `checkpoints`, as it is about to."""
    left = [count]

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if event in ("open", "os.rename", "os.link", "os.remove") and ".pt" in str(arguments[0]):
            left[0] -= 1
            if not left[0]:
                if delay:
                    threading.Timer(delay, os.kill, (os.getpid(), signal.SIGKILL)).start()
                else:
                    os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)


def warm_up(work: Path) -> None:
    """Brings what every run needs into this process, from which all are forked: modules, and compiled views."""
    for name in ("sgd", "flexmatch"):
        (work / "warm.yaml").write_text(STATES[name].replace("steps: 12", "steps: 2"), encoding="utf-8")
        train(work / "warm.yaml", work / f"warm-{name}")


def in_a_fork(recipe: Path, folder: Path, at: tuple[int, float] | None = None) -> int:
    """Starts `train` in a fork of this process, which has no threads; returns its number."""
    number = os.fork()
    if number:
        return number
    code = 1
    try:
        with open(f"{folder}.err", "w", encoding="utf-8") as errors:
            os.dup2(errors.fileno(), 2)
        train(recipe, folder, at)
        code = 0
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def ended(number: int) -> int:
    """The exit code of a fork; minus its signal where it was killed."""
    return os.waitstatus_to_exitcode(os.waitpid(number, 0)[1])


def difference(one: Any, two: Any, where: str) -> str:
    """Where two values first differ, to the bit; "" where they do not."""
    if type(one) is not type(two):
        return where
    if isinstance(one, torch.Tensor):
        return "" if one.dtype == two.dtype and one.shape == two.shape and _bits(one) == _bits(two) else where
    if isinstance(one, Mapping):
        if one.keys() != two.keys():
            return where
        pairs = [(key, one[key], two[key]) for key in one if key not in ("seconds", "waited")]
    elif isinstance(one, list | tuple):
        if len(one) != len(two):
            return where
        pairs = [(number, *each) for number, each in enumerate(zip(one, two, strict=True))]
    else:
        return "" if one == two or one is two else where
    return next((told for key, *each in pairs if (told := difference(*each, f"{where}.{key}"))), "")


def _bits(tensor: torch.Tensor) -> bytes:
    return tensor.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes()


def run_difference(folder: Path, expected: Path) -> str:
    """Where a run's folder differs from another's, clocks left out; "" where it does not."""
    if not (folder / "result.json").is_file():
        return "no result.json"
    names = sorted(path.name for path in (expected / "checkpoints").iterdir())
    if names != sorted(path.name for path in (folder / "checkpoints").iterdir() if path.name[0] != "."):
        return "checkpoints"
    states = [f"checkpoints/{name}" for name in names]
    for name in states:
        if told := difference(read_state(folder / name), read_state(expected / name), name):
            return told
    return difference(_told(folder), _told(expected), "told")


def _told(folder: Path) -> list[Any]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    return [{key: value for key, value in each.items() if key not in TOLD} for each in [result, *lines]]


def kill(kills: int, seed: int, work: Path, states: Mapping[str, str] = STATES, times: int = TIMES) -> Tally:
    """Kills runs, in turn of each kind, until there were so many kills; see the module."""
    dice, tally = random.Random(seed), Tally()
    warm_up(work)
    recipes = {name: work / f"{name}.yaml" for name in states}
    whole: dict[str, tuple[Path, float]] = {}
    for name, path in recipes.items():
        path.write_text(states[name], encoding="utf-8")
    while tally.kills < kills:
        for name, recipe in recipes.items():
            if tally.kills >= kills:
                break
            if name not in whole:
                expected, began = work / f"{name}-whole", time.monotonic()
                assert ended(in_a_fork(recipe, expected)) == 0, Path(f"{expected}.err").read_text(encoding="utf-8")
                whole[name] = expected, time.monotonic() - began
            tally.runs += 1
            folder = work / f"{name}-{tally.runs}"
            told = _killed_and_continued(
                recipe, folder, whole[name][1], min(times, kills - tally.kills), dice, tally, name
            )
            told = told or run_difference(folder, whole[name][0])
            if told:
                tally.differing.append(f"{folder}: {told}")
            else:
                shutil.rmtree(folder)
    return tally


def _killed_and_continued(
    recipe: Path, folder: Path, seconds: float, times: int, dice: random.Random, tally: Tally, name: str
) -> str:
    """Kills a run so many times, or until it is finished, and lets it end; what is wrong with how it ended."""
    for _ in range(times):
        writing = tally.kills % 5 == 4
        at = (dice.randint(1, 24), dice.choice([0.0, dice.random() * SOON])) if writing else None
        number = in_a_fork(recipe, folder, at)
        if not writing:
            time.sleep(dice.random() * seconds)
            os.kill(number, signal.SIGKILL)
        code = ended(number)
        if code == -signal.SIGKILL:
            tally.kills += 1
            tally.writing += writing
            tally.by_state[name] = tally.by_state.get(name, 0) + 1
        elif code:
            return Path(f"{folder}.err").read_text(encoding="utf-8")[-2000:]
        if (folder / "result.json").is_file():
            break
    code = ended(in_a_fork(recipe, folder))
    return "" if code == 0 else Path(f"{folder}.err").read_text(encoding="utf-8")[-2000:]


def main() -> None:
    """Kills as often as asked, and prints what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--states", nargs="+", choices=STATES, default=list(STATES), help="kinds of state")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, help="a folder for the runs, by default a temporary one")
    parser.add_argument("--out", type=Path, help="the figures, as JSON")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(dir=MEMORY if os.access(MEMORY, os.W_OK) else None) as temporary:
        states = {name: STATES[name] for name in asked.states}
        tally = kill(asked.kills, asked.seed, asked.work or Path(temporary), states)
    figures = {**vars(tally), "seconds": round(time.monotonic() - began, 1)}
    print(json.dumps(figures, indent=2))
    if asked.out is not None:
        asked.out.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    sys.exit(bool(tally.differing))


if __name__ == "__main__":
    main()
