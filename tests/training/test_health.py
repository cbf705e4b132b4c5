"""How spread embeddings are, against slow NumPy from the papers' formulas; and what a run does when they collapse."""

import itertools
import json
import math
import warnings

import numpy as np
import pytest
import torch

from commands import manyview, png
from manyview import parse_recipe
from manyview.errors import ManyviewWarning, RecipeError, RunError
from manyview.foundation.files import read_state
from manyview.training.health import (
    COLLAPSED,
    PATIENCE,
    ROWS,
    collapse_message,
    effective_rank,
    health,
    lidar,
    steps_low,
    uniformity,
)
from manyview.training.train import train
from manyview.views.draws import order_of

KEYS = ["z_std", "z_std_sqrt_d", "effective_rank", "uniformity"]


def drawn(rows, dim, seed=0, scale=1.0):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(rows, dim)) * scale + 0.3).float()


def by_hand(z, other=None):
    """The same figures in float64, a row, a pair and a dimension at a time."""
    units = [[value / math.sqrt(sum(v * v for v in row)) for value in row] for row in z.double().tolist()]
    rows, dim = len(units), len(units[0])
    spreads = []
    for column in range(dim):
        values = [row[column] for row in units]
        mean = sum(values) / rows
        spreads.append(math.sqrt(sum((value - mean) ** 2 for value in values) / rows))
    singular = np.linalg.svd(np.array(units), compute_uv=False)
    shares = [value / singular.sum() for value in singular if value > 1e-12]
    kernel = [
        math.exp(-2 * sum((a - b) ** 2 for a, b in zip(one, two, strict=True)))
        for one, two in itertools.combinations(units, 2)
    ]
    found = {
        "z_std": sum(spreads) / dim,
        "z_std_sqrt_d": sum(spreads) / dim * math.sqrt(dim),
        "effective_rank": math.exp(-sum(share * math.log(share) for share in shares)),
        "uniformity": math.log(sum(kernel) / len(kernel)),
    }
    if other is not None:
        second = [[value / math.sqrt(sum(v * v for v in row)) for value in row] for row in other.double().tolist()]
        found["alignment"] = (
            sum(sum((a - b) ** 2 for a, b in zip(x, y, strict=True)) for x, y in zip(units, second, strict=True)) / rows
        )
        found["lidar"] = lidar_by_hand(np.array([units[:128], second[:128]]))
    return found


def lidar_by_hand(views):
    """LDA's scatters, image by image; the eigenvalues of their ratio by a general solver. views: [2, B, d]."""
    count, dim = views.shape[1:]
    means = views.mean(axis=0)
    among, within = np.zeros((dim, dim)), 1e-4 * np.eye(dim)
    for image in range(count):
        off = means[image] - means.mean(axis=0)
        among += np.outer(off, off) / count
        for view in views[:, image]:
            within += np.outer(view - means[image], view - means[image]) / (2 * count)
    values = np.linalg.eigvals(np.linalg.solve(within, among)).real
    shares = [value / values.sum() for value in values if value > 1e-12]
    return math.exp(-sum(share * math.log(share) for share in shares))


@pytest.mark.parametrize(("rows", "dim"), [(24, 7), (7, 24), (9, 9), (2, 3)])
def test_against_numpy(rows, dim):
    one, two = drawn(rows, dim), drawn(rows, dim, seed=1)
    assert list(health([one])) == KEYS
    assert health([one]) == pytest.approx(by_hand(one), rel=1e-5)
    assert health([one, two]) == pytest.approx(by_hand(one, two), rel=1e-5)
    # the length of a row says nothing
    assert health([one * 100, two / 7]) == pytest.approx(health([one, two]), rel=1e-4)


def test_spread_evenly():
    """Rows of a normal distribution lie evenly on the sphere: Wang & Isola's optimum, and full rank."""
    found = health([torch.randn(1024, 64, generator=torch.Generator().manual_seed(0))])
    assert found["z_std_sqrt_d"] == pytest.approx(1, abs=0.01)
    assert 60 < found["effective_rank"] < 64
    # log E exp(-2 |x - y|^2) with |x - y|^2 = 2 - 2 cos, cos of variance 1/64: -4 + 16/(2*64) and little more
    assert found["uniformity"] == pytest.approx(-4 + 8 / 64, abs=0.01)


@pytest.mark.parametrize("dim", [3, 2048])
def test_collapse(dim):
    one = torch.ones(40, dim)
    assert health([one, one]) == pytest.approx(
        {"z_std": 0, "z_std_sqrt_d": 0, "effective_rank": 1, "uniformity": 0, "alignment": 0}, abs=1e-3
    )
    # noise about the one point has full rank, were it centred
    noisy = one + 1e-4 * drawn(40, dim)
    assert health([noisy])["effective_rank"] < 1.05
    assert effective_rank(noisy - noisy.mean(dim=0)) > 2


