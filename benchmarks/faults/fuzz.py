"""Damaged and hostile files: no silent wrong, no traceback, no hang, memory bounded.

    python benchmarks/faults/fuzz.py                              # all of them: some minutes of a core
    python benchmarks/faults/fuzz.py --kinds images recipes --share 0.1 --seed 3 --out fuzz.json

Each case is a file that was whole, with bits turned, bytes cut out, doubled, exchanged or replaced (of recipes, words
and numbers). It passes where it is refused by one line of a ManyviewError, or gives what a whole file may give: a
checkpoint its very values, an image pixels, a recipe one that is equal when it is written and read again, a folder of
shards all that was packed. Cases run in forks of this process with a limit on memory (`--memory`) and on time; what
dies there is a fault. Exits with 1 where there is one.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from manyview.data import open_splits
from manyview.data.decode import Stored, decode
from manyview.data.pack import pack_splits
from manyview.data.shards import shards as open_shards
from manyview.errors import ManyviewError, ManyviewWarning
from manyview.foundation.files import read_state, write_state
from manyview.load import packaged_recipes, parse_recipe
from manyview.recipe.settings import Data

COUNTS = {"checkpoints": 200, "images": 1000, "recipes": 1000, "shards": 200}
TOGETHER = 25  # cases of a fork
SECONDS = 60  # that a case may take
ODD = ("1e400", "-1", "0", "99999999999999999999", "nan", "null", "''", "[]", "{}", "*a", "&a [*a]", "true", "🙂",
       "1e-9", "!!python/name:os.system", "'../../../etc/passwd'", "[[[[[[[[", "/dev/zero",
       "\t", ": :", "x(", "x()|x()",
       "1_000_000_000_000", "0x7fffffff", "65536", "crop(65536)")  # fmt: skip


def hurt(data: bytes, dice: random.Random) -> bytes:
    """Bytes that something happened to, one to four times."""
    hurt = bytearray(data)
    for _ in range(dice.choice([1, 1, 2, 4])):
        at, length = dice.randrange(max(len(hurt), 1)), int(2 ** (dice.random() * 10))
        what = dice.randrange(7)
        if what == 0 and hurt:
            hurt[at] ^= 1 << dice.randrange(8)
        elif what == 1:
            del hurt[at:]
        elif what == 2:
            del hurt[at : at + length]
        elif what == 3:
            hurt[at:at] = hurt[at : at + length]
        elif what == 4:
            hurt[at : at + length] = dice.randbytes(min(length, len(hurt) - at))
        elif what == 5:
            hurt[at : at + 4] = dice.choice([b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff", b"\xff\xff\0\0"])
        else:
            other = dice.randrange(max(len(hurt), 1))
            one, two = hurt[at : at + length], hurt[other : other + length]
            hurt[at : at + len(two)], hurt[other : other + len(one)] = two, one
    return bytes(hurt)


# ------------------------------------------------------------------------------------------------------- kinds


def checkpoints(work: Path) -> Callable[[random.Random], str]:
    """A run's checkpoint: what is read is what was written, to the bit, or it is refused."""
    state = {"step": {f"w{n}": torch.randn(50) for n in range(8)}, "optimizer": {"state": {0: {"m": torch.ones(3)}}},
             "run": {"number": 7, "best": [1.0, -0.5], "skipped": ["a line"]}}  # fmt: skip
    path = work / "last.pt"
    write_state(path, state)
    whole = path.read_bytes()

    def case(dice: random.Random) -> str:
        path.write_bytes(hurt(whole, dice))
        return "" if _same(read_state(path), state) else "other values were read"

    return case


def _same(one: Any, two: Any) -> bool:
    if isinstance(one, torch.Tensor) or isinstance(two, torch.Tensor):
        return isinstance(one, torch.Tensor) and isinstance(two, torch.Tensor) and torch.equal(one, two)
    if isinstance(one, dict) and isinstance(two, dict):
        return one.keys() == two.keys() and all(_same(one[key], two[key]) for key in one)
    return type(one) is type(two) and one == two


