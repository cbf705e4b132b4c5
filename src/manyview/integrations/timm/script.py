"""From the arguments of timm's train.py to a recipe's loader and task; what a recipe replaces is refused."""

from __future__ import annotations

import logging
import math
import sys
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NoReturn

import torch
from timm.data import resolve_data_config
from timm.layers import convert_sync_batchnorm
from timm.scheduler import create_scheduler_v2, scheduler_kwargs
from timm.utils import is_primary
from torch import nn

from manyview.errors import ManyviewError
from manyview.foundation.words import counted
from manyview.integrations.timm.loader import ViewsLoader
from manyview.integrations.timm.task import ViewsTask
from manyview.load import load_recipe
from manyview.recipe.recipe import Recipe
from manyview.training.prepare import check_sizes

LOGGER = logging.getLogger(__name__)

# flags of timm's script that would have no effect beside a recipe, or another, and the values that ask for nothing
_VIEWS: dict[str, tuple[Any, ...]] = {
    "no_aug": (False,),
    "train_crop_mode": (None,),
    "scale": ([0.08, 1.0],),
    "ratio": ([3 / 4, 4 / 3],),
    "hflip": (0.5,),
    "vflip": (0.0,),
    "color_jitter": (0.4,),
    "color_jitter_prob": (None,),
    "grayscale_prob": (None,),
    "gaussian_blur_prob": (None,),
    "aa": (None,),
    "aug_repeats": (0,),
    "aug_splits": (0,),
    "reprob": (0.0,),
    "remode": ("pixel",),
    "recount": (1,),
    "resplit": (False,),
    "mixup": (0.0,),
    "cutmix": (0.0,),
    "cutmix_minmax": (None,),
    "mixup_prob": (1.0,),
    "mixup_switch_prob": (0.5,),
    "mixup_mode": ("batch",),
    "mixup_off_epoch": (0,),
    "train_interpolation": ("random",),
}
_LOSSES: dict[str, tuple[Any, ...]] = {
    "smoothing": (0.1, 0.0, None),
    "loss": (None,),
    "loss_class_weight": (None,),
    "loss_pos_weight": (None,),
    "jsd_loss": (False,),
    "bce_loss": (False,),
    "bce_sum": (False,),
    "bce_target_thresh": (None,),
    "bce_pos_weight": (None,),
    "kd_model_name": (None,),
    "task": ("classification",),
}
_OTHERS: dict[str, tuple[Any, ...]] = {
    "model_dtype": (None, "float32"),
    "naflex_loader": (False,),
    "train_img_sizes": (None,),
    "use_multi_epochs_loader": (False,),
    "split_bn": (False,),
    "torchscript": (False,),
    "save_images": (False,),
}
_REFUSED = (
    (_VIEWS, "the recipe's views are its augmentation: drop {}, or say it in the recipe, views.NAME.make=…"),
    (_LOSSES, "the recipe's relations are its losses: drop {}, or say it in the recipe, relations"),
    (_OTHERS, "beside a recipe these cannot be had: drop {}"),
)


def from_args(args: Namespace, model: nn.Module, loader: Any) -> tuple[ViewsLoader, ViewsTask]:
    """The training loader and the task of a recipe, for timm's train.py.

    args: the script's, with `recipe`, a list: the name or file of a recipe, overrides `key=value`, and words of one's
    own, `use=FILE`. model: as the script made it. loader: its training loader, whose order and workers are kept.
    Normalisation is timm's (--mean, --std, or the model's own), as in its validation. Mistakes end the script with one
    line and exit code 2; those that it meets later, as in a checkpoint to resume, with one line, too.
    """
    if getattr(sys.excepthook, "func", None) is not _one_line:  # once, however often a script calls
        sys.excepthook = partial(_one_line, sys.excepthook)
    try:
        return _from_args(args, model, loader)
    except ManyviewError as error:
        _leave(str(error))


def _one_line(others: Callable[..., Any], kind: type[BaseException], error: BaseException, trace: Any) -> None:
    """Python's last word on what nobody caught: a user's mistake needs no traceback."""
    if isinstance(error, ManyviewError):
        print(f"manyview: {error}", file=sys.stderr)
    else:
        others(kind, error, trace)


def _leave(line: str) -> NoReturn:
    print(f"manyview: {line}", file=sys.stderr)
    raise SystemExit(2)


