"""Fine-tuning: the whole network and a new linear layer, trained on some or all labels of the training images.

With 1 % and 10 % of the labels it is the semi-supervised test of SimCLR (Chen et al., ICML 2020, appendix B.5) and BYOL
(Grill et al., NeurIPS 2020, appendix D): SGD with momentum, no weight decay, a schedule to zero, crops and flips.
Rates that fall from layer to layer are those of BEiT (Bao et al., ICLR 2022), over the layers that timm tells apart.

Unlike there, no rate is chosen on what is then reported, nor on more labels than the fraction's, and which images have
labels is a function of the seed: those of 1 % are among those of 10 %, and each class has its share.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from manyview.data import Images, Splits, Subset, hold_out, labelled, preload
from manyview.data.loader import Batches, read_images
from manyview.data.loader import stream as open_stream
from manyview.data.once import place_for
from manyview.data.splits import thin_out
from manyview.errors import DataError, ManyviewError, unknown
from manyview.evaluate.accuracy import accuracy
from manyview.evaluate.linear import HELD_OUT, METRICS
from manyview.evaluate.linear_sgd import check_rates, table_of_rates
from manyview.evaluate.model import Model, Trunk
from manyview.evaluate.report import Report
from manyview.foundation.vocabulary import NONE, Words
from manyview.foundation.words import counted
from manyview.optimize.optimize import clock_of, make_schedule
from manyview.recipe.settings import Train
from manyview.views.draws import key_of
from manyview.views.ops.op import Retargets, check_kind, check_not_negative, check_whole
from manyview.views.plan import PlannedView, ViewSpec, mixes, plan_views

if TYPE_CHECKING:
    from manyview.evaluate.features import Features

OPTIMIZERS: Mapping[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": lambda groups, lr: torch.optim.SGD(groups, lr=lr, momentum=0.9),
    "adamw": lambda groups, lr: torch.optim.AdamW(groups, lr=lr),
}
SCHEDULE = "cosine(warmup=0.1)"
SMALL = 64
"""Pixels of a side, up to which images are padded and shifted instead of cut out and enlarged."""
VIEW = "seen"
MEMORY = 2**30


@dataclass(frozen=True)
class Finetune:
    """Accuracy after the whole backbone and a new linear layer were trained on labels of the training images.

    fraction: of the labelled training images, 1.0, 0.1 or 0.01: the same for a seed, nested, each class with its share.
    lr: one rate or several, of which one is chosen by the metric, `top1` or `class_mean`: for test on the same fraction
    of val (`val_labels` tells how many), for val, or without a val, on a tenth of those labels, which then is not
    trained on. So no more labels are looked at than the fraction of all. The rate rises over a tenth of the steps
    and falls to 0 as a cosine. layer_decay: its factor from a layer to the one below. optimizer: `sgd`, with momentum
    0.9, or `adamw`. augment: ops as a recipe writes them; by default `pad_crop | flip` for images of the size that the
    network looks at, if that is at most 64 pixels, else `crop | flip`.
    """

    fraction: float = 1.0
    epochs: int = 30
    lr: float | tuple[float, ...] = 0.01
    layer_decay: float = 1.0
    batch_size: int = 64
    weight_decay: float = 0.0
    optimizer: str = "sgd"
    augment: str | None = None
    metric: str = "top1"
    words: Words = field(default=NONE, repr=False, compare=False, kw_only=True)

    def __post_init__(self) -> None:
        if isinstance(self.lr, list):
            object.__setattr__(self, "lr", tuple(self.lr))
        for name, value in (("fraction", self.fraction), ("layer_decay", self.layer_decay)):
            if type(value) not in (int, float) or not 0 < value <= 1:
                raise ValueError(f"{name} must be more than 0 and at most 1, got {value!r}")
        check_rates(self.lr)
        check_whole("epochs", self.epochs)
        check_whole("batch_size", self.batch_size)
        check_not_negative("weight_decay", self.weight_decay)
        if self.optimizer not in OPTIMIZERS:
            raise ValueError(unknown("optimizer", str(self.optimizer), OPTIMIZERS))
        if self.metric not in METRICS:
            raise ValueError(unknown("metric", str(self.metric), METRICS))
        check_kind("augment", self.augment, str | None, "ops in quotes")
        if self.augment is not None:
            _plan(self.augment, self.words)

    def check(self, splits: Splits) -> None:
        """Raises DataError for a fraction that leaves a class without an image, or none to hold out."""
        labels = splits.train.labels[splits.train.labels >= 0]
        count, present = round(self.fraction * len(labels)), len(np.unique(labels))
        if present < 2:
            raise DataError(
                f"finetune: training images with labels are of {counted(present, 'class')}; at least two are needed"
            )
        if count < present:
            raise DataError(
                f"finetune(fraction={self.fraction:g}): that is {count} of {len(labels):,} labelled training images, "
                f"for {present} classes; the least is fraction={math.ceil(1e4 * present / len(labels)) / 1e4:g}"
            )
        several = len(set(check_rates(self.lr))) > 1
        if several and (splits.val is None or splits.test is None) and count == present:
            raise DataError(
                f"finetune(lr={self.lr}): {count} labels of {present} classes leave none to choose a rate by; give one"
            )

    def measure(self, features: Features, split: str) -> Report:
        """The accuracy, how many labels were trained on, and the rate; a table of what each had on those held out."""
        judged = features.images(split)
        if not (judged.labels >= 0).any():
            raise DataError(f"split '{split}' has no labelled images to judge by")
        images = labelled_part(features.images("train"), self.fraction, features.seed)
        rates, held = sorted(set(check_rates(self.lr))), None
        if len(rates) > 1:
            images, held = self._held_out(features, images, split)
        found: dict[float, float] = {}
        best: tuple[float, nn.Module] | None = None
        for lr in rates:
            network = self._train(features, images, lr)
            found[lr] = self._accuracy(features, network, judged if held is None else held)
            if not math.isnan(found[lr]) and (best is None or found[lr] > found[best[0]]):
                best = lr, network
        if best is None:
            raise DataError(f"finetune: the weights do not stay finite at lr={self.lr}; lower it")
        reached = found[best[0]] if held is None else self._accuracy(features, best[1], judged)
        tables = {} if held is None else {"rates": table_of_rates(found, f"{self.metric} on the images held out")}
        measures = {"": reached, "labels": float(len(images)), "lr": best[0]}
        if held is not None and split == "test" and features.splits.val is not None:
            measures["val_labels"] = float(len(held))
        return Report(measures, tables)

    def _held_out(self, features: Features, images: Images, split: str) -> tuple[Images, Images]:
        """Images to train on, and others to choose a rate by."""
        if split == "test" and features.splits.val is not None:
            known = labelled(features.splits.val)
            count = max(1, round(self.fraction * len(known)))
            if count == len(known):
                return images, known
            _, some = hold_out(known.labels, count, features.seed, "finetune")
            return images, Subset(known, some if len(some) else np.arange(count))
        count = max(1, round(HELD_OUT * len(images)))
        rest, out = hold_out(images.labels, count, features.seed, "finetune")
        return Subset(images, rest), Subset(images, out)

    def _train(self, features: Features, images: Images, lr: float) -> nn.Module:
        """A copy of the model's backbone with a linear layer, trained at one rate."""
        model, seed, skip = features.model, features.seed, features.skipped is not None
        seen = _seen(features.model, images, skip)
        config = Train(epochs=self.epochs, batch_size=self.batch_size, schedule=SCHEDULE)
        clock = clock_of(config, len(images))
        batches = Batches(
            images=preload(images, MEMORY),
            batch_size=self.batch_size,
            steps_per_epoch=clock.steps_per_epoch,
            seed=seed,
            views=_plan(self.augment or _usual_ops(images, seen), self.words),
            classes=features.classes,
            skip=skip,
        )
        cuda = [model.device] if model.device.type == "cuda" else []
        exact = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True)
        with torch.random.fork_rng(devices=cuda), exact:
            torch.manual_seed(key_of(seed, "finetune")[0])
            trunk = model.trainable()
            with torch.no_grad():
                width = trunk.eval()(seen).shape[1]
            head = nn.Linear(width, features.classes).to(model.device)
            network = nn.Sequential(trunk, head).train()
            groups = layer_groups(trunk, head, self.weight_decay, self.layer_decay)
            optimizer = OPTIMIZERS[self.optimizer](groups, lr=lr)
            set_lr = make_schedule(config, optimizer, clock)
            place, patience = place_for(batches.images, features.workers), features.patience
            stream = open_stream(batches, 0, clock.steps, place, features.workers, patience=patience)
            watched = features.watch(f"finetune, lr {lr:g}", clock.steps, "steps")
            with contextlib.closing(stream), watched as tick:
                for number, batch in enumerate(stream):
                    set_lr(number)
                    torch.manual_seed(key_of(seed, number, "finetune")[0])  # what is random inside, such as dropout
                    assert isinstance(batch.images, dict)
                    assert batch.labels is not None
                    pixels = batch.images[VIEW].pixels.to(model.device)
                    loss = F.cross_entropy(network(pixels), batch.labels.to(model.device))
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
                    tick(number + 1, clock.steps)
                    if features.skipped is not None:
                        features.skipped += [line for line in batch.skipped if line not in features.skipped]
        return network.eval()

    @torch.no_grad()
    def _accuracy(self, features: Features, network: nn.Module, images: Images) -> float:
        """The accuracy on labelled images in percent; nan where scores are not finite."""
        scores, labels = [], []
        for batch, kept in features.batches(images, np.flatnonzero(images.labels >= 0), watch="finetune"):
            scores.append(network(features.model.prepare(batch)).cpu())
            labels.append(torch.from_numpy(images.labels[kept]))
        if not labels:
            raise DataError(f"finetune: none of {len(images)} images that judge could be read")
        whole = torch.cat(scores)
        return accuracy(whole, torch.cat(labels))[self.metric] if bool(whole.isfinite().all()) else math.nan


