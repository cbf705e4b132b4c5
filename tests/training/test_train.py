"""The loop: the same run for any number of workers, what is written, chosen and measured, and how it ends."""

import json
import math
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

import manyview
from manyview import parse_recipe
from manyview.data import open_splits
from manyview.data.loader import Batches
from manyview.errors import REQUEUE, ManyviewError, ManyviewWarning, RecipeError, RunError
from manyview.evaluate.evaluate import evaluate
from manyview.evaluate.features import Features
from manyview.evaluate.knn import Knn
from manyview.evaluate.linear import Linear
from manyview.evaluate.model import StepModel
from manyview.foundation.files import read_state
from manyview.step import Step
from manyview.training.run import Run
from manyview.training.train import train
from manyview.views.draws import order_of

DIGITS = """
title: two views of digits
seed: 3
data: {source: digits, limit: 120}
views:
  a: {from: image, make: "pad_crop(8, padding=1) | flip(0.5)"}
  b: {like: a}
branches: {net: {backbone: cresnet20, normalize: half}}
relations:
  - cross_entropy(logits(a), logits(b))
  - similarity(h(a), h(b), weight=2)
train:
  epochs: 2
  batch_size: 24
  optimizer: "sgd(lr=0.05, momentum=0.9)"
  schedule: "cosine(warmup='3 steps', floor=0.001)"
  log_every: 1
evaluate: [knn(k=5)]
"""
NORM_FREE = "branches.net.backbone=test_vit(img_size=8, patch_size=4)"  # LayerNorm looks at one image at a time


@pytest.fixture(autouse=True)
def _cores(monkeypatch):
    """As many workers as are asked for, also on a machine of one core."""
    monkeypatch.setattr(os, "cpu_count", lambda: 4)


def weights(folder, name="last"):
    return {
        key: value
        for key, value in read_state(folder / "checkpoints" / f"{name}.pt")["step"].items()
        if key != "_extra_state"
    }


def equal(one, two):
    assert one.keys() == two.keys()
    return all(torch.equal(one[key], two[key]) for key in one)


def lines(folder, keep_speed=False):
    read = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return read if keep_speed else [{k: v for k, v in line.items() if k != "images_per_second"} for line in read]


def run(folder, *overrides, text=DIGITS):
    result = train(parse_recipe(text, *overrides), folder, quiet=True)
    return result, weights(folder)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """The recipe as it stands: (folder, result, final weights)."""
    folder = tmp_path_factory.mktemp("plain") / "run"
    return folder, *run(folder)


@pytest.fixture
def image_folder(tmp_path):
    """root/{train,val,test}/{dark,light}/N.png, 12x12, with enough light to learn from."""
    drawn = np.random.default_rng(0)
    root = tmp_path / "images"
    for split, count in (("train", 24), ("val", 10), ("test", 10)):
        for label, name in enumerate(("dark", "light")):
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = drawn.integers(0, 160, size=(12, 12, 3)) + 60 * label
                Image.fromarray(pixels.astype(np.uint8)).save(root / split / name / f"{number:02}.png")
    return root


def on_folder(root):
    return (
        DIGITS.replace("source: digits, limit: 120", f"source: folder, root: '{root}'")
        .replace("pad_crop(8, padding=1)", "crop(8)")
        .replace("batch_size: 24", "batch_size: 16")
        .replace("epochs: 2", "epochs: 3")
        + "\n"
    )


# ------------------------------------------------------------------------------------------------- the same run


@pytest.mark.parametrize("render", ["workers", "memory", "device"])
@pytest.mark.parametrize("workers", [0, 2])
def test_workers_and_where_views_are_made_change_nothing(tmp_path, plain, workers, render):
    _, result, expected = plain
    again, final = run(tmp_path / "run", f"data.workers={workers}", f"data.render={render}")
    assert equal(final, expected)
    assert lines(tmp_path / "run") == lines(plain[0])
    assert {key: again[key] for key in ("val", "eval")} == {key: result[key] for key in ("val", "eval")}
    assert again["rendering"] == render
    assert 0 <= again["waiting"] < 100


def test_another_seed_is_another_run(tmp_path, plain):
    assert not equal(run(tmp_path / "run", "seed=4")[1], plain[2])


def test_what_was_drawn_before_changes_nothing(tmp_path, plain):
    torch.manual_seed(99)
    torch.rand(7)
    assert equal(run(tmp_path / "run")[1], plain[2])


