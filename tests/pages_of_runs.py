"""Runs to be reported, small ones, and what a page of them holds: what several test modules share."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path

import manyview

TIED = """
title: two views of digits
data: {source: digits, limit: 120}
views:
  a: {from: image, make: "pad_crop(8, padding=1) | flip(0.5)"}
  b: {like: a}
branches: {net: {backbone: cresnet20, normalize: half}}
relations:
  - cross_entropy(logits(a), logits(b))
  - similarity(h(a), h(b), kind="mse", weight=2)
train: {epochs: 3, batch_size: 40, optimizer: "sgd(lr=0.05, momentum=0.9)", schedule: "cosine()", log_every: 1}
evaluate: [knn(k=5)]
"""
SIAMESE = """
title: SimSiam on digits
data: {source: digits, limit: 120}
views:
  a: {from: image, make: "pad_crop(8, padding=1) | flip(0.5)"}
  b: {like: a}
branches: {net: {backbone: cresnet20, normalize: half, z: "projector(h, 16)", p: "predictor(z, 8)"}}
relations: ["cosine(p(a), toward=stop(z(b)), weight=0.5, swapped=True)"]
train: {epochs: 2, batch_size: 40, optimizer: "sgd(lr=0.05)", schedule: "cosine()", log_every: 1}
evaluate: [knn(k=5)]
"""


def trained(text: str, folder: Path, *overrides: str) -> Path:
    """A finished run of a recipe."""
    manyview.train(manyview.parse_recipe(text, *overrides), folder, quiet=True)
    return folder


def charts(text):
    """Every chart of a page by its key, as Plotly is given it."""
    (found,) = (script for attributes, script in Read(text).scripts if attributes.get("id") == "charts")
    return json.loads(found)


class Read(HTMLParser):
    """A page as a browser takes it apart: tags with their attributes, texts of what is shown, ids, scripts."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.texts: list[str] = []
        self._inside = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._inside = tag if tag in ("script", "style") else ""
        if tag == "script":
            self.scripts.append((dict(attrs), ""))

    def handle_endtag(self, tag):
        self._inside = ""

    def handle_data(self, data):
        if self._inside == "script":
            self.scripts[-1] = (self.scripts[-1][0], self.scripts[-1][1] + data)
        elif not self._inside:
            self.texts.append(data)

    @property
    def text(self) -> str:
        """All that is shown, blanks as one."""
        return " ".join(" ".join(self.texts).split())

    def named(self, tag: str) -> list[dict[str, str | None]]:
        """The attributes of each element of a name."""
        return [attributes for name, attributes in self.tags if name == tag]
