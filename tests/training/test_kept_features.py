"""A frozen teacher that looks at views without draws: each image passes it once, and nothing else is another."""

import json
import shutil

import pytest
import torch

import manyview
from commands import contents, one_line
from commands import manyview as command
from manyview.errors import ManyviewWarning, RecipeError
from manyview.foundation.files import read_state
from manyview.training.run import Run
from processes import on_two

TEACHER = """
data: {source: digits, limit: 100}
views: {a: {from: image, make: "pad_crop(8, padding=1)"}}
branches: {net: {backbone: cresnet20, normalize: half}}
relations: ["cross_entropy(logits(a))"]
train: {epochs: 1, batch_size: 20, keep: last}
evaluate: []
"""
STUDENT = """
data: {source: digits, limit: 100, render: workers}
views:
  a: {from: image, make: "pad_crop(8, padding=1) | flip(0.5)"}
  big: {from: image, make: resize(12)}
  turns: {from: image, orbit: rotation}
branches:
  net: {backbone: cresnet20, normalize: half, t: "projector(h, width_of=teacher)"}
  teacher: "frozen('PLACE', keep=KEEP)"
relations:
  - cross_entropy(logits(a))
  - distill(logits(a), toward=teacher.logits(big), temperature=4)
  - cosine(t(a), toward=teacher.h(big))
  - cosine(t(turns), toward=teacher.h(turns))
train: {epochs: 2, batch_size: 24, keep: last, checkpoint_every: 3 steps, schedule: constant(), log_every: 1}
evaluate: []
"""


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MANYVIEW_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "teachers"


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    folder = tmp_path_factory.mktemp("teacher") / "run"
    manyview.train(manyview.parse_recipe(TEACHER), folder, quiet=True)
    return folder


def student(teacher, keep=True, *overrides):
    return manyview.parse_recipe(STUDENT.replace("PLACE", str(teacher)).replace("KEEP", str(keep)), *overrides)


def assert_alike(one, two):
    ours, theirs = (read_state(Run(folder).last)["step"] for folder in (one, two))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    lines = [
        [
            (line["step"], line["terms"])
            for line in map(json.loads, (folder / "metrics.jsonl").open())
            if "terms" in line
        ]
        for folder in (one, two)
    ]
    assert lines[0] == lines[1]


def passes(monkeypatch):
    """How many rows went through the teacher's backbone."""
    seen, forward = [], manyview.branches.branch.Branch._features

    def count(branch, images):
        if branch.spec.frozen is not None:
            seen.append(len(images))
        return forward(branch, images)

    monkeypatch.setattr(manyview.branches.branch.Branch, "_features", count)
    return seen


@pytest.mark.parametrize(
    "more", [[], ["train.accumulate=2"], ["train.precision=bf16"], ["data.render=device"]], ids=str
)
def test_with_and_without_are_alike_to_the_bit(teacher, tmp_path, monkeypatch, cache, more):
    manyview.train(student(teacher, False, *more), tmp_path / "without", quiet=True)
    seen = passes(monkeypatch)
    manyview.train(student(teacher, True, *more), tmp_path / "with", quiet=True)
    assert_alike(tmp_path / "with", tmp_path / "without")
    few = 20  # of the rehearsal, which looks at an image or two
    batches, size = (9, 12) if "train.accumulate=2" in more else (5, 24)  # of 100 images; the last one is filled up
    rows = 5 * batches * size  # of big one an image, of turns four
    assert rows <= sum(seen) <= rows + few
    assert len([*cache.iterdir()]) == 1
    # another run with the same teacher passes nothing but the rehearsal's
    del seen[:]
    manyview.train(student(teacher, True, *more), tmp_path / "again", quiet=True)
    assert sum(seen) <= few
    assert_alike(tmp_path / "again", tmp_path / "without")


