"""Recipes in timm's own loop: its loader, its task protocol, its averaged weights, its validation."""

import io
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

timm = pytest.importorskip("timm", minversion="1.0.29")

from timm.data import ImageDataset, create_loader  # noqa: E402
from timm.optim import create_optimizer_v2  # noqa: E402
from timm.utils import AverageMeter, accuracy  # noqa: E402
from torch import nn  # noqa: E402

from manyview import load_recipe, parse_recipe  # noqa: E402
from manyview.errors import ManyviewError, RecipeError  # noqa: E402
from manyview.integrations.timm import PIXELS, ViewsDataset, ViewsTask, splits_of  # noqa: E402
from manyview.step import Step  # noqa: E402
from manyview.views.ops.op import as_uint8  # noqa: E402

CIFAR10 = Path(__file__).parents[3] / "shared" / "data" / "cifar10" / "train.parquet"
CPU = torch.device("cpu")

TIED = """
seed: 2
views:
  a: {from: image, make: "pad_crop(16, padding=2) | flip(0.5) | jitter(0.4, 0.4, 0.4, 0.1)"}
  b: {from: a, make: "randaugment(2, 9)"}
  unread: {from: image, make: flip}
branches: {net: {backbone: cresnet20, normalize: half}}
relations:
  - cross_entropy(logits(a), logits(b))
  - similarity(h(a), h(b), weight=warmup(1))
train: {epochs: 2}
"""
# the family comes from a view that no relation reads, and a second family of draws lies behind it
SLA = """
seed: 2
views:
  a: {from: image, make: "pad_crop(16, padding=2) | flip(0.5)"}
  r: {from: a, orbit: rotation}
  c: {from: image, make: "crop(16)", count: 2}
branches: {net: {backbone: cresnet20, normalize: half, joint: "linear(h, orbit=r)"}}
relations:
  - joint_cross_entropy(joint(r))
  - cross_entropy(logits(c))
train: {epochs: 2}
"""


class Pictures:
    """A data set of (PIL image, target), as timm's."""

    def __init__(self, images, targets):
        self.images, self.targets = images, targets

    def __len__(self):
        return len(self.images)

    def __getitem__(self, position):
        return Image.fromarray(self.images[position]), self.targets[position]


def synthetic(count=48, size=16, classes=3, seed=0):
    """Noise around a colour of the class."""
    drawn = np.random.default_rng(seed)
    targets = [int(target) for target in drawn.integers(classes, size=count)]
    colors = np.array([[200, 60, 60], [60, 200, 60], [60, 60, 200], [190, 190, 60]])
    noise = drawn.integers(-60, 60, size=(count, size, size, 3))
    return Pictures(
        [(colors[t] + n).clip(0, 255).astype(np.uint8) for t, n in zip(targets, noise, strict=True)], targets
    )


def loader_of(dataset, batch_size=8, size=16, **options):
    given = {"is_training": True, "num_workers": 0, "persistent_workers": False, "device": CPU, **PIXELS, **options}
    return create_loader(dataset, (3, size, size), batch_size, **given)


def uint8_batch(pictures, positions):
    return torch.stack([torch.from_numpy(pictures.images[p]) for p in positions]).permute(0, 3, 1, 2)


def splits_from(views, splits):
    """The views of `Step.views`, as uint8, in timm's order: all images of the first split first."""
    return torch.cat([as_uint8(views[name].pixels[member :: views[name].members]) for name, member in splits])


# ------------------------------------------------------------------------------------------------- data


def test_splits_are_what_relations_read_families_member_by_member():
    assert splits_of(parse_recipe(TIED)) == [("a", 0), ("b", 0)]
    assert splits_of(parse_recipe(SLA)) == [("r", 0), ("r", 1), ("r", 2), ("r", 3), ("c", 0), ("c", 1)]


