"""Augmentations: one family a file, each op `sample -> params -> render`. A new op: a class and a line in `table`."""

from __future__ import annotations

from manyview.views.ops.one_of import OneOf
from manyview.views.ops.op import Op, Params, ViewParams
from manyview.views.ops.table import TABLE

OPS: dict[str, type] = dict(sorted({**TABLE, "one_of": OneOf}.items()))

__all__ = ["OPS", "Op", "Params", "ViewParams"]
