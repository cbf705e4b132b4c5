"""On a GPU: the pixels, losses, gradients and runs of the CPU, and a step that never waits. Skipped where none is."""

import copy
import json
import os
import signal
import subprocess
import sys
import time
import warnings

import numpy as np
import pytest
import torch

from cases import in_turn
from manyview.data import open_splits, preload
from manyview.data.loader import Batches, stream
from manyview.errors import ManyviewWarning
from manyview.foundation.files import read_state
from manyview.load import load_recipe, parse_recipe
from manyview.step import Step
from manyview.training.run import Run
from manyview.training.train import train
from manyview.views.ops import OPS
from manyview.views.plan import ViewSpec, plan_views
from manyview.views.view import draw_views
from op_cases import SETTINGS, photos
from small import small

DEVICE = torch.device("cuda")
pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU here"),
    pytest.mark.filterwarnings("ignore:swav:manyview.errors.ManyviewWarning"),
]
COUNT = 16
RECIPES = [
    "tied_cifar10",
    "agmax_cifar10_cutmix",
    "jsd_cifar10",
    "sla_sd_cifar10",
    "simsiam_augself_cifar10",
    "moco_cifar10",
    "swav_cifar10",
    "byol_cifar10",
    "dino_cifar10",
    "lejepa_cifar10",
]
# ReLU has kinks: activations that rounding moves over one change gradients by some thousandths. GELU has none
NETWORKS = {
    "cresnet20": 0.02,
    "vit_tiny_patch16_224(img_size=32, patch_size=8, depth=2, embed_dim=48, num_heads=2)": 1e-3,
}
PIPELINES = [
    "crop(16, scale=(0.2, 1)) | flip(0.5) | jitter(0.4, 0.4, 0.4, 0.1, p=0.8) | grayscale(0.2) | blur(kernel=9)",
    "pad_crop(24, padding=4) | flip | randaugment(2, 14, interpolation='bicubic') | cutout(8)",
    "resize(32) | center_crop(28) | autocontrast | posterize(3) | rotate(30) | erase(p=1, value='noise')",
    "crop(24) | augmix(3) | lighting(0.2) | perspective",
]
TO_TRAIN = """
title: on a GPU
seed: 1
data: {source: digits, limit: 512}
views:
  a: {from: image, make: "pad_crop(8, padding=1) | flip(0.5) | jitter(0.2, 0.2, 0.2, 0.1)"}
  b: {like: a}
branches: {net: {backbone: "cresnet20(drop_rate=0.1)", normalize: half}}
relations:
  - cross_entropy(logits(a), logits(b))
  - similarity(h(a), h(b), weight=1)
train:
  epochs: 6
  batch_size: 32
  optimizer: "sgd(lr=0.05, momentum=0.9)"
  schedule: "cosine(warmup='1 epochs')"
  log_every: 1
  checkpoint_every: 7 steps
"""
TEACHER = """
title: on a GPU, without labels
seed: 1
data: {source: digits, limit: 512}
views:
  a: {from: image, make: "crop(8, scale=(0.3, 1)) | flip(0.5) | jitter(0.2, 0.2, 0.2, 0.1)"}
  b: {like: a}
branches:
  online: {backbone: cresnet20, normalize: half, z: "projector(h, 16, hidden=32, norm_last=False)", forward: separate}
  teacher: ema(online, momentum=0.9, schedule='cosine')
relations:
  - info_nce(z(a), toward=teacher.z(b), queue=40, temperature=0.2)
  - augself(h(a), h(b), crop=1.0, color=1.0)
train:
  epochs: 6
  batch_size: 32
  optimizer: "sgd(lr=0.05, momentum=0.9)"
  log_every: 1
  checkpoint_every: 7 steps
evaluate: [knn(k=5)]
"""


