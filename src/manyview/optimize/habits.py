"""What a loop of one's own forgets, and would train something else by without a word: each is told once."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NoReturn, final

import numpy as np
import torch
from torch import Tensor, nn

from manyview.errors import ManyviewError, warn
from manyview.foundation.words import counted
from manyview.optimize.after_update import unwrapped
from manyview.views.engine.render import Reduced, Source

SHOWN = 6  # parts that a message lists
SOON = 4  # updates after which all that is trained must have moved
MANY = 256  # forwards for one update of an attached optimiser, beyond which it makes none


@final
class Habits:
    """What one step saw of its loop. parts: forwards that an update has (`train.accumulate`)."""

    def __init__(self, parts: int) -> None:
        self.parts = parts
        self.forwards = 0  # in training mode, since the last update
        self.judged = 0  # of those with gradients in evaluation mode
        self._told: set[str] = set()
        self._looks = 0
        self._learnt = False
        self._versions: dict[str, int] = {}
        # of each stream: index, epoch, image that the epoch began with, and whether batches without it came since
        self._first: dict[str, tuple[int, int, Tensor | None]] = {}
        self._passed: dict[str, bool] = {}

    def looked(self, training: bool) -> None:
        """Notes a forward with gradients."""
        self.forwards += training
        self.judged += not training

    def late(self, attached: bool) -> bool:
        """Whether there were more forwards than an update has; of an attached optimiser, many times more."""
        return self.forwards > (MANY * self.parts if attached else self.parts)

    def waits(self, waiting: Sequence[str], attached: bool) -> None:
        """Warns of an update that is late, if things wait for it. waiting: what they are."""
        if waiting:
            cure = (
                "the attached optimiser makes none; attach the one that steps"
                if attached
                else "call step.attach(optimizer) once, or step.after_step() after each optimizer.step(); "
                "train.accumulate says how many forwards an update has"
            )
            self.tell(
                "waits",
                f"{self.forwards} training forwards without an update, for which {', '.join(waiting)} "
                f"{'waits' if len(waiting) == 1 else 'wait'}: {cure}",
            )

    def looks_at_parameters(self) -> bool:
        """Whether `moves` is to be called in this training forward, of a step without attached optimiser."""
        self._looks += 1
        return self._looks in (1, 1 + SOON * self.parts)

    def moves(self, parameters: Mapping[str, nn.Parameter], parts: Callable[[str], str]) -> None:
        """Warns of parameters that stand still while others move: those that no optimiser holds.

        Told by the count of writings that torch keeps for each tensor, which asks nothing of a device. What has no
        gradient in a backbone is not used, and may stand still.
        """
        before, self._versions = self._versions, {name: each._version for name, each in parameters.items()}
        still = [name for name, version in self._versions.items() if before.get(name) == version]
        if before and len(still) < len(self._versions):
            lost = [name for name in still if ".backbone." not in name or parameters[name].grad is not None]
            if lost:
                self.tell("still", _lacking(lost, parts))

    def draws(self, stream: str, images: Source, index: Tensor, epoch: int) -> None:
        """Warns of indices and epochs by which views of a stream are drawn again that were drawn before."""
        numbers = index.numpy()
        if len(np.unique(numbers)) < len(numbers):
            values, counts = np.unique(numbers, return_counts=True)
            self.tell(
                "twice in a batch",
                f"index {values[counts.argmax()]} stands {counts.max()} times in a batch, and these images draw alike; "
                "index is an image's place in the data set",
            )
        image = None if isinstance(images, Reduced) or images[0].device.type != "cpu" else images[0]
        if stream not in self._first or self._first[stream][1] != epoch:
            self._first[stream] = int(numbers[0]), epoch, None if image is None else image.clone()
            self._passed[stream] = False
            return
        index_of_first, _, before = self._first[stream]
        if index_of_first not in numbers:
            self._passed[stream] = True
            return
        again = image is None or before is None or (image.shape == before.shape and torch.equal(image, before))
        if self._passed[stream] or numbers[0] != index_of_first or not again:  # else it is the first batch once more
            self.tell(
                "twice in an epoch",
                f"index {index_of_first} came twice in epoch {epoch}, and draws the same views each time; index is an "
                "image's place in the data set, not in the batch, and epoch counts the passages",
            )

    def learns(self, terms: Mapping[str, Tensor], trained: Callable[[], Collection[str]]) -> None:
        """Looks once, in the first training forward, at whether all terms of the loss have gradients; warns of others.

        trained: names of what is trained. Raises ManyviewError where no term has any.
        """
        if self._learnt:
            return
        still = [name for name, term in terms.items() if not term.requires_grad]
        if len(still) == len(terms):
            cause = "no gradient reaches it" if trained() else "every parameter of the step has requires_grad=False"
            raise ManyviewError(f"nothing learns by the loss ({', '.join(still)}): {cause}")
        self._learnt = True
        if still:
            self.tell(
                "learns",
                f"{', '.join(still)}: the value has no gradient, so nothing learns by it: what it reads is frozen, or "
                "it is computed with detach(), no_grad() or item()",
            )

    def predicts(self) -> None:
        """Warns of predictions in training mode."""
        self.tell(
            "predicts",
            "predict in training mode: BatchNorm normalises by these images and learns from them, and dropout is on; "
            "call step.eval() before, and step.train() after",
        )

    def sleeps(self, names: Sequence[str]) -> None:
        """Warns of networks in evaluation mode inside a step that trains."""
        if names:
            self.tell(
                "sleeps",
                f"{', '.join(names)} {'is' if len(names) == 1 else 'are'} in evaluation mode, and the step in training "
                "mode: after model.eval() call step.train()",
            )

    def moved(self, updates: int, total: int | None) -> None:
        """Notes an update; warns of one after the end, and of one that learnt in evaluation mode."""
        if self.judged and not self.forwards:
            self.tell(
                "judged",
                "an update was made by a loss in evaluation mode, where BatchNorm and dropout stand still; call "
                "step.train() before training",
            )
        self.forwards = self.judged = 0
        if total is not None and updates > total:
            self.tell(
                "longer",
                f"{updates:,} updates were made of total_steps={total:,}: what follows the run's progress stands still "
                "since then; give the run's whole length",
            )

    def tell(self, kind: str, text: str) -> None:
        """Warns, the first time."""
        if kind not in self._told:
            self._told.add(kind)
            warn(text)


def check_held(optimizers: Sequence[Any], parameters: Mapping[str, nn.Parameter], parts: Callable[[str], str]) -> None:
    """Warns of trainable parameters that no optimiser holds. parts: from a parameter's name to what it is a part of.

    Raises ManyviewError if they hold none at all.
    """
    held = {id(each) for optimizer in optimizers for group in _groups(optimizer) for each in group["params"]}
    missing = [name for name, parameter in parameters.items() if id(parameter) not in held]
    if parameters and len(missing) == len(parameters):
        raise ManyviewError(
            "attach: this optimiser holds no parameter of the step; make it of step.parameters(), after the step"
        )
    if missing:
        warn(f"attach: {_lacking(missing, parts)}, attach all optimisers, or say requires_grad_(False)")


def _lacking(names: Sequence[str], parts: Callable[[str], str]) -> str:
    lost = list(dict.fromkeys(map(parts, names)))
    told = ", ".join(lost[:SHOWN]) + (f" and {len(lost) - SHOWN} more" if len(lost) > SHOWN else "")
    return (
        f"the optimiser lacks {counted(len(names), 'parameter')} of {told}, which never learn; "
        "make it of step.parameters()"
    )


def _groups(optimizer: Any) -> Collection[Mapping[str, Any]]:
    return getattr(unwrapped(optimizer), "param_groups", ())


def refuse_compiler() -> None:
    """Raises ManyviewError. torch's compiler leaves the step at this call, before it traces anything."""
    raise ManyviewError(_COMPILED)


def refuse_replicas() -> NoReturn:
    """Raises ManyviewError: for nn.DataParallel, which asks a module for its replicas where there are several GPUs."""
    raise ManyviewError(
        "nn.DataParallel does not take a step: what its replicas keep would be lost; start one process a GPU, with "
        "torchrun and DistributedDataParallel"
    )


_COMPILED = (
    "torch.compile does not take a step, whose views are drawn on the CPU; call step.compile_parts(), which compiles "
    "the networks and the rendering on devices"
)
refuse_compiler._torchdynamo_disable = True  # type: ignore[attr-defined]
refuse_compiler._torchdynamo_disable_msg = _COMPILED  # type: ignore[attr-defined]

__all__ = ["Habits", "check_held", "refuse_compiler", "refuse_replicas"]
