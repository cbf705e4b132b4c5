"""A recipe in Lightning's Trainer: a module around `Step`, and a data module with the batches of `manyview train`.

    data = ViewsData(recipe)                        # or ViewsData(recipe, data={"train": dataset, "val": …})
    module = ViewsModule(recipe, data.num_classes)
    trainer = Trainer(**trainer_flags(recipe))
    trainer.fit(module, data)

Views, order, dropout and lr are functions of seed, epoch and update, so losses are those of `manyview train`, and a run
that goes on from a checkpoint, in the midst of an epoch too, is the one that was not interrupted. Needs `lightning` or
`pytorch_lightning`; of both, the one that is imported already.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import closing
from functools import cached_property
from importlib import import_module
from typing import Any, final

import torch
from torch import Tensor, nn

from manyview.data import Splits, check_labels, open_splits
from manyview.data.loader import Batch, stream
from manyview.data.mark import marks_of
from manyview.data.render import choose_rendering
from manyview.errors import ManyviewError, RunError, warn
from manyview.evaluate.evaluate import check_model, check_protocols, evaluate, while_training, with_accuracy
from manyview.evaluate.features import Features
from manyview.evaluate.model import StepModel
from manyview.evaluate.on_one_set import Measure
from manyview.evaluate.online import probe_accuracies
from manyview.evaluate.protocols import parse_protocols
from manyview.foundation.words import a
from manyview.optimize.clip import clipped_together
from manyview.optimize.optimize import clock_of, fixed_parts, make_optimizer, make_schedule
from manyview.optimize.sync_batchnorm import sync_batchnorm
from manyview.optimize.wrapping import refuse_several
from manyview.recipe.batches import batches_of
from manyview.recipe.flat import changes
from manyview.recipe.method import PARTS, check_method, in_a_line, method_of
from manyview.recipe.recipe import Recipe
from manyview.recipe.streams import check_images, read_of
from manyview.show.display import Display
from manyview.step import Step
from manyview.training.parts import check_parts
from manyview.training.prepare import check_teachers, images_together, in_memory, rehearse
from manyview.training.recompute import save_memory
from manyview.training.run import INCIDENTAL
from manyview.training.sharding import refuse_shard
from manyview.views.draws import key_of

NAMES = ("lightning.pytorch", "pytorch_lightning")
KEPT = "manyview"  # what a checkpoint has under this name is ours


def _library() -> Any:
    """Lightning, under the name that the program uses: a Trainer of the one takes no modules of the other."""
    for name in sorted(NAMES, key=lambda name: name not in sys.modules):
        try:
            return import_module(name)
        except ImportError:
            continue
    raise ImportError("manyview.integrations.lightning needs Lightning: pip install 'manyview[lightning]'")


lightning: Any = _library()


def trainer_flags(recipe: Recipe) -> dict[str, Any]:
    """What the recipe says of a run's length, precision and parts of a batch, as arguments of Lightning's Trainer."""
    config = recipe.train
    length = {"max_epochs": config.epochs} if config.steps is None else {"max_epochs": -1, "max_steps": config.steps}
    return {
        **length,
        "precision": "bf16-mixed" if config.precision == "bf16" else "32-true",
        "accumulate_grad_batches": config.accumulate,
        "gradient_clip_val": config.clip,
        "check_val_every_n_epoch": config.evaluate_every,
        "log_every_n_steps": config.log_every,
    }


@final
class ViewsData(lightning.LightningDataModule):
    """The recipe's data, or data sets by split (see `manyview.train`), in the batches that `manyview train` makes.

    Opened at once; `splits`, `num_classes` and `clock` tell of it. Update n is on batch n of the recipe's order,
    whatever the Trainer calls an epoch, and each process of several makes its own part of it, whatever
    `use_distributed_sampler` says. Raises ManyviewError for all that `manyview train` refuses.
    """

    def __init__(self, recipe: Recipe, data: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        self.recipe = recipe if data is None else recipe.on_given_data()
        self.splits: Splits = read_of(self.recipe, open_splits(self.recipe.data, recipe.seed, data))
        self.protocols = parse_protocols(recipe.evaluate, words=recipe.words)
        check_labels(self.splits, recipe.needs_labels, recipe.evaluate)
        check_protocols(self.protocols, self.splits)
        check_images(self.recipe, self.splits)
        self.splits = in_memory(self.splits, recipe.data, Display(quiet=True))
        self.clock = clock_of(recipe.train, self.splits.counts)

    @cached_property
    def method(self) -> dict[str, Any]:
        """What a run must have alike to go on: all that the recipe says of it, and what identifies the images."""
        marks = {f"{name} images": mark for name, mark in marks_of(self.splits).items() if mark is not None}
        told = {name: f"{mark['count']:,} ({mark['digest'][:8]})" for name, mark in marks.items()}
        return {**method_of(self.recipe, (*PARTS, "data", "train"), INCIDENTAL), **told}

    @property
    def num_classes(self) -> int:
        """How many classes the labels have; 0 where there are none."""
        return len(self.splits.classes)

    def train_dataloader(self) -> _Parts:
        """The parts of all batches of an epoch, from where the Trainer stands."""
        return _Parts(self)

    def val_dataloader(self) -> list[str]:
        """One entry, for which the module measures all images of val."""
        return [] if self.splits.val is None else ["val"]

    def test_dataloader(self) -> list[str]:
        """One entry, for which the module measures all images of test."""
        return [] if self.splits.test is None else ["test"]


@final
class _Parts:
    """Parts of batches for one process, as many as an epoch has; an iterable, which Lightning leaves as it is.

    Where it begins follows from the Trainer's count of updates, so that it has no state beside it.
    """

    def __init__(self, data: ViewsData) -> None:
        self._data = data

    def __len__(self) -> int:
        return self._data.clock.steps_per_epoch * self._data.recipe.train.accumulate

    def __iter__(self) -> Iterator[Batch]:
        data, trainer, recipe = self._data, self._data.trainer, self._data.recipe
        device = trainer.strategy.root_device
        rendering = choose_rendering(recipe.data.render, data.splits.streams.values(), device.type)
        rank, world = trainer.global_rank, trainer.world_size
        batches = batches_of(recipe, data.splits, rendering.place, data.num_classes, rank, world)
        seen = trainer.fit_loop.epoch_loop.batch_progress.current.ready  # of this epoch, where it goes on
        start = trainer.global_step * recipe.train.accumulate + seen % recipe.train.accumulate
        pin = device.type == "cuda"
        stop = start + len(self) - seen
        with closing(stream(batches, start, stop, rendering.place, recipe.data.workers, pin)) as parts:
            yield from parts

    def state_dict(self) -> dict[str, Any]:
        """Nothing: what makes Lightning go on in the midst of an epoch."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Nothing to take up."""