@pytest.fixture(autouse=True)
def _exact():
    """Products of float32 in float32, where cuDNN would take fewer digits by itself."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = before


def plan(make):
    return plan_views({"a": ViewSpec(**{"from": "image", "make": make})})


def see(make, images, labels=None, compiled=False):
    return draw_views(plan(make), images, labels, range(len(images)), 3, 7, 10, compiled=compiled)["a"]


def assert_close_levels(ours, reference, share):
    """To within two grey levels, as compiled programs are: a tie may fall to the other side."""
    assert ours.shape == reference.shape
    assert ours.dtype == reference.dtype
    apart = (ours.cpu().double() - reference.double()).abs() * (255 if reference.is_floating_point() else 1)
    assert (apart <= 2.01).double().mean() >= share, f"{(apart > 2.01).sum()} of {apart.numel()} are further apart"


# --------------------------------------------------------------------------------------------------------------- views


@in_turn("name, arguments, size", SETTINGS, by="name")
def test_an_op_renders_as_on_the_cpu(name, arguments, size):
    call = f"{name}({', '.join(f'{key}={value!r}' for key, value in arguments.items())})"
    assert isinstance(plan(call)["a"].ops[0].op, OPS[name])
    labels = torch.arange(32) % 10
    for dtype in (torch.uint8, torch.float32):
        images = photos(32, size, dtype)
        reference = see(call, images, labels)
        ours = see(call, images.to(DEVICE), labels.to(DEVICE))
        assert ours.images.device.type == DEVICE.type
        assert_close_levels(ours.images, reference.images, share=0.999)
        torch.testing.assert_close(ours.target.cpu(), reference.target)
        for op, drawn in reference.params.items():
            assert all(torch.equal(ours.params[op][key].cpu(), value) for key, value in drawn.items())


@pytest.mark.parametrize("make", PIPELINES)
def test_ops_in_a_row_stay_close_to_the_cpus_programs(make):
    images = photos(200, (40, 40))
    ours, reference = see(make, images.to(DEVICE)), see(make, images, compiled=True)
    assert_close_levels(ours.pixels, reference.pixels, share=0.99)


def test_wherever_views_are_made_they_are_the_same():
    recipe = parse_recipe(TO_TRAIN)
    images = preload(open_splits(recipe.data, recipe.seed).train)
    batches = Batches(images, 32, 4, recipe.seed, views=recipe.seen_views, classes=10)
    made = [list(stream(batches, 0, 8, place, 2, pin=True)) for place in ("memory", "workers")]
    bare = list(stream(Batches(images, 32, 4, recipe.seed), 0, 8, "device", pin=True))
    step = Step(recipe, 10).to(DEVICE)
    for memory, workers, plain in zip(*made, bare, strict=True):
        there = plain.to(DEVICE)
        on_device = step.views(there.images, there.targets, index=plain.index.tolist(), epoch=plain.epoch)
        assert torch.equal(memory.labels, plain.labels)
        for name, view in memory.images.items():
            assert torch.equal(view.images, workers.images[name].images)
            assert_close_levels(on_device[name].pixels, view.pixels, share=0.99)
            for op, drawn in view.params.items():
                assert all(torch.equal(on_device[name].params[op][key].cpu(), value) for key, value in drawn.items())


# ---------------------------------------------------------------------------------------------------------------- step


def made(name, *overrides):
    """A step of a packaged recipe on a small network, its optimiser, images, labels, and views rendered on the CPU."""
    step = Step(load_recipe(name, *small(name), *overrides), 10, total_steps=100)
    images, labels = photos(COUNT, (32, 32)), torch.arange(COUNT) % 10
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ManyviewWarning)
        views = step.views(images, labels, index=range(COUNT), epoch=0, only=step.rendered_views)
    return step, images, labels, views


def sgd(step, **options):
    return torch.optim.SGD([p for p in step.parameters() if p.requires_grad], lr=0.01, momentum=0.9, **options)


def moved(views, device=DEVICE):
    return {name: view.moved(lambda tensor: tensor.to(device)) for name, view in views.items()}


def two_updates(step, views, labels):
    """Losses of two updates, and the first's gradients."""
    optimizer = sgd(step)
    handle = step.attach(optimizer)
    losses, gradients = [], {}
    for _ in range(2):
        loss = step(views, labels)["loss"]
        loss.backward()
        losses.append(float(loss.detach()))
        gradients = gradients or {n: p.grad.double().cpu() for n, p in step.named_parameters() if p.grad is not None}
        optimizer.step()
        optimizer.zero_grad()
    handle.remove()
    return losses, gradients


