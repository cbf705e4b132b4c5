"""timm's protocol of a training task around a `Step`: the model that timm made is trained, and is what timm keeps."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, final

import torch
from timm.task import TrainingTask
from timm.utils.model_ema import ModelEmaV3
from torch import Tensor, nn

from manyview.branches.spec import LOGITS
from manyview.branches.timm_arguments import timm_options
from manyview.branches.timm_models import timm_model
from manyview.errors import ManyviewError, ManyviewWarning, RecipeError, RunError
from manyview.foundation.words import a, few
from manyview.integrations.timm.batch import ViewsBatch
from manyview.optimize.clip import clipped_together
from manyview.optimize.wrapping import refuse_several
from manyview.recipe.method import check_method, method_of
from manyview.recipe.recipe import Recipe
from manyview.recipe.streams import refuse_streams
from manyview.step import Step
from manyview.training.recompute import save_memory
from manyview.training.sharding import refuse_shard

LOGGER = logging.getLogger(__name__)


@final
class ViewsTask(TrainingTask):
    """A recipe's views and losses on timm's model: (batch of a `ViewsLoader`, labels) in, {"loss", "output", …} out.

    model: as `timm.create_model` gives it, its classifier too; the very object is trained, validated and saved, under
    its own keys, while heads, EMA teachers, queues and the count of updates are the task's state. Without one, the
    recipe's backbone is made, with num_classes. total_steps: updates in the run, for weights that follow a schedule.
    mean, std: how the network's input is normalised, of pixels in [0, 1]; by default as the recipe or the model says
    (`normalization`). Give them to the loader of validation, too. device: by default the model's.

    Where an EMA, a queue or a changing weight waits for updates, training needs `task.step.attach(optimizer)`, once.
    Averaged weights are timm's (`setup_ema`), so `train.ema` is refused, and so is an optimiser that looks
    twice, `sam(…)`. Raises RecipeError and ManyviewError.
    """

    def __init__(
        self,
        recipe: Recipe,
        num_classes: int | None = None,
        total_steps: int | None = None,
        *,
        model: nn.Module | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
        verbose: bool = True,
    ) -> None:
        where = None if model is None else next((each.device for each in model.parameters()), None)
        super().__init__(device=device or where, dtype=dtype, verbose=verbose)
        if dtype not in (None, torch.float32):
            raise ManyviewError(f"dtype: weights are kept in float32, not {dtype}; train in bfloat16 by autocast")
        refuse_several(recipe.train.optimizer, "timm's script")
        refuse_streams(recipe, "timm's train.py")
        refuse_shard(recipe.train, "timm's script")
        if recipe.train.ema:
            raise RecipeError(
                "train.ema: inside timm's loop the averaged weights are timm's; drop it and use setup_ema(), "
                "or --model-ema in its script"
            )
        if model is None:
            model = _named(recipe, num_classes)
        classes = num_classes or int(getattr(model, "num_classes", 0))
        with warnings.catch_warnings():
            # of a joint head (SLA) it follows, and where nothing classifies that is told below
            warnings.filterwarnings("ignore", ".*which no relation reads", ManyviewWarning)
            if mean is not None and std is not None:  # which tell what the model does not
                warnings.filterwarnings("ignore", ".*so pixels are normalised by", ManyviewWarning)
            step = Step(recipe, classes, total_steps, backbone=model)
        save_memory(step)
        if step.classifier is not None and step.main.reader.classifier is None:
            raise ManyviewError(
                "ViewsTask: the model has no classifier for this recipe to train; create it with num_classes=…"
            )
        self.renormalized = _normalize(step, mean, std) and step.main.spec.normalize is not None
        self._path = next(name for name, module in step.named_modules(remove_duplicate=False) if module is model)
        self.trainable_module: nn.Module = step.to(self.device)
        self._follow_joint_head()

    @property
    def step(self) -> Step:
        """The step, without what timm wrapped it in."""
        module = self.trainable_module
        return module.module if isinstance(module, nn.parallel.DistributedDataParallel) else module  # type: ignore[return-value]

    @property
    def model(self) -> nn.Module:
        """timm's model."""
        return self.step.get_submodule(self._path)

    @property
    def normalization(self) -> dict[str, tuple[float, ...]]:
        """{"mean", "std"} of the network's input, as `timm.data.create_loader` takes them."""
        branch = self.step.main
        return {"mean": tuple(branch.mean.flatten().tolist()), "std": tuple(branch.std.flatten().tolist())}

    @property
    def classifies(self) -> bool:
        """Whether the recipe trains a classifier; else timm's own is left as it is."""
        return self.step.classifier is not None

    # ------------------------------------------------------------------------------------------- timm's protocol

    def forward(self, input: ViewsBatch, target: Tensor) -> dict[str, Any]:
        """The loss, its terms, and class scores [B, classes] of the first view (None where nothing classifies).

        Raises ManyviewError for a batch that is no `ViewsBatch`, and in training mode while something waits for updates
        and no optimiser is attached.
        """
        if not isinstance(input, ViewsBatch):
            raise ManyviewError(
                f"ViewsTask: the batch is {a(type(input).__name__)}, not views; "
                "iterate over ViewsLoader(loader, recipe, num_classes)"
            )
        if self.training and self.step.waits_for_updates and not self.step.attached:
            raise ManyviewError(
                "ViewsTask: no optimiser is attached, so weights of relations, EMAs and queues would stand still; "
                "call task.step.attach(optimizer) once, before training"
            )
        result = self.trainable_module(dict(input.views))
        return {"loss": result["loss"], "output": result["output"], **result["terms"]}

    def prepare_distributed(self, device_ids: list[int] | None = None, **ddp_kwargs: Any) -> ViewsTask:
        """Wraps the step in DistributedDataParallel."""
        devices = None if self.device.type == "cpu" else device_ids  # torch wants none for the CPU
        self.trainable_module = nn.parallel.DistributedDataParallel(
            self.trainable_module, device_ids=devices, **ddp_kwargs
        )
        return self

    def compile(self, backend: str = "inductor", mode: str | None = None, **compile_kwargs: Any) -> nn.Module | None:
        """Compiles the networks in place."""
        for name in self.step.branches:
            self.step.branch(name).backbone.compile(backend=backend, mode=mode, **compile_kwargs)
        return self.get_eval_model()

    def setup_ema(
        self, decay: float = 0.9999, use_warmup: bool = False, device: torch.device | None = None, **kwargs: Any
    ) -> nn.Module:
        """An average of the model's weights, for evaluation."""
        self.trainable_module_ema = ModelEmaV3(self.model, decay, use_warmup=use_warmup, device=device, **kwargs)
        return self.trainable_module_ema

    def update_ema(self, step: int | None = None) -> None:
        """What timm's script calls behind every update."""
        self._follow_joint_head()
        if self.has_ema():
            self.trainable_module_ema.update(self.model, step=step)

    def get_clip_parameters(self, exclude_head: bool = False) -> list[nn.Parameter]:
        """All that is trained, but for heads that look on behind a stop; exclude_head: and for the classifier."""
        head = self.step.classifier if exclude_head else None
        left = set() if head is None else {*self.step.main.head(head).parameters()}
        return [each for each in clipped_together(self.step)[0] if each.requires_grad and each not in left]

    def get_eval_model(self, module: nn.Module | None = None, ema: bool = False) -> nn.Module | None:
        """timm's model, or its average: normalised pixels in, class scores out."""
        self._follow_joint_head()
        if module is not None or ema:
            return super().get_eval_model(module, ema)
        return self.model

    def get_task_state(self, module: nn.Module | None = None, ema: bool = False) -> dict[str, Any]:
        """All of the step but timm's model, and the recipe."""
        if ema:
            return {}
        state = {name: value for name, value in self.step.state_dict().items() if not self._is_models(name)}
        return {"step": state, "recipe": method_of(self.step.recipe)}

    def load_task_state(
        self,
        state: dict[str, Any] | None,
        strict: bool = True,
        module: nn.Module | None = None,
        ema: bool = False,
    ) -> None:
        """What `get_task_state` gave. Raises RunError where another recipe's views, networks or losses gave it.

        Another recipe's are those of other words of one's own, too; and a state may be of another task.

        A checkpoint without it, as of training without a recipe, gives the weights alone, which is told.
        """
        if ema:
            return
        if not state:
            LOGGER.warning(
                "manyview: the checkpoint holds timm's model alone; heads, EMA teachers, queues and the count of "
                "updates begin anew"
            )
            self._begin_emas()
            return
        cure = "or begin anew from its weights (--initial-checkpoint)"
        kept, weights = state.get("recipe"), state.get("step")
        if not isinstance(kept, Mapping) or not isinstance(weights, Mapping):
            raise RunError(
                f"the checkpoint's task_state is of another task ({few([*map(str, state)])}), not of a recipe; resume "
                f"with the one that it was trained with, {cure}"
            )
        check_method(kept, method_of(self.step.recipe), f"resume with the one it was trained with, {cure}")
        try:
            found = self.step.load_state_dict(weights, strict=False)
        except RuntimeError as error:
            told = str(error).splitlines()[-1].strip()
        else:
            lacking = [name for name in found.missing_keys if not self._is_models(name)] + found.unexpected_keys
            told = lacking[0] if strict and lacking else ""
        if told:
            raise RunError(
                f"the checkpoint's state does not fit this recipe: {told}; resume with the recipe and the model that "
                "it was trained with"
            )

    # ------------------------------------------------------------------------------------------------------- inside

    def _is_models(self, name: str) -> bool:
        return name.startswith(f"{self._path}.")

    def _begin_emas(self) -> None:
        for name in self.step.branches:
            ema = self.step.branch(name).spec.ema
            if ema is not None:
                self.step.branch(name).begin_as(self.step.branch(ema.of.text))

    @torch.no_grad()
    def _follow_joint_head(self) -> None:
        """Where a joint head alone classifies (SLA), timm's classifier is its rows of the untransformed image."""
        head, branch = self.step.classifier, self.step.main
        if head is None or head == LOGITS:
            return
        joint, classifier = branch.heads[head], self.model.get_submodule(str(branch.reader.classifier))
        for name, value in classifier.named_parameters():
            value.copy_(joint.get_parameter(name)[:: branch.members(head)])


