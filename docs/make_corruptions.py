"""Writes docs/corruptions.md from the table of constants and the docstrings:  python docs/make_corruptions.py

A test holds the file to what this prints.
"""

from __future__ import annotations

import inspect
from pathlib import Path

from manyview.evaluate.corruptions import EXTRA, MAIN
from manyview.evaluate.corruptions.severities import SEVERITIES, SIZES

HEADER = """# Corruptions

The 15 common corruptions of Hendrycks & Dietterich (ICLR 2019) and the 4 that they hold back for tuning, with the
constants of both published sets. Made by `docs/make_corruptions.py` from `manyview.evaluate.corruptions`.

Each is made on the fly, and all that is random is a pure function of seed, image index, corruption and severity. The
steps and their order, clipping, and the cut to 256 levels are those of the published code; where something differs, or
where that code does not do what the paper says, the description tells. ImageNet-C was stored as JPEG of quality 85
after each corruption, CIFAR-10-C was not; nothing is compressed here. Figures for `frost` are not comparable with
published ones unless the published photographs are given.

Given the same random numbers, the published steps run with OpenCV 5.0 and scikit-image 0.26 made the same images for
ten of them, both sets and all severities, save for values that lie on the cut between two levels: one level apart, in
7 % of values at most (`saturate`). These ten are the four blurs other than motion, `fog`, `brightness`, `contrast`,
`elastic_transform`, `spatter` and `saturate`. Motion blur, which `snow` uses too, was written from ImageMagick's
definition and not compared with ImageMagick.

Lengths are in pixels, intensities in [0, 1].
"""


def corruptions() -> str:
    """The whole text."""
    parts = [HEADER]
    for title, table in (("The fifteen", MAIN), ("The four", EXTRA)):
        parts.append(f"## {title}\n")
        for name, kind in table.items():
            text = " ".join((inspect.getdoc(kind.paint) or "").split())
            parts.append(f"### `{name}`\n\n{text}\n\n{constants_of(name)}\n")
    return "\n".join(parts).rstrip() + "\n"


def constants_of(name: str) -> str:
    """A Markdown table: a row a constant and set, a column a severity."""
    severities = SEVERITIES[name]
    lines = ["| constant | set | 1 | 2 | 3 | 4 | 5 |", "| --- | --- | --- | --- | --- | --- | --- |"]
    for place, constant in enumerate(severities.names):
        for size, published in SIZES.items():
            values = " | ".join(f"{row[place]:g}" for row in severities.of(size))
            lines.append(f"| {constant} | {published}, {size} px | {values} |")
    return "\n".join(lines)


if __name__ == "__main__":
    Path(__file__).with_name("corruptions.md").write_text(corruptions(), encoding="utf-8")
