"""The frozen teacher as a recipe writes it: a branch that stands still, of a network that was trained before.

    teacher: frozen(resnet50(pretrained=True))          timm's published weights
    teacher: frozen('runs/baseline')                    a run, or an export
    teacher: frozen(resnet18(init='teacher.pt'))        a checkpoint of that network
    teacher: frozen()                                   a module given in Python, as backbone={'teacher': module}

Its readouts are `h` and, where it has a classifier, `logits`. It is always in evaluation mode, has no gradients and is
no part of what is saved, averaged, optimised or exported; see `teacher` for how it is opened.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from manyview.errors import unknown
from manyview.foundation.grammar import Call, Name

PRECISIONS = ("fp32", "bf16")


@dataclass(frozen=True)
class Frozen:
    """`teacher: frozen(resnet50(pretrained=True), precision='bf16')`.

    network: timm's, by a call, or the place of a run, an export or a checkpoint of a run, in quotes; None for one that
    is given in Python. precision: of its forward pass; None is that of training. normalize: as of any branch, where it
    is not what its weights were trained with. keep: what it says of each image is kept on disk, where the views that it
    looks at draw nothing; `manyview train` then passes each image through it once, and not once an epoch.
    """

    network: Call | str | None = None
    precision: str | None = None
    normalize: Any = None
    keep: bool = False

    def __post_init__(self) -> None:
        """Take a bare name for a call, as in `frozen(resnet50)`."""
        if isinstance(self.network, Name):
            object.__setattr__(self, "network", Call(self.network.text))
        if self.network is not None and (not isinstance(self.network, Call | str) or not self.network):
            raise ValueError(
                "frozen names a network, as in resnet50(pretrained=True), or the place of a run, an export or a "
                f"checkpoint, in quotes, got {self.network!r}"
            )
        if not isinstance(self.keep, bool):
            raise ValueError(f"keep is True or False, got {self.keep!r}")
        if self.keep and self.network is None:
            raise ValueError(
                "keep=True is for a network that the recipe names; of one from Python the code is not known"
            )
        if isinstance(self.precision, Name):
            raise ValueError(f"put quotes round precision='{self.precision}'")
        if self.precision is not None and self.precision not in PRECISIONS:
            raise ValueError(unknown("precision", str(self.precision), PRECISIONS))

    def __str__(self) -> str:
        shown = repr(self.network) if isinstance(self.network, str) else self.network or "given in Python"
        more = ", ".join(filter(None, (self.precision, "kept" if self.keep else "")))
        return f"frozen, {shown}" + (f", {more}" if more else "")