def test_the_loop_is_the_step_and_an_optimiser(tmp_path):
    """Three updates by hand, from the step, torch's SGD and the loader's batches."""
    recipe = parse_recipe(DIGITS, "train.steps=3", "train.schedule=constant()", "train.optimizer.nesterov=False")
    train(recipe, tmp_path / "run", quiet=True)
    images = open_splits(recipe.data, recipe.seed).train
    step = Step(recipe, 10, 3)
    optimizer = torch.optim.SGD(step.parameters(), lr=0.05, momentum=0.9)
    for number in range(3):
        batch = Batches(images, 24, 5, recipe.seed)[number]
        optimizer.zero_grad()
        step(batch.images, batch.labels, index=batch.index, epoch=batch.epoch)["loss"].backward()
        optimizer.step()
    final = weights(tmp_path / "run")
    for key, value in step.state_dict().items():
        if key != "_extra_state":
            torch.testing.assert_close(final[key], value, rtol=1e-6, atol=1e-7)


def test_accumulated_parts_are_the_whole_batch(tmp_path):
    free = (NORM_FREE, "train.schedule=constant()")
    finals = {}
    for parts in (1, 2, 4):
        finals[parts] = run(tmp_path / f"{parts}", *free, f"train.accumulate={parts}")[1]
    start = Step(parse_recipe(DIGITS, *free), 10).state_dict()
    moved = max(float((finals[1][key] - start[key]).abs().max()) for key in finals[1])
    for parts in (2, 4):
        apart = max(float((finals[1][key] - finals[parts][key]).abs().max()) for key in finals[1])
        assert apart < 1e-3 * moved


def test_a_run_after_an_accumulating_one_does_not_accumulate(tmp_path, plain):
    run(tmp_path / "before", "train.accumulate=3", "train.epochs=1")
    assert equal(run(tmp_path / "run")[1], plain[2])


def test_precisions_of_two_runs_in_one_process(tmp_path, plain):
    half = run(tmp_path / "half", "train.precision=bf16")
    assert not equal(half[1], plain[2])
    assert all(value.dtype != torch.bfloat16 for value in half[1].values())
    assert math.isfinite(half[0]["eval"]["loss"])
    # a rounding of 8 bits, not another run
    for one, two in zip(lines(tmp_path / "half")[:2], lines(plain[0])[:2], strict=True):
        assert one["loss"] == pytest.approx(two["loss"], rel=0.05)
        assert one["loss"] != two["loss"]
    assert equal(run(tmp_path / "full")[1], plain[2])
    assert equal(run(tmp_path / "half again", "train.precision=bf16")[1], half[1])


def test_clip_bounds_the_step(tmp_path):
    """Without momentum and decay, an update is lr times a gradient of the norm given."""
    alone = ("train.steps=1", "train.optimizer=sgd(lr=0.05, momentum=0.0, nesterov=False)", "train.schedule=constant()")
    start = {name: value.detach().clone() for name, value in Step(parse_recipe(DIGITS, *alone), 10).named_parameters()}
    length = {}
    for clip in ("null", "0.01", "1e6"):
        final = run(tmp_path / clip, *alone, f"train.clip={clip}")[1]
        length[clip] = math.sqrt(sum(float((final[name] - start[name]).square().sum()) for name in start)) / 0.05
    assert length["0.01"] == pytest.approx(0.01, rel=1e-3)
    assert length["1e6"] == length["null"] > 0.1


def test_clip_sees_the_sum_of_the_parts(tmp_path):
    alone = (NORM_FREE, "train.schedule=constant()", "train.steps=2", "train.clip=0.01")
    whole = run(tmp_path / "whole", *alone)[1]
    parts = run(tmp_path / "parts", *alone, "train.accumulate=3")[1]
    for key in whole:
        torch.testing.assert_close(parts[key], whole[key], rtol=1e-4, atol=1e-7)


# ------------------------------------------------------------------------------------------------- what is logged


def test_metrics(plain):
    folder, *_ = plain
    trained = [line for line in lines(folder, keep_speed=True) if "val" not in line]
    assert [line["step"] for line in trained] == list(range(1, 11))
    assert [line["epoch"] for line in trained] == [round(n / 5, 4) for n in range(1, 11)]
    for line in trained:
        assert set(line["terms"]) == {"cross_entropy", "similarity"}
        assert line["loss"] == pytest.approx(sum(line["terms"].values()), rel=1e-6)
        assert line["images_per_second"] > 0
        assert 0 <= line["z_std"] <= 1 / math.sqrt(64) + 1e-6  # 64 columns
    measured = [line for line in lines(folder) if "val" in line]
    assert [line["step"] for line in measured] == [5, 10]
    assert all(set(line["val"]) == {"top1", "top5", "class_mean", "loss"} for line in measured)


