"""Images a second from shards, beside the folder that was packed and beside WebDataset's own loader:

    pip install webdataset
    python benchmarks/shards.py --out FOLDER

Makes JPEGs of 500 x 375 (about 40 kB), packs them, and reads them, decoded to uint8 and stacked, through worker
processes: the folder and the shards by manyview's loader (each image once, in an order by the seed), and the very same
tar files by `webdataset`, whose decoding is replaced by manyview's, so that reading alone differs. Rounds alternate;
medians of images a second and of processors' time are printed, and ratios to the folder. --bytes: nothing is decoded.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from manyview.data import decode, open_splits
from manyview.data.contents import content_of
from manyview.data.loader import Batches, load
from manyview.load import data_of

BATCH = 50


def make(root: Path, count: int) -> None:
    """`root/photos/train/CLASS/NUMBER.jpg`, and their shards."""
    draw = np.random.default_rng(0)
    for number in range(count):
        path = root / "photos" / "train" / str(number % 10) / f"{number:06d}.jpg"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            coarse = Image.fromarray(draw.integers(0, 256, (12, 16, 3), dtype=np.uint8))
            picture = np.asarray(coarse.resize((500, 375), Image.Resampling.BICUBIC))
            grain = draw.normal(0, 6, picture.shape)
            Image.fromarray((picture + grain).clip(0, 255).astype(np.uint8)).save(path, quality=85)
    if not (root / "shards").exists():
        command = ["data", "pack", "folder", root / "shards", f"data.root={root / 'photos'}", "--shard-size", "16MB"]
        subprocess.run([sys.executable, "-m", "manyview", *map(str, command)], check=True)


class _Plan:
    """Batch number n of one epoch, as `Batches` has it; or the bytes alone."""

    def __init__(self, batches: Batches, bare: bool) -> None:
        self.batches, self.bare = batches, bare

    def __getitem__(self, number: int) -> Any:
        epoch, positions = self.batches.positions(number)
        if self.bare:
            return sum(len(content_of(self.batches.images, int(position))) for position in positions)
        return self.batches.read(positions, epoch)[0]


def ours(source: str, *overrides: str) -> Callable[[int, int, bool], Iterator[Any]]:
    """Epochs of a source."""
    spec, seed = data_of([f"data.source={source}", "data.val_fraction=0", *overrides])
    train = open_splits(spec, seed).train
    Batches(train, BATCH, len(train) // BATCH, seed).positions(0)  # what is compiled once a run is no part of an epoch

    def epoch(number: int, workers: int, bare: bool) -> Iterator[Any]:
        batches = Batches(train, BATCH, len(train) // BATCH, seed)
        steps = batches.steps_per_epoch
        return load(_Plan(batches, bare), number * steps, (number + 1) * steps, workers)

    return epoch


def webdataset(folder: Path) -> Callable[[int, int, bool], Iterator[Any]]:
    """Epochs by WebDataset: shards shuffled, and images within a buffer of as many as ours shuffles."""
    import webdataset as wds

    tars = sorted(map(str, folder.glob("train-*.tar")))

    def one(sample: dict[str, Any]) -> Any:
        return decode(sample["jpg"], sample["__key__"])

    def epoch(number: int, workers: int, bare: bool) -> Iterator[Any]:
        found = wds.WebDataset(tars, shardshuffle=len(tars), seed=number, workersplitter=wds.split_by_worker).shuffle(
            1000
        )
        made = found.map(lambda sample: len(sample["jpg"])).batched(BATCH, collation_fn=sum) if bare else found.map(one)
        made = made if bare else made.batched(BATCH, collation_fn=torch.stack)
        return iter(torch.utils.data.DataLoader(made, batch_size=None, num_workers=workers))

    return epoch


def _processors() -> float:
    """Seconds of processors that this process and the workers it had have used: no other program changes them much."""
    return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def main() -> None:
    """Prints images a second, and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--bytes", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    make(given.out, given.count)
    shards = given.out / "shards"
    sides: dict[str, Callable[[int, int, bool], Iterator[Any]]] = {
        "folder": ours("folder", f"data.root={given.out / 'photos'}"),
        "shards, all shuffled": ours(f"shards('{shards}', block=None)"),
        "shards, by blocks": ours(f"shards('{shards}', block=64, mix=16)"),
    }
    try:
        sides["webdataset"] = webdataset(shards)
    except ImportError as error:
        print(f"webdataset is left out: {error}")
    spent: dict[str, list[tuple[float, float]]] = {side: [] for side in sides}
    for number in range(given.rounds):
        for side, epoch in sides.items():
            began, used = time.perf_counter(), _processors()
            for _ in epoch(number, given.workers, given.bytes):
                pass
            spent[side].append((time.perf_counter() - began, _processors() - used))
    for side, rounds in spent.items():
        wall, used = (statistics.median(each) / given.count for each in zip(*rounds, strict=True))
        wall_ratio, used_ratio = (
            statistics.median(theirs[at] / own[at] for own, theirs in zip(rounds, spent["folder"], strict=True))
            for at in (0, 1)
        )
        print(
            f"{side:22} {1 / wall:8,.0f} images/s, {wall_ratio:.2f} of the folder; "
            f"{used * 1e6:6,.0f} µs of processors an image, {used_ratio:.2f} times as many in the same"
        )


if __name__ == "__main__":
    main()