def images(work: Path) -> Callable[[random.Random], str]:
    """Image files of all kinds, as RGB and as they are stored: pixels of the kind that is promised."""
    whole = list(_pictures())

    def case(dice: random.Random) -> str:
        data, stored = hurt(dice.choice(whole), dice), dice.choice([None, None, Stored(1), Stored(3), Stored(4)])
        pixels = decode(data, "picture", stored)
        kinds = (torch.uint8,) if stored is None else (torch.uint8, torch.float32)
        right = pixels.ndim == 3 and len(pixels) == (3 if stored is None else stored.channels) and pixels.dtype in kinds
        if pixels.dtype == torch.float32:
            right = right and bool(((pixels >= 0) & (pixels <= 1)).all())
        return "" if right else f"{pixels.dtype} {tuple(pixels.shape)} was read"

    return case


def _pictures() -> Iterator[bytes]:
    dice = np.random.default_rng(0)
    levels = dice.integers(0, 256, (24, 20, 4), dtype=np.uint8)
    deep = dice.integers(0, 65536, (24, 20), dtype=np.uint16)
    rgb = Image.fromarray(levels[..., :3].copy())
    saved: list[tuple[Image.Image, str, dict[str, Any]]] = [
        *((rgb, kind, {}) for kind in ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "ICO", "TGA")),
        (rgb, "JPEG", {"progressive": True}), (rgb.convert("L"), "JPEG", {}), (rgb.convert("CMYK"), "JPEG", {}),
        *((rgb, "TIFF", {"compression": kind}) for kind in ("tiff_lzw", "tiff_adobe_deflate", "jpeg", "packbits")),
        (Image.fromarray(levels), "PNG", {}), (rgb.convert("P"), "PNG", {}), (Image.fromarray(deep), "PNG", {}),
        (Image.fromarray(levels), "WEBP", {"lossless": True}), (Image.fromarray(deep), "TIFF", {}),
    ]  # fmt: skip
    for image, kind, options in saved:
        file = io.BytesIO()
        image.save(file, kind, **options)
        yield file.getvalue()
    for array in (levels, deep):
        file = io.BytesIO()
        np.save(file, array)
        yield file.getvalue()


def recipes(work: Path) -> Callable[[random.Random], str]:
    """Packaged recipes with words and numbers exchanged: one that is equal when it is written and read again."""
    whole = [*packaged_recipes().values()]
    words = re.findall(r"[\w.]+", "\n".join(whole))

    def case(dice: random.Random) -> str:
        recipe = parse_recipe(_rewritten(dice.choice(whole), words, dice))
        return "" if parse_recipe(recipe.to_yaml()) == recipe else "another recipe when it is written and read again"

    return case


def _rewritten(text: str, words: list[str], dice: random.Random) -> str:
    for _ in range(dice.choice([1, 1, 2, 3])):
        what, lines = dice.randrange(6), text.splitlines()
        if what == 0:
            text = hurt(text.encode(), dice).decode(errors="replace")
        elif what == 1:
            at = dice.randrange(len(lines) or 1)
            text = "\n".join([*lines[:at], *lines[at + 1 :]])
        elif what == 2:
            text = "\n".join(
                dice.sample(lines, len(lines)) if dice.random() < 0.2 else [*lines, dice.choice(lines or [""])]
            )
        else:
            kind = r"\b[\d.]+\b" if what == 3 else r"[\w.]+"
            found = [*re.finditer(kind, text)]
            if found:
                place = dice.choice(found)
                other = dice.choice(ODD) if dice.random() < 0.7 else dice.choice(words)
                text = text[: place.start()] + other + text[place.end() :]
    return text


def shards(work: Path) -> Callable[[random.Random], str]:
    """A folder of shards, one file of which is damaged: every image that is read is as it was, with its label."""
    dice = np.random.default_rng(0)
    for number in range(24):
        path = work / "photos" / "abc"[number % 3] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(dice.integers(0, 256, (9, 8, 3), dtype=np.uint8)).save(path)
    whole, hurting = work / "whole", work / "hurt"
    pack_splits(open_splits(Data(source="folder", root=str(work / "photos")), 0), whole, 2000, 0)
    files = sorted(path.name for path in whole.iterdir())
    expected = _contents(whole)

    def case(dice: random.Random) -> str:
        shutil.rmtree(hurting, ignore_errors=True)
        shutil.copytree(whole, hurting)
        path = hurting / dice.choice(files)
        path.write_bytes(hurt(path.read_bytes(), dice))
        found = _contents(hurting)
        return "" if found == expected else f"{path.name}: others than were packed"

    return case


