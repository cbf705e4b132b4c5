"""Clipping: which gradients share a norm."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

if TYPE_CHECKING:
    from manyview.step import Step


def clipped_together(step: Step) -> list[list[nn.Parameter]]:
    """The parameters of a step, in sets whose gradients `train.clip` shortens by the norm of the set.

    Heads that look on behind a stop, and nets of the relations that read them, are a set of their own: in one norm with
    the others they would shorten those steps, too.
    """
    apart = {f"{name}.{head}" for name in step.branches for head in step.branch(name).spec.probes}
    apart |= {plan.name for plan in step.recipe.relation_plan if plan.looks_on}
    sets: dict[bool, list[nn.Parameter]] = {False: [], True: []}
    for name, parameter in step.named_parameters():
        sets[not apart.isdisjoint(step.parts_of(name))].append(parameter)
    return [each for each in sets.values() if each]