def test_lr_is_the_schedule(plain):
    logged = [line["lr"] for line in lines(plain[0]) if "lr" in line]
    warm, peak, floor = 3, 0.05, 0.001
    expected = [peak / warm + step * (peak - peak / warm) / warm for step in range(warm)]
    expected += [floor + (peak - floor) * (1 + math.cos(math.pi * step / (10 - warm))) / 2 for step in range(10 - warm)]
    assert logged == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant()", [1] * 10),
        ("multistep(at=(0.5, '8 steps'), gamma=0.1)", [1] * 5 + [0.1] * 3 + [0.01] * 2),
        ("step(every='1 epochs', gamma=0.5)", [1] * 5 + [0.5] * 5),
        ("cosine(per='epoch')", [1] * 5 + [0.5] * 5),
    ],
)
def test_schedules_in_the_loop(tmp_path, schedule, expected):
    run(tmp_path / "run", f"train.schedule={schedule}")
    logged = [line["lr"] for line in lines(tmp_path / "run") if "lr" in line]
    assert logged == pytest.approx([0.05 * factor for factor in expected], rel=1e-9)


def test_log_every_and_the_end_of_epochs(tmp_path, plain):
    run(tmp_path / "run", "train.log_every=3")
    logged = [line for line in lines(tmp_path / "run") if "loss" in line]
    assert [line["step"] for line in logged] == [3, 5, 6, 9, 10]
    all_lines = {line["step"]: line for line in lines(plain[0]) if "loss" in line}
    assert logged == [all_lines[line["step"]] for line in logged]


def test_tensorboard_holds_the_same_numbers(plain):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(plain[0]))
    events.Reload()
    logged = [line for line in lines(plain[0]) if "loss" in line]
    assert {"loss", "lr", "terms/cross_entropy", "terms/similarity", "val/top1"} <= set(events.Tags()["scalars"])
    assert [event.step for event in events.Scalars("loss")] == [line["step"] for line in logged]
    assert [event.value for event in events.Scalars("terms/similarity")] == pytest.approx(
        [line["terms"]["similarity"] for line in logged], rel=1e-6
    )


# ------------------------------------------------------------------------------------------------- how long


def test_steps_equal_as_many_epochs(tmp_path, plain):
    """120 images in batches of 24: two epochs are ten steps."""
    result, final = run(tmp_path / "run", "train.steps=10")
    assert result["steps"] == plain[1]["steps"] == 10
    assert result["epochs"] == plain[1]["epochs"] == 2
    assert equal(final, plain[2])


def test_steps_may_end_within_an_epoch(tmp_path):
    result, _ = run(tmp_path / "run", "train.steps=7", "train.checkpoint_every=100 epochs")
    assert (result["steps"], result["epochs"]) == (7, 1.4)
    assert [line["step"] for line in lines(tmp_path / "run") if "val" in line] == [5, 7]
    assert read_state(tmp_path / "run" / "checkpoints" / "last.pt")["run"]["number"] == 7


def test_evaluate_every(tmp_path):
    run(tmp_path / "run", "train.epochs=5", "train.evaluate_every=2")
    assert [line["step"] for line in lines(tmp_path / "run") if "val" in line] == [10, 20, 25]


@pytest.mark.parametrize("every", ["0.001 epochs", "3 steps"])
def test_checkpoints_however_close(tmp_path, plain, every):
    assert equal(run(tmp_path / "run", f"train.checkpoint_every={every}")[1], plain[2])


# ------------------------------------------------------------------------------------------------- what is chosen


def by_hand(recipe, folder, split, name="best"):
    """The measures of the classifier, one image at a time and in NumPy, from a checkpoint."""
    splits = open_splits(recipe.data, recipe.seed)
    step = Step(recipe, len(splits.classes))
    step.load_state_dict(read_state(folder / "checkpoints" / f"{name}.pt")["step"])
    net = step.main.eval()

    def look(images):
        features, scores = [], []
        with torch.no_grad():
            for position in range(len(images)):
                normalized = (images.read(position)[None].float() / 255 - 0.5) / 0.5
                features.append(net.backbone(normalized)[0].double())
                scores.append(F.linear(features[-1].float(), net.heads["logits"].weight, net.heads["logits"].bias))
        return torch.stack(features).numpy(), torch.stack(scores).double().numpy(), np.asarray(images.labels)

    features, scores, labels = look(getattr(splits, split))
    ranked = np.argsort(-scores, axis=1)
    right = ranked[:, 0] == labels
    chance = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    bank, _, bank_labels = look(splits.train)
    votes = np.zeros((len(labels), len(splits.classes)))
    for row, feature in enumerate(features):
        cosine = bank @ feature / np.linalg.norm(bank, axis=1) / np.linalg.norm(feature)
        for near in np.argsort(-cosine)[:5]:
            votes[row, bank_labels[near]] += np.exp(cosine[near] / 0.1)
    return {
        "top1": 100 * right.mean(),
        "top5": 100 * np.mean([labels[i] in ranked[i, :5] for i in range(len(labels))]),
        "class_mean": 100 * np.mean([right[labels == c].mean() for c in np.unique(labels)]),
        "loss": -np.log(chance[np.arange(len(labels)), labels]).mean(),
        "knn": 100 * np.mean(votes.argmax(axis=1) == labels),
    }


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    """A run long enough that its scores differ from chance and from epoch to epoch."""
    folder = tmp_path_factory.mktemp("learned") / "run"
    recipe = parse_recipe(DIGITS, "data.limit=400", "train.epochs=6")
    return recipe, folder, train(recipe, folder, quiet=True)