@final
class ViewsModule(lightning.LightningModule):
    """A recipe's `Step` as Lightning trains it: automatic optimisation, by the recipe's optimiser and schedule.

    backbone, pretrained: as for `Step`. What follows an update (EMAs, queues, prototypes, weights that change) follows
    the optimiser's own. Logged are `loss`, `terms/…`, `measures/…` and `lr`; on validation `val_…`, what `manyview
    train` measures there: accuracy where something classifies, else kNN; in `Trainer.test` the recipe's protocols, as
    `test_…`.

    The Trainer's flags must be those of the recipe where they change what is learnt (`trainer_flags` has them): other
    parts of a batch are refused with RunError, an optimiser that looks twice (`sam`) with RecipeError; another length,
    precision or clipping is told, and the Trainer's holds. Fed by `ViewsData`.
    """

    def __init__(
        self,
        recipe: Recipe,
        num_classes: int,
        *,
        backbone: nn.Module | Mapping[str, nn.Module] | None = None,
        pretrained: bool = True,
    ) -> None:
        super().__init__()
        refuse_several(recipe.train.optimizer, "Lightning's Trainer")
        refuse_shard(recipe.train, "Lightning's Trainer")
        self.recipe = recipe
        self.step = Step(recipe, num_classes, backbone=backbone, pretrained=pretrained)
        self.step.hold(fixed_parts(recipe.train))
        save_memory(self.step)
        # DDP wraps this module, and reads of it, not of the step, for which gradients not to wait
        self._ddp_params_and_buffers_to_ignore = [f"step.{name}" for name in sorted(self.step.idle)]
        self._set_lr: Any = None
        self._handle: Any = None

    def forward(self, images: Tensor | list[Tensor]) -> dict[str, Tensor]:
        """As `Step.predict`: features `h`, and scores `logits` where something classifies."""
        return self.step.predict(images)

    # ---------------------------------------------------------------------------------------------------- beginning

    def setup(self, stage: str) -> None:
        """Looks at the Trainer's flags and the data, before anything is trained. Raises ManyviewError."""
        data = self._data
        model = StepModel(self.step, data.splits.classes)
        if self.step.classifier:
            check_labels(data.splits, (), ["classify"])
        check_model(data.protocols, model, data.splits)
        if stage != "fit":
            return
        config, trainer = self.recipe.train, self.trainer
        learnt = (*PARTS, "train")
        if changed := changes(method_of(data.recipe, learnt, INCIDENTAL), method_of(self.recipe, learnt, INCIDENTAL)):
            raise RunError(f"ViewsData has another recipe than ViewsModule: {in_a_line(changed)}; give both the same")
        if trainer.accumulate_grad_batches != config.accumulate:
            raise RunError(
                f"Trainer(accumulate_grad_batches={trainer.accumulate_grad_batches}), but train.accumulate is "
                f"{config.accumulate}: a recipe's batch of {config.batch_size} is cut into its parts; say both alike, "
                f"and for larger batches train.batch_size, or write Trainer(**trainer_flags(recipe))"
            )
        if trainer.overfit_batches:
            raise RunError(
                "Trainer(overfit_batches=…): each epoch has an order of its own; say data.limit in the recipe"
            )
        flags = trainer_flags(self.recipe)
        for flag, have in (("gradient_clip_val", trainer.gradient_clip_val), ("precision", trainer.precision)):
            if have != flags[flag]:
                self._tell(f"Trainer({flag}={have!r}), where the recipe would have {flags[flag]!r}")
        self.step.total_steps = data.clock.steps
        together = images_together(config, data.splits.counts, trainer.world_size)
        check_teachers(self.step, data.splits.classes)
        rehearse(self.step, data.splits, together)
        if config.sync_batchnorm:
            sync_batchnorm(self.step, trainer.world_size, trainer.strategy.root_device)
        check_parts(self.step, trainer.world_size, together)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """The recipe's, with what follows its updates attached; the schedule sets lr before each."""
        optimizer = make_optimizer(self.recipe.train, self.step)
        self._set_lr = make_schedule(self.recipe.train, optimizer, self._data.clock)
        if self._handle is not None:
            self._handle.remove()  # of another fit
        self._handle = self.step.attach(optimizer)
        return optimizer

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """By the Trainer's flags; by norm as `manyview train` does, see `optimize.clip`."""
        apart = clipped_together(self.step) if gradient_clip_val and gradient_clip_algorithm in (None, "norm") else ()
        if gradient_clip_val and len(apart) > 1:
            for together in apart:
                torch.nn.utils.clip_grad_norm_(together, gradient_clip_val)
        else:
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def on_train_start(self) -> None:
        """Tells if the Trainer's run has another length than the schedule; compiles where the recipe says so."""
        steps = self.trainer.estimated_stepping_batches
        if steps != self.step.total_steps:
            self._tell(f"the Trainer's run has {steps:,} updates, and the recipe's schedule {self.step.total_steps:,}")
        if self.recipe.train.compile:
            self.step.compile_parts()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """A checkpoint says by which recipe it was trained, and on which images."""
        checkpoint[KEPT] = self._data.method

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Raises RunError where a run would go on by another recipe, or weights would come into other branches.

        A run that goes on is one that a Trainer fits; else weights are looked at, or begun from, whatever trained them.
        """
        kept, trainer = checkpoint.get(KEPT), getattr(self, "_trainer", None)
        goes_on = trainer is not None and trainer.state.fn == "fit"
        if isinstance(kept, Mapping):
            now = self._data.method if goes_on else method_of(self.recipe)
            asked = "" if goes_on else "branches."
            before, now = ({key: value for key, value in each.items() if key.startswith(asked)} for each in (kept, now))
            check_method(before, now, "give the one it was trained with, or begin anew without ckpt_path=")
        elif goes_on:
            raise RunError(
                "the checkpoint does not say by which recipe it was trained, so it is none of ViewsModule's; begin "
                "anew without ckpt_path="
            )

    # ----------------------------------------------------------------------------------------------------- training

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """lr, and what is random inside the networks, follow the update."""
        if batch_idx % self.recipe.train.accumulate == 0:
            number = self.trainer.global_step
            self.log("lr", self._set_lr(number), batch_size=1)
            torch.manual_seed(key_of(self.recipe.seed, number, self.trainer.global_rank, "networks")[0])

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The loss of a part of a batch; logs its terms, and tells of images that could not be read."""
        if not isinstance(batch, Batch):
            raise ManyviewError(f"ViewsModule is fed by ViewsData, got {a(type(batch).__name__)} of another loader")
        output = self.step(batch)
        terms = {f"terms/{name}": value.detach() for name, value in output["terms"].items()}
        terms |= {f"measures/{name}": value for name, value in output["measures"].items()}
        self.log_dict({"loss": output["loss"].detach(), **terms}, batch_size=len(batch.index))
        for line in batch.unread:
            self._tell(f"skipped: {line}")
        return output["loss"]

    # --------------------------------------------------------------------------------------------------- evaluation

    def validation_step(self, batch: str, batch_idx: int) -> None:
        """Measures val as `manyview train` does."""
        usual = while_training(with_accuracy(self._data.protocols, self.step), self.step, self._data.splits)[1]
        self._measure("val", usual)

    def test_step(self, batch: str, batch_idx: int) -> None:
        """Measures test by the recipe's protocols."""
        self._measure("test", with_accuracy(self._data.protocols, self.step))

    def _measure(self, split: str, protocols: list[Measure]) -> None:
        data = self._data
        skipped: list[str] | None = [] if self.recipe.data.on_bad_image == "skip" else None
        model, workers = StepModel(self.step, data.splits.classes), self.recipe.data.workers
        features = Features(model, data.splits, seed=self.recipe.seed, skipped=skipped, workers=workers)
        measures = evaluate(features, split, protocols)
        measures |= probe_accuracies(self.step, features, split) if split == "val" else {}
        self.log_dict({f"{split}_{name}": value for name, value in measures.items()}, batch_size=1)
        for line in skipped or ():
            self._tell(f"skipped: {line}")

    # ------------------------------------------------------------------------------------------------------ helpers

    @property
    def _data(self) -> ViewsData:
        data = self.trainer.datamodule
        if not isinstance(data, ViewsData):
            raise ManyviewError("ViewsModule is fed by ViewsData: trainer.fit(module, ViewsData(recipe, data=…))")
        return data

    def _tell(self, line: str) -> None:
        if self.trainer.is_global_zero:
            warn(line)


__all__ = ["ViewsData", "ViewsModule", "trainer_flags"]
