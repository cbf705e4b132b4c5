"""One update: the parts of a batch forward and backward, their gradients clipped, the optimiser's step."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import reduce

import torch
from torch import Tensor

from manyview.data.batch import Batch
from manyview.optimize.passes import Pass, passes_of
from manyview.show.one_update import shown
from manyview.step import Output
from manyview.training.failure import FirstFailure
from manyview.training.setup import Setup
from manyview.training.state import State
from manyview.training.stopwatch import Stopwatch
from manyview.views.draws import key_of


def update(
    setup: Setup, number: int, stream: Iterator[Batch], state: State, watch: Stopwatch, first_bad: FirstFailure
) -> tuple[Output, Tensor]:
    """One update, of all parts of a batch: the last part's output, and the terms' means over the parts.

    With an optimiser that looks twice (`optimize.passes`) these are of the first look; the second is at the same views.
    """
    passes = passes_of(setup.optimizer)
    parts = shown(_read(setup, stream, state, watch), passes, setup.step)
    looks = [_look(setup, number, each, parts, first_bad) for each in passes]
    return looks[0]


def _read(setup: Setup, stream: Iterator[Batch], state: State, watch: Stopwatch) -> Iterator[Batch]:
    """The parts of the next batch, each when it is asked for."""
    for _ in range(setup.recipe.train.accumulate):
        with watch.waiting():
            batch = next(stream).to(setup.accelerator.device)
        yield batch
        state.skip(batch.unread)


def _look(
    setup: Setup, number: int, look: Pass, parts: Iterable[Batch], first_bad: FirstFailure
) -> tuple[Output, Tensor]:
    """One look at all parts, and what their gradients are for."""
    accelerator, wrapped = setup.accelerator, setup.wrapped
    # what is random inside the networks (dropout) follows the step and process, like all other draws
    torch.manual_seed(key_of(setup.recipe.seed, number, accelerator.process_index, "networks")[0])
    terms: list[Tensor] = []
    with look.looking():
        for batch in parts:
            with accelerator.accumulate(wrapped):
                output: Output = wrapped(batch)
                accelerator.backward(look.loss(output))
            first_bad.note(output["loss"], number + 1)
            terms.append(torch.stack([value.detach() for value in output["terms"].values()]))
            first_bad.note_terms(terms[-1], number + 1)
    _follow(setup, look)  # behind the look: what moves on with an update is not of it, and stays
    setup.optimizer.zero_grad()
    return output, reduce(torch.add, terms) / len(terms)


def _follow(setup: Setup, look: Pass) -> None:
    if look.then is not None:
        look.then()
        return
    if setup.recipe.train.clip:
        for together in setup.clipped:
            setup.accelerator.clip_grad_norm_(together, setup.recipe.train.clip)
    setup.optimizer.step()