def test_result_is_what_best_gives_on_the_test_images(learned):
    recipe, folder, result = learned
    expected = by_hand(recipe, folder, "test")
    assert set(result["eval"]) == set(expected)
    assert result["eval"] == pytest.approx(expected, rel=1e-4, abs=1e-4)
    assert result["eval"]["top1"] > 40
    assert result["eval_split"] == "test"


def test_best_is_the_best_on_validation(learned):
    recipe, folder, result = learned
    measured = {line["step"]: line["val"] for line in lines(folder) if "val" in line}
    best = max(measured, key=lambda step: (measured[step]["top1"], -measured[step]["loss"]))
    saved = read_state(folder / "checkpoints" / "best.pt")["run"]
    assert saved["number"] == best
    assert saved["best"] == [measured[best]["top1"], -measured[best]["loss"]]
    assert result["val"] == measured[best]
    assert result["selected_by"] == "validation top1"
    assert by_hand(recipe, folder, "val")["top1"] == pytest.approx(measured[best]["top1"], abs=1e-4)


def test_result_file(learned):
    recipe, folder, result = learned
    assert json.loads((folder / "result.json").read_text()) == result
    assert result["recipe"] == "two views of digits"
    assert (result["seed"], result["epochs"], result["steps"]) == (3, 6, 96)
    assert result["views_per_image"] == 2
    assert result["skipped_images"] == []
    assert result["seconds"] > 0
    assert result["images_per_second"] == pytest.approx(96 * 24 / result["seconds"], rel=0.02)
    assert torch.__version__.startswith(result["versions"]["torch"])
    assert Run(folder).finished() == result
    assert Run(folder).recipe() == recipe


def test_a_protocol_that_fails_does_not_cost_the_run_its_end(tmp_path):
    with pytest.warns(ManyviewWarning, match=r"not measured: .*crop\(5\) makes 5x5 of the 8x8"):
        result, _ = run(tmp_path / "run", "train.steps=4", "evaluate=[invariance(ops='crop(5)'), knn(k=5)]")
    assert set(result["eval"]) == {"top1", "top5", "class_mean", "loss", "knn"}
    assert list(result["not_measured"]) == ["invariance(ops=('crop(5)',), images=2000)"]
    assert json.loads((tmp_path / "run" / "result.json").read_text()) == result


def test_test_images_have_no_say(tmp_path, image_folder):
    """With other test images, all but the final figures stays as it was, bit for bit."""
    recipe = parse_recipe(on_folder(image_folder))
    first = train(recipe, tmp_path / "first", quiet=True)
    for path in (image_folder / "test").rglob("*.png"):
        Image.fromarray(255 - np.asarray(Image.open(path))).save(path)
    second = train(recipe, tmp_path / "second", quiet=True)
    for name in ("last", "best"):
        assert equal(weights(tmp_path / "first", name), weights(tmp_path / "second", name))
    assert lines(tmp_path / "first") == lines(tmp_path / "second")
    assert first["val"] == second["val"]
    assert first["eval"] != second["eval"]


def test_validation_images_choose_and_do_not_train(tmp_path, image_folder):
    recipe = parse_recipe(on_folder(image_folder))
    train(recipe, tmp_path / "first", quiet=True)
    for path in (image_folder / "val").rglob("*.png"):
        Image.fromarray(255 - np.asarray(Image.open(path))).save(path)
    train(recipe, tmp_path / "second", quiet=True)
    assert equal(weights(tmp_path / "first"), weights(tmp_path / "second"))
    trained = [[line for line in lines(tmp_path / name) if "val" not in line] for name in ("first", "second")]
    assert trained[0] == trained[1]
    assert lines(tmp_path / "first") != lines(tmp_path / "second")


