"""A run on two streams: resumed bit for bit, alike on two processes, replayed, refused on other images."""

import json

import numpy as np
import pytest
import torch
from accelerate import Accelerator

import manyview
from manyview.data import open_splits
from manyview.errors import ManyviewError, RunError
from manyview.foundation.files import read_state
from manyview.judge.replay import replay
from manyview.recipe.batches import batches_of
from manyview.relations.pseudo_label import Said
from manyview.training.pseudo_labels import Correctness
from manyview.training.train import train
from processes import on_two

RECIPE = """
seed: 3
data: {source: digits, labels_per_class: 2, unlabeled: all, unlabeled_limit: 64, val_fraction: 0.2}
views:
  x: {from: image, make: "pad_crop(8, padding=1)"}
  weak: {from: unlabeled, make: "pad_crop(8, padding=1)"}
  strong: {from: weak, make: "randaugment(2, 9)"}
branches: {net: {backbone: "test_vit(img_size=8, patch_size=4)", normalize: half}}
relations:
  - cross_entropy(logits(x))
  - pseudo_label(logits(strong), toward=stop(logits(weak)), threshold=flex(0.12))
train: {steps: 8, batch_size: 8, unlabeled_per_labeled: 2, accumulate: 2, log_every: 1, checkpoint_every: 4 steps,
        schedule: constant(), optimizer: "sgd(lr=0.05, momentum=0.9)", keep: last, evaluate_every: 9}
"""


def parsed(*overrides):
    return manyview.parse_recipe(RECIPE, *overrides)


def weights(folder):
    return read_state(folder / "checkpoints" / "last.pt")["step"]


def assert_same(one, two, **close):
    assert one.keys() == two.keys()
    for name, value in one.items():
        torch.testing.assert_close(value, two[name], msg=name, **close)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("streams") / "run"
    train(parsed(), folder, quiet=True)
    return folder


def test_what_a_run_tells(run):
    result = json.loads((run / "result.json").read_text())
    assert result["views_per_image"] == (8 + 2 * 16) / 24
    assert result["epochs"] == 2.0  # 64 images, 16 a step: the larger stream
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    logged = [line for line in lines if "terms" in line]
    assert len(logged) == 8
    assert set(logged[0]["terms"]) == {"cross_entropy", "pseudo_label"}
    measures = {f"pseudo_label/{name}" for name in ("confident", "correct", *(f"threshold/{c}" for c in range(10)))}
    assert set(logged[-1]["measures"]) == measures
    shares = [line["measures"]["pseudo_label/confident"] for line in logged]
    assert all(0 <= share <= 1 for share in shares)
    assert max(shares) > 0
    assert set(json.loads((run / "splits.json").read_text())) >= {"train", "unlabeled"}


def test_resumed_bit_for_bit(run, tmp_path):
    folder = tmp_path / "run"
    train(parsed("train.steps=4"), folder, quiet=True)
    (folder / "result.json").unlink()
    (folder / "recipe.yaml").write_text(parsed().to_yaml())
    train(parsed(), folder, quiet=True, resume=True)
    assert_same(weights(folder), weights(run), rtol=0, atol=0)


def test_other_images_of_the_stream_are_refused_on_resume(run, tmp_path):
    changed = json.loads((run / "splits.json").read_text())
    folder = tmp_path / "run"
    (folder / "checkpoints").mkdir(parents=True)
    changed["unlabeled"]["digest"] = "0"
    (folder / "splits.json").write_text(json.dumps(changed))
    (folder / "recipe.yaml").write_text((run / "recipe.yaml").read_text())
    with pytest.raises(RunError, match="the unlabeled images are not those the run began with"):
        train(parsed(), folder, quiet=True, resume=True)


def test_correct_is_the_share_of_right_labels(run):
    """As the withheld labels have it, row by row of what was said in the last forward pass."""
    recipe = parsed()
    splits = open_splits(recipe.data, recipe.seed)
    withheld = dict(zip(splits.unlabeled.index.tolist(), splits.withheld.tolist(), strict=True))
    step, index = manyview.Step(recipe, 10), splits.unlabeled.index[[5, 3, 60, 9]]
    labels = torch.tensor([withheld[int(image)] for image in index])
    wrong = (labels + torch.tensor([0, 1, 0, 0])) % 10
    step.relations["pseudo_label"].said = Said(torch.from_numpy(index), wrong, torch.tensor([1.0, 1, 0.5, 0]))
    assert Correctness(splits).of(step, Accelerator(cpu=True)) == {"pseudo_label/correct": 1.5 / 2.5}
    assert (splits.withheld >= 0).all()


def test_either_stream_is_replayed(run):
    recipe = parsed()
    splits = open_splits(recipe.data, recipe.seed)
    batches = batches_of(recipe, splits, "workers", 10)
    other = batches[2 * 4 + 1].streams[
        "unlabeled"
    ]  # update 4 is in the second epoch of that stream, the third of image
    assert (batches[9].epoch, other.epoch) == (2, 1)
    drawn = replay(run, int(other.index[0]), 1, stream="unlabeled")
    assert "of the stream unlabeled, epoch 1" in drawn.name
    # one cell of the picture is the view's pixels, each shown as a square
    strong = np.asarray(drawn.picture)
    pixels = (other.images["strong"].pixels[0] * 255).round().byte().permute(1, 2, 0).numpy()
    assert contains(strong, pixels)
    first = replay(run, int(batches[9].index[0]), 2)
    assert contains(np.asarray(first.picture), (batches[9].images["x"].pixels[0] * 255).byte().permute(1, 2, 0).numpy())
    with pytest.raises(ManyviewError, match="--stream: unknown stream 'unlabelled'; did you mean 'unlabeled'"):
        replay(run, 0, 0, stream="unlabelled")
    with pytest.raises(ManyviewError, match="--epoch 2: this run has epochs 0 to 1"):
        replay(run, 0, 2, stream="unlabeled")


def contains(sheet, pixels):
    """Whether an image stands in a sheet, each of its pixels a square of one size."""
    size = 144 // len(pixels)
    grown = pixels.repeat(size, 0).repeat(size, 1)
    height, width = grown.shape[:2]
    first, last = sheet[: 1 - height, : 1 - width], sheet[height - 1 :, width - 1 :]
    corners = (first == grown[0, 0]).all(2) & (last == grown[-1, -1]).all(2)
    return any((sheet[top : top + height, left : left + width] == grown).all() for top, left in np.argwhere(corners))


def process(rank, recipe, folder):
    train(recipe, folder, quiet=True)


@pytest.mark.slow(reason="runs on two processes")
def test_two_processes_are_one(tmp_path):
    """The test_vit has no BatchNorm, so that the joined batch is all there is."""
    recipe = parsed("train.steps=3")
    train(recipe, tmp_path / "one", quiet=True)
    on_two(process, recipe, tmp_path / "two")
    assert_same(weights(tmp_path / "two"), weights(tmp_path / "one"), rtol=1e-4, atol=1e-6)


def test_no_file_of_a_run_that_is_refused(tmp_path):
    with pytest.raises(ManyviewError, match=r"16 unlabeled|unlabeled_limit"):
        train(parsed("data.unlabeled_limit=5000"), tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()
