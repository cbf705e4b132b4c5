"""What differs where an update sees its batch in parts, of several processes or one by one: refused, or told."""

from __future__ import annotations

from collections.abc import Sequence

from torch.nn.modules.batchnorm import _BatchNorm

from manyview.errors import RecipeError, warn
from manyview.foundation.words import counted
from manyview.optimize.sync_batchnorm import is_synchronised
from manyview.step import Step
from manyview.views.ops.mix import MIXING


def check_parts(step: Step, processes: int, together: int) -> None:
    """Raises RecipeError where accumulation would be another loss; warns of what sees a part alone.

    On several processes the losses are of the joined batch all the same, see `foundation.distributed`. together: images
    of a part.
    """
    parts = step.recipe.train.accumulate
    for plan in step.recipe.relation_plan if parts > 1 else ():
        if getattr(step.relations[plan.name], "whole_batch", False):
            raise RecipeError(
                f"train.accumulate: {plan.text} compares the images of a whole batch, and over {parts} parts of it the "
                "mean is another loss; set train.accumulate=1, with train.micro_batch for memory, "
                "train.checkpointing=true, a smaller batch_size, or more processes"
            )
    if processes * parts > 1 and (seen := alone_in(step, parts)):
        told = f"each of the {processes * parts} parts of a batch, {counted(together, 'image')}, is by itself for"
        cure = "; train.sync_batchnorm=true is for processes" if seen[0] == "BatchNorm" and parts == 1 else ""
        warn(f"{told} {' and '.join(seen)}, so that another number of parts trains otherwise{cure}")


def alone_in(step: Step, parts: int) -> Sequence[str]:
    """What sees the images of a part, and no others. parts: that a process sees of a batch, one by one."""
    norms = [module for module in step.modules() if isinstance(module, _BatchNorm)]
    synchronised = parts == 1 and step.recipe.train.sync_batchnorm
    own = any(norm.training and not (synchronised or (parts == 1 and is_synchronised(norm))) for norm in norms)
    mixed = [view.name for view in step.plan.values() if any(isinstance(each.op, MIXING) for each in view.ops)]
    return ["BatchNorm"] * own + [f"mixing in {', '.join(mixed)}"] * bool(mixed)


__all__ = ["alone_in", "check_parts"]
