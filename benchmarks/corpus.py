"""Every file of a folder, read as `decode` reads it and as Pillow does:  python benchmarks/corpus.py FOLDER

For collections of odd files, such as the test images of Pillow and imageio. `decode` promises Pillow's own pixels for
what Pillow reads, upright and as RGB, but for the rules it states; a file that differs is printed with the rule that it
falls under, and one under no rule makes the exit code 1. What decoders print by themselves is printed too.
"""

from __future__ import annotations

import io
import os
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from manyview.data import BadImage, decode

Levels = NDArray[np.uint8]


def main(folder: Path) -> int:
    """Prints a line on each file that differs, and the counts; 1 if one differs without a rule."""
    counts: Counter[str] = Counter()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        content = path.read_bytes()
        with noticed() as (ours_said, printed):
            try:
                ours: Levels | str = decode(content, path.name).numpy()
            except BadImage as error:
                ours = str(error)
        with noticed():
            theirs, mode = by_pillow(content)
        kind = compare(ours, theirs, mode)
        counts[kind] += 1
        if not kind.startswith(("equal", "refused by both")):
            print(f"{kind}: {path.relative_to(folder)} ({mode}) {ours if isinstance(ours, str) else ''}")
        for line in ours_said:
            counts["warned of, in one line that names it"] += 1
            if path.name not in line or "\n" in line:
                counts["differs: a warning without a name"] += 1
                print(f"a warning without a name: {path.relative_to(folder)}: {line}")
        if printed():
            counts["differs: printed by a library"] += 1
            print(f"printed by a library: {path.relative_to(folder)}: {printed()}")
    for kind, count in sorted(counts.items()):
        print(f"{count:6} {kind}")
    return int(any(kind.startswith("differs") for kind in counts))


def by_pillow(content: bytes) -> tuple[Levels | str, str]:
    """Pillow's pixels as RGB, upright, transparency over white; or why there are none. And the mode before."""
    mode = "-"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with Image.open(io.BytesIO(content)) as image:
                mode = image.mode
                upright = ImageOps.exif_transpose(image)
                tags = getattr(image, "tag_v2", {})
                planes = " planes" if tags.get(284) == 2 and tags.get(258, (8,))[0] == 16 else ""
                mode = f"{image.format} {upright.mode}{planes}"
                if upright.has_transparency_data:
                    white = Image.new("RGBA", upright.size, (255, 255, 255, 255))
                    upright = Image.alpha_composite(white, upright.convert("RGBA"))
                return np.array(upright.convert("RGB")).transpose(2, 0, 1), mode
        except Exception as error:  # Pillow lets all kinds through
            return str(error) or type(error).__name__, mode


def compare(ours: Levels | str, theirs: Levels | str, mode: str) -> str:
    """What kind of file it is: equal, under which rule it differs, or refused by whom."""
    depth = mode.partition(" ")[2]
    if isinstance(ours, str) and isinstance(theirs, str):
        return "refused by both"
    if isinstance(ours, str):
        ruled = depth == "F" or "do not fit in 16 bits" in ours or "separate planes" in ours or "no pixels" in ours
        return "refused by rule" if ruled else "differs: refused by us alone"
    if isinstance(theirs, str):
        return "differs: read by us alone"
    if ours.shape == theirs.shape and np.array_equal(ours, theirs):
        return "equal"
    if depth.startswith("I"):
        return "by rule: deep grey loses its lower bits, where Pillow cuts off at 255"
    if mode.endswith(" planes"):
        return "by rule: of 16-bit colours in planes of their own Pillow takes single bytes for samples"
    if mode in ("PNG L", "PNG RGB"):
        return "by rule: a transparent colour is compared in the file's own bits"
    return "differs"


@contextmanager
def noticed() -> Iterator[tuple[list[str], object]]:
    """Warnings meanwhile, and what was written to the error stream below Python."""
    lines: list[str] = []
    with tempfile.TemporaryFile() as file, warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = lambda message, *where, **more: lines.append(str(message))
        kept = os.dup(2)
        sys.stderr.flush()
        os.dup2(file.fileno(), 2)
        said: list[str] = []
        try:
            yield lines, lambda: "".join(said).strip()
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)
            file.seek(0)
            said.append(file.read().decode(errors="replace"))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
