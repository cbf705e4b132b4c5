"""What opening a folder of many images costs, and telling whether it is still the same:

    python benchmarks/many_names.py --images 1300000 --out DIR

Makes ImageNet's layout of hard links to a few small JPEGs (1,000 classes, names as long as ImageNet's) in DIR, unless
it is there, opens it in a process of its own, and prints seconds and memory beyond what the imports take.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

from PIL import Image

LINKS = 40_000  # to one file; ext4 allows 65,000


def make(root: Path, images: int, classes: int = 1000) -> None:
    """`root/images/train/CLASS/NAME.JPEG`, and 50 images of each of 20 classes in `val`."""
    if (root / "images").is_dir():
        return
    (root / "targets").mkdir(parents=True)
    made = 0
    for number in range(classes):
        for split, count, name in (
            ("train", images // classes, "n{0:08d}_{1}"),
            ("val", 50, "ILSVRC2012_val_{0:05d}{1:03d}"),
        ):
            if split == "val" and number >= 20:
                continue
            folder = root / "images" / split / f"n{number:08d}"
            folder.mkdir(parents=True)
            for each in range(count):
                target = root / "targets" / f"{made // LINKS}.jpg"
                if made % LINKS == 0:
                    Image.new("RGB", (8, 8)).save(target)
                os.link(target, folder / f"{name.format(number, each)}.JPEG")
                made += 1


def _memory() -> tuple[float, float]:
    """MB that this process has in memory, and has had at most."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def _told(before: float, now: float, most: float) -> str:
    return f"{before:.0f} MB of imports, {now - before:.0f} MB beyond, {most:.0f} MB in all at most"


def measure(root: Path) -> None:
    """Opens it, and marks it."""
    from manyview.data.mark import marks_of
    from manyview.data.sources import open_splits
    from manyview.load import data_of

    spec, seed = data_of(["data.source=folder", f"data.root={root / 'images'}"])
    before, _ = _memory()
    began, busy = time.perf_counter(), time.process_time()
    splits = open_splits(spec, seed)
    took, used, (now, most) = time.perf_counter() - began, time.process_time() - busy, _memory()
    print(splits.note)
    print(f"opened: {took:.1f} s ({used:.1f} s of the processor), {_told(before, now, most)}")
    began, busy = time.perf_counter(), time.process_time()
    marks = marks_of(splits)
    took, used, (now, most) = time.perf_counter() - began, time.process_time() - busy, _memory()
    print(
        f"marked: {took:.1f} s ({used:.1f} s of the processor), {_told(before, now, most)}, {marks['train']['digest']}"
    )


def main() -> None:
    """Makes the folder, and measures in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1_300_000)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        measure(given.out)
        return
    make(given.out, given.images)
    subprocess.run([sys.executable, __file__, "--out", str(given.out), "--measure"], check=True)


if __name__ == "__main__":
    main()
