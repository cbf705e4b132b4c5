"""Between a batch and its gradients nothing waits for the device: none of its numbers is asked for, and none is sent
in a way that waits.

On `meta`, which has no numbers to give, so that what asks for one fails; what is sent there is looked at by the way.
The same is held on a GPU by `test_cuda.py`, where there is one.
"""

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from cases import in_turn
from manyview.data import open_splits
from manyview.load import load_recipe
from manyview.recipe.batches import batches_of
from manyview.recipe.streams import read_of
from manyview.relations.thresholds import Flex, FlexRule
from manyview.step import Step
from manyview.views.ops import OPS
from manyview.views.plan import ViewSpec, plan_views
from manyview.views.streams import IMAGE
from manyview.views.view import draw_views
from op_cases import SETTINGS, photos
from small import small

META = torch.device("meta")
MADE = {torch.tensor, torch.as_tensor}
RECIPES = [
    "tied_cifar10",
    "tied_mixup_cifar10",
    "agmax_cifar10_autoaugment",
    "agmax_cifar10_cutmix",
    "jsd_cifar10",
    "sla_sd_cifar10",
    "simsiam_augself_cifar10",
    "simsiam_dssl_augself_cifar10",
    "byol_augself_imagenet",
    "moco_cifar10",
    "swav_cifar10",
    "vicreg_cifar10",
    "dino_cifar10",
    "lejepa_cifar10",
]


class Sent(TorchDispatchMode):
    """Refuses copies from the host that wait until they have arrived."""

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        out = function(*args, **(kwargs or {}))
        if function in (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default):
            source = args[-1] if function is torch.ops.aten._to_copy.default else args[1]
            waits = source.device.type == "cpu" and out.device == META and not (kwargs or {}).get("non_blocking")
            assert not waits, f"{tuple(source.shape)} {source.dtype} is sent, and waited for"
        return out


class Made(TorchFunctionMode):
    """Refuses tensors that are made of Python's numbers on the device: they are sent there, and waited for."""

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        out = function(*args, **(kwargs or {}))
        if function in MADE and not isinstance(args[0], torch.Tensor):
            assert out.device != META, f"{args[0]} is made on the device, and waited for"
        return out


@pytest.fixture(autouse=True)
def _no_autocast(monkeypatch):
    """Which `meta` does not know; it moves nothing between devices."""
    monkeypatch.setattr(torch, "autocast", lambda *arguments, **options: nullcontext())


@in_turn("name, arguments, size", SETTINGS, by="name")
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32], ids=["uint8", "float32"])
def test_ops_are_rendered_without_waiting(name, arguments, size, dtype):
    call = f"{name}({', '.join(f'{key}={value!r}' for key, value in arguments.items())})"
    plan = plan_views({"a": ViewSpec(**{"from": "image", "make": call})})
    assert isinstance(plan["a"].ops[0].op, OPS[name])
    images, labels = photos(4, size, dtype).to(META), torch.zeros(4, dtype=torch.long, device=META)
    with Sent(), Made():
        assert draw_views(plan, images, labels, range(4), 0, 0, 10)["a"].images.device == META


class Late(TorchDispatchMode):
    """Refuses rows of a batch that are sent at all: they belong to what is sent with it."""

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        out = function(*args, **(kwargs or {}))
        if function is torch.ops.aten._to_copy.default:
            rows = len(args[0]) if args[0].ndim else 0
            assert args[0].device == out.device or rows < 8, f"{tuple(args[0].shape)} is sent late"
        return out


MIXING = ("views.a.make=pad_crop(8, padding=1) | mixup(0.2)", "views.b.make=flip(0.5)")


@pytest.mark.parametrize(
    ("name", "changes"),
    [("simsiam_augself_cifar10", ()), ("tied_mixup_cifar10", MIXING), ("fixmatch_digits", ())],
    ids=["augself", "mixup", "fixmatch"],
)
@pytest.mark.parametrize("place", ["device", "memory"])
def test_what_was_drawn_goes_with_the_batch(name, changes, place):
    """By the loader's thread, whoever renders: to the same views, and nothing of it is sent while the step works."""
    recipe = load_recipe(name, *small(name), "data.source=digits", "train.batch_size=8", *changes)
    splits = read_of(recipe, open_splits(recipe.data, recipe.seed))
    step = Step(recipe, 10, total_steps=10)
    batch = batches_of(recipe, splits, place, 10)[0]
    raw = dict(_streams(batches_of(recipe, splits, "device", 10)[0]))
    for stream, each in _streams(batch):
        told = {"only": step.rendered_views, "stream": stream}
        views = each.images if place == "memory" else step.views(each, **told)
        again = step.views(replace(raw[stream], drawn=None), **told)
        assert views.keys() == again.keys()
        assert all(torch.equal(made.images, again[view].images) for view, made in views.items())
    step.to(META)
    sent = batch.to(META)
    with Late():
        step(sent)["loss"].backward()
        step.after_step()


def test_what_flexmatch_said_is_kept_without_asking_for_the_largest_index():
    rule = FlexRule(Flex(0.5), 3).to(META)
    rule.room = 40
    rule(torch.rand(4, 3, device=META), torch.rand(4, 3, device=META), torch.arange(4, device=META))
    with torch.enable_grad(), Sent(), Made():
        rule.after_step()
        assert rule.by_class().shape == (3,)
    assert rule.said.shape == (40,)


def _streams(batch):
    return {IMAGE: replace(batch, streams={}), **batch.streams}.items()


@pytest.mark.parametrize("rendered", ["on the device", "before"])
@pytest.mark.parametrize("name", RECIPES)
def test_a_step_goes_on_without_waiting(name, rendered):
    step = Step(load_recipe(name, *small(name)), 10, total_steps=10)
    images, labels = photos(4, (32, 32)), torch.arange(4)
    views = step.views(images, labels, index=range(4), epoch=0, only=step.rendered_views)
    step.to(META)
    images, labels = images.to(META), labels.to(META)
    made = {view: each.moved(lambda tensor: tensor.to(META)) for view, each in views.items()}
    with Sent(), Made():
        out = step(made, labels) if rendered == "before" else step(images, labels, index=range(4), epoch=0)
        out["loss"].backward()
        step.after_step()