def test_without_validation_the_last_weights_are_used(tmp_path):
    result, _ = run(tmp_path / "run", "data.val_fraction=0")
    assert not (tmp_path / "run" / "checkpoints" / "best.pt").exists()
    assert result["selected_by"] == "the last step"
    assert "val" not in result
    assert not [line for line in lines(tmp_path / "run") if "val" in line]
    recipe = parse_recipe(DIGITS, "data.val_fraction=0")
    assert result["eval"] == pytest.approx(by_hand(recipe, tmp_path / "run", "test", "last"), rel=1e-4, abs=1e-4)


def test_without_test_the_result_is_that_of_validation(tmp_path, image_folder):
    for split in ("val", "test"):
        shutil.rmtree(image_folder / split)
    result = train(parse_recipe(on_folder(image_folder), "data.val_fraction=0.25"), tmp_path / "run", quiet=True)
    assert result["eval_split"] == "val"
    assert result["eval"] == result["val"]


def test_averaged_weights_are_followed_and_evaluated(tmp_path):
    overrides = ("train.steps=4", "train.schedule=constant()", "train.optimizer.nesterov=False", "data.val_fraction=0")
    recipe = parse_recipe(DIGITS, "train.ema=0.8", *overrides)
    result = train(recipe, tmp_path / "run", quiet=True)
    # by hand: the same updates, and the average beside them
    images = open_splits(recipe.data, recipe.seed).train
    step = Step(parse_recipe(DIGITS), 10, 4)
    averages = {name: value.clone() for name, value in step.main.state_dict().items()}
    optimizer = torch.optim.SGD(step.parameters(), lr=0.05, momentum=0.9)
    for number in range(4):
        batch = Batches(images, 24, 5, recipe.seed)[number]
        optimizer.zero_grad()
        step(batch.images, batch.labels, index=batch.index, epoch=batch.epoch)["loss"].backward()
        optimizer.step()
        for name, value in step.main.state_dict().items():
            averages[name] = 0.8 * averages[name] + 0.2 * value if value.is_floating_point() else value.clone()
    saved = {k: v for k, v in weights(tmp_path / "run").items() if k.startswith("average.module.")}
    for name, value in averages.items():
        torch.testing.assert_close(saved[f"average.module.{name}"], value, rtol=1e-5, atol=1e-6)
    step.main.load_state_dict(averages)
    test = open_splits(recipe.data, recipe.seed).test
    pixels = torch.stack([test.read(i) for i in range(len(test))])
    scores = step.eval().predict(pixels)["logits"]
    assert result["eval"]["loss"] == pytest.approx(
        float(F.cross_entropy(scores, torch.from_numpy(test.labels))), rel=1e-4
    )
    # and the trained ones would have given another figure
    plain = {k.removeprefix("branches.net."): v for k, v in weights(tmp_path / "run").items() if "branches" in k}
    step.main.load_state_dict(plain)
    trained = F.cross_entropy(step.predict(pixels)["logits"], torch.from_numpy(test.labels))
    assert result["eval"]["loss"] != pytest.approx(float(trained), rel=1e-2)


UNLABELLED = DIGITS.replace("  - cross_entropy(logits(a), logits(b))\n", "")


def test_without_a_classifier_knn_chooses_where_it_is_asked_to(tmp_path):
    recipe = parse_recipe(UNLABELLED, "train.keep=best")
    result = train(recipe, tmp_path / "run", quiet=True)
    (begun, *measured) = [line for line in lines(tmp_path / "run") if "val" in line]
    assert begun == lines(tmp_path / "run")[0]
    assert (begun["step"], begun["epoch"], set(begun["val"])) == (0, 0, {"knn"})
    assert [(line["step"], set(line["val"])) for line in measured] == [(5, {"knn"}), (10, {"knn"})]
    assert result["selected_by"] == "validation knn"
    assert result["val"]["knn"] == max(line["val"]["knn"] for line in measured)
    assert set(result["eval"]) == {"knn"}


def test_labels_only_judge_where_nothing_learns_from_them(tmp_path):
    """With other labels the weights, and which of them are kept, stay; beside the figures stand the untrained ones'."""
    result, final = run(tmp_path / "run", "train.epochs=3", text=UNLABELLED)
    assert not (tmp_path / "run" / "checkpoints" / "best.pt").exists()
    assert result["selected_by"] == "the last step"
    measured = [line["val"]["knn"] for line in lines(tmp_path / "run") if "val" in line]
    assert result["val"] == {"knn": measured[-1]}
    recipe = parse_recipe(UNLABELLED, "train.epochs=3")
    splits = open_splits(recipe.data, recipe.seed)
    untrained = Features(StepModel(Step(recipe, 10), splits.classes), splits, seed=recipe.seed)
    expected = {name: evaluate(untrained, name, [Knn(k=5)]) for name in ("val", "test")}
    assert result["untrained"] == expected
    assert expected["val"]["knn"] == measured[0]
    kept = Run(tmp_path / "run").step(recipe).state_dict()
    assert all(torch.equal(kept[name], value) for name, value in final.items())


