"""A run on two processes, with images that cannot be read; resumed on another number of them; replayed."""

import json
import os

import pytest
import torch

from commands import done, manyview, png
from manyview import parse_recipe
from manyview.data import open_splits
from manyview.data.loader import Batches
from manyview.errors import Lost, ManyviewWarning, RunError
from manyview.foundation.files import read_state
from manyview.foundation.group import join
from manyview.judge.judge import judge
from manyview.judge.subject import open_subject
from manyview.training.run import Run
from manyview.training.train import train
from processes import on_several, on_two

pytestmark = pytest.mark.slow(reason="runs on two processes")
RECIPE = """
seed: 3
data: {{source: folder, root: "{root}", val_fraction: 0.2, on_bad_image: skip}}
views:
  a: {{from: image, make: "pad_crop(8, padding=1) | mixup(1.0)"}}
branches: {{net: {{backbone: "test_vit(img_size=8, patch_size=4)", normalize: half}}}}
relations: [cross_entropy(logits(a))]
train: {{steps: 9, batch_size: 8, accumulate: 2, log_every: 1, checkpoint_every: 3 steps, schedule: constant(),
         optimizer: "sgd(lr=0.05)"}}
"""
BAD = {3, 4, 11, 20}


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """A folder of two classes, of whose 40 images four hold none."""
    root = tmp_path_factory.mktemp("images")
    for number in range(40):
        path = png(root / "cd"[number % 2] / f"{number:02}.png", (8, 8), seed=number)
        if number in BAD:
            path.write_bytes(b"no image")
    return parse_recipe(RECIPE.format(root=root))


def process(rank, recipe, folder, resume):
    train(recipe, folder, quiet=True, resume=resume)


def train_on_two(recipe, folder, resume=False):
    on_two(process, recipe, folder, resume)


def unfinished(folder, recipe, steps):
    """Makes a finished run look as if it had been killed after so many steps: that many were all it had."""
    (folder / "result.json").unlink()
    (folder / "recipe.yaml").write_text(recipe.to_yaml())
    assert read_state(folder / "checkpoints" / "last.pt")["run"]["number"] == steps


def weights(folder):
    return read_state(folder / "checkpoints" / "last.pt")["step"]


def assert_same(one, two, **close):
    assert one.keys() == two.keys()
    for name, value in one.items():
        torch.testing.assert_close(value, two[name], msg=name, **close)


@pytest.fixture(scope="module")
def two(tmp_path_factory, recipe):
    folder = tmp_path_factory.mktemp("two") / "run"
    train_on_two(recipe, folder)
    return folder


def shortened(recipe):
    return recipe.model_copy(update={"train": recipe.train.model_copy(update={"steps": 6})})


@pytest.fixture(scope="module")
def plain(tmp_path_factory, recipe):
    """With BatchNorm and mixing out of the way: the recipe, and its run on one process."""
    recipe, folder = parse_recipe(recipe.to_yaml(), "views.a.make=flip(0.5)"), tmp_path_factory.mktemp("one") / "run"
    train(recipe, folder, quiet=True)
    return recipe, folder


@pytest.mark.parametrize("count", [2, 4])
def test_several_processes_skip_as_one_does(plain, tmp_path, count):
    """The same weights; and all that was skipped, whoever met it."""
    recipe, one = plain
    on_several(count, process, recipe, tmp_path / "run", False)
    assert_same(weights(tmp_path / "run"), weights(one), rtol=1e-4, atol=1e-6)
    results = [json.loads((run / "result.json").read_text()) for run in (one, tmp_path / "run")]
    assert results[0]["skipped_images"] == results[1]["skipped_images"]
    assert {int(line.partition(".png")[0][-2:]) for line in results[0]["skipped_images"]} == BAD


def evaluated(rank, folder, out):
    join()
    reports = judge(open_subject(folder), ["classify", "knn(k=3)"], out=out, cache=False)
    assert bool(reports) == (rank == 0)
    with pytest.raises(RunError, match=r"^--split: unknown split") as caught:
        judge(open_subject(folder), split="held")
    assert caught.value.tells == (rank == 0)


def test_two_processes_judge_a_run_as_one_does(two, tmp_path):
    judge(open_subject(two), ["classify", "knn(k=3)"], out=tmp_path / "one", cache=False)
    on_two(evaluated, two, tmp_path / "two")
    results = [json.loads((tmp_path / name / "result.json").read_text()) for name in ("one", "two")]
    assert results[0]["eval"] == results[1]["eval"] if "eval" in results[0] else results[0] == results[1]


