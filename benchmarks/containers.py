"""Containers for shards: what a random image and a block of images cost in each:

    pip install array_record
    python benchmarks/containers.py --data DIR --out FOLDER     # DIR holds cifar10/train.parquet

CIFAR-10's images as its parquet has them, and JPEGs of about 50 kB, made from the same pictures, as files in a folder,
in plain tar files with a table of offsets, in ArrayRecord, and in Parquet with row groups of 64. Bytes are read, not
decoded. Cold is after the kernel was told to forget the files (POSIX_FADV_DONTNEED). Rounds alternate between
containers; medians are printed, of wall time, and of the processor's. What cannot be imported is left out, with a line
that says so.
"""

from __future__ import annotations

import argparse
import io
import os
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from manyview.data.pack import _Tar

GROUP = 64  # rows of a row group
BLOCK = 256  # images read one after another
Read = Callable[[Sequence[int]], int]


def corpora(data: Path, count: int) -> dict[str, list[bytes]]:
    """Images as bytes."""
    table = pq.read_table(data / "cifar10" / "train.parquet")
    column = table.column("image" if "image" in table.column_names else "img").to_pylist()
    small = [cell["bytes"] for cell in column[: 5 * count]]
    noise = np.random.default_rng(0)
    large = []
    for content in small[:count]:
        picture = np.asarray(
            Image.open(io.BytesIO(content)).convert("RGB").resize((400, 340), Image.Resampling.BICUBIC)
        )
        grain = noise.normal(0, 9, picture.shape)  # of a sensor, without which an enlarged picture takes but 15 kB
        file = io.BytesIO()
        Image.fromarray((picture + grain).clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=88)
        large.append(file.getvalue())
    return {"CIFAR-10": small, "JPEG": large}


def folder(images: list[bytes], root: Path) -> tuple[Read, list[Path]]:
    """A file an image, 1,000 in a folder."""
    paths = [root / str(number // 1000) / f"{number:07d}.img" for number in range(len(images))]
    for path, content in zip(paths, images, strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    def read(positions: Sequence[int]) -> int:
        return sum(len(paths[position].read_bytes()) for position in positions)

    return read, paths


def tar(images: list[bytes], root: Path) -> tuple[Read, list[Path]]:
    """One tar file, and where each image begins."""
    path, table = root / "images.tar", []
    with open(path, "wb") as file:
        written = _Tar(file)
        for number, content in enumerate(images):
            table.append((written.add(f"{number:09d}.img", content), len(content)))
        written.close()
    number = os.open(path, os.O_RDONLY)

    def read(positions: Sequence[int]) -> int:
        return sum(len(os.pread(number, table[position][1], table[position][0])) for position in positions)

    return read, [path]


def array_record(images: list[bytes], root: Path) -> tuple[Read, list[Path]]:
    """ArrayRecord as Grain reads it at random: each image is a chunk, not compressed."""
    from array_record.python import array_record_module

    path = root / "images.array_record"
    writer = array_record_module.ArrayRecordWriter(str(path), "group_size:1,uncompressed")
    for content in images:
        writer.write(content)
    writer.close()
    reader = array_record_module.ArrayRecordReader(str(path), options="readahead_buffer_size:0")

    def read(positions: Sequence[int]) -> int:
        if len(positions) > 1 and positions[-1] - positions[0] == len(positions) - 1:
            return sum(map(len, reader.read(positions[0], positions[-1] + 1)))
        return sum(len(reader.read([position])[0]) for position in positions)

    return read, [path]


def parquet(images: list[bytes], root: Path) -> tuple[Read, list[Path]]:
    """Row groups, not compressed; one is read for one image of it."""
    path = root / "images.parquet"
    pq.write_table(
        pa.table({"image": pa.array(images, pa.binary())}), path, GROUP, compression="none", use_dictionary=False
    )
    file = pq.ParquetFile(path)

    def read(positions: Sequence[int]) -> int:
        total, last, held = 0, -1, None
        for position in positions:
            if position // GROUP != last:
                last = position // GROUP
                held = file.read_row_group(last, use_threads=False).column(0)
            total += len(held[position % GROUP].as_py())
        return total

    return read, [path]


SIDES: dict[str, Callable[[list[bytes], Path], tuple[Read, list[Path]]]] = {
    "folder": folder, "tar with a table": tar, "ArrayRecord": array_record, "Parquet row groups": parquet,
}  # fmt: skip


def forget(paths: Sequence[Path]) -> None:
    """The kernel keeps nothing of the files."""
    for path in paths:
        number = os.open(path, os.O_RDONLY)
        os.posix_fadvise(number, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(number)


def main() -> None:
    """Prints images a second for each container, order, and state of the cache."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--count", type=int, default=2000, help="JPEGs, and images that are read in a round")
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    for name, images in corpora(given.data, given.count).items():
        mean = sum(map(len, images)) / len(images)
        print(f"{name}: {len(images):,} images, {mean / 1e3:.1f} kB each")
        reads: dict[str, tuple[Read, list[Path]]] = {}
        for side, make in SIDES.items():
            root = given.out / name.replace(" ", "_") / side.replace(" ", "_")
            root.mkdir(parents=True, exist_ok=True)
            try:
                reads[side] = make(images, root)
            except ImportError as error:
                print(f"  {side} is left out: {error}")
        os.sync()  # what is not yet on the disk cannot be forgotten
        random = np.random.default_rng(1).permutation(len(images))[: given.count].tolist()
        starts = np.random.default_rng(2).permutation(len(images) // BLOCK)[: max(1, given.count // BLOCK)] * BLOCK
        orders: dict[str, list[Any]] = {
            "random": [[position] for position in random],
            "blocks": [range(start, start + BLOCK) for start in starts.tolist()],
        }
        took: dict[tuple[str, str, bool], list[tuple[float, float]]] = {}
        for _ in range(given.rounds):
            for order, asked in orders.items():
                for side, (read, paths) in reads.items():
                    for cold in (True, False):
                        if cold:
                            forget(paths)
                        wall, used = time.perf_counter(), time.process_time()
                        count = sum(len(each) for each in asked if read(each))
                        spent = (time.perf_counter() - wall) / count, (time.process_time() - used) / count
                        took.setdefault((order, side, cold), []).append(spent)
        for (order, side, cold), rounds in sorted(took.items()):
            wall, used = (statistics.median(each) * 1e6 for each in zip(*rounds, strict=True))
            state = "cold" if cold else "warm"
            print(f"  {order:7} {state} {side:20} {wall:8.1f} µs an image, {used:7.1f} of the processor", flush=True)


if __name__ == "__main__":
    main()