def _named(recipe: Recipe, num_classes: int | None) -> nn.Module:
    """The recipe's backbone as timm's model, with its classifier."""
    spec = next(spec for spec in recipe.branch_plan.values() if spec.learns)
    where = f"branches.{spec.name}.backbone"
    if num_classes is None:
        raise ManyviewError("ViewsTask: num_classes says how many classes the labels have, where no model is given")
    options, small = timm_options(spec.backbone, where, recipe.data.channels or 3)
    model: nn.Module = timm_model(spec.backbone.name, {**options, "num_classes": num_classes}, small)
    return model


def _normalize(step: Step, mean: Sequence[float] | None, std: Sequence[float] | None) -> bool:
    """Every branch normalises so, but for frozen ones, where it is said; whether that is another way than before."""
    changed = False
    for branch in (step.branch(name) for name in step.branches if step.branch(name).spec.frozen is None):
        for given, kept in ((mean, branch.mean), (std, branch.std)):
            if given is not None:
                wanted = torch.tensor(_of_channels(given, kept.shape[1])).reshape(kept.shape).to(kept)
                changed |= not torch.equal(wanted, kept)
                kept.copy_(wanted)
    return changed


def _of_channels(numbers: Sequence[float], channels: int) -> list[float]:
    """One number a channel; as in timm's loader their mean, where there are other channels than numbers."""
    return list(numbers) if len(numbers) == channels else [sum(numbers) / len(numbers)] * channels