class Mortal:
    """Images, of which the second process dies once a run is trained."""

    def __init__(self, folder, first=0):
        self.folder, self.first = folder, first

    def __len__(self):
        return 16

    def __getitem__(self, number):
        if os.environ.get("RANK") == "1" and (self.folder / "checkpoints" / "last.pt").is_file():
            os._exit(0)
        return torch.full((3, 8, 8), self.first + 7 * number, dtype=torch.uint8), number % 2


def judging(rank, recipe, folder):
    with pytest.raises(Lost, match=r"^another process of the group ended, or could not be reached any more"):
        train(recipe, folder, quiet=True, data={"train": Mortal(folder / "none"), "test": Mortal(folder, 128)})
    (folder / "told").touch()


def test_a_process_that_dies_while_it_judges_is_told_in_a_line(recipe, tmp_path):
    short = parse_recipe(recipe.to_yaml(), "train.steps=1", "data.memory=0", "data.val_fraction=0")
    on_two(judging, short, tmp_path / "run")
    assert (tmp_path / "run" / "told").exists()
    assert not (tmp_path / "run" / "result.json").exists()


def test_two_processes_resume_exactly(two, recipe, tmp_path):
    train_on_two(shortened(recipe), tmp_path / "run")
    unfinished(tmp_path / "run", recipe, 6)
    train_on_two(recipe, tmp_path / "run", resume=True)
    assert_same(weights(tmp_path / "run"), weights(two), rtol=0, atol=0)


def test_another_number_of_processes_is_told_and_replayed(two, recipe, tmp_path):
    """Begun on one, resumed on two, then on one: each step's partners are those of its own number of processes."""
    folder = tmp_path / "run"
    train(shortened(recipe), folder, quiet=True)
    longer = recipe.model_copy(update={"train": recipe.train.model_copy(update={"steps": 8})})
    unfinished(folder, longer, 6)
    train_on_two(longer, folder, resume=True)
    noted = Run(folder)
    assert [noted.processes(step) for step in (0, 5, 6, 8)] == [1, 1, 2, 2]
    unfinished(folder, recipe, 8)
    told = r"^resumed on 1 process, begun on 2: mixing in a sees parts of 4 images, until now of 2$"
    with pytest.warns(ManyviewWarning, match=told):
        train(recipe, folder, quiet=True, resume=True)
    assert [noted.processes(step) for step in (0, 5, 6, 7, 8)] == [1, 1, 2, 2, 1]

    images = open_splits(recipe.data, recipe.seed).train
    batches = Batches(images, 8, len(images) // 8, recipe.seed, accumulate=2)
    for step, world in ((1, 1), (7, 2)):
        epoch, positions = batches.positions(step * 2)
        good = next(int(p) for p in positions if int(images.name(int(p))[-6:-4]) not in BAD)
        assert batches.step_of(good, epoch) == step
        done("replay", folder, "--index", images.index[good], "--epoch", epoch, "--out", tmp_path / f"{step}.png")
        again = tmp_path / "again.json"
        again.write_text((folder / "splits.json").read_text())
        (folder / "splits.json").write_text(json.dumps({**json.loads(again.read_text()), "continued": []}))
        done("replay", folder, "--index", images.index[good], "--epoch", epoch, "--out", tmp_path / "one.png")
        (folder / "splits.json").write_text(again.read_text())
        alike = (tmp_path / "one.png").read_bytes() == (tmp_path / f"{step}.png").read_bytes()
        assert alike == (world == 1)


def test_replay_knows_what_no_step_saw(recipe, two, tmp_path):
    """What comes after the run's last step; and for a bad image it does not show the one that stood in its place."""
    images = open_splits(recipe.data, recipe.seed).train
    batches = Batches(images, 8, len(images) // 8, recipe.seed)

    def replayed(position, epoch):
        asked = ("--index", images.index[position], "--epoch", epoch, "--out", tmp_path / "seen.png")
        return manyview("replay", two, *asked)

    def good(step):
        return next(p for p in map(int, batches.positions(step)[1]) if int(images.name(p)[-6:-4]) not in BAD)

    recipe_file = two / "recipe.yaml"
    whole = recipe_file.read_text()
    recipe_file.write_text(whole.replace("steps: 9", "steps: 8"))  # of the third epoch, two of its three batches
    assert replayed(good(7), 2)[0] == 0
    code, _, err = replayed(good(8), 2)
    assert code == 2
    assert "was not reached in epoch 2: the run ended before, after 8 steps" in err
    recipe_file.write_text(whole)
    bad = next(p for p in range(len(images)) if int(images.name(p)[-6:-4]) in BAD and batches.step_of(p, 0) is not None)
    code, _, err = replayed(bad, 0)
    assert code == 2
    assert f"image {images.index[bad]} cannot be read: it was skipped in training" in err