def _contents(folder: Path) -> list[Any]:
    raw = open_shards(folder, download=False)
    read: list[Any] = [raw.classes, raw.carve_test]
    for images in (raw.train, raw.val, raw.test):
        for position in range(0 if images is None else len(images)):
            assert images is not None
            pixels = images.read(position).numpy().tobytes()
            read.append((images.name(position).rsplit("/", 1)[-1], int(images.labels[position]), pixels))
    return read


KINDS: dict[str, Callable[[Path], Callable[[random.Random], str]]] = {
    "checkpoints": checkpoints,
    "images": images,
    "recipes": recipes,
    "shards": shards,
}

# ------------------------------------------------------------------------------------------------------- forks


def verdict(case: Callable[[random.Random], str], dice: random.Random) -> str:
    """ "refused", "read", or what is wrong: a traceback, a message of several lines, a warning of a library's own."""
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        try:
            told = case(dice) or "read"
        except ManyviewError as error:
            told = "refused" if str(error) and "\n" not in str(error) else f"a message of several lines: {error!r}"
        except BaseException as error:
            told = f"a traceback: {type(error).__name__}: {str(error)[:300]}"
    strange = [each for each in seen if not issubclass(each.category, ManyviewWarning)]
    return f"a warning: {strange[0].message}" if strange and told in ("read", "refused") else told


def in_forks(kind: str, count: int, seed: int, memory: float, work: Path) -> tuple[dict[str, int], list[str]]:
    """(how many were read and refused, a line on each fault) of so many cases; each hangs on (seed, number) alone."""
    case = KINDS[kind](work)
    came: dict[str, int] = {"read": 0, "refused": 0}
    faults: list[str] = []
    done = 0
    while done < count:
        reads, writes = os.pipe()
        number = os.fork()
        if not number:
            os.close(reads)
            _cases(kind, case, range(done, min(done + TOGETHER, count)), seed, memory, writes)
        os.close(writes)
        with os.fdopen(reads, encoding="utf-8") as told:
            answers = [json.loads(line) for line in told]
        code = os.waitstatus_to_exitcode(os.waitpid(number, 0)[1])
        for answer in answers:
            if answer in came:
                came[answer] += 1
            else:
                faults.append(f"{kind} {done}: {answer}")
            done += 1
        if code:
            faults.append(
                f"{kind} {done}: ended its process with {code}" + " (it took too long)" * (code == -signal.SIGALRM)
            )
            done += 1
    return came, faults


def _cases(
    kind: str, case: Callable[[random.Random], str], numbers: range, seed: int, memory: float, writes: int
) -> None:
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + int(memory * 2**30),) * 2)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 2)  # libraries of C print there
    for number in numbers:
        signal.alarm(SECONDS)
        told = verdict(case, random.Random(f"{kind} {seed} {number}"))
        os.write(writes, (json.dumps(told) + "\n").encode())
    os._exit(0)


def main() -> None:
    """Tries as many as asked, and prints what came of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--share", type=float, default=1.0, help="of the usual number of cases")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--memory", type=float, default=2.0, help="GiB that a fork may take beyond what it has")
    parser.add_argument("--out", type=Path, help="the figures, as JSON")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as work:
        for kind in asked.kinds:
            began = time.monotonic()
            came, faults = in_forks(kind, round(asked.share * COUNTS[kind]), asked.seed, asked.memory, Path(work))
            figures[kind] = {**came, "faults": faults, "seconds": round(time.monotonic() - began, 1)}
            print(kind, json.dumps(figures[kind], indent=2), flush=True)
    if asked.out is not None:
        asked.out.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    sys.exit(any(figures[kind]["faults"] for kind in figures))


if __name__ == "__main__":
    main()
