"""Two streams: which images they have, in which order, with which draws; what a recipe may not say of them."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import manyview
from manyview.compare.budget import own_length
from manyview.data import open_splits
from manyview.data.batch import Batch
from manyview.data.loader import load
from manyview.errors import BatchError, DataError, ManyviewError, RecipeError
from manyview.optimize.optimize import clock_of
from manyview.recipe.batches import batches_of
from manyview.recipe.streams import read_of, unread
from manyview.show.plan import layout, plan
from manyview.views.streams import seed_of

TEXT = """
seed: 3
data: {source: digits, labels_per_class: 4, unlabeled: all, unlabeled_limit: 300, val_fraction: 0.2}
views:
  x: {from: image, make: "pad_crop(8, padding=1) | flip(0.5)"}
  weak: {from: unlabeled, make: "pad_crop(8, padding=1) | flip(0.5)"}
  strong: {from: weak, make: "randaugment(2, 9)"}
branches: {net: {backbone: "test_vit(img_size=8, patch_size=4)", normalize: half}}
relations:
  - cross_entropy(logits(x))
  - agreement(logits(strong), stop(logits(weak)), kind="kl")
train: {steps: 12, batch_size: 8, unlabeled_per_labeled: 3, accumulate: 2}
"""

ALONE = """
seed: 3
data: {source: digits, labels_per_class: 4, val_fraction: 0.2}
views:
  x: {from: image, make: "pad_crop(8, padding=1) | flip(0.5)"}