def apart(ours, reference):
    """Norm of the difference of two sets of gradients, over the reference's."""
    assert ours.keys() == reference.keys()
    squares = sum((ours[name] - value).square().sum() for name, value in reference.items())
    return float((squares / sum(value.square().sum() for value in reference.values())).sqrt())


@pytest.mark.parametrize("backbone", NETWORKS, ids=lambda call: call[:3])
@pytest.mark.parametrize("name", RECIPES)
def test_losses_and_gradients_are_those_of_the_cpu_in_float64(name, backbone):
    trained = [branch for branch, spec in load_recipe(name).branch_plan.items() if spec.ema is None]
    step, _, labels, views = made(name, *(f"branches.{branch}.backbone={backbone}" for branch in trained))
    exact = copy.deepcopy(step)
    exact.branches.double()  # relations keep float32, as they do everywhere
    expected, gradients = two_updates(exact, views, labels)
    losses, ours = two_updates(step.to(DEVICE), moved(views), labels.to(DEVICE))
    assert losses[0] == pytest.approx(expected[0], rel=1e-5, abs=1e-6)
    assert losses[1] == pytest.approx(expected[1], rel=1e-3, abs=1e-4)
    assert apart(ours, gradients) < NETWORKS[backbone]


@pytest.mark.parametrize("rendered", ["on the device", "before"])
@pytest.mark.parametrize("name", RECIPES)
def test_a_step_never_waits_for_the_device(name, rendered):
    step, images, labels, views = made(name)
    step.to(DEVICE)
    step.attach(optimizer := sgd(step))
    there, images, labels = moved(views), images.to(DEVICE), labels.to(DEVICE)

    def update():
        out = step(there, labels) if rendered == "before" else step(images, labels, index=range(COUNT), epoch=0)
        out["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()

    update()  # libraries are opened, and memory is asked for, at first
    try:
        torch.cuda.set_sync_debug_mode("error")
        update()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("fused", [False, True])
def test_an_update_that_a_scaler_skips_moves_nothing(fused):
    step, _, labels, views = made("byol_cifar10")
    step.to(DEVICE)
    optimizer = sgd(step, fused=fused)
    step.attach(optimizer)
    before = {name: value.clone() for name, value in step.named_parameters()}
    scaler = torch.amp.GradScaler("cuda", init_scale=2.0**40, backoff_factor=2.0**-30)
    for updates in (0, 1):
        with torch.autocast("cuda", torch.float16):
            loss = step(moved(views), labels.to(DEVICE))["loss"]
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        changed = {
            name.split(".")[1] for name, value in step.named_parameters() if not torch.equal(value, before[name])
        }
        assert step.updates == updates
        assert changed == ({"online", "teacher"} if updates else set())


@pytest.mark.slow(reason="torch's compiler writes kernels")
def test_compiled_parts_give_the_same_losses():
    tied = ("tied_cifar10", "views.a.make=pad_crop(32, padding=4) | flip(0.5) | jitter(0.4, 0.4, 0.4, 0.1, p=0.8)")
    step, images, labels, _ = made(*tied)
    compiled = copy.deepcopy(step).to(DEVICE)
    compiled.compile_parts()
    step.to(DEVICE)
    batch = {"index": range(COUNT), "epoch": 3}
    plain, fast = (each.views(images.to(DEVICE), labels.to(DEVICE), **batch) for each in (step, compiled))
    for name, view in plain.items():
        assert_close_levels(fast[name].pixels, view.pixels.cpu(), share=0.99)
    losses, gradients = two_updates(step, plain, labels.to(DEVICE))
    ours, made_fast = two_updates(compiled, plain, labels.to(DEVICE))
    assert ours == pytest.approx(losses, rel=1e-3)
    assert apart(made_fast, gradients) < 1e-2


# ---------------------------------------------------------------------------------------------------------------- runs


def logged(folder, *keys):
    """Lines of updates: step -> loss, or what else is asked for."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [tuple(line[key] for key in ("step", *(keys or ("loss",)))) for line in lines if "loss" in line]


@pytest.mark.parametrize("overrides", [(), ("train.precision=bf16",), ("train.ema=0.9",)], ids=str)
def test_a_run_learns_on_the_gpu(tmp_path, overrides):
    result = train(parse_recipe(TO_TRAIN, *overrides), tmp_path / "run", quiet=True)
    assert result["device"].startswith(DEVICE.type)
    assert result["rendering"] == ("device" if DEVICE.type == "cuda" else "memory")
    losses = [loss for _, loss in logged(tmp_path / "run")]
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])
    assert result["val"]["top1"] > 30


@pytest.mark.slow(reason="torch's compiler writes kernels")
def test_a_compiled_run_learns_on_the_gpu(tmp_path):
    recipe = parse_recipe(TO_TRAIN, "train.compile=true", "train.precision=bf16", "train.epochs=4")
    train(recipe, tmp_path / "run", quiet=True)
    losses = [loss for _, loss in logged(tmp_path / "run")]
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])


def test_a_run_is_the_same_wherever_views_are_made(tmp_path):
    for place in ("memory", "workers", "device"):
        recipe = parse_recipe(TO_TRAIN, "train.epochs=2", f"data.render={place}", "data.workers=2")
        assert train(recipe, tmp_path / place, quiet=True)["rendering"] == place
    assert logged(tmp_path / "memory") == logged(tmp_path / "workers")
    first, other = (logged(tmp_path / place)[0][1] for place in ("memory", "device"))
    assert other == pytest.approx(first, rel=1e-3)


def test_a_run_from_the_gpu_says_the_same_on_the_cpu(tmp_path):
    recipe = parse_recipe(TO_TRAIN)
    train(recipe, tmp_path / "run", quiet=True)
    run = Run(tmp_path / "run")
    images = preload(open_splits(recipe.data, recipe.seed).val)
    pixels = images.read_many(np.arange(len(images)))
    here, there = run.step(recipe), run.step(recipe, str(DEVICE))
    expected, ours = here.predict(pixels), there.predict(pixels.to(DEVICE))
    torch.testing.assert_close(ours["logits"].cpu(), expected["logits"], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(ours["h"].cpu(), expected["h"], rtol=1e-3, atol=1e-3)
    read = read_state(run.last)["step"]
    assert {value.device.type for value in read.values() if isinstance(value, torch.Tensor)} == {"cpu"}


def start(folder, recipe, *arguments):
    """A run in a process of its own."""
    command = [sys.executable, "-m", "manyview", "train", str(recipe), "--quiet", "--out", str(folder), *arguments]
    return subprocess.Popen(command)


def kill_after(process, metrics, step):
    """Kills a run, without warning, once its metrics have passed a step."""
    deadline = time.monotonic() + 120
    while not metrics.exists() or len(metrics.read_text().splitlines()) < step:
        assert process.poll() is None, "ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (metrics.parent / "result.json").exists()


@pytest.mark.slow(reason="runs in processes of their own, one of which is killed")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("text", [TO_TRAIN, TEACHER], ids=["labels", "teacher"])
def test_a_killed_run_continues_bit_for_bit(tmp_path, text, precision):
    path, folder, whole = tmp_path / "recipe.yaml", tmp_path / "run", tmp_path / "whole"
    path.write_text(text.replace("batch_size: 32", f"batch_size: 32\n  precision: {precision}"))
    beside = start(whole, path)
    kill_after(start(folder, path), folder / "metrics.jsonl", 17)
    assert start(folder, path, "--resume").wait(timeout=120) == 0
    assert beside.wait(timeout=120) == 0
    assert logged(folder) == logged(whole)
    ours, expected = (read_state(each / "checkpoints" / "last.pt")["step"] for each in (folder, whole))
    assert ours.keys() == expected.keys()
    for key, value in expected.items():
        same = torch.equal(ours[key], value) if isinstance(value, torch.Tensor) else ours[key] == value
        assert same, key