def test_the_untrained_network_is_judged_unless_the_recipe_says_no(tmp_path):
    result, _ = run(tmp_path / "run", "train.epochs=1", "train.untrained=false", text=UNLABELLED)
    assert "untrained" not in result
    assert [line["step"] > 0 for line in lines(tmp_path / "run") if "val" in line] == [True]


def test_who_keeps_what():
    plain = "  - similarity(h(a), h(b), weight=2)"
    learning = ["cross_entropy(logits(a))", "supervised_contrastive(h(a), h(b))"]
    judged = ["agmax(logits(a), logits(b))", "nt_xent(h(a), h(b))"]
    for line in (*learning, *judged):
        text = UNLABELLED.replace(plain, f"{plain}\n  - {line}")
        assert parse_recipe(text).keeps_best == (line in learning)
        assert parse_recipe(text, "train.keep=best").keeps_best
        assert not parse_recipe(text, "train.keep=last").keeps_best


def test_the_last_weights_are_kept_where_they_are_asked_for(tmp_path, plain):
    result, final = run(tmp_path / "run", "train.keep=last")
    assert result["selected_by"] == "the last step"
    assert equal(final, plain[2])
    assert "untrained" not in result  # of a classifier, chance


def test_a_probe_is_measured_once_the_run_has_ended(tmp_path):
    """While it goes on, kNN with as many neighbours as there are training images chooses the weights."""
    result = train(
        parse_recipe(UNLABELLED, "evaluate=[linear_probe()]", "train.keep=best"), tmp_path / "run", quiet=True
    )
    assert {name for line in lines(tmp_path / "run") for name in line.get("val", {})} == {"knn"}
    assert result["selected_by"] == "validation knn"
    assert set(result["val"]) == {"knn"}
    run = Run(tmp_path / "run")
    recipe = run.recipe()
    features = Features(StepModel(run.step(recipe), run.classes()), run.splits(recipe), seed=recipe.seed)
    assert result["val"] == pytest.approx(evaluate(features, "val", [Knn(k=120)]))
    assert result["eval"] == pytest.approx(evaluate(features, "test", [Linear()]))
    assert set(json.loads((tmp_path / "run" / "result.json").read_text())["eval"]) == {"linear", "linear_weight"}


def test_more_neighbours_than_images_are_told_at_the_end(tmp_path, capsys):
    result = train(parse_recipe(DIGITS, "evaluate=['knn(k=500)']"), tmp_path / "run")
    told = "knn asks k=120 neighbours, not 500: no more training images have a label"
    assert result["eval"]["knn_k"] == 120
    assert result["notes"]["knn(k=500, temperature=0.1) on test"].startswith(told)
    assert result == json.loads((tmp_path / "run" / "result.json").read_text())
    assert f"knn(k=500, temperature=0.1) on test: {told}" in capsys.readouterr().out


def test_the_figure_before_training_is_that_of_the_first_weights_and_is_never_the_best(tmp_path):
    """With a learning rate of 0 nothing is learnt: the same features but for BatchNorm, here LayerNorm."""
    still = (NORM_FREE, "train.optimizer.lr=0.0", "train.schedule=constant()", "train.keep=best")
    train(parse_recipe(UNLABELLED, *still), tmp_path, quiet=True)
    values = {line["step"]: line["val"]["knn"] for line in lines(tmp_path) if "val" in line}
    assert len(set(values.values())) == 1
    assert list(values) == [0, 5, 10]
    assert read_state(tmp_path / "checkpoints" / "best.pt")["run"]["number"] == 5


@pytest.mark.parametrize("lost", [["result.json"], ["result.json", "checkpoints/last.pt", "checkpoints/best.pt"]])
def test_the_figure_before_training_is_neither_lost_nor_doubled_by_a_restart(tmp_path, lost):
    recipe = parse_recipe(UNLABELLED, "train.epochs=1", "train.keep=best")
    train(recipe, tmp_path / "run", quiet=True)
    before = lines(tmp_path / "run")
    for name in lost:
        (tmp_path / "run" / name).unlink()
    train(recipe, tmp_path / "run", resume=True, quiet=True)
    assert lines(tmp_path / "run") == before
    assert [line["step"] for line in before] == [0, 1, 2, 3, 4, 5, 5]


def test_where_nothing_is_measured_the_last_weights_are_used(tmp_path):
    result = train(parse_recipe(UNLABELLED, "evaluate=[]"), tmp_path / "run", quiet=True)
    assert not (tmp_path / "run" / "checkpoints" / "best.pt").exists()
    assert result["selected_by"] == "the last step"
    assert result["val"] == result["eval"] == {}


