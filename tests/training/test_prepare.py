"""What is found out before the first step: how many images are drawn at once, and batches that the data do not fill."""

import pytest

from commands import manyview, one_line
from manyview.errors import ManyviewWarning, RecipeError
from manyview.recipe.settings import Train
from manyview.training.prepare import images_together


@pytest.mark.parametrize(
    ("batch", "accumulate", "images", "world", "expected"),
    [(128, 1, 128, 1, 128), (128, 1, 5000, 4, 32), (128, 4, 5000, 2, 16), (24, 3, 24, 1, 8), (1, 1, 1, 1, 1)],
)
def test_images_together(batch, accumulate, images, world, expected):
    assert images_together(Train(batch_size=batch, accumulate=accumulate), images, world) == expected


@pytest.mark.parametrize(
    ("batch", "accumulate", "images", "world", "expected", "sees", "better"),
    [(128, 1, 40, 1, 40, 40, 10), (128, 4, 43, 1, 10, 40, 8), (128, 2, 43, 2, 10, 40, 8), (128, 1, 2, 1, 2, 2, 1)],
)
def test_a_batch_larger_than_the_data_is_said(batch, accumulate, images, world, expected, sees, better):
    told = (
        rf"^train\.batch_size is {batch}, but there are {images} training images: each update sees {sees} and is an "
        rf"epoch; train\.batch_size={better} would make several$"
    )
    with pytest.warns(ManyviewWarning, match=told):
        assert images_together(Train(batch_size=batch, accumulate=accumulate), images, world) == expected


def test_parts_that_get_no_image_are_refused():
    for world, parts, told in ((2, 4, "2 processes x 4 parts"), (5, 1, "5 processes"), (1, 6, "6 parts")):
        shared = Train(batch_size=world * parts, accumulate=parts)
        with pytest.raises(RecipeError, match=rf"^train\.batch_size: 4 training images are too few for {told}$"):
            images_together(shared, 4, world)
        with pytest.raises(RecipeError, match=rf"^train\.batch_size: 101 is not divisible by {told}$"):
            images_together(Train(batch_size=101, accumulate=parts), 1000, world)


def test_the_command_line_says_so_in_one_line(tmp_path):
    few = ("quickstart", "data.limit=12", "data.val_fraction=0", "train.schedule=constant()", "evaluate=[]", "--quiet")
    code, out, err = manyview("train", *few, "train.epochs=2", "--out", tmp_path / "a")
    assert (code, out, err.count("\n")) == (0, "", 1)
    assert err.startswith("manyview: warning: train.batch_size is ")
    message = one_line(*manyview("train", *few, "train.batch_size=32", "train.accumulate=16", "--out", tmp_path / "b"))
    assert message == "train.batch_size: 12 training images are too few for 16 parts"
    assert not (tmp_path / "b").exists()