def test_few_dimensions_of_many():
    """What the spread alone does not tell: rows that lie in 3 of 64 dimensions."""
    thin = drawn(300, 3) @ torch.linalg.qr(drawn(64, 64))[0][:3]
    assert health([thin])["effective_rank"] < 3 + 1e-3
    assert health([thin])["effective_rank"] == pytest.approx(by_hand(thin)["effective_rank"], rel=1e-4)


def test_precision_is_that_of_float32():
    one, two = drawn(30, 16), drawn(30, 16, seed=1)
    half = [one.bfloat16(), two.bfloat16()]
    assert health(half) == health([z.float() for z in half])
    with torch.autocast("cpu", torch.bfloat16):
        assert health([one, two]) == health([one.clone(), two.clone()])
        inside = health([one, two])
    assert inside == health([one, two])


def test_without_gradient_and_inputs_unchanged():
    z = drawn(8, 4).requires_grad_()
    before = z.detach().clone()
    assert all(isinstance(value, float) for value in health([z, z]).values())
    assert torch.equal(z, before)
    assert z.grad is None


def test_rows_of_zeros():
    z = drawn(6, 4)
    z[2] = 0
    assert all(math.isfinite(value) for value in health([z, z]).values())
    nothing = health([torch.zeros(6, 4)])
    assert nothing == pytest.approx({"z_std": 0, "z_std_sqrt_d": 0, "effective_rank": 0, "uniformity": 0}, abs=1e-12)


def test_one_row():
    found = health([drawn(1, 4), drawn(1, 4)])
    assert {name for name, value in found.items() if math.isnan(value)} == {"z_std", "z_std_sqrt_d", "uniformity"}
    assert found["effective_rank"] == pytest.approx(1)
    assert found["alignment"] == pytest.approx(0)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("shape", [(9, 4), (4, 9), (1, 3)])
def test_what_is_not_finite_is_nan(bad, shape):
    z = drawn(*shape)
    z[0, 1] = bad
    assert all(math.isnan(value) for value in health([z, z]).values())


def test_pairs_and_rank_look_at_the_first_rows():
    z = drawn(ROWS + 50, 5)
    found, first = health([z]), health([z[:ROWS]])
    assert (found["effective_rank"], found["uniformity"]) == (first["effective_rank"], first["uniformity"])
    assert found["z_std"] != first["z_std"]
    assert found["z_std"] == pytest.approx(float((z / z.norm(dim=1, keepdim=True)).std(dim=0, correction=0).mean()))
    assert uniformity(z[:ROWS]) != uniformity(z[:20])


def test_counting_low_steps():
    low = 0
    seen = []
    for spread in (0.5, 0.09, 0.0, COLLAPSED, 0.09, math.nan, 0.05, 0.05):
        low = steps_low(low, {"z_std_sqrt_d": spread})
        seen.append(low)
    assert seen == [0, 1, 2, 0, 1, 0, 1, 2]


def test_the_message_is_one_line():
    text = collapse_message({"z_std_sqrt_d": 0.0123, "effective_rank": 1.42}, 250)
    assert "\n" not in text
    for part in ("0.012 at step 250", "effective rank 1.4", "stop(", "ema", "lr", "BatchNorm", "lighter views"):
        assert part in text


# ------------------------------------------------------------------------------------------------- LiDAR and teachers


def test_lidar_counts_directions_in_which_images_differ_more_than_views():
    images, noise = drawn(128, 32), 0.05 * torch.from_numpy(np.random.default_rng(5).normal(size=(2, 128, 32))).float()
    images[:, 5:] *= 0.01  # five directions tell images apart, and views move in all
    assert 3 < lidar(*(images + noise)) < 7
    assert lidar(*(noise + 1)) > 20  # images that differ no more than their views, in all directions alike
    assert lidar(torch.ones(9, 4), torch.ones(9, 4)) == 0


@pytest.mark.parametrize(
    ("entropy", "said"),
    [
        (0.999, ["all columns are alike", "relations.dino.teacher_temperature=0.04"]),
        (0.001, ["one column has won", "relations.dino.momentum=0.8"]),
        (0.3, ["a few columns have won", "relations.dino.momentum=0.8"]),
    ],
)
def test_a_teacher_that_answers_all_images_alike(entropy, said):
    measures = {"z_std_sqrt_d": 0.05, "dino.entropy": entropy, "dino.told": 0.001, "dino.kl": 0.01}
    assert steps_low(3, measures, grown=False) == 0  # at first all answers are alike
    assert steps_low(3, measures) == 4
    assert steps_low(3, {**measures, "dino.told": 0.3}) == 0
    text = collapse_message(measures, 250)
    assert text.startswith("dino: the teacher answers all images alike, ")
    for part in [*said, "at step 250", "fewer columns", "freeze=", "train.clip"]:
        assert part in text
    assert "\n" not in text