def _seen(model: Model, images: Images, skip: bool) -> Tensor:
    """What the network looks at, of the first image that can be read: [1, 3, h, w]."""
    for position in range(len(images)):
        batch, kept, _ = read_images(images, np.array([position]), skip)
        if len(kept):
            return model.prepare(batch)
    raise DataError(f"finetune: none of {len(images)} training images can be read")


def _usual_ops(images: Images, seen: Tensor) -> str:
    """Ops that end in the size that the network looks at."""
    height, width = seen.shape[-2:]
    if images.size == (height, width) and max(height, width) <= SMALL:
        return f"pad_crop(({height}, {width}), padding={max(1, min(height, width) // 8)}) | flip(0.5)"
    return f"crop(({height}, {width})) | flip(0.5)"


def labelled_part(images: Images, fraction: float, seed: int) -> Images:
    """A fraction of the labelled images: random, a class's share being its share of all, at least one of each.

    A function of the labels, the fraction and the seed. Fractions nest: the images of 0.01 are among those of 0.1.
    Raises DataError where that is fewer than there are classes.
    """
    known = labelled(images)
    if fraction == 1:
        return known
    labels = known.labels
    kept, _ = thin_out(labels, np.arange(len(labels)), (), _Limit(round(fraction * len(labels))), seed)
    return Subset(known, kept)


