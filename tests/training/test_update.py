"""SAM in the loop: the run by hand, in parts, on two processes, on the device; what it counts and what it logs."""

import copy
import json

import pytest
import torch
import torch.nn.functional as F

from manyview import parse_recipe
from manyview.foundation.files import read_state
from manyview.training.setup import set_up
from manyview.training.train import train
from processes import on_two
from subjects import smooth

RECIPE = """
seed: 3
data: {source: digits, limit: 60, val_fraction: 0.2}
views: {a: {from: image, make: "pad_crop(8, padding=1) | flip(0.5)"}, b: {like: a}}
branches: {net: {backbone: cresnet20, normalize: half}}
relations: ["cross_entropy(logits(a), logits(b))", "similarity(h(a), h(b), weight=2)"]
train: {steps: 3, batch_size: 16, log_every: 1, clip: 0.5, schedule: constant(),
        optimizer: "sam(sgd(lr=0.02, momentum=0.9), rho=0.1)"}
"""
NORM_FREE = "branches.net.backbone=test_vit(img_size=8, patch_size=4)"


def weights(folder):
    saved = read_state(folder / "checkpoints" / "last.pt")["step"]
    return {name: value for name, value in saved.items() if name != "_extra_state"}


def assert_same(one, two, **tolerance):
    assert one.keys() == two.keys()
    for name in one:
        torch.testing.assert_close(one[name], two[name], **tolerance, msg=lambda text, name=name: f"{name}: {text}")


def by_hand(recipe):
    """Three updates of a few lines each: losses, and the network they leave."""
    setup = set_up(recipe, quiet=True, backbone=smooth())
    net, speed, losses = copy.deepcopy(setup.step.main).train(), {}, []
    for batch in setup.stream(0):
        views = setup.step.views(batch.images, index=batch.index, epoch=batch.epoch)
        pixels = torch.cat([views["a"].pixels, views["b"].pixels])

        def loss_of(pixels=pixels, labels=batch.labels):
            h = net.backbone((pixels - net.mean) / net.std)
            return F.cross_entropy(net.heads["logits"](h), labels.repeat(2)) + 2 * F.mse_loss(*h.chunk(2))

        loss = loss_of()
        parameters = list(net.parameters())
        slopes = torch.autograd.grad(loss, parameters)
        norm = torch.cat([slope.flatten() for slope in slopes]).norm()
        with torch.no_grad():
            for each, slope in zip(parameters, slopes, strict=True):
                each += 0.1 * slope / norm
        kept = copy.deepcopy(dict(net.named_buffers()))
        uphill = torch.autograd.grad(loss_of(), parameters)
        total = torch.cat([slope.flatten() for slope in uphill]).norm()
        with torch.no_grad():
            for name, buffer in net.named_buffers():
                buffer.copy_(kept[name])
            for number, (each, slope, steep) in enumerate(zip(parameters, slopes, uphill, strict=True)):
                each -= 0.1 * slope / norm
                speed[number] = 0.9 * speed.get(number, 0) + steep * min(1.0, 0.5 / total)
                each -= 0.02 * speed[number]
        losses.append(loss.item())
    return losses, net.state_dict()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sam") / "run"
    return folder, train(parse_recipe(RECIPE, "data.render=device"), folder, backbone=smooth(), quiet=True)


def test_a_run_is_the_run_by_hand(run):
    """And views that the step makes on the device are those of the loader, in both looks."""
    folder, result = run
    losses, state = by_hand(parse_recipe(RECIPE, "data.render=device"))
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["loss"] for line in lines if "loss" in line] == pytest.approx(losses, rel=1e-6)
    ours = {name.removeprefix("branches.net."): value for name, value in weights(folder).items()}
    assert_same(ours, state, rtol=0, atol=2e-6)
    assert result["views_per_image"] == 4


def test_where_views_are_made_does_not_matter(run, tmp_path):
    train(parse_recipe(RECIPE, "data.render=memory"), tmp_path / "run", backbone=smooth(), quiet=True)
    assert_same(weights(tmp_path / "run"), weights(run[0]), rtol=0, atol=0)


def test_parts_of_a_batch_are_the_batch(tmp_path):
    for parts in (1, 2):
        train(parse_recipe(RECIPE, NORM_FREE, f"train.accumulate={parts}"), tmp_path / f"{parts}", quiet=True)
    assert_same(weights(tmp_path / "2"), weights(tmp_path / "1"), rtol=1e-4, atol=1e-6)


