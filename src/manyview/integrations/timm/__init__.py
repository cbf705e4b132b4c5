"""A recipe in timm's own script or loop (timm >= 1.0.29): its model, loader, optimiser and flags, our views and losses.

In timm's train.py, six lines (examples/timm_train.patch, docs/timm.md):

    if args.recipe:
        loader_train, task = manyview.from_args(args, model, loader_train)
    ...
    if args.recipe:
        task.step.attach(optimizer)

In a loop of one's own (examples/timm_loop.py):

    task = ViewsTask(recipe, model=model, total_steps=epochs * len(loader))
    loader = ViewsLoader(loader, recipe, model.num_classes)
    task.step.attach(optimizer)          # what follows an update: EMAs, queues, schedules
    result = task(input, target)         # of a batch of the loader; result["loss"].backward()

Users asked for Tied-Augment in timm's script in its issue 1828; this is the wrapper and the loss that it takes.
"""

from __future__ import annotations

try:
    from timm.task import TrainingTask as _TrainingTask  # noqa: F401
except ImportError:
    raise ImportError("manyview.integrations.timm needs timm >= 1.0.29, for its TrainingTask") from None

from manyview.integrations.timm.batch import ViewsBatch
from manyview.integrations.timm.loader import ViewsDataset, ViewsLoader
from manyview.integrations.timm.script import from_args
from manyview.integrations.timm.task import ViewsTask

__all__ = ["ViewsBatch", "ViewsDataset", "ViewsLoader", "ViewsTask", "from_args"]