# ------------------------------------------------------------------------------------------------- in a run

DINO = """
title: a teacher that can only answer alike, since all images are one
seed: 3
data: {source: digits, limit: 120}
views:
  a: {from: image, make: posterize(0)}
  b: {like: a}
branches:
  net: {backbone: cresnet20, normalize: half, z: "dino_head(h, 12, hidden=8, bottleneck=8)"}
  teacher: ema(net, momentum=0.9)
relations: ["dino(z(a), z(b), toward=teacher)"]
train: {steps: 30, batch_size: 24, optimizer: "adamw(lr=0.001)", schedule: constant(), log_every: 1}
"""


@pytest.mark.slow(reason="trains a small net")
def test_dinos_collapse_is_told_and_its_measures_logged(tmp_path):
    with pytest.warns(ManyviewWarning, match="dino: the teacher answers all images alike") as told:
        train(parse_recipe(DINO), tmp_path / "run", quiet=True)
    assert len([each for each in told if "the teacher answers" in str(each.message)]) == 1
    for line in logged(tmp_path / "run"):
        assert {"dino.entropy", "dino.told", "dino.kl"} <= line.keys()
        assert line["dino.told"] == pytest.approx(0, abs=1e-4)


COLLAPSING = """
title: all images are one, black, and so are their embeddings, wherever training goes
seed: 3
data: {source: digits, limit: 120}
views:
  a: {from: image, make: posterize(0)}
  b: {like: a}
branches: {net: {backbone: cresnet20, normalize: half, z: "mlp(h, 16, 8)"}}
relations: ["similarity(z(a), z(b), weight=10)"]
train: {epochs: 3, batch_size: 24, optimizer: "sgd(lr=0.1, momentum=0.9)", schedule: constant(), log_every: 1}
"""


def logged(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if "loss" in line]


def told_at(spreads):
    """Steps, counted from 1, at which a message is due: the fifth low one of each stretch."""
    due, low = [], 0
    for step, spread in enumerate(spreads, start=1):
        low = low + 1 if spread < 0.1 else 0
        if low == 5:
            due.append(step)
    return due


@pytest.fixture(scope="module")
def warned(tmp_path_factory):
    """The collapsing run and its warnings."""
    folder = tmp_path_factory.mktemp("warned") / "run"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        train(parse_recipe(COLLAPSING), folder, quiet=True)
    return folder, [str(warning.message) for warning in caught if warning.category is ManyviewWarning]


def test_metrics_hold_the_health(warned):
    for line in logged(warned[0]):
        assert list(line)[-5:] == [*KEYS, "alignment"]
        assert line["z_std_sqrt_d"] == pytest.approx(line["z_std"] * math.sqrt(8))
        assert line["effective_rank"] == pytest.approx(1)
        assert (line["uniformity"], line["alignment"]) == pytest.approx((0, 0), abs=1e-9)


def test_a_collapse_is_told_once(warned):
    folder, messages = warned
    due = told_at([line["z_std_sqrt_d"] for line in logged(folder)])
    assert len(due) == 1
    assert due[0] < len(logged(folder)), "the run goes on after it"
    assert len(messages) == 1
    line = logged(folder)[due[0] - 1]
    assert messages[0] == collapse_message(line, due[0])
    assert read_state(folder / "checkpoints" / "last.pt")["run"]["low"] == len(logged(folder)) - due[0] + PATIENCE


