"""A recipe in timm's own loop: a data set in timm's split layout, and a TrainingTask around `Step` (timm >= 1.0.29).

    dataset = ViewsDataset(timm.data.ImageDataset(root), recipe)
    loader = timm.data.create_loader(dataset, input_size, batch_size, is_training=True, **PIXELS)
    task = ViewsTask(recipe, num_classes, total_steps=epochs * len(loader))
    task.step.attach(optimizer)          # what follows an update: EMAs, queues, schedules
    result = task(input, target)         # result["loss"].backward()

timm's loader concatenates the splits of a batch, all images of the first split first, and repeats the targets; the task
undoes that. Normalisation belongs to the branch, so the loader must leave pixels in [0, 1]: pass it `**PIXELS`.
Users asked for Tied-Augment in timm's script in its issue 1828; this is the wrapper and the loss that it takes.
"""

from __future__ import annotations

from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import Dataset

from manyview.errors import ManyviewError, RecipeError
from manyview.recipe.recipe import Recipe
from manyview.relations.augself import AugSelf
from manyview.step import Step
from manyview.views.ops.op import as_uint8
from manyview.views.plan import mixes, with_sources
from manyview.views.view import View, interleave, render_views, sample_views

try:
    from timm.task import TrainingTask
except ImportError:
    raise ImportError("manyview.integrations.timm needs timm >= 1.0.29, for its TrainingTask") from None

PIXELS: dict[str, tuple[float, float, float]] = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}


def splits_of(recipe: Recipe) -> list[tuple[str, int]]:
    """(view, member) of each of timm's splits, in order: the views relations read, families member by member.

    Raises RecipeError for views that mix the images of a batch: timm's data sets give one image at a time; for augself,
    since drawn parameters stay behind; and for `data.channels`, since PIL images are taken as RGB.
    """
    if recipe.data.channels is not None:
        raise RecipeError("data.channels: timm's data sets give PIL images, which are taken as RGB here; drop it")
    told = [relation.text for relation in recipe.relation_plan if relation.factory is AugSelf]
    if told:
        raise RecipeError(f"relations: timm's loader carries no drawn parameters, which {told[0]} is told; drop it")
    plan = recipe.train_views
    if mixes(plan):
        raise RecipeError(
            "views: timm's data sets give one image at a time, so none can be mixed; drop mixup and cutmix"
        )
    read = {read.view.partition(".")[0] for relation in recipe.relation_plan for read in relation.all_reads}
    return [(name, member) for name in plan if name in read for member in range(plan[name].members)]


@final
class ViewsDataset(Dataset[tuple[tuple[NDArray[np.uint8], ...], Any]]):
    """Wraps a data set of (PIL image, target) so that an item is (its views, target), as timm's AugMixDataset does.

    A view is uint8 [3, H, W]; draws depend on (seed, epoch, position), so call `set_epoch` as timm's script does.
    timm's loader assigns its own transform to `transform`; the recipe's views take its place, so it is kept unused.
    """

    def __init__(self, dataset: Any, recipe: Recipe) -> None:
        self.dataset = dataset
        self.recipe = recipe
        self.splits = splits_of(recipe)
        self.transform: Any = None
        plan = recipe.train_views
        self._plan = {name: plan[name] for name in with_sources(plan, [view for view, _ in self.splits])}
        # shared memory: persistent workers must see the epoch change
        self._epoch = torch.zeros((), dtype=torch.long).share_memory_()

    def set_epoch(self, epoch: int) -> None:
        """The epoch of the draws to come."""
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, position: int) -> tuple[tuple[NDArray[np.uint8], ...], Any]:
        image, target = self.dataset[position]
        if not isinstance(image, Image.Image):
            raise TypeError(
                f"the wrapped data set must give PIL images, got {type(image).__name__}; drop its transform"
            )
        pixels = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)[None]
        sizes = torch.tensor([[image.height, image.width]])
        drawn = sample_views(self._plan, sizes, [position], int(self._epoch), self.recipe.seed)
        views = render_views(self._plan, pixels, drawn)
        return tuple(as_uint8(views[name].images[member]).numpy() for name, member in self.splits), target