def test_a_relation_that_is_told_what_was_drawn_is_refused():
    recipe = load_recipe("augself_cifar10")
    for make in (lambda: ViewsDataset(synthetic(), recipe), lambda: ViewsTask(recipe, 3)):
        with pytest.raises(RecipeError, match=r"^relations: timm's loader carries no drawn parameters, which augself"):
            make()


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_images_as_they_are_stored_are_refused(channels):
    recipe = parse_recipe(TIED, f"data.channels={channels}", "views.a.make=flip", "views.b.make=flip")
    for make in (lambda: splits_of(recipe), lambda: ViewsDataset(synthetic(), recipe), lambda: ViewsTask(recipe, 3)):
        with pytest.raises(
            RecipeError, match=r"^data.channels: timm's data sets give PIL images, .*; drop it$"
        ) as caught:
            make()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", [TIED, SLA], ids=["tied", "sla"])
def test_items_are_the_pixels_of_the_step(text):
    recipe, pictures = parse_recipe(text), synthetic()
    dataset, step = ViewsDataset(pictures, recipe), Step(recipe, 3)
    for epoch in (0, 5):
        dataset.set_epoch(epoch)
        expected = splits_from(
            step.views(uint8_batch(pictures, range(48)), index=range(48), epoch=epoch), dataset.splits
        )
        for position in range(48):
            views, target = dataset[position]
            assert target == pictures.targets[position]
            assert all(view.dtype == np.uint8 for view in views)
            for number, view in enumerate(views):
                assert torch.equal(torch.from_numpy(view), expected[48 * number + position])


@pytest.mark.parametrize("text", [TIED, SLA], ids=["tied", "sla"])
@pytest.mark.parametrize("workers", [0, 2])
def test_timms_loader_gives_the_split_layout(text, workers):
    """In order and with persistent workers, which must see the epoch change."""
    recipe, pictures = parse_recipe(text), synthetic()
    dataset, step = ViewsDataset(pictures, recipe), Step(recipe, 3)
    loader = loader_of(dataset, is_training=False, num_workers=workers, persistent_workers=workers > 0, batch_size=20)
    for epoch in (0, 1, 2):
        dataset.set_epoch(epoch)
        seen = list(loader)
        assert [len(target) for _, target in seen] == [len(dataset.splits) * rows for rows in (20, 20, 8)]
        for number, (input, target) in enumerate(seen):
            positions = range(20 * number, min(20 * number + 20, 48))
            views = step.views(uint8_batch(pictures, positions), index=positions, epoch=epoch)
            assert torch.equal((input * 255).round().to(torch.uint8), splits_from(views, dataset.splits))
            torch.testing.assert_close(input * 255, (input * 255).round(), rtol=0, atol=1e-4)
            assert target.tolist() == [pictures.targets[p] for p in positions] * len(dataset.splits)


@pytest.mark.parametrize("op", ["mixup", "cutmix(1.0)"])
def test_views_that_mix_a_batch_are_refused(op):
    recipe = parse_recipe(TIED.replace(" | jitter(0.4, 0.4, 0.4, 0.1)", f" | {op}"))
    with pytest.raises(RecipeError, match="one image at a time, so none can be mixed; drop mixup and cutmix"):
        ViewsDataset(synthetic(), recipe)
    with pytest.raises(RecipeError, match="one image at a time, so none can be mixed; drop mixup and cutmix"):
        ViewsTask(recipe, 3, device=CPU)


def test_epochs_differ_and_return():
    dataset = ViewsDataset(synthetic(), parse_recipe(TIED))
    seen = []
    for epoch in (0, 1, 0):
        dataset.set_epoch(epoch)
        seen.append(np.stack(dataset[7][0]))
    assert np.array_equal(seen[0], seen[2])
    assert not np.array_equal(seen[0], seen[1])


def test_pictures_of_other_modes_and_data_sets_with_a_transform():
    grey = Pictures([np.full((16, 16), 7, dtype=np.uint8)], [0])
    views, _ = ViewsDataset(grey, parse_recipe(TIED))[0]
    assert views[0].shape == (3, 16, 16)
    tensors = Pictures.__new__(Pictures)
    tensors.images, tensors.targets = None, None
    wrapped = ViewsDataset([(torch.zeros(3, 16, 16), 0)], parse_recipe(TIED))
    with pytest.raises(TypeError, match=r"must give PIL images, got Tensor; drop its transform$"):
        wrapped[0]


