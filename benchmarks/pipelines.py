"""From files to batches: manyview's loader beside torch's with torchvision v2, SPDL's threads, and DALI on the CPU.

    pip install spdl nvidia-dali-cuda130                                   # those to compare with
    python benchmarks/pipelines.py --out FOLDER [--workers N] [--rounds N] [--reverse] [--data DIR] [--json FILE]

Makes a folder of JPEGs of 500 x 375 pixels, and has each side read all of it in a shuffled order, an epoch a round, in
turns: two views of every image by `crop(224, scale=(0.2, 1)) | flip(0.5)`, antialiased, as uint8 CHW, and its label, in
batches of 32. Every side decodes a file once an epoch and has N workers: processes (manyview, torch), or threads (SPDL,
DALI); each worker has one thread. An epoch begins with nothing made ahead and no worker running, and what it costs to
begin is part of it: DALI's threads would else work on what it prepares ahead while others take their turn.

    torch, v2     DataLoader, torchvision.io.decode_jpeg, torchvision's v2 transforms
    SPDL, v2      SPDL's DataLoader with the same functions in threads; its own decoder, which needs FFmpeg's libraries
                  and crops all images alike, is not in it
    DALI          readers.file, decoders.image, random_resized_crop, flip

Before the clock starts it is checked that all sides give batches of the same shape and type, each file's label once,
unlike views of an image, and pictures of like mean, deviation and sharpness. Two figures: images a second by the
clock, which other programs take from, and microseconds of processors an image, workers included, which they hardly
touch. Ratios compare the epochs of one round.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from manyview.data import open_splits
from manyview.data.loader import Batches, load
from manyview.load import data_of
from manyview.views.plan import ViewSpec, plan_views
from views import limit_threads, machine, photos

BATCH, SIZE, CLASSES = 32, 224, 8
RECIPE = f"crop({SIZE}, scale=(0.2, 1)) | flip(0.5)"
FAR = {"mean": 2.0, "deviation": 2.0, "sharpness": 0.12}  # in grey levels; the last a part of ours

Made = tuple[Tensor, Tensor, Tensor]  # two views, uint8 [B, 3, SIZE, SIZE], and labels [B]


Epoch = Callable[[int, int], Iterator[Made]]  # its number, workers


def make(root: Path, count: int, data: Path | None) -> list[tuple[Path, int]]:
    """`root/train/CLASS/NUMBER.jpg`, and each file's label."""
    paths = [root / "train" / f"class{number % CLASSES}" / f"{number:05d}.jpg" for number in range(count)]
    if not all(path.exists() for path in paths):
        for path, file in zip(paths, photos(data, count).files, strict=True):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(file)
    return [(path, number % CLASSES) for number, path in enumerate(paths)]


# --- sides ------------------------------------------------------------------------------------------------------------


def by_manyview(root: Path) -> Epoch:
    """The loader as training has it where images do not fit in memory: worker processes render the views."""
    spec, seed = data_of(["data.source=folder", f"data.root={root}", "data.val_fraction=0"])
    train = open_splits(spec, seed).train
    plan = plan_views({"a": ViewSpec.model_validate({"from": "image", "make": RECIPE}), "b": ViewSpec(like="a")})
    steps = len(train) // BATCH
    batches = Batches(train, BATCH, steps, seed, views=plan, classes=CLASSES)
    batches[0]  # as a run does before its workers begin, which then have the compiled kernels from it

    def epoch(number: int, workers: int) -> Iterator[Made]:
        for batch in load(batches, number * steps, (number + 1) * steps, workers):
            assert isinstance(batch.images, dict)
            assert batch.labels is not None
            yield batch.images["a"].images, batch.images["b"].images, batch.labels

    return epoch


@cache
def transform() -> Callable[[Tensor], Tensor]:
    """torchvision's."""
    from torchvision.transforms import v2

    return v2.Compose([v2.RandomResizedCrop(SIZE, scale=(0.2, 1.0), antialias=True), v2.RandomHorizontalFlip()])


def one(sample: tuple[Path, int]) -> tuple[Tensor, Tensor, int]:
    """Both views of a file, and its label."""
    from torchvision.io import decode_jpeg, read_file

    image = decode_jpeg(read_file(str(sample[0])))
    return transform()(image), transform()(image), sample[1]


class Files(Dataset[tuple[Tensor, Tensor, int]]):
    """For torch's loader."""

    def __init__(self, samples: list[tuple[Path, int]]) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, position: int) -> tuple[Tensor, Tensor, int]:
        return one(self.samples[position])


def by_torch(samples: list[tuple[Path, int]]) -> Epoch:
    """torch's loader."""

    def epoch(number: int, workers: int) -> Iterator[Made]:
        shuffled = torch.Generator().manual_seed(number)
        yield from DataLoader(Files(samples), BATCH, shuffle=True, num_workers=workers, generator=shuffled)

    return epoch


def by_spdl(samples: list[tuple[Path, int]]) -> Epoch:
    """SPDL's loader, threads."""
    from spdl.dataloader import DataLoader as Threads

    def together(made: list[tuple[Tensor, Tensor, int]]) -> Made:
        first, second, labels = zip(*made, strict=True)
        return torch.stack(first), torch.stack(second), torch.tensor(labels)

    def epoch(number: int, workers: int) -> Iterator[Made]:
        order = np.random.default_rng(number).permutation(len(samples))
        source = [samples[position] for position in order]
        yield from Threads(source, preprocessor=one, aggregator=together, batch_size=BATCH, num_threads=workers)

    return epoch


