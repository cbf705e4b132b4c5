"""When numbers stop being numbers: which step it was, what the network saw in it, and how to look at that again.

The step is noted on the device, without waiting for it, and read where a line is logged or a checkpoint saved. By then
later batches have passed, but batches are functions of the step number: that of the step is made again.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import TYPE_CHECKING, Any, final

import torch
from torch import Tensor

from manyview.data.loader import Batches
from manyview.errors import ManyviewError
from manyview.foundation.files import write_json, write_state
from manyview.foundation.shards import own_part
from manyview.step import Step
from manyview.training.run import Run
from manyview.training.setup import Setup
from manyview.views.streams import IMAGE

if TYPE_CHECKING:
    from accelerate import Accelerator


def note_failure(first: Tensor, value: Tensor, step: int) -> Tensor:
    """The first step, counted from 1, with a value that is not finite: `first` unless that is 0, for none so far.

    first: an integer scalar on the value's device. Nothing is read back, so a GPU works on.
    """
    return torch.where(value.detach().isfinite() | (first > 0), first, step)


@final
class FirstFailure:
    """The first step of this process that was not finite, kept on its device: see `note_failure`.

    Of each term of the loss, too, for it is one of them that begins.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self._accelerator = accelerator
        self._first = torch.zeros((), dtype=torch.int64, device=accelerator.device)
        self._terms = self._first

    def note(self, value: Tensor, step: int) -> None:
        """Looks at a loss, or at the largest weight, of a step that is counted from 1."""
        self._first = note_failure(self._first, value, step)

    def note_terms(self, values: Tensor, step: int) -> None:
        """Looks at all terms [T] of a step."""
        self._terms = note_failure(self._terms, values, step)

    def earliest(self) -> int:
        """The first failure noted on any process, 0 for none; all must ask."""
        steps = self._accelerator.gather(self._first.reshape(1)).tolist()
        return min((step for step in steps if step), default=0)

    def began(self, step: int) -> list[bool]:
        """Which terms were not finite at that step, the first that failed, on any process; all must ask."""
        return (self._accelerator.gather(self._terms.reshape(1, -1)) == step).any(dim=0).tolist()


def largest_weight(step: Step) -> Tensor:
    """The largest absolute value of the parameters, nan if one is: a finite loss may have had other gradients.

    Of parameters that are shared out, of this process's parts.
    """
    mine = [own_part(weight.detach()) for weight in step.parameters()]
    return torch.nn.utils.get_total_norm([weight for weight in mine if weight.numel()], math.inf)


def seen(step: Step, batches: Batches, number: int, device: torch.device) -> Iterator[dict[str, Any]]:
    """What each forward pass of step `number`, counted from 1, looked at: a dict a part, process and stream.

    Each holds process, part, stream, epoch, index [B], labels [B], names (B of them), and views: name -> {pixels: float
    [B*members, C, h, w], params: op -> {name: tensor}}. Partners of mixed images are rows of the same pass.
    """
    streams = {IMAGE: replace(batches, streams={}), **batches.streams}
    where = {name: {int(index): at for at, index in enumerate(of.images.index)} for name, of in streams.items()}
    for part, rank, (stream, of) in product(range(batches.accumulate), range(batches.world), streams.items()):
        batch = replace(of, rank=rank)[(number - 1) * batches.accumulate + part].to(device)
        views: Any = batch.images
        if not isinstance(views, Mapping):
            views = step.views(batch, only=step.rendered_views, stream=stream)
        yield {
            "process": rank,
            "part": part,
            "stream": stream,
            "epoch": batch.epoch,
            "index": batch.index.cpu(),
            "labels": torch.as_tensor(batch.labels).cpu(),
            "names": [of.images.name(where[stream][index]) for index in batch.index.tolist()],
            "views": {
                name: {
                    "pixels": view.pixels.cpu(),
                    "params": {op: {k: v.cpu() for k, v in params.items()} for op, params in view.params.items()},
                }
                for name, view in views.items()
            },
        }


def report_failure(
    run: Run, setup: Setup, failed: int, noticed: int, terms: Mapping[str, float], began: Sequence[bool]
) -> str:
    """Writes failure/batch.pt and failure/failure.json into the run's folder; returns one line that tells all of it.

    failed: the step that failed; noticed: the step whose terms are given. began: which of the terms were not finite at
    the step that failed. batch.pt holds {step, epoch, parts}, as
    `seen` makes them, and loads with `weights_only=True`. The file that can be read alone is written last. Processes
    other than the main one write nothing.
    """
    if not setup.main:
        return f"step {failed} was not finite; the main process tells more"
    step, batches = setup.step, setup.batches
    finite = all(map(math.isfinite, terms.values()))
    what = "a weight is not finite after" if finite and failed == noticed else "the loss is not finite at"
    first = [name for name, bad in zip(terms, began, strict=True) if bad]
    shown = ", ".join(f"{name} {value:g}" for name, value in terms.items())
    if failed != noticed:  # whose terms have nothing to say of the step that failed
        shown = "; ".join(filter(None, [", ".join(first), f"noticed at step {noticed}"]))
    told = f"{what} step {failed} ({shown})"
    if first and len(first) < len(terms) and failed == noticed:
        told += f", {' and '.join(first)} alone"
    advice = "begin anew with a lower lr, a longer warm-up, or train.clip=1"
    folder, epoch = run.folder / "failure", batches.positions((failed - 1) * batches.accumulate)[0]
    try:
        parts = list(seen(step, batches, failed, setup.accelerator.device))
        of_first = [part for part in parts if part["stream"] == IMAGE]  # batch.pt has those of all streams
        index = [number for part in of_first for number in part["index"].tolist()]
        replay = f"manyview replay {shlex.quote(str(run.folder))} --index {index[0]} --epoch {epoch} --out seen.png"
        write_state(folder / "batch.pt", {"step": failed, "epoch": epoch, "parts": parts})
        written = {
            "step": failed,
            "epoch": epoch,
            "seed": step.recipe.seed,
            "message": told,
            "noticed_at": noticed,
            "terms": {name: value if math.isfinite(value) else str(value) for name, value in terms.items()},
            "index": index,
            "names": [name for part in of_first for name in part["names"]],
            "replay": replay,
        }
        write_json(folder / "failure.json", written)
    except ManyviewError as error:  # the disk is full, or an image has gone: the failure is still the news
        return f"{told}; what it saw could not be written: {error}; {advice}"
    return f"{told}; {folder} holds what the network saw; to look at an image: {replay}; {advice}"
