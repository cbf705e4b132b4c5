"""The supervised systems on few labels of CIFAR-10 at equal forward passes: seeds, and several runs at once on one GPU.

    python benchmarks/cifar10_gpu.py ROOT OUT [--seconds N] [--epochs N] [--seeds N] [--processes N] [--only NAME]…
    python benchmarks/cifar10_gpu.py ROOT OUT --tiny                    # whether it runs, also without a GPU

ROOT holds CIFAR-10 (see `data.root`). For all: WRN-28-2, bf16, lr 0.1 for a batch of 128, Nesterov, weight decay 5e-4,
cosine; views, heads and relations are the packaged recipes', but for ties by cosine, whose kind and weight were chosen
on validation images of another network (docs/results.md). By default 4,000 labelled images, other ones for each seed:
the reduced CIFAR-10 of Tied-Augment's paper, which trains 500 epochs of it.

`--epochs` are those of two views an image; who passes three or four images through the network for each trains fewer,
and who passes one twice as many. One row more passes one for as many epochs as the others: half the work. The
checkpoint that is best on validation (5,000 images, held out by the seed) is read on test, once.

Runs are begun a seed of every system before the next, so that pairs are whole early. A line is printed and
OUT/runs.json written as each ends; after `--seconds` what still runs is ended, and the table is of what was finished:
mean and standard deviation over seeds, and the paired difference to the reference of the same views with its t
interval.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import numpy as np

COMMON = (
    "train.precision=bf16",
    "train.optimizer=sgd(lr=0.1, per=128, momentum=0.9, nesterov=True, weight_decay=5e-4)",
    "train.schedule=cosine()",
    "data.render=memory",
    "evaluate=[]",
)
NET = "branches.net.backbone=wrn28_2"
ONE_VIEW = "relations=[cross_entropy(logits(a))]"
COSINE = ("relations.similarity.kind=cosine", "relations.similarity.weight=warmup(1)")
CROP_FLIP = "views.a.make=pad_crop(32, padding=4) | flip(0.5)"
STRONG = "views.a.make=pad_crop(32, padding=4) | flip(0.5) | randaugment(2, 14, interpolation='bicubic') | cutout(16)"
TINY = (
    "data.labels_per_class=30",
    "train.batch_size=50",
    "branches.net.backbone=resnet10t(channels=(4, 8, 8, 8))",
)


@dataclass(frozen=True)
class System:
    """A row of the table. forwards: of an image in an epoch; against: the row that differences are taken to."""

    recipe: str
    overrides: tuple[str, ...]
    forwards: int
    against: str | None
    half: bool = False  # of the forward passes that all others are given

    def epochs(self, of_two: int) -> int:
        """For as many forward passes as two views an image have in so many epochs."""
        return max(1, round(of_two * 2 / self.forwards / (2 if self.half else 1)))


BASE, BASE_STRONG = "baseline, crop-flip", "baseline, RandAugment"
SYSTEMS = {
    BASE: System("baseline_cifar10", (), 2, None),
    "Tied by cosine, crop-flip": System("tied_cifar10", (CROP_FLIP, *COSINE), 2, BASE),
    BASE_STRONG: System("baseline_cifar10", (STRONG,), 2, None),
    "Tied, RandAugment": System("tied_cifar10", (), 2, BASE_STRONG),
    "Tied by cosine, RandAugment": System("tied_cifar10", COSINE, 2, BASE_STRONG),
    "AgMax": System("agmax_cifar10", (NET,), 2, BASE),
    "JSD, AugMix": System("jsd_cifar10", (NET,), 3, BASE),
    "SLA+SD": System("sla_sd_cifar10", (NET,), 4, BASE),
    "baseline, one view": System("baseline_cifar10", (ONE_VIEW,), 1, BASE),
    "baseline, one view, half the work": System("baseline_cifar10", (ONE_VIEW,), 1, BASE, half=True),
}
Task = tuple[str, int]  # system, seed


def overrides_of(name: str, seed: int, args: argparse.Namespace) -> tuple[str, ...]:
    """What a run changes in its recipe."""
    system = SYSTEMS[name]
    epochs = system.epochs(args.epochs)
    length = (*(("train.steps=null",) if system.recipe.startswith("sla") else ()), f"train.epochs={epochs}")
    every = f"train.evaluate_every={max(1, epochs // 4)}"
    data = [f"data.root={args.root}", f"seed={seed}", f"train.batch_size={args.batch}"]
    if args.labels:
        data.append(f"data.labels_per_class={args.labels // 10}")
    tiny = TINY if args.tiny else ()
    return (*system.overrides, *COMMON, *length, every, *data, *tiny)


def work(pipe: Connection, args: argparse.Namespace) -> None:
    """A process that trains what it is told until it is told nothing more, and tells how each run ended."""
    for library in ("OMP", "MKL", "OPENBLAS"):
        os.environ[f"{library}_NUM_THREADS"] = str(args.threads)
    import torch

    import manyview

    torch.set_num_threads(args.threads)
    while (task := pipe.recv()) is not None:
        name, seed = task
        folder = Path(args.out) / "runs" / name.replace(", ", "-").replace(" ", "_") / f"seed-{seed}"
        try:
            recipe = manyview.load_recipe(SYSTEMS[name].recipe, *overrides_of(name, seed, args))
            result = manyview.train(recipe, folder, resume=True, quiet=True)
        except Exception as error:  # told in the table's place; the others go on
            result = {"failed": f"{type(error).__name__}: {error}"}
        pipe.send((name, seed, result))


def train_all(tasks: Sequence[Task], args: argparse.Namespace) -> list[dict[str, Any]]:
    """Trains on `--processes` at once until all is done or the time is up; what each run gave, as they ended."""
    until = time.monotonic() + args.seconds
    context = multiprocessing.get_context("spawn")
    waiting, done = list(tasks), list[dict[str, Any]]()
    workers: dict[Connection, Any] = {}
    began: dict[Connection, float] = {}
    for _ in range(min(args.processes, len(tasks))):
        here, there = context.Pipe()
        workers[here] = context.Process(target=work, args=(there, args), daemon=True)
        workers[here].start()
        there.close()  # or its end would not be noticed here
        began[here] = time.monotonic()
        here.send(waiting.pop(0))
    while workers and (left := until - time.monotonic()) > 0:
        for pipe in wait(list(workers), timeout=left):
            assert isinstance(pipe, Connection)
            try:
                name, seed, result = pipe.recv()
            except EOFError:
                print(f"a process ended by itself, with code {workers[pipe].exitcode}", flush=True)
                del workers[pipe]
                continue
            done.append({"system": name, "seed": seed, "took": time.monotonic() - began[pipe], **kept(result)})
            print(told(done[-1]), flush=True)
            write(done, args)
            began[pipe] = time.monotonic()
            if waiting:
                pipe.send(waiting.pop(0))
            else:
                pipe.send(None)
                workers.pop(pipe).join(timeout=10)
    for process in workers.values():
        process.kill()
    if workers:
        print(f"time is up: {len(workers)} runs were ended, {len(waiting)} not begun", flush=True)
    return done


def kept(result: dict[str, Any]) -> dict[str, Any]:
    """Of a run's result what the table and its reader need."""
    if "failed" in result:
        return result
    names = ("epochs", "steps", "seconds", "images_per_second", "waiting", "device", "data", "selected_by", "versions")
    test, val = result["eval"], result.get("val", {})
    return {
        "test": test["top1"],
        "val": val.get("top1"),
        "aggregated": test.get("aggregated_top1"),
        **{name: result[name] for name in names},
    }