def _from_args(args: Namespace, model: nn.Module, loader: Any) -> tuple[ViewsLoader, ViewsTask]:
    _refuse(vars(args))
    recipe = _recipe(args.recipe, getattr(args, "seed", None))
    config = resolve_data_config(vars(args), model=model)
    channels, wanted = config["input_size"][0], recipe.data.channels or 3
    if channels != wanted:
        raise ManyviewError(
            f"the model takes images of {counted(channels, 'channel')}, the recipe's have {wanted}; "
            f"add data.channels={channels} behind its name, or --in-chans {wanted}"
        )
    views = ViewsLoader(loader, recipe, args.num_classes)
    task = ViewsTask(
        recipe,
        args.num_classes,
        updates_of(args, len(views)),
        model=model,
        mean=config["mean"],
        std=config["std"],
        device=torch.device(args.device),
        verbose=is_primary(args),
    )
    if args.val_split and not task.classifies:
        raise ManyviewError(
            "this recipe trains no classifier, so timm's validation would judge random scores; give --val-split '', "
            "and judge the features afterwards"
        )
    _try(views, task)
    if args.distributed and args.sync_bn:
        convert_sync_batchnorm(task.step)  # the script did so for the model, before there were heads
    if is_primary(args):
        for line in told(args, task, config["input_size"]):
            LOGGER.info("manyview: %s", line)
    return views, task


def _recipe(said: str | Sequence[str], seed: int | None) -> Recipe:
    """The recipe, whose seed is the script's unless one stands behind its name."""
    name, *rest = [said] if isinstance(said, str) else said  # a file of --config may say one name
    use = [each.removeprefix("use=") for each in rest if each.startswith("use=")]
    overrides = [each for each in rest if not each.startswith("use=")]
    if seed is not None and not any(each.partition("=")[0].strip() == "seed" for each in overrides):
        overrides.append(f"seed={seed}")
    return load_recipe(name, *overrides, use=use)


def _refuse(args: Mapping[str, Any]) -> None:
    lines = []
    for flags, line in _REFUSED:
        asked = [name for name, idle in flags.items() if name in args and args[name] not in idle]
        if asked:
            lines.append(line.format(" ".join("--" + name.replace("_", "-") for name in asked)))
    if lines:
        raise ManyviewError("; ".join(lines))


def updates_of(args: Namespace, batches: int) -> int:
    """Updates in the run: of as many epochs as timm's scheduler has, warm-up and cool-down among them."""
    each = math.ceil(batches / max(1, args.grad_accum_steps))
    nothing = torch.optim.SGD([torch.zeros(())], lr=0.1)
    return int(create_scheduler_v2(nothing, **scheduler_kwargs(args), updates_per_epoch=each)[1] * each)


def _try(views: ViewsLoader, task: ViewsTask) -> None:
    """Two images are read, and their views looked at by the network, so that what does not fit is told now."""
    batch, _ = views.dataset[range(min(2, len(views.dataset)))]
    check_sizes(task.step, {name: view.images[:1].to(task.device) for name, view in batch.views.items()})


def told(args: Namespace, task: ViewsTask, input_size: tuple[int, ...]) -> list[str]:
    """What is trained by what in this run, and what has no part in it, in lines."""
    step = task.step
    said = args.recipe if isinstance(args.recipe, str) else " ".join(args.recipe)
    losses = "; ".join(plan.text for plan in step.recipe.relation_plan)
    smoothed = f", label smoothing {args.smoothing:g}" if args.smoothing else ""
    lines = [
        f"{said} on {args.model}, {counted(step.total_steps or 0, 'update')}, draws by seed {step.recipe.seed}: "
        f"views {', '.join(step.rendered_views)}; {losses}",
        f"timm's augmentation{smoothed} and criterion have no part in it, nor the recipe's data, train and backbone",
    ]
    if task.renormalized:
        lines.append(f"pixels are normalised by timm's {_numbers(task.normalization)}, not the recipe's normalize")
    if getattr(args, "seed", step.recipe.seed) != step.recipe.seed:
        lines.append(f"order and dropout are by timm's --seed {args.seed}, draws and heads by the recipe's")
    size = step.trained_size
    if size is not None and size != tuple(input_size[-2:]):
        lines.append(
            f"views are {size[0]}x{size[1]}, and timm validates at {input_size[-2]}x{input_size[-1]}; "
            f"--input-size {input_size[0]} {size[0]} {size[1]} makes them one size"
        )
    return lines


def _numbers(normalization: Mapping[str, tuple[float, ...]]) -> str:
    return " and ".join(f"{key} {' '.join(f'{n:.4g}' for n in each)}" for key, each in normalization.items())
