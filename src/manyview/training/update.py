"""One update: the parts of a batch forward and backward, their gradients clipped, the optimiser's step."""

from __future__ import annotations

from collections.abc import Iterator
from functools import reduce

import torch
from torch import Tensor

from manyview.data.loader import Batch
from manyview.step import Output
from manyview.training.failure import FirstFailure
from manyview.training.setup import Setup
from manyview.training.state import State
from manyview.training.stopwatch import Stopwatch
from manyview.views.draws import key_of


def update(
    setup: Setup, number: int, stream: Iterator[Batch], state: State, watch: Stopwatch, first_bad: FirstFailure
) -> tuple[Output, Tensor]:
    """One update, of all parts of a batch: the last part's output, and the terms' means over the parts."""
    train, accelerator, wrapped = setup.recipe.train, setup.accelerator, setup.wrapped
    # what is random inside the networks (dropout) follows the step and process, like all other draws
    torch.manual_seed(key_of(setup.recipe.seed, number, accelerator.process_index, "networks")[0])
    terms: list[Tensor] = []
    for _ in range(train.accumulate):
        with watch.waiting():
            batch = next(stream).to(accelerator.device)
        with accelerator.accumulate(wrapped):
            output: Output = wrapped(batch)
            accelerator.backward(output["loss"])
            if train.clip and accelerator.sync_gradients:
                accelerator.clip_grad_norm_(wrapped.parameters(), train.clip)
            setup.optimizer.step()  # with the last part
            setup.optimizer.zero_grad()
        first_bad.note(output["loss"], number + 1)
        terms.append(torch.stack([value.detach() for value in output["terms"].values()]))
        state.skip(batch.unread)
    return output, reduce(torch.add, terms) / len(terms)