def told(run: dict[str, Any]) -> str:
    """How a run ended, in one line."""
    if "failed" in run:
        return f"{run['system']}, seed {run['seed']}: {run['failed'][:300]}"
    more = "" if run["aggregated"] is None else f", aggregated {run['aggregated']:.2f}"
    score = f"test {run['test']:.2f}{more}, val {run['val']:.2f}; {run['epochs']:g} epochs"
    speed = f"{run['images_per_second']:.0f} images/s, waited {run['waiting']:.0f} %"
    return f"{run['system']}, seed {run['seed']}: {score}, {run['seconds']:.0f} s of {run['took']:.0f}, {speed}"


def write(done: Sequence[dict[str, Any]], args: argparse.Namespace) -> None:
    """Everything that is finished, whole at any time."""
    path = Path(args.out) / "runs.json"
    beside = path.with_suffix(".tmp")
    found = {"settings": vars(args), "common": COMMON, "runs": list(done)}
    beside.write_text(json.dumps(found, indent=1, default=str) + "\n")
    beside.replace(path)


def table(done: Sequence[dict[str, Any]], args: argparse.Namespace) -> str:
    """Markdown: a row a system, test accuracy and the paired difference to its reference."""
    from manyview.compare.intervals import paired

    tops = {(run["system"], run["seed"]): run["test"] for run in done if "test" in run}
    precision = next(text.partition("=")[2] for text in COMMON if text.startswith("train.precision"))
    lines = [
        f"CIFAR-10, {args.labels or 'all'} labels, WRN-28-2, {precision}, batch {args.batch}; test top-1 of the "
        f"checkpoint best on validation; forward passes of {args.epochs} epochs of two views",
        "",
        "| system | views | epochs | n | top-1 | difference | 95 % (t) | higher | to |",
        "| --- | --: | --: | --: | --: | --: | --: | --: | --- |",
    ]
    for name, system in SYSTEMS.items():
        mine = {seed: top for (found, seed), top in tops.items() if found == name}
        if not mine:
            continue
        spread = f" ± {statistics.stdev(mine.values()):.2f}" if len(mine) > 1 else ""
        row = [name, str(system.forwards), str(system.epochs(args.epochs)), str(len(mine))]
        row.append(f"{statistics.fmean(mine.values()):.2f}{spread}")
        both = sorted(seed for seed in mine if (system.against, seed) in tops)
        if both and system.against is not None:
            apart = paired(np.array([mine[seed] - tops[system.against, seed] for seed in both]))
            interval = "" if apart.t is None else f"{apart.t[0]:+.2f} to {apart.t[1]:+.2f}"
            row += [f"{apart.mean:+.2f}", interval, f"{apart.higher} of {apart.n}", system.against]
        else:
            row += ["", "", "", ""]
        lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines)


def main() -> None:
    """Reads the command line, trains, prints the table and writes it beside the runs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", help="folder of CIFAR-10")
    parser.add_argument("out", type=Path, help="folder that receives runs.json, table.md and the runs")
    parser.add_argument("--seconds", type=float, default=24 * 3600.0, help="after which what still runs is ended")
    parser.add_argument("--labels", type=int, default=4000, help="images to train on; 0: all")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--epochs", type=int, default=40, help="of two views an image")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--processes", type=int, default=8, help="runs at once")
    parser.add_argument("--threads", type=int, default=2, help="of each process, which render its views")
    parser.add_argument("--only", action="append", choices=SYSTEMS, metavar="NAME", help="may be repeated")
    parser.add_argument("--tiny", action="store_true", help="300 images and a tiny network: does it run?")
    args = parser.parse_args()
    args.root = str(Path(args.root).resolve())
    args.out.mkdir(parents=True, exist_ok=True)
    names = args.only or list(SYSTEMS)
    done = train_all([(name, seed) for seed in range(args.seeds) for name in names], args)
    text = table(done, args)
    print(f"\n{text}", flush=True)
    (args.out / "table.md").write_text(text + "\n")


if __name__ == "__main__":
    main()
