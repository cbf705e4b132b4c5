"""Augmentations: one family a file, each op `sample -> params -> render`. A new op: a class and a line in `table`."""

from __future__ import annotations

from manyview.augment.one_of import OneOf
from manyview.augment.op import Op, Params, ViewParams
from manyview.augment.table import TABLE

OPS: dict[str, type] = dict(sorted({**TABLE, "one_of": OneOf}.items()))

__all__ = ["OPS", "Op", "Params", "ViewParams"]
