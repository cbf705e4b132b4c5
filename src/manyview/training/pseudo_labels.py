"""How many of the labels that a run gives itself are right, where its data know them; logged, and never trained by."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, final

import numpy as np
import torch

from manyview.data import Splits
from manyview.relations.pseudo_label import Said
from manyview.step import Step

if TYPE_CHECKING:
    from accelerate import Accelerator


@final
class Correctness:
    """Of the stream `unlabeled`, whose labels are withheld."""

    def __init__(self, splits: Splits) -> None:
        none = np.zeros(0, np.int64)
        index = none if splits.unlabeled is None or splits.withheld is None else splits.unlabeled.index
        order = np.argsort(index, kind="stable")
        self._index, self._labels = index[order], (none if splits.withheld is None else splits.withheld)[order]

    def of(self, step: Step, accelerator: Accelerator) -> dict[str, float]:
        """`relation/correct`: the share of right labels among the rows that count, each by its weight; nan for none.

        Of the last forward pass, over all processes, which must all ask.
        """
        found: dict[str, float] = {}
        for name, relation in step.relations.items() if (self._labels >= 0).any() else ():
            said = getattr(relation, "said", None)
            if isinstance(said, Said) and said.index is not None:
                right, of_all = accelerator.reduce(self._sums(said, said.index.cpu().numpy()), "sum").tolist()
                found[f"{name}/correct"] = right / of_all if of_all else math.nan
        return found

    def _sums(self, said: Said, index: np.ndarray) -> torch.Tensor:
        """The weights of rows whose label is right, and of all whose label is known."""
        at = np.searchsorted(self._index, index).clip(max=len(self._index) - 1)
        truth = torch.from_numpy(np.where(self._index[at] == index, self._labels[at], -1)).to(said.labels.device)
        weights = said.weights.float() * (truth >= 0)
        return torch.stack([(weights * (said.labels == truth)).sum(), weights.sum()])


__all__ = ["Correctness"]
