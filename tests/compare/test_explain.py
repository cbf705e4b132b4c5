"""What may explain a difference: noise of gradients by hand on a linear model, and the lines that a run gives."""

import importlib
import sys

import numpy as np
import pytest
import torch

import manyview
from scripts import BENCHMARKS, beside

EVIDENCE = BENCHMARKS / "evidence"
N, D, WIDTH, C = 6, 3, 5, 4


@pytest.fixture(scope="module")
def explain():
    """The script, whose folder is on the path as if it were run."""
    with beside(EVIDENCE):
        yield importlib.import_module("explain")


def test_noise_of_a_linear_model_by_hand(explain):
    drawn = np.random.default_rng(3)
    weight, views = drawn.normal(size=(C, WIDTH)), drawn.normal(size=(D, N, WIDTH))
    labels = drawn.integers(0, C, N)
    model = torch.nn.Linear(WIDTH, C, bias=False).double()
    model.weight.data = torch.from_numpy(weight)
    read = explain.gradients_of(
        model, [*model.parameters()], [torch.from_numpy(view) for view in views], torch.from_numpy(labels)
    )
    found = explain.noise(read)

    gradients = np.zeros((N, D, C * WIDTH))  # (softmax - label) x', of each image and draw
    for image in range(N):
        for draw in range(D):
            x = views[draw, image]
            p = np.exp(weight @ x) / np.exp(weight @ x).sum()
            p[labels[image]] -= 1
            gradients[image, draw] = np.outer(p, x).ravel()
    within = np.mean([sum(gradients[i, :, k].var(ddof=1) for k in range(C * WIDTH)) for i in range(N)])
    of_images = gradients.mean(axis=1)
    spread = sum(of_images[:, k].var(ddof=1) for k in range(C * WIDTH))
    assert found["gradient_within"] == pytest.approx(within)
    assert found["gradient_between"] == pytest.approx(spread - within / D)
    assert found["gradient_norm2"] == pytest.approx((of_images.mean(axis=0) ** 2).sum() - spread / N)


def test_noise_is_unbiased(explain):
    """Over many sets of few images and draws: 0.5 within, 2 between and 1 of the mean, in each of 3 weights."""
    drawn = torch.Generator().manual_seed(0)
    found = []
    for _ in range(2000):
        images = 1 + 2**0.5 * torch.randn(4, 1, 3, generator=drawn)
        found.append(explain.noise(images + 0.5**0.5 * torch.randn(4, 2, 3, generator=drawn)))
    for key, true in {"gradient_within": 1.5, "gradient_between": 6.0, "gradient_norm2": 3.0}.items():
        values = np.array([each[key] for each in found])
        assert abs(values.mean() - true) < 4 * values.std() / len(values) ** 0.5


def test_divergence_is_both_ways(explain):
    p, q = np.array([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]]), np.array([[0.25, 0.5, 0.25], [0.1, 0.1, 0.8]])
    by_hand = np.mean([((a - b) * np.log(a / b)).sum() / 2 for a, b in zip(p, q, strict=True)])
    logs = torch.from_numpy(np.log(p)) + 7, torch.from_numpy(np.log(q))
    assert explain.divergence(*logs) == pytest.approx(by_hand)


RECIPE = """
data: {source: digits, limit: 60}
views:
  a: {from: image, make: "pad_crop(8, padding=1)"}
  b: {like: a}
branches: {net: {backbone: "test_vit(img_size=8, patch_size=4)", normalize: half}}
relations: ["cross_entropy(logits(a), logits(b))"]
train: {steps: 2, batch_size: 8, keep: last, ema: 0.5, untrained: false}
evaluate: [calibration()]
"""


def test_lines_of_runs_that_claimed(explain, tmp_path, monkeypatch):
    runs, found = tmp_path / "out" / "overfitted-claim" / "runs", tmp_path / "explained.jsonl"
    recipe = manyview.parse_recipe(RECIPE)
    result = manyview.train(recipe, runs / "two_views" / "seed-0")
    monkeypatch.setattr(explain, "IMAGES", 5)
    monkeypatch.setattr(
        sys, "argv", ["explain.py", "overfitted", str(tmp_path / "out"), "--seeds=0", f"--found={found}"]
    )
    explain.main()
    explain.main()  # once
    (line,) = explain.read_explained(found)
    assert (line["setting"], line["arm"], line["seed"]) == ("overfitted", "two_views", 0)
    assert line["test_loss"] == pytest.approx(result["eval"]["loss"], rel=1e-5)
    assert line["ece15"] == result["eval"]["calibration_ece15"]
    assert 0 < line["same_class"] <= 100
    tables = importlib.import_module("tables")
    assert {*tables.COLUMNS} < {*line}
    told = tables.explained([], [line, {**line, "seed": 1, "gradient_norm2": 1.01 * line["gradient_norm2"]}])
    assert f"| two_views | 2 | {line['train_loss']:.3f} | {line['test_loss']:.3f} |" in told
    monkeypatch.setattr(sys, "argv", [*sys.argv[:3], "--seeds=1", "--arms=jsd", sys.argv[-1]])
    with pytest.raises(SystemExit, match="no run of two_views, seed 1, claimed in overfitted"):
        explain.main()


def test_a_norm_that_is_none_is_not_divided_by(explain):
    tables = importlib.import_module("tables")
    lines = [
        {
            "setting": "s",
            "arm": arm,
            "seed": seed,
            "gradient_within": 8.0,
            "gradient_between": 6.0,
            "gradient_norm2": norm,
        }
        for arm, norms in {"plain": (2.0, 2.1, 1.9), "lost": (2.0, -0.7, -0.3)}.items()
        for seed, norm in enumerate(norms)
    ]
    told = {row.split(" | ")[0]: row for row in tables.explained([], lines).splitlines()}
    assert told["| plain"].endswith("| 8.0 | 6.0 | 4, 3 |")
    assert told["| lost"].endswith("| 8.0 | 6.0 | – |")