# ------------------------------------------------------------------------------------------------- task


def in_training(text, total_steps=10, lr=0.0, **options):
    """A task, and the optimiser that it is attached to, which by default changes nothing."""
    task = ViewsTask(parse_recipe(text), 3, total_steps=total_steps, verbose=False, **options)
    optimizer = torch.optim.SGD(task.get_trainable_module().parameters(), lr=lr)
    task.step.attach(optimizer)
    return task, optimizer


def batch_for(task, pictures, positions, epoch=0):
    """A batch as timm's loader gives it, and the views it was made of."""
    labels = torch.tensor([pictures.targets[p] for p in positions])
    step = Step(task.step.recipe, 3)
    views = step.views(uint8_batch(pictures, positions), labels, index=positions, epoch=epoch)
    pixels = splits_from(views, task.splits).float() / 255
    return pixels, labels.repeat(len(task.splits)), views


@pytest.mark.parametrize("text", [TIED, SLA], ids=["tied", "sla"])
def test_the_loss_is_that_of_the_step_on_the_same_views(text):
    recipe, pictures, positions = parse_recipe(text), synthetic(), list(range(4, 14))
    (task, optimizer), step = in_training(text), Step(recipe, 3, 10)
    task.train()
    for updates in range(3):
        input, target, views = batch_for(task, pictures, positions, epoch=updates)
        result = task(input, target)
        rounded = {
            name: type(view)(as_uint8(view.pixels), {}, view.target, view.members) for name, view in views.items()
        }
        expected = step(rounded)
        assert list(result) == ["loss", "output", *expected["terms"]]
        torch.testing.assert_close(result["loss"], expected["loss"], rtol=1e-6, atol=1e-6)
        for name, term in expected["terms"].items():
            torch.testing.assert_close(result[name], term, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(
            result["loss"], sum(result[name] for name in expected["terms"]), rtol=1e-6, atol=1e-6
        )
        result["loss"].backward()
        expected["loss"].backward()
        for one, two in zip(task.step.parameters(), step.parameters(), strict=True):
            assert (one.grad is None) == (two.grad is None)
            if one.grad is not None:
                torch.testing.assert_close(one.grad, two.grad, rtol=1e-4, atol=1e-6)
        optimizer.step()
        step.after_step()
        assert task.step.updates == step.updates == updates + 1


def test_updates_are_counted_not_forwards():
    task, optimizer = in_training(TIED)
    input, target, _ = batch_for(task, synthetic(), range(6))
    for _ in range(2):  # two parts of one batch, at update 0, where the warm-up's weight is 0
        result = task(input, target)
        assert result["similarity"].item() == 0
        result["loss"].backward()
    optimizer.step()
    assert task.step.updates == 1
    assert task(input, target)["similarity"].item() > 0
    task.eval()
    with torch.no_grad():
        task(input, target)
    assert task.step.updates == 1


def test_training_without_an_optimiser_attached_is_refused():
    task = ViewsTask(parse_recipe(TIED), 3, total_steps=10, verbose=False)
    input, target, _ = batch_for(task, synthetic(), range(6))
    with pytest.raises(ManyviewError, match=r"no optimiser is attached.*call task\.step\.attach\(optimizer\) once"):
        task(input, target)
    task.eval()(input, target)  # nothing follows


def test_where_nothing_waits_for_updates_none_need_be_attached():
    task = ViewsTask(parse_recipe(SLA), 3, verbose=False)
    input, target, _ = batch_for(task, synthetic(), range(6))
    assert task(input, target)["loss"].isfinite()


@pytest.mark.parametrize("text", [TIED, SLA], ids=["tied", "sla"])
def test_output_is_for_timms_accuracy_on_all_of_target(text):
    task, _optimizer = in_training(text)
    input, target, _ = batch_for(task, synthetic(), range(6))
    output = task(input, target)["output"]
    assert output.shape == (len(target), 3)
    assert not output.requires_grad
    assert 0 <= float(accuracy(output, target, topk=(1,))[0]) <= 100
    # a perfect net is counted as perfect
    perfect = nn.functional.one_hot(target, 3).float()
    assert float(accuracy(perfect, target)[0]) == 100


def test_a_recipe_without_classes_has_no_output():
    text = TIED.replace("  - cross_entropy(logits(a), logits(b))\n", "")
    task, _optimizer = in_training(text)
    input, target, _ = batch_for(task, synthetic(), range(6))
    assert task(input, target)["output"] is None
    with pytest.raises(RecipeError, match="trains no classifier for timm to validate"):
        task.get_eval_model()(input)


def test_averaging_is_timms():
    with pytest.raises(RecipeError, match=r"^train.ema: inside timm's loop .* use setup_ema\(\)$"):
        ViewsTask(parse_recipe(TIED, "train.ema=0.9"), 3, verbose=False)
    task, optimizer = in_training(TIED, lr=0.1)
    assert not task.has_ema()
    task.setup_ema(decay=0.75)
    start = {name: value.clone() for name, value in task.step.named_parameters()}
    input, target, _ = batch_for(task, synthetic(), range(12))
    task(input, target)["loss"].backward()
    optimizer.step()
    task.update_ema()
    averaged = dict(task.get_trainable_module(ema=True).module.named_parameters())
    for name, value in task.step.named_parameters():
        torch.testing.assert_close(averaged[name], 0.75 * start[name] + 0.25 * value, rtol=1e-5, atol=1e-6)
    pixels = input[:12]
    for ema in (False, True):
        module = averaged if ema else dict(task.step.named_parameters())
        model = task.get_eval_model(ema=ema).eval()
        net = model.step.main
        with torch.no_grad():
            by_hand = net.backbone((pixels - 0.5) / 0.5) @ module["branches.net.heads.logits.weight"].T
            by_hand += module["branches.net.heads.logits.bias"]
            torch.testing.assert_close(model(pixels), by_hand, rtol=1e-4, atol=1e-5)
    assert not torch.equal(task.get_eval_model()(pixels), task.get_eval_model(ema=True)(pixels))


def test_checkpoints_of_timm_hold_the_task():
    one, two = (ViewsTask(parse_recipe(TIED, f"seed={seed}"), 3, 10, verbose=False) for seed in (1, 2))
    one.step.after_step()
    state = one.get_checkpoint_state()
    assert list(state) == ["state_dict"]
    two.load_checkpoint_state(state["state_dict"])
    for left, right in zip(one.step.parameters(), two.step.parameters(), strict=True):
        assert torch.equal(left, right)
    assert two.step.updates == 1


def test_soft_targets_of_a_batch_keep_their_shape():
    text = TIED.replace("unread: {from: image, make: flip}", "c: {from: image, make: 'crop(16)', count: 2}")
    text = text.replace("cross_entropy(logits(a), logits(b))", "cross_entropy(logits(a), logits(c))")
    for relations in (TIED, text):
        task, _optimizer = in_training(relations)
        pictures = synthetic()
        input, target, _ = batch_for(task, pictures, range(6))
        soft = task(input, nn.functional.one_hot(target, 3).float())["cross_entropy"]
        other, _other_optimizer = in_training(relations)
        hard = other(input, target)["cross_entropy"]
        torch.testing.assert_close(soft, hard, rtol=1e-5, atol=1e-6)


# ------------------------------------------------------------------------------------------------- the loop


def validate(model, loader):
    """The heart of timm's `validate`: top-1 in percent."""
    model.eval()
    top1 = AverageMeter()
    with torch.no_grad():
        for input, target in loader:
            output = model(input)
            top1.update(accuracy(output, target, topk=(1,))[0].item(), output.size(0))
    return OrderedDict(top1=top1.avg)


def train_as_timm(dataset, recipe, classes, epochs, size, batch_size, workers, lr=0.05):
    """timm's training script, without its options; the mean loss of each epoch, and the task."""
    loader = loader_of(dataset, batch_size, size, num_workers=workers, persistent_workers=workers > 0)
    task = ViewsTask(recipe, classes, epochs * len(loader), verbose=False)
    optimizer = create_optimizer_v2(task.get_trainable_module(), opt="sgd", lr=lr, weight_decay=5e-4)
    task.step.attach(optimizer)
    task.setup_ema(decay=0.9)
    losses = []
    for epoch in range(epochs):
        dataset.set_epoch(epoch)
        task.train()
        meter = AverageMeter()
        for input, target in loader:
            result = task(input, target)
            optimizer.zero_grad()
            result["loss"].backward()
            nn.utils.clip_grad_norm_(task.get_clip_parameters(), 5.0)
            optimizer.step()
            task.update_ema(step=task.step.updates)
            meter.update(result["loss"].item(), len(input))
        losses.append(meter.avg)
    assert task.step.updates == epochs * len(loader)
    return losses, task


@pytest.mark.parametrize("text", [TIED, SLA], ids=["tied", "sla"])
def test_two_epochs_in_timms_loop_learn_colours(text):
    torch.manual_seed(0)
    recipe, pictures = parse_recipe(text), synthetic(count=96)
    losses, task = train_as_timm(ViewsDataset(pictures, recipe), recipe, 3, 3, 16, 16, workers=0)
    assert losses[-1] < 0.8 * losses[0]
    test = synthetic(count=60, seed=1)
    test_loader = [(uint8_batch(test, range(60)).float() / 255, torch.tensor(test.targets))]
    assert validate(task.get_eval_model(), test_loader)["top1"] > 60
    assert not task.get_eval_model().step.training
    task.train()
    assert task.step.training


@pytest.mark.skipif(not CIFAR10.is_file(), reason=f"needs {CIFAR10.parent.name}/{CIFAR10.name} in shared/data")
def test_two_epochs_on_cifar10_pictures(tmp_path):
    table = pytest.importorskip("pyarrow.parquet").ParquetFile(CIFAR10)
    rows = next(table.iter_batches(batch_size=3000)).to_pylist()
    kept = [row for row in rows if row["label"] in (0, 1)][:200]  # aeroplanes and cars
    assert len(kept) == 200
    for number, row in enumerate(kept):
        folder = tmp_path / "train" / str(row["label"])
        folder.mkdir(parents=True, exist_ok=True)
        Image.open(io.BytesIO(row["image"]["bytes"])).save(folder / f"{number}.png")
    torch.manual_seed(0)
    recipe = parse_recipe(TIED.replace("pad_crop(16, padding=2)", "pad_crop(32, padding=4)").replace("2, 9", "1, 5"))
    images = ImageDataset(str(tmp_path / "train"))
    losses, task = train_as_timm(ViewsDataset(images, recipe), recipe, 2, 2, 32, 20, workers=2)
    assert losses[1] < 0.95 * losses[0]
    validation = loader_of(images, 50, 32, is_training=False, crop_pct=1.0)
    pictures = [(torch.from_numpy(np.array(image)).permute(2, 0, 1), target) for image, target in images_of(tmp_path)]
    for ema in (False, True):
        right = 0
        for picture, target in pictures:
            net = task.get_trainable_module(ema=ema)
            scores = (net.module if ema else net).eval().predict(picture[None])["logits"]
            right += int(scores.argmax()) == target
        assert validate(task.get_eval_model(ema=ema), validation)["top1"] == pytest.approx(100 * right / 200)


def images_of(root):
    """(picture, class) of the folders that timm was given, read by Pillow."""
    paths = sorted((root / "train").rglob("*.png"))
    return [(Image.open(path), int(path.parent.name)) for path in paths]
