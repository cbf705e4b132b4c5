"""Online probes: how well heads that look on behind a stop classify, by the features that are measured anyway."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from manyview.branches.spec import FEATURES
from manyview.evaluate.accuracy import accuracy_of
from manyview.evaluate.rows import Rows
from manyview.foundation.modes import evaluating

if TYPE_CHECKING:
    from manyview.evaluate.features import Features
    from manyview.step import Step


def probes_of(step: Step) -> list[str]:
    """The heads behind a stop that have a column a class and read h, straight or by other heads."""
    branch = step.main
    found = [head for head in branch.inputs if head in branch.spec.probes and head != step.classifier]
    return [head for head in found if branch.dims[head] == step.num_classes and _way(step, head)]


def probe_accuracies(step: Step, features: Features, split: str) -> dict[str, float]:
    """`probe_top1` in percent on a split, for each of `probes_of`; nothing is computed where there are none."""
    probes = probes_of(step)
    if not probes:
        return {}
    outputs = features.of(split)
    with evaluating(step), torch.no_grad():
        return {f"{name}_top1": accuracy_of(_scores(step, name, outputs.rows), outputs.labels)["top1"]
                for name in probes}  # fmt: skip


def _way(step: Step, head: str) -> list[str]:
    """The heads from h to this one, in order; none where it begins at a layer inside the backbone."""
    inputs, way = step.main.inputs, [head]
    while inputs.get(way[0], FEATURES) != FEATURES:
        way.insert(0, inputs[way[0]])
    return way if way[0] in inputs else []


def _scores(step: Step, head: str, features: Rows) -> Iterator[Tensor]:
    for rows in features.blocks():
        rows = rows.to(step.main.mean.device)
        for each in _way(step, head):
            rows = step.evaluated.head(each)(rows)
        yield rows.float().cpu()