def layer_groups(trunk: Trunk, head: nn.Linear, weight_decay: float, layer_decay: float) -> list[dict[str, Any]]:
    """Parameter groups {params, weight_decay, scale}: the head's and the last layer's scale is 1, and each layer
    below has `layer_decay` times that of the one above.

    Layers are those of timm's `group_matcher`, in a ResNet the stem and each block. Biases, norms, and what the
    backbone names in `no_weight_decay` do not decay.
    """
    from timm.optim import param_groups_layer_decay

    spared: set[str] = getattr(trunk.backbone, "no_weight_decay", set)()
    made = param_groups_layer_decay(trunk.backbone, weight_decay, spared, layer_decay=layer_decay)
    groups = [
        {"params": each["params"], "weight_decay": each["weight_decay"], "scale": each["lr_scale"]} for each in made
    ]
    groups.append({"params": [head.weight], "weight_decay": weight_decay, "scale": 1.0})
    groups.append({"params": [head.bias], "weight_decay": 0.0, "scale": 1.0})
    return groups


@dataclass(frozen=True)
class _Limit:
    """So many images in all, as `thin_out` is told."""

    limit: int | None
    val_fraction: float = 0.0
    labels_per_class: int | None = None
    imbalance: float | None = None


def _plan(augment: str, words: Words) -> dict[str, PlannedView]:
    """The one view that is trained on. Raises ValueError for ops that cannot be read."""
    try:
        plan = plan_views({VIEW: ViewSpec.model_validate({"from": "image", "make": augment})}, words)
    except ManyviewError as error:
        raise ValueError(f"augment: {str(error).partition(': ')[2]}") from None
    if mixes(plan):
        raise ValueError("augment: ops that mix images and labels are not for fine-tuning")
    if any(isinstance(planned.op, Retargets) for view in plan.values() for planned in view.ops):
        raise ValueError("augment: ops that soften labels are not for fine-tuning")
    return plan