def by_dali(samples: list[tuple[Path, int]]) -> Epoch:
    """DALI's CPU operators, which prepare two batches ahead."""
    from nvidia.dali import fn, pipeline_def, types

    def view(images: Any) -> Any:
        cut = fn.random_resized_crop(images, size=[SIZE, SIZE], random_area=[0.2, 1.0], antialias=True)
        return fn.transpose(fn.flip(cut, horizontal=fn.random.coin_flip(probability=0.5)), perm=[2, 0, 1])

    @pipeline_def
    def pipeline() -> tuple[Any, Any, Any]:
        files, labels = [str(path) for path, _ in samples], [label for _, label in samples]
        found, said = fn.readers.file(files=files, labels=labels, shuffle_after_epoch=True)
        images = fn.decoders.image(found, device="cpu", output_type=types.RGB)
        return view(images), view(images), said

    def epoch(number: int, workers: int) -> Iterator[Made]:
        made = pipeline(batch_size=BATCH, num_threads=workers, device_id=None, seed=number)
        made.build()
        for _ in range(len(samples) // BATCH):
            first, second, labels = (torch.from_numpy(np.array(each.as_tensor())) for each in made.run())
            yield first, second, labels.flatten().long()

    return epoch


# --- check and clock --------------------------------------------------------------------------------------------------


def look(epoch: Epoch, count: int, workers: int) -> dict[str, float]:
    """An epoch's pictures in numbers. Raises SystemExit where it is not the epoch that is asked for."""
    labels, means, deviations, sharpness = [], [], [], []
    for first, second, said in epoch(0, workers):
        for each in (first, second):
            if tuple(each.shape) != (BATCH, 3, SIZE, SIZE) or each.dtype != torch.uint8:
                raise SystemExit(f"a batch is {each.dtype} {tuple(each.shape)}")
            levels = each.float()
            means.append(float(levels.mean()))
            deviations.append(float(levels.std()))
            sharpness.append(float((levels[..., 1:] - levels[..., :-1]).abs().mean()))
        if bool((first == second).all()):
            raise SystemExit("both views are the same")
        labels += said.tolist()
    if sorted(labels) != sorted(number % CLASSES for number in range(count)):
        raise SystemExit(f"an epoch has {len(labels)} labels, not each file's")
    return {name: statistics.fmean(values) for name, values in
            (("mean", means), ("deviation", deviations), ("sharpness", sharpness))}  # fmt: skip


def check(found: dict[str, dict[str, float]]) -> None:
    """Raises SystemExit where a side's pictures are not like the first's."""
    ours = next(iter(found.values()))
    for name, its in found.items():
        print(f"  {name:10} " + ", ".join(f"{what} {value:.2f}" for what, value in its.items()))
        for what, far in FAR.items():
            far = far * ours[what] if what == "sharpness" else far
            if abs(its[what] - ours[what]) > far:
                raise SystemExit(f"{name}: {what} is {its[what]:.2f}, ours {ours[what]:.2f}: not the same work")


def processors() -> float:
    """Seconds that this process and the workers it had have used."""
    return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def timed(epoch: Epoch, number: int, workers: int) -> tuple[float, float]:
    """(seconds by the clock, seconds of processors) of an epoch."""
    began, used = time.perf_counter(), processors()
    for _ in epoch(number, workers):
        pass
    return time.perf_counter() - began, processors() - used


def main() -> None:
    """Makes the files, checks, times, prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for the JPEGs")
    parser.add_argument("--data", type=Path, help="folder with tiny-imagenet/, of which they are made")
    parser.add_argument("--count", type=int, default=512, help=f"of files, a multiple of {BATCH}")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--reverse", action="store_true", help="sides take their turns in the opposite order")
    parser.add_argument("--json", type=Path, help="file to write")
    args = parser.parse_args()
    if args.count % BATCH:
        parser.error(f"--count {args.count} is no multiple of {BATCH}")
    root = args.out / f"jpegs-{args.count}"
    samples = make(root, args.count, args.data)
    sides = {"manyview": by_manyview(root)}
    for name, build in (("torch, v2", by_torch), ("SPDL, v2", by_spdl), ("DALI", by_dali)):
        try:
            sides[name] = build(samples)
        except ImportError as error:
            print(f"{name} is left out: {error}", file=sys.stderr)
    about = machine()
    with contextlib.suppress(PackageNotFoundError):
        about["versions"]["spdl"] = version("spdl-core")
    print(f"{about['cpu']}, {about['cores']} cores, load {os.getloadavg()[0]:.1f}; {args.workers} workers; ", end="")
    print(", ".join(f"{name} {each}" for name, each in about["versions"].items()), flush=True)
    found = {}
    for name, epoch in sides.items():
        limit_threads(1)  # a side that starts a library's threads sets the number of torch's, too
        found[name] = look(epoch, args.count, args.workers)
    check(found)
    spent: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    for number in range(1, args.rounds + 1):
        for name in [*sides][:: -1 if args.reverse else 1]:
            limit_threads(1)
            spent[name].append(timed(sides[name], number, args.workers))
    print("\n| side | images/s | manyview is faster by | µs of processors an image | manyview takes less by |")
    print("| --- | --: | --- | --: | --- |")
    report = {**about, "workers": args.workers, "looked": found, "sides": {}, "load": os.getloadavg()}
    for name, rounds in spent.items():
        wall, used = (statistics.median(each) / args.count for each in zip(*rounds, strict=True))
        ratios = [[its[at] / ours[at] for its, ours in zip(rounds, spent["manyview"], strict=True)] for at in (0, 1)]
        spans = [f"{statistics.median(each):.2f} ({min(each):.2f} to {max(each):.2f})" for each in ratios]
        print(f"| {name} | {1 / wall:,.0f} | {spans[0]} | {used * 1e6:,.0f} | {spans[1]} |", flush=True)
        report["sides"][name] = {"seconds": rounds, "ratios": ratios}
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