@pytest.mark.slow(reason="five runs")
def test_it_goes_on_to_the_bit_with_and_without_its_file(teacher, tmp_path, cache):
    manyview.train(student(teacher), tmp_path / "whole", quiet=True)
    for name in ("kept", "lost"):
        folder = tmp_path / name
        manyview.train(student(teacher, True, "train.epochs=null", "train.steps=5"), folder, quiet=True)
        (folder / "result.json").unlink()
        (folder / "recipe.yaml").write_text(student(teacher).to_yaml())
        if name == "lost":
            shutil.rmtree(cache)
        manyview.train(student(teacher), folder, quiet=True, resume=True)
        assert_alike(folder, tmp_path / "whole")


@pytest.mark.slow(reason="three runs")
def test_a_damaged_file_is_made_again(teacher, tmp_path, cache):
    manyview.train(student(teacher), tmp_path / "one", quiet=True)
    (path,) = cache.iterdir()
    whole = path.read_bytes()
    for number, damaged in enumerate((whole[: len(whole) // 2], whole[:-1] + bytes([whole[-1] ^ 1]))):
        path.write_bytes(damaged)
        with pytest.warns(ManyviewWarning, match="is damaged"):
            manyview.train(student(teacher), tmp_path / f"{number}", quiet=True)
        assert_alike(tmp_path / f"{number}", tmp_path / "one")
        assert path.read_bytes() == whole


@pytest.mark.slow(reason="six runs")
def test_other_weights_images_and_views_have_files_of_their_own(teacher, tmp_path, cache):
    manyview.train(manyview.parse_recipe(TEACHER, "seed=5"), tmp_path / "other", quiet=True)
    recipes = [
        student(teacher),
        student(tmp_path / "other"),
        student(teacher, True, "data.limit=90"),
        student(teacher, True, "views.big.make=resize(10)"),
        student(teacher, True, "train.batch_size=20"),
    ]
    for number, recipe in enumerate(recipes, 1):
        manyview.train(recipe, tmp_path / f"{number}", quiet=True)
        assert len([*cache.iterdir()]) == number


def process(rank, recipe, folder):
    manyview.train(recipe, folder, quiet=True)


@pytest.mark.slow(reason="two runs on two processes")
def test_two_processes(teacher, tmp_path):
    for keep in (False, True):
        on_two(process, student(teacher, keep), tmp_path / f"{keep}")
    assert_alike(tmp_path / "True", tmp_path / "False")


REFUSED = {
    "views.big.make=flip(0.5)": "is for views that are the same in every epoch, and flip may draw another big each",
    "views.turns.from=a": "and pad_crop may draw another turns each time",
    "data.reduced=true": "data.reduced reads an image as small as its views allow; drop one of both",
    "branches.teacher=frozen(keep=True)": "keep=True is for a network that the recipe names",
    "branches.teacher=frozen('x', keep=1)": "keep is True or False, got 1",
}


@pytest.mark.parametrize("override", REFUSED)
def test_where_it_cannot_be_kept_is_one_line(teacher, tmp_path, override):
    with pytest.raises(RecipeError) as error:
        student(teacher, True, override)
    assert REFUSED[override] in str(error.value)
    (tmp_path / "recipe.yaml").write_text(STUDENT.replace("PLACE", str(teacher)).replace("KEEP", "True"))
    before = contents(tmp_path)
    assert REFUSED[override] in one_line(
        *command("train", tmp_path / "recipe.yaml", override, "--out", tmp_path / "run")
    )
    assert contents(tmp_path) == before


def test_a_run_of_an_epoch_looks_up_what_a_pass_would_say(teacher, tmp_path, cache):
    short = "train.epochs=1", "train.keep=last"
    for keep in (False, True):
        manyview.train(student(teacher, keep, *short), tmp_path / f"{keep}", quiet=True)
    assert_alike(tmp_path / "True", tmp_path / "False")
    assert len([*cache.iterdir()]) == 1


def test_where_nothing_can_be_written_it_is_told(teacher, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MANYVIEW_CACHE", str(tmp_path / "file"))
    with pytest.warns(ManyviewWarning, match=r"branches\.teacher: what it says of images is not kept"):
        manyview.train(student(teacher, True, "train.epochs=1"), tmp_path / "run", quiet=True)
    assert (tmp_path / "run" / "result.json").is_file()