def test_bad_images_are_skipped_and_listed(tmp_path, image_folder):
    bad = image_folder / "train" / "dark" / "03.png"
    bad.write_bytes(bad.read_bytes()[:50])
    with pytest.raises(ManyviewError, match=f"^{bad}: .*$"):
        train(parse_recipe(on_folder(image_folder)), tmp_path / "raise", quiet=True)
    result = train(parse_recipe(on_folder(image_folder), "data.on_bad_image=skip"), tmp_path / "skip", quiet=True)
    assert len(result["skipped_images"]) == 1
    assert result["skipped_images"][0].startswith(f"{bad}: ")


def _spoil(image_folder, place: int) -> Path:
    """Breaks the training image that the first epoch sees at that place; batches are of 16."""
    position = int(order_of(3, 0, 48)[place])
    bad = image_folder / "train" / ("dark", "light")[position // 24] / f"{position % 24:02}.png"
    bad.write_bytes(b"no image")
    return bad


def test_what_is_said_of_a_bad_image_in_the_first_step_can_be_done(tmp_path, image_folder):
    first, second, third = (_spoil(image_folder, place) for place in (2, 5, 7))
    recipe, out = on_folder(image_folder), tmp_path / "run"
    others = rf"\(2 more of its batch: {second}, {third}\)"
    with pytest.raises(
        ManyviewError, match=f"^{first}: .*, or leave such images out with data.on_bad_image=skip.*{others}"
    ):
        train(parse_recipe(recipe), out, quiet=True)
    assert not out.exists()
    result = train(parse_recipe(recipe, "data.on_bad_image=skip"), out, quiet=True)
    assert len(result["skipped_images"]) == 3


def test_what_is_said_of_a_bad_image_later_can_be_done(tmp_path, image_folder):
    bad = _spoil(image_folder, 40)  # in the third batch
    recipe, out = on_folder(image_folder), tmp_path / "run"
    with pytest.raises(ManyviewError, match=f"^{bad}: "):
        train(parse_recipe(recipe, "train.checkpoint_every='1 steps'"), out, quiet=True)
    with pytest.warns(ManyviewWarning, match="are replaced from here on; until now there were none"):
        result = train(Run(out).recipe("data.on_bad_image=skip"), out, resume=True, quiet=True)
    assert len(result["skipped_images"]) == 1
    assert Run(out).recipe().data.on_bad_image == "skip"
    whole = train(parse_recipe(recipe, "data.on_bad_image=skip"), tmp_path / "whole", quiet=True)
    assert equal(weights(tmp_path / "whole"), weights(out))
    assert whole["val"] == result["val"]


def test_bad_images_of_evaluation_are_listed_too(tmp_path, image_folder):
    bad = image_folder / "test" / "light" / "03.png"
    bad.write_bytes(b"")
    result = train(parse_recipe(on_folder(image_folder), "data.on_bad_image=skip"), tmp_path / "skip", quiet=True)
    assert result["skipped_images"] == [f"{bad}: the file is empty (0 bytes)"]


# ------------------------------------------------------------------------------------------------- how it ends


@pytest.mark.parametrize("every", ["2 steps", "1 epochs"])
def test_a_loss_that_is_not_finite_ends_the_run(tmp_path, every):
    overrides = ("train.optimizer.lr=1e9", "train.log_every=100", f"train.checkpoint_every={every}")
    with pytest.raises(
        RunError, match=r"^the loss is not finite at step \d+ \(cross_entropy\b.*; begin anew .*lr"
    ) as caught:
        run(tmp_path / "run", *overrides)
    assert "\n" not in str(caught.value)
    last = tmp_path / "run" / "checkpoints" / "last.pt"
    assert not last.exists() or all(torch.isfinite(value).all() for value in weights(tmp_path / "run").values())
    assert not (tmp_path / "run" / "result.json").exists()


def loaders():
    threads = [thread for thread in threading.enumerate() if thread.name.startswith("manyview-loader")]
    return [*multiprocessing.active_children(), *threads]


def test_no_worker_outlives_the_run(tmp_path):
    for render in ("workers", "memory"):
        where = ("data.workers=2", f"data.render={render}")
        run(tmp_path / f"{render} whole", *where)
        assert loaders() == []
        with pytest.raises(RunError, match="is not finite") as caught:
            run(tmp_path / f"{render} broken", *where, "train.optimizer.lr=1e9", "train.epochs=9")
        # though the error's traceback still holds the loop's variables
        assert caught.tb is not None
        assert loaders() == []


def test_a_folder_in_use_is_refused_and_kept(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").write_text("mine")
    with pytest.raises(RunError, match=r"is not empty; choose another --out, or continue with --resume$"):
        run(tmp_path / "run")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["notes.txt"]
    (tmp_path / "file").write_text("mine")
    with pytest.raises(RunError, match=r"file is a file; --out names a folder$"):
        run(tmp_path / "file")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["train.schedule=cosine(warmup='10 steps')"],
            r"train.schedule: .*warm-up of 10 steps leaves nothing of a run",
        ),
        (["data.limit=100000"], r"data.limit is 100,000, but only"),
        (["branches.net.backbone=cresnet21"], r"branches.net.backbone: unknown backbone 'cresnet21'"),
    ],
)
def test_mistakes_are_found_before_anything_is_written(tmp_path, overrides, message):
    with pytest.raises(ManyviewError, match=message) as caught:
        run(tmp_path / "run", *overrides)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_batches_that_processes_and_parts_do_not_divide(tmp_path):
    with pytest.raises(RecipeError, match=r"^train.accumulate: 5 does not divide batch_size 24$"):
        run(tmp_path / "run", "train.accumulate=5")


