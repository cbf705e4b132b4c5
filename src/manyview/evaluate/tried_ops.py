"""Ops that protocols are asked to try, drawn for some images of a split, at the size that a model looks at."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from manyview.data.images import Ints
from manyview.errors import ManyviewError, RecipeError, unknown
from manyview.foundation.grammar import bind, parse_pipeline
from manyview.foundation.vocabulary import NONE, Words, with_words
from manyview.views.draws import order_of
from manyview.views.engine.render import Source, sizes_of
from manyview.views.ops import OPS
from manyview.views.ops.mix import MIXING
from manyview.views.plan import PlannedOp, PlannedView
from manyview.views.view import View, render_views, sample_views, to_device


def plan_ops(text: str, size: tuple[int, int], owner: str, where: str, words: Words = NONE) -> tuple[PlannedOp, ...]:
    """The ops of `crop(scale=0.5) | flip(1)`, in order, which draw as `owner`; a `crop` without a size gives `size`.

    Raises RecipeError naming `where`, also for ops that mix the images of a batch: what is measured would depend on
    which images stand together.
    """
    ops: list[PlannedOp] = []
    known = words.beside("OPS", OPS)
    for call in parse_pipeline(text, where):
        if call.name not in known:
            raise RecipeError(f"{where}: {unknown('op', call.name, known, own=words.own('OPS'))}")
        if issubclass(known[call.name], MIXING):
            raise RecipeError(f"{where}: {call.name} mixes images with one another; name ops of one image")
        if any(op.name == call.name for op in ops):
            raise RecipeError(f"{where}: {call.name} stands twice in {text!r}; once is enough")
        given = call.args or "size" in call.kwargs
        filled: dict[str, Any] = {"size": size} if call.name == "crop" and not given else {}
        filled |= with_words(known[call.name], words)
        ops.append(PlannedOp(call.name, bind(known[call.name], call, where, **filled), (owner, call.name)))
    return tuple(ops)


def draw(plan: Mapping[str, PlannedView], images: Source, index: Ints, seed: int, where: str) -> dict[str, View]:
    """The views of images, whose draws depend on the seed and each image's index [B] alone, so not on the batch.

    Raises RecipeError naming `where` for ops that do not fit the images.
    """
    try:
        params = sample_views(plan, sizes_of(images), torch.from_numpy(index), 0, seed)
        if isinstance(images, Tensor):
            params = to_device(params, images.device)
        return render_views(plan, images, params)
    except (ValueError, ManyviewError) as error:
        raise RecipeError(f"{where}: {error}") from None


def some_of(positions: Ints, count: int | None, seed: int) -> Ints:
    """At most so many of these positions, all for None: a choice that the seed fixes, in their order."""
    return positions if count is None else positions[np.sort(order_of(seed, 0, len(positions))[:count])]