branches: {net: {backbone: "test_vit(img_size=8, patch_size=4)", normalize: half}}
relations: [cross_entropy(logits(x))]
train: {steps: 12, batch_size: 8, accumulate: 2}
"""


@pytest.fixture(scope="module")
def recipe():
    return manyview.parse_recipe(TEXT)


@pytest.fixture(scope="module")
def splits(recipe):
    return open_splits(recipe.data, recipe.seed)


@pytest.fixture(scope="module")
def batches(recipe, splits):
    return batches_of(recipe, splits, "workers", 10)


def spliced(*overrides):
    parsed = manyview.parse_recipe(TEXT, *overrides)
    return open_splits(parsed.data, parsed.seed)


# ------------------------------------------------------------------------------------------------------------- images


def test_no_label_of_the_stream_is_seen(splits):
    assert splits.counts == {"image": 40, "unlabeled": 300}
    assert (splits.unlabeled.labels == -1).all()
    assert (splits.train.labels >= 0).all()
    assert "300 unlabeled (all)" in splits.note


def test_all_the_rest_and_a_limit():
    whole, rest = spliced("data.unlabeled_limit=null"), spliced("data.unlabeled_limit=null", "data.unlabeled=rest")
    labelled, everything = set(whole.train.index), set(whole.unlabeled.index)
    assert labelled < everything
    assert set(rest.unlabeled.index) == everything - labelled
    assert not everything & {*whole.val.index, *whole.test.index}
    few, more = (set(spliced(f"data.unlabeled_limit={n}").unlabeled.index) for n in (50, 200))
    assert few < more < everything


def test_the_labelled_images_are_those_without_the_stream(splits):
    alone = open_splits(manyview.parse_recipe(ALONE).data, 3)
    assert np.array_equal(alone.train.index, splits.train.index)


def test_another_source_is_the_stream(tmp_path):
    pixels = np.random.default_rng(0).integers(256, size=(5, 8, 8, 3), dtype=np.uint8)
    for number, image in enumerate(pixels):
        Image.fromarray(image).save(tmp_path / f"{number}.png")
    found = spliced(
        "data.unlabeled=folder(labels=None)", f"data.unlabeled_root={tmp_path}", "data.unlabeled_limit=null"
    )
    assert len(found.unlabeled) == 5
    assert torch.equal(found.unlabeled.read(2), torch.from_numpy(pixels[2]).permute(2, 0, 1))
    assert len(found.train) == 40


def test_images_without_labels_are_in_the_stream_alone(tmp_path):
    """A labelled data set in which some images have no label: these go where labels are not asked for."""
    images = np.zeros((24, 8, 8, 3), np.uint8)
    labels = np.array([0, 1, -1] * 8)
    parsed = manyview.parse_recipe(
        TEXT, "data.unlabeled=rest", "data.unlabeled_limit=null", "data.labels_per_class=null", "data.val_fraction=0"
    )
    found = open_splits(parsed.data, 3, {"train": (images, labels), "test": (images[:2], labels[:2])})
    assert found.counts == {"image": 16, "unlabeled": 8}
    assert set(found.unlabeled.index) == set(range(2, 24, 3))


def test_a_stream_given_in_python():
    drawn = np.random.default_rng(0)
    few, many = (drawn.integers(256, size=(count, 8, 8, 3), dtype=np.uint8) for count in (20, 50))
    data = {"train": (few, np.arange(20) % 2), "unlabeled": many}
    ours = ("data.labels_per_class=null", "data.unlabeled_limit=null", "data.val_fraction=0")
    parsed = manyview.parse_recipe(TEXT, "data.unlabeled=python", *ours)
    found = open_splits(parsed.data, 3, data)
    assert found.counts == {"image": 20, "unlabeled": 50}
    assert torch.equal(found.unlabeled.read(7), torch.from_numpy(many[7]).permute(2, 0, 1))
    with pytest.raises(DataError, match=r"'unlabeled' is given, and data\.unlabeled is all; .* data\.unlabeled=python"):
        open_splits(manyview.parse_recipe(TEXT, *ours).data, 3, data)
    with pytest.raises(DataError, match="given in Python"):
        open_splits(parsed.data, 3, {"train": data["train"]})


# ------------------------------------------------------------------------------------------------------------ batches


def test_the_first_stream_is_as_it_is_alone(recipe, splits, batches):
    alone = batches_of(recipe, replace(splits, unlabeled=None), "workers", 10)
    for number in range(6):
        one, two = alone[number], batches[number]
        assert torch.equal(one.index, two.index)
        assert torch.equal(one.images["x"].images, two.images["x"].images)
        assert not one.streams


def test_each_stream_has_epochs_and_an_order_of_its_own(recipe, splits, batches):
    steps, parts = clock_of(recipe.train, splits.counts), recipe.train.accumulate
    assert (steps.steps, steps.steps_per_epoch) == (12, 300 // 24)
    seen = [batches[number] for number in range(12 * parts)]
    assert [batch.epoch for batch in seen] == [n // parts // 5 for n in range(24)]
    others = [batch.streams["unlabeled"] for batch in seen]
    assert {batch.epoch for batch in others} == {0}
    assert all(len(batch.index) == 12 for batch in others)
    index = torch.cat([batch.index for batch in others]).tolist()
    assert len(set(index)) == len(index)  # once an epoch
    assert all(batch.targets is None for batch in others)
    assert list(others[0].images) == ["weak", "strong"]
    assert seed_of(3, "image") == 3
    assert 2**32 < seed_of(3, "unlabeled") != seed_of(4, "unlabeled")


def test_draws_of_an_image_differ_from_stream_to_stream(recipe):
    """Image 7 in epoch 0: the same ops, in views of one name, of either stream."""
    parsed = manyview.parse_recipe(TEXT.replace("x:", "view:").replace("(x)", "(view)"))
    other = manyview.parse_recipe(TEXT.replace("weak", "view"))
    picture = torch.zeros(64, 3, 8, 8, dtype=torch.uint8)
    first = manyview.Step(parsed, 10).views(picture, index=range(64), epoch=0)["view"]
    second = manyview.Step(other, 10).views(picture, index=range(64), epoch=0, stream="unlabeled")["view"]
    assert not torch.equal(first.params["flip"]["applied"], second.params["flip"]["applied"])


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_give_the_same(batches, workers, monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    for one, two in zip(load(batches, 3, 7, 0), load(batches, 3, 7, workers), strict=True):
        for left, right in ((one, two), (one.streams["unlabeled"], two.streams["unlabeled"])):
            assert torch.equal(left.index, right.index)
            assert all(torch.equal(view.images, right.images[name].images) for name, view in left.images.items())


def test_processes_and_parts_share_each_batch(recipe, splits):
    whole = batches_of(manyview.parse_recipe(TEXT, "train.accumulate=1"), splits, "workers", 10)[5]
    of_rank = [batches_of(recipe, splits, "workers", 10, rank, 2) for rank in range(2)]
    parts = [of_rank[rank][2 * 5 + part] for part in range(2) for rank in range(2)]
    assert torch.equal(torch.cat([part.index for part in parts]), whole.index)
    others = [part.streams["unlabeled"].index for part in parts]
    assert torch.equal(torch.cat(others), whole.streams["unlabeled"].index)


# --------------------------------------------------------------------------------------------------------------- step


def test_a_step_draws_what_workers_draw(recipe, splits, batches):
    step = manyview.Step(recipe, 10).eval()
    bare = batches_of(recipe, splits, "device", 10)
    assert torch.equal(step(bare[5])["loss"], step(batches[5])["loss"])


def test_a_loop_of_ones_own_gives_both(recipe, splits):
    step = manyview.Step(recipe, 10).eval()
    first, other = splits.train, splits.unlabeled
    images, labels = torch.stack([first.read(n) for n in range(4)]), torch.from_numpy(first.labels[:4])
    others = Batch(torch.stack([other.read(n) for n in range(6)]), None, other.index[:6], 2)
    out = step(images, labels, index=first.index[:4], epoch=9, streams={"unlabeled": others})
    out["loss"].backward()
    assert list(out["terms"]) == ["cross_entropy", "agreement"]
    given = Batch(images, labels, first.index[:4], 9, streams={"unlabeled": others})
    assert torch.equal(step(given)["loss"], out["loss"])
    # each term is that of its own stream
    alone = manyview.parse_recipe(ALONE)
    single = manyview.Step(alone, 10).eval()
    single.load_state_dict(step.state_dict())
    torch.testing.assert_close(
        single(images, labels, index=first.index[:4], epoch=9)["loss"], out["terms"]["cross_entropy"]
    )


def test_what_a_loop_forgets_is_said(recipe):
    step = manyview.Step(recipe, 10)
    images, labels = torch.zeros(4, 3, 8, 8, dtype=torch.uint8), torch.zeros(4, dtype=torch.long)
    with pytest.raises(BatchError, match=r"relations read views of the stream unlabeled; give its images"):
        step(images, labels, index=range(4), epoch=0)
    batch = Batch(images, None, range(4), 0)
    with pytest.raises(BatchError, match="unknown stream 'unlabelled'; did you mean 'unlabeled'"):
        step(images, labels, index=range(4), epoch=0, streams={"unlabeled": batch, "unlabelled": batch})
    with pytest.raises(BatchError, match="a Batch has its own epoch"):
        step(Batch(images, labels, range(4), 0), epoch=1)
    with pytest.raises(BatchError, match="the stream unlabeled is read without labels"):
        step(images, labels, index=range(4), epoch=0, streams={"unlabeled": Batch(images, labels, range(4), 0)})


def test_rows_count_each_stream(recipe, splits):
    step = manyview.Step(recipe, 10)
    length = own_length(recipe, splits.counts, step.rows)
    assert (length.images_per_step, length.images, length.forwards) == (32, 12 * 32, 12 * 56)
    few = own_length(recipe, {"image": 5, "unlabeled": 20}, step.rows)  # no batch has more than there are
    assert (few.images, few.forwards) == (12 * 25, 12 * 45)
    assert step.rows == {"image": 1, "unlabeled": 2}
    assert step.rows_per_image == (8 + 24 * 2) / 32
    made = plan(recipe)
    assert "8 images and 24 unlabeled, 56 through the networks (1 and 2 an image)" in made.summary()
    drawn = layout(made.recipe)
    assert [node.label for node in drawn.nodes if node.kind == "image"] == ["image", "unlabeled"]
    assert ("unlabeled", "weak", False) in drawn.edges


# ---------------------------------------------------------------------------------------------------------- bad input

BAD = {
    "no stream": (
        ["data.unlabeled=null", "data.unlabeled_limit=null", "train.unlabeled_per_labeled=7"],
        r"views\.weak\.from: unlabeled is no stream of this recipe; open it with data\.unlabeled=all",
    ),
    "labels": (
        ["relations.0=cross_entropy(logits(weak))"],
        r"relations\.0: .* needs labels, and weak is of the stream unlabeled, which has none",
    ),
    "some labels": (
        ["relations.0=cross_entropy(logits(x), logits(strong))"],
        r"needs labels, and strong is of the stream unlabeled",
    ),
    "other rows": (
        ["relations.1=similarity(h(x), h(weak))"],
        r"relations\.1: .* relates rows of other images: x is from image and weak is from unlabeled",
    ),
    "ratio": (["train.unlabeled_per_labeled=0"], r"train\.unlabeled_per_labeled: expected at least 1, got 0"),
    "half": (["train.unlabeled_per_labeled=0.5"], r"train\.unlabeled_per_labeled"),
    "source": (["data.unlabeled=al"], r"data\.unlabeled: unknown source 'al'; did you mean 'all'"),
    "option": (["data.unlabeled=folder(lables=None)"], r"data\.unlabeled: .*lables"),
    "alone": (
        ["relations=['agreement(logits(strong), stop(logits(weak)))']"],
        r"no relation reads a view from: image, the stream beside it",
    ),
    "root": (["data.unlabeled_root=here"], r"data\.unlabeled=all is of .*write data\.unlabeled='folder\("),
    "a view's name": (["views.unlabeled={from: image}"], r"views\.unlabeled: a view's name is a word other than"),
    "a member": (["views.weak.from=unlabeled.0"], r"views\.weak\.from: the source image has no members"),
    "test": (["views.test={from: unlabeled, make: resize(8)}"], r"views\.test: the test view draws nothing"),
}  # fmt: skip


@pytest.mark.parametrize(("overrides", "told"), BAD.values(), ids=BAD)
def test_what_does_not_fit_is_refused_at_load(overrides, told):
    with pytest.raises((RecipeError, DataError), match=told) as error:
        manyview.parse_recipe(TEXT, *overrides)
    assert "\n" not in str(error.value)


def test_a_stream_that_no_relation_reads_is_told(splits):
    cut = manyview.parse_recipe(TEXT, "relations=['cross_entropy(logits(x))']")
    assert read_of(cut, splits).counts == {"image": 40}
    assert unread(cut) == ["data.unlabeled=all: no relation reads a view of that stream, so nothing is trained on it"]
    assert "8 images, 8 through the networks (1 an image)" in plan(cut).summary()
    assert not unread(manyview.parse_recipe(TEXT))
    assert not unread(manyview.parse_recipe(ALONE))


def test_settings_of_a_stream_that_is_not_there_are_refused():
    for override in ("train.unlabeled_per_labeled=3", "data.unlabeled_limit=9", "data.unlabeled_root=here"):
        with pytest.raises(RecipeError, match=r"is about the stream unlabeled, which data\.unlabeled opens; drop it"):
            manyview.parse_recipe(ALONE, override)


NO_IMAGES = {
    "none left": (
        ["data.unlabeled=rest", "data.labels_per_class=null", "data.unlabeled_limit=null"],
        r"data\.unlabeled=rest: every training image keeps its label, so none is left",
    ),
    "too few": (["data.unlabeled_limit=5000"], r"data\.unlabeled_limit is 5,000, but there are 1,[0-9]+ such images"),
}


@pytest.mark.parametrize(("overrides", "told"), NO_IMAGES.values(), ids=NO_IMAGES)
def test_a_stream_without_images_is_refused(overrides, told):
    with pytest.raises(DataError, match=told):
        spliced(*overrides)


def test_labels_are_needed_beside_it():
    parsed = manyview.parse_recipe(TEXT, "data.labels_per_class=null", "data.unlabeled_limit=null")
    with pytest.raises(DataError, match="no image of train has a label, for the stream beside it"):
        open_splits(parsed.data, 0, {"train": np.zeros((9, 8, 8, 3), np.uint8)})


@pytest.mark.slow(reason="imports lightning and timm's script")
def test_loops_of_one_stream_refuse(recipe):
    timm = pytest.importorskip("manyview.integrations.timm", exc_type=ManyviewError)
    with pytest.raises(RecipeError, match=r"timm's train\.py feeds one stream"):
        timm.ViewsTask(recipe, num_classes=10)