def test_told_again_after_a_recovery(tmp_path):
    """Which steps are low is up to the images: batches of one picture have one embedding, those of noise have not."""
    alike = [True] * 7 + [False] * 2 + [True] * 4 + [False] + [True] * 6
    for step, positions in enumerate(np.split(order_of(3, 0, 8 * len(alike)), len(alike))):
        for position in positions:
            png(tmp_path / "train" / "any" / f"{position:03}.png", (8, 8), seed=0 if alike[step] else 1 + position)
    recipe = parse_recipe(
        COLLAPSING,
        f"data={{source: 'folder(labels=None)', root: {json.dumps(str(tmp_path))}, limit: null}}",
        "views.a.make=resize(8)",
        "train.epochs=1",
        "train.batch_size=8",
        "train.optimizer.lr=1e-9",
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        train(recipe, tmp_path / "run", quiet=True)
    spreads = [line["z_std_sqrt_d"] for line in logged(tmp_path / "run")]
    assert [spread < 0.05 for spread in spreads] == alike
    assert all(spread > 0.2 for spread, same in zip(spreads, alike, strict=True) if not same)
    messages = [str(warning.message) for warning in caught if warning.category is ManyviewWarning]
    assert messages == [collapse_message(logged(tmp_path / "run")[step - 1], step) for step in (5, 19)]


def test_ignored_and_where_something_classifies(tmp_path):
    classifying = "relations=['cross_entropy(logits(a), weight=0.01)', 'similarity(z(a), z(b), weight=10)']"
    with warnings.catch_warnings():
        warnings.simplefilter("error", ManyviewWarning)
        train(parse_recipe(COLLAPSING, "train.on_collapse=ignore"), tmp_path / "ignored", quiet=True)
        train(parse_recipe(COLLAPSING, classifying), tmp_path / "classes", quiet=True)
    for name in ("ignored", "classes"):
        assert told_at([line["z_std_sqrt_d"] for line in logged(tmp_path / name)])


def test_stop_saves_and_ends_the_run(tmp_path, warned):
    folder = tmp_path / "run"
    (tmp_path / "recipe.yaml").write_text(COLLAPSING)
    far = "train.checkpoint_every=100 epochs"
    code, _, err = manyview("train", tmp_path / "recipe.yaml", "train.on_collapse=stop", far, "--out", folder)
    (due,) = told_at([line["z_std_sqrt_d"] for line in logged(warned[0])])
    assert code == 2
    told = collapse_message(logged(warned[0])[due - 1], due)
    assert err == f"manyview: {told}; stopped, as train.on_collapse says\n"
    saved = read_state(folder / "checkpoints" / "last.pt")["run"]
    assert (saved["number"], saved["low"]) == (due, PATIENCE)
    assert not (folder / "result.json").exists()
    # again, one logged step later; and to the end by whoever does not mind
    code, _, err = manyview(
        "train", tmp_path / "recipe.yaml", "train.on_collapse=stop", far, "--out", folder, "--resume"
    )
    assert f"at step {due + 1}, " in err
    code, _, err = manyview("train", tmp_path / "recipe.yaml", far, "--out", folder, "--resume")
    assert (code, err) == (0, "")
    strip = [{k: v for k, v in line.items() if k != "images_per_second"} for line in logged(folder)]
    assert strip == [{k: v for k, v in line.items() if k != "images_per_second"} for line in logged(warned[0])]


def test_the_count_survives_a_restart(tmp_path, warned):
    """A run that broke off amid the low steps stops where it would have stopped without that."""
    (due,) = told_at([line["z_std_sqrt_d"] for line in logged(warned[0])])
    every = f"train.checkpoint_every={due - 2} steps"
    with warnings.catch_warnings():
        warnings.simplefilter("error", ManyviewWarning)
        with pytest.raises(ManyviewWarning, match=f"at step {due}, "):
            train(parse_recipe(COLLAPSING, every), tmp_path / "run", quiet=True)
    saved = read_state(tmp_path / "run" / "checkpoints" / "last.pt")["run"]
    assert (saved["number"], saved["low"]) == (due - 2, PATIENCE - 2)
    with pytest.raises(RunError, match=f"at step {due}, "):
        train(parse_recipe(COLLAPSING, every, "train.on_collapse=stop"), tmp_path / "run", resume=True, quiet=True)


def test_on_collapse_is_one_of_three():
    with pytest.raises(RecipeError, match=r"train.on_collapse: .*'warn', 'stop' or 'ignore'"):
        parse_recipe(COLLAPSING, "train.on_collapse=panic")


def test_the_warning_is_one_line_on_stderr(tmp_path, warned):
    (tmp_path / "recipe.yaml").write_text(COLLAPSING)
    code, out, err = manyview("train", tmp_path / "recipe.yaml", "--quiet", "--out", tmp_path / "run")
    assert (code, out) == (0, "")
    assert err == f"manyview: warning: {warned[1][0]}\n"


def test_the_lines_of_epochs_show_it(tmp_path, warned):
    (tmp_path / "recipe.yaml").write_text(COLLAPSING + "evaluate: [knn(k=5)]\n")
    _, out, _ = manyview("train", tmp_path / "recipe.yaml", "train.epochs=2", "--out", tmp_path / "run")
    shown = [line for line in out.splitlines() if line.startswith("epoch ")]
    at_end = logged(warned[0])[9]
    assert len(shown) == 3
    assert shown[0].startswith("epoch   0  val kNN ")
    assert f"  z_std·√d {at_end['z_std_sqrt_d']:.2f}  rank {at_end['effective_rank']:.1f}  val kNN " in shown[2]