def test_in_bfloat16_and_of_named_terms(tmp_path):
    terms = "train.optimizer.ascend=cross_entropy"
    result = train(parse_recipe(RECIPE, NORM_FREE, "train.precision=bf16", terms), tmp_path / "run", quiet=True)
    assert all(value.isfinite().all() for value in weights(tmp_path / "run").values())
    assert result["views_per_image"] == 4


STREAMS = """
seed: 3
data: {source: digits, labels_per_class: 3, unlabeled: rest, val_fraction: 0.2}
views:
  x: {from: image, make: "pad_crop(8, padding=1)"}
  weak: {from: unlabeled, make: "pad_crop(8, padding=1)"}
  strong: {from: unlabeled, make: "pad_crop(8, padding=1) | flip(0.5)"}
branches: {net: {backbone: cresnet20, normalize: half}}
relations: ["cross_entropy(logits(x))", "similarity(h(strong), h(weak), weight=2)"]
train: {steps: 3, batch_size: 8, unlabeled_per_labeled: 2, log_every: 1, schedule: constant(),
        optimizer: "sam(sgd(lr=0.02, momentum=0.9), rho=0.1, ascend='cross_entropy')"}
"""


def test_two_streams_are_shown_twice_wherever_their_views_are_made(tmp_path):
    for place in ("device", "memory"):
        result = train(parse_recipe(STREAMS, f"data.render={place}"), tmp_path / place, backbone=smooth(), quiet=True)
    assert_same(weights(tmp_path / "device"), weights(tmp_path / "memory"), rtol=0, atol=0)
    assert result["views_per_image"] == pytest.approx(2 * (8 + 2 * 16) / 24)


REMEMBERS = """
seed: 3
data: {source: digits, labels_per_class: 3, unlabeled: rest, unlabeled_limit: 32, val_fraction: 0}
views:
  x: {from: image, make: "pad_crop(8, padding=1)"}
  weak: {from: unlabeled, make: "pad_crop(8, padding=1)"}
  strong: {from: unlabeled, make: "pad_crop(8, padding=1) | flip(0.5)"}
branches:
  net: {backbone: "test_vit(img_size=8, patch_size=4)", normalize: half, z: "dino_head(h, 16, hidden=8, freeze=1)"}
  teacher: ema(net, momentum=0.5)
relations:
  - cross_entropy(logits(x))
  - pseudo_label(logits(strong), toward=stop(logits(weak)), threshold=flex(0.11))
  - info_nce(h(strong), toward=teacher.h(weak), queue=64)
  - dino(z(weak), z(strong), toward=teacher)
  - lejepa(h(weak), h(strong), directions=8)
train: {steps: 3, batch_size: 8, unlabeled_per_labeled: 2, log_every: 1, schedule: constant(),
        optimizer: "sam(sgd(lr=0.02, momentum=0.9), rho=0.1)"}
evaluate: []
"""


def test_what_follows_an_update_stays_after_the_second_look(tmp_path):
    """Memory, queue, centre, directions and counters move once an update, as in a loop that calls step(closure)."""
    recipe = parse_recipe(REMEMBERS)
    train(recipe, tmp_path / "run", quiet=True)
    setup = set_up(recipe, quiet=True)
    step, optimizer, stream = setup.step.train(), setup.optimizer, setup.stream(0)
    step.attach(optimizer)
    for _ in range(3):
        batch = next(stream)

        def look(batch=batch):
            optimizer.zero_grad()
            optimizer.loss(step(batch)).backward()

        optimizer.step(look)
    ours = weights(tmp_path / "run")
    counters = [name for name in ours if name.startswith("relations.") and name.endswith("updates")]
    assert [int(ours[name]) for name in counters] == [3] * 2
    assert (ours["relations.pseudo_label.rule.said"] >= 0).sum() > 0
    by_loop = {name: value for name, value in step.state_dict().items() if name != "_extra_state"}
    assert_same(ours, by_loop, rtol=1e-5, atol=1e-6)


def process(rank, recipe, folder):
    train(recipe, folder, quiet=True)


@pytest.mark.slow(reason="runs on two processes")
def test_two_processes_are_one(tmp_path):
    """The tie alone leads up, so that the classifier has no gradient of its own there, which DDP waits for."""
    recipe = parse_recipe(RECIPE, NORM_FREE, "train.accumulate=2", "train.optimizer.ascend=similarity")
    train(recipe, tmp_path / "one", quiet=True)
    on_two(process, recipe, tmp_path / "two")
    assert_same(weights(tmp_path / "two"), weights(tmp_path / "one"), rtol=1e-4, atol=1e-6)
