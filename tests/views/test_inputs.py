"""A batch of one's own loop: taken where it is plain what is meant, refused in one line where it is not."""

import numpy as np
import pytest
import torch
from PIL import Image

from cases import in_turn
from manyview.errors import BatchError
from manyview.load import parse_recipe
from manyview.step import Step
from manyview.views.view import View

B, C = 4, 10
TEXT = """
views: {a: {from: image, make: "pad_crop(16, padding=2) | flip(0.5)"}, b: {like: a}}
branches: {net: {backbone: cresnet20, normalize: half}}
relations: ["cross_entropy(logits(a), logits(b))"]
train: {steps: 10}
"""
PHOTOS = torch.randint(0, 256, (B, 3, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
FLOATS = PHOTOS.float() / 255
LABELS = torch.arange(B)
USUAL = {"images": PHOTOS, "labels": LABELS, "index": range(B), "epoch": 1}


@pytest.fixture(scope="module")
def step():
    return Step(parse_recipe(TEXT), C).eval()


def loss(step, **changed):
    given = {**USUAL, **changed}
    with torch.no_grad():
        return step(given.pop("images"), given.pop("labels"), **given)["loss"].item()


@in_turn(
    "changed",
    [
        {"images": PHOTOS.numpy()},
        {"images": list(PHOTOS)},
        {"images": [image.numpy() for image in PHOTOS]},
        {"labels": LABELS.tolist()},
        {"labels": LABELS.numpy().astype(np.int16)},
        {"labels": LABELS.to(torch.uint8)},
        {"index": torch.arange(B)},
        {"index": np.arange(B)},
        {"index": list(range(B))},
        {"epoch": np.int64(1)},
        {"epoch": torch.tensor(1)},
    ],
)
def test_what_is_plain_is_taken(step, changed):
    assert loss(step, **changed) == loss(step)


@in_turn("floats", [FLOATS, FLOATS.double(), FLOATS.double().numpy(), list(FLOATS), FLOATS + 1e-4])
def test_floats_in_range_are_taken(step, floats):
    assert loss(step, images=floats) == pytest.approx(loss(step, images=FLOATS), rel=1e-3)


@in_turn(
    "changed, told",
    [
        (
            {"images": FLOATS * 4 - 2},
            r"^images: -2 among .* in \[0, 1\]; give pixels before Normalize\(…\); to normalise",
        ),
        (
            {"images": PHOTOS.float()},
            r"^images: 255 among .*; these look like grey levels: give them as uint8, or divide",
        ),
        ({"images": FLOATS * 1.1 - 0.05}, r"images\.clamp\(0, 1\) takes off what a filter overshot"),
        ({"images": FLOATS * float("nan")}, "NaN among the pixels"),
        ({"images": PHOTOS.long()}, r"torch.int64; grey levels are uint8, as images.to\(torch.uint8\) gives"),
        ({"images": PHOTOS > 3}, "torch.bool; grey levels are uint8"),
        ({"images": PHOTOS.permute(0, 2, 3, 1)}, r"shape \[4, 16, 16, 3\], channels last; .* as permute\(0, 3, 1, 2\)"),
        ({"images": [np.zeros((16, 16, 3), np.uint8)] * B}, r"^image 0: .*, channels last; .* as permute\(2, 0, 1\)"),
        ({"images": PHOTOS[:, :1]}, r"wanted \[B, 3, H, W\]; grey images are told by data.channels=1"),
        ({"images": PHOTOS[0]}, r"one image is images\[None\]"),
        ({"images": PHOTOS[:0], "labels": LABELS[:0], "index": []}, "a batch of none"),
        (
            {"images": [Image.new("RGB", (16, 16))] * B},
            "a PIL image; give torchvision.transforms.functional.pil_to_tensor",
        ),
        ({"images": "photo.png"}, r"^images: str; wanted: uint8 \[B, 3, H, W\]"),
        ({"images": PHOTOS.to("meta")}, r"images lie on meta, the step on cpu; call images.to\('cpu'\)"),
        ({"index": None}, "draws depend on the images' indices, their places in the data set"),
        ({"index": torch.arange(B).float()}, r"index: torch.float32 \[4\]; wanted: whole numbers"),
        ({"index": torch.arange(B)[:, None]}, r"index: shape \[4, 1\].*index.flatten\(\)"),
        ({"index": 3}, r"index: shape \[\]; wanted: whole numbers"),
        ({"index": range(3)}, "4 images came with 3 indices"),
        ({"epoch": None}, "each epoch draws views anew; say which, from 0 on"),
        ({"epoch": 1.0}, r"epoch is a whole number, from 0 on, got 1\.0"),
        ({"epoch": -1}, "epoch is a whole number, from 0 on, got -1"),
        ({"epoch": True}, "epoch is a whole number"),
        ({"labels": LABELS.float()}, r"labels: torch.float32 \[4\]; wanted: whole numbers \[B\], classes from 0 to 9"),
        ({"labels": LABELS + 8}, "label 11 is out of range: there are 10 classes, counted from 0"),
        ({"labels": LABELS - 1}, "label -1 is out of range: .* each image needs one"),
        ({"labels": torch.eye(C).long()[:B]}, r"labels.argmax\(1\) of one-hot ones"),
        ({"labels": torch.eye(C)[:B] * 3}, "soft ones are shares of classes, at least 0 and 1 in sum"),
        ({"labels": torch.eye(C)[:B, :9]}, r"labels: shape \[4, 9\], wanted \[4\] or, soft, \[4, 10\]"),
        ({"labels": LABELS[:, None]}, r"labels.flatten\(\)"),
        ({"index": range(-1, B - 1)}, "index -1: indices are places in the data set, counted from 0"),
        ({"epoch": 10**20}, r"epoch is a whole number, from 0 on \(the greatest is 2\*\*63 - 1\), got 10000000"),
        ({"labels": LABELS[:3]}, "4 images came with 3 labels"),
        ({"labels": ["cat"] * B}, "labels: list; wanted: whole numbers"),
        ({"labels": None}, "pass labels to the step"),
    ],
)
def test_what_is_not_plain_is_refused_in_one_line(step, changed, told):
    with pytest.raises(BatchError, match=told) as caught:
        loss(step, **changed)
    assert "\n" not in str(caught.value)


def test_views_made_before_are_looked_at_too(step):
    views = step.views(PHOTOS, LABELS, index=range(B), epoch=1)
    with torch.no_grad():
        assert step(views)["loss"].item() == loss(step)
    normalised = {name: View(view.pixels * 4 - 2, view.params, view.target) for name, view in views.items()}
    for wrong, told in (
        ({"a": views["a"]}, "views: b is missing; the relations read a, b"),
        ({"a": FLOATS, "b": FLOATS}, r"views: a is a tensor \[4, 3, 16, 16\]; wanted: a manyview.View"),
        (normalised, "view a: -2 among the pixels"),
    ):
        with pytest.raises(BatchError, match=told):
            step(wrong)


def test_labels_beside_views_that_have_others_are_refused(step):
    views = step.views(PHOTOS, LABELS, index=range(B), epoch=1)
    with torch.no_grad():
        assert step(views, LABELS)["loss"].item() == step(views)["loss"].item()
        bare = step.views(PHOTOS, index=range(B), epoch=1)
        assert step(bare, LABELS)["loss"].item() == step(views)["loss"].item()
    for others in (LABELS.flip(0), torch.eye(C)[LABELS]):
        with pytest.raises(BatchError, match="labels: view a was made with others, which are part of it; leave labels"):
            step(views, others)


def test_index_and_epoch_may_stand_third_and_fourth(step):
    with torch.no_grad():
        assert step(PHOTOS, LABELS, range(B), 1)["loss"].item() == loss(step)
    views, named = step.views(PHOTOS, LABELS, range(B), 1), step.views(PHOTOS, LABELS, index=range(B), epoch=1)
    assert torch.equal(views["a"].pixels, named["a"].pixels)


def test_a_whole_batch_in_the_place_of_images_is_refused(step):
    for batch, told in (
        ((PHOTOS, LABELS), r"images: a tuple of 2, with whole batches in it; .* step\(batch\[0\], batch\[1\], index=…"),
        ([PHOTOS.numpy(), LABELS], "images: a list of 2, with whole batches in it"),
        ({"image": PHOTOS}, r"images: a mapping of image, none of which is a manyview.View; .* step\(batch\['image'\]"),
    ):
        with pytest.raises(BatchError, match=told):
            step(batch, index=range(B), epoch=0)