@final
class ViewsTask(TrainingTask):
    """timm's protocol around a `Step`: (input, target) in, {"loss", "output", terms…} out.

    recipe: relations that need drawn parameters cannot be served, since timm's loader carries pixels and targets alone.
    total_steps: updates in the run, for weights that follow a schedule. Where an EMA, a queue or a changing weight
    waits for updates, training needs `task.step.attach(optimizer)`, once. The averaged weights are timm's
    (`setup_ema`), so `train.ema` is refused. Raises RecipeError.
    """

    def __init__(
        self,
        recipe: Recipe,
        num_classes: int,
        total_steps: int | None = None,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
        verbose: bool = True,
    ) -> None:
        super().__init__(device=device, dtype=dtype, verbose=verbose)
        if recipe.train.ema:
            raise RecipeError(
                "train.ema: inside timm's loop the averaged weights are timm's; drop it and use setup_ema()"
            )
        self.splits = splits_of(recipe)
        self.trainable_module: nn.Module = Step(recipe, num_classes, total_steps).to(self.device)

    @property
    def step(self) -> Step:
        """The step, without what timm wrapped it in."""
        module = self.trainable_module
        return module.module if isinstance(module, nn.parallel.DistributedDataParallel) else module  # type: ignore[return-value]

    def prepare_distributed(self, device_ids: list[int] | None = None, **ddp_kwargs: Any) -> ViewsTask:
        """Wraps the step in DistributedDataParallel."""
        self.trainable_module = nn.parallel.DistributedDataParallel(
            self.trainable_module, device_ids=device_ids, **ddp_kwargs
        )
        return self

    def compile(self, backend: str = "inductor", mode: str | None = None, **compile_kwargs: Any) -> nn.Module:
        """Compiles the backbones in place."""
        for name in self.step.branches:
            self.step.branch(name).backbone.compile(backend=backend, mode=mode, **compile_kwargs)
        return self.get_eval_model()

    def get_eval_model(self, module: nn.Module | None = None, ema: bool = False) -> nn.Module:
        """A module from pixels in [0, 1] to class scores, for timm's validation."""
        step = module or (self.trainable_module_ema.module if ema else self.step)
        return Scores(step)  # type: ignore[arg-type]

    def forward(self, input: Tensor, target: Tensor) -> dict[str, Tensor]:
        """input: [splits*B, 3, H, W] in [0, 1], split by split; target: [splits*B]; output: the first view's scores.

        Raises ManyviewError in training mode while something waits for updates and no optimiser is attached.
        """
        if self.training and self.step.waits_for_updates and not self.step.attached:
            raise ManyviewError(
                "ViewsTask: no optimiser is attached, so weights of relations, EMAs and queues would stand still; "
                "call task.step.attach(optimizer) once, before training"
            )
        parts = input.chunk(len(self.splits))
        labels = target[: len(parts[0])]
        by_view: dict[str, list[Tensor]] = {}
        for (name, _), part in zip(self.splits, parts, strict=True):
            by_view.setdefault(name, []).append(part)
        views = {
            name: View(interleave(members), {}, labels.repeat_interleave(len(members), dim=0), len(members))
            for name, members in by_view.items()
        }
        result = self.trainable_module(views)
        # timm measures accuracy on `output` against all of `target`
        output = result["output"].repeat(len(parts), 1) if result["output"] is not None else None
        return {"loss": result["loss"], "output": output, **result["terms"]}


@final
class Scores(nn.Module):
    """Class scores [B, classes] of pixels in [0, 1] [B, 3, H, W] by a trained step."""

    def __init__(self, step: Step) -> None:
        super().__init__()
        self.step = step

    def forward(self, pixels: Tensor) -> Tensor:
        head = self.step.classifier
        if head is None:
            raise RecipeError("this recipe trains no classifier for timm to validate")
        branch = self.step.main
        members = branch.members(head)
        return branch.read(pixels, [head])[head][:, ::members]
