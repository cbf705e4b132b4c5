"""What a frozen branch says of every image, by the image's number: looked up in the place of a pass."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from manyview.views.view import View

Pair = tuple[str, str]  # a readout and a view, or a member such as `r.0`


@final
@dataclass(frozen=True)
class Table:
    """A readout of one view. index: of the images, ascending, int64 [N]. rows: [N, members * dim].

    members: rows an image, of a family.
    """

    index: Tensor
    rows: Tensor
    members: int = 1

    def of(self, wanted: Tensor) -> Tensor | None:
        """The rows of images [B * members, dim]; None where one of them is not known. wanted: [B], on the CPU."""
        if not len(self.index):
            return None
        at = torch.searchsorted(self.index, wanted).clamp_max(len(self.index) - 1)
        if not torch.equal(self.index[at], wanted):
            return None
        return self.rows[at].reshape(len(wanted) * self.members, -1)


@final
@dataclass(frozen=True)
class Kept:
    """Tables of all readouts that relations ask of a branch."""

    tables: Mapping[Pair, Table]

    def of(self, views: Mapping[str, View], wanted: Collection[Pair]) -> dict[Pair, Tensor] | None:
        """Readouts of views, where the views lie; None where one is not known, and a pass has to be made."""
        found: dict[Pair, Tensor] = {}
        for pair in wanted:
            view = views[pair[1].partition(".")[0]]
            rows = self.tables[pair].of(view.index.cpu()) if view.index is not None and pair in self.tables else None
            if rows is None:
                return None
            found[pair] = rows.to(view.images.device)
        return found


__all__ = ["Kept", "Pair", "Table"]