@pytest.mark.parametrize(("workers", "group", "sent"), [(0, False, "SIGTERM"), (2, True, "SIGUSR1")])
def test_a_signal_ends_the_run_so_that_it_can_continue(tmp_path, workers, group, sent):
    """A scheduler's signal to the process alone, or (as a terminal's Ctrl-C) to its workers too."""
    (tmp_path / "recipe.yaml").write_text(DIGITS)
    folder = tmp_path / "run"
    command = [sys.executable, "-m", "manyview.cli", "train", str(tmp_path / "recipe.yaml"), "train.epochs=2000"]
    command += [f"data.workers={workers}", f"data.render={'workers' if workers else 'memory'}"]
    command += ["train.checkpoint_every=1000 epochs", "--out", str(folder)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        metrics = folder / "metrics.jsonl"
        while not (metrics.exists() and metrics.read_text().count("\n") > 3):
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.01)
        if group:
            os.killpg(process.pid, signal.Signals[sent])
        else:
            process.send_signal(signal.Signals[sent])
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    number = read_state(folder / "checkpoints" / "last.pt")["run"]["number"]
    assert number >= 4
    assert process.returncode == REQUEUE
    assert errors == f"manyview: stopped at step {number}; continue with: manyview train --resume {folder}\n"
    assert not (folder / "result.json").exists()
    assert lines(folder)[-1]["step"] == number


def test_handlers_of_signals_are_given_back(tmp_path):
    def mine(number, frame):
        raise AssertionError("no signal was sent")

    before = {number: signal.signal(number, mine) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        run(tmp_path / "run")
        assert all(signal.getsignal(number) is mine for number in before)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_public_names():
    assert manyview.train is train


# ------------------------------------------------------------------------------------------ what cannot be measured


def test_images_exchanged_under_their_names_since_a_run_began_are_named(tmp_path, image_folder):
    recipe = parse_recipe(on_folder(image_folder))
    run = Run(tmp_path / "run")
    run.begin(recipe, open_splits(recipe.data, recipe.seed), resume=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error", ManyviewWarning)
        run.splits(recipe)
    path = Path(open_splits(recipe.data, recipe.seed).train.name(0))
    Image.fromarray(255 - np.asarray(Image.open(path))).save(path)
    with pytest.warns(ManyviewWarning, match=rf"run: {path}: other pixels than when the run began; files were exch"):
        run.splits(recipe)


@pytest.mark.parametrize("split", ["val", "test"])
def test_a_split_without_a_readable_image_is_left_out(tmp_path, image_folder, split):
    for path in (image_folder / split).rglob("*.png"):
        path.write_bytes(b"")
    with pytest.warns(
        ManyviewWarning, match=rf"not measured: none of 20 images could be read; the first: .*empty.*{split}"
    ):
        result, _ = run(tmp_path / "run", "data.on_bad_image=skip", text=on_folder(image_folder))
    assert any(f"(split '{split}')" in why for why in result["not_measured"].values())
    assert "top1" in result["val" if split == "test" else "eval"]


def test_what_was_trained_is_kept_where_validation_fails(tmp_path, image_folder):
    bad = image_folder / "val" / "dark" / "03.png"
    good = bad.read_bytes()
    bad.write_bytes(b"")
    with pytest.raises(ManyviewError, match=r"03\.png: the file is empty"):
        run(tmp_path / "run", text=on_folder(image_folder))
    assert read_state(tmp_path / "run" / "checkpoints" / "last.pt")["run"]["number"] == 3
    bad.write_bytes(good)
    result = train(parse_recipe(on_folder(image_folder)), tmp_path / "run", quiet=True, resume=True)
    assert result["steps"] == 9
