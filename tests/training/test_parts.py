"""A batch in parts: which losses that would change is refused, what sees a part alone is told."""

import warnings

import pytest
import torch

from manyview import parse_recipe
from manyview.errors import ManyviewWarning, RecipeError
from manyview.optimize.sync_batchnorm import sync_batchnorm
from manyview.step import Step
from manyview.training.parts import check_parts

RECIPE = """
data: {{source: digits}}
views:
  a: {{from: image, make: "pad_crop(8, padding=1){mix}"}}
  b: {{from: image, make: flip(0.5)}}
branches:
  net: {{backbone: "{backbone}", normalize: half, z: "linear(h, 8)"}}
  teacher: ema(net, momentum=0.9)
relations: ["{relation}"]
train: {{steps: 4, batch_size: 8, accumulate: 2}}
"""
VIT = "test_vit(img_size=8, patch_size=4)"


def step(relation="cross_entropy(logits(a))", backbone=VIT, mix="", *changes):
    return Step(parse_recipe(RECIPE.format(relation=relation, backbone=backbone, mix=mix), *changes), 10)


@pytest.mark.parametrize(
    "relation",
    [
        "nt_xent(z(a), z(b))",
        "supervised_contrastive(z(a), z(b))",
        "swav(z(a), z(b), prototypes=4)",
        "vicreg(z(a), z(b))",
        "barlow_twins(z(a), z(b))",
        "lejepa(z(a), z(b))",
        "agmax(logits(a), logits(b), hidden=8)",
        "similarity(h(a), h(b), kind='cka')",
        "pseudo_label(logits(a), toward=stop(logits(b)), threshold=free())",
        "pseudo_label(logits(a), toward=stop(logits(b)), threshold=soft())",
    ],
)
def test_a_loss_over_the_whole_batch_is_not_accumulated(relation):
    made = step(relation)
    with pytest.raises(RecipeError) as error:
        check_parts(made, 1, 4)
    assert str(error.value) == (
        f"train.accumulate: {relation} compares the images of a whole batch, and over 2 parts of it the mean is "
        "another loss; set train.accumulate=1, with train.micro_batch for memory, train.checkpointing=true, a smaller "
        "batch_size, or more processes"
    )
    check_parts(step(relation, VIT, "", "train.accumulate=1"), 4, 2)


@pytest.mark.parametrize(
    "relation",
    [
        "cross_entropy(logits(a), logits(b))",
        "similarity(h(a), h(b), kind='mse')",
        "info_nce(z(a), toward=teacher.z(b), queue=8)",
        "pseudo_label(logits(a), toward=stop(logits(b)), threshold=0.9)",
        "pseudo_label(logits(a), toward=stop(logits(b)), threshold=flex(0.9))",
    ],
)
def test_a_mean_over_images_is(relation):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_parts(step(relation), 2, 2)


def test_what_sees_a_part_alone_is_told():
    told = "each of the 4 parts of a batch, 2 images, is by itself for {}, so that another number of parts trains "
    told += "otherwise"
    for backbone, mix, what in (
        ("test_resnet", "", "BatchNorm"),
        (VIT, " | mixup(0.2)", "mixing in a"),
        ("test_resnet", " | mixup(0.2)", "BatchNorm and mixing in a"),
    ):
        with pytest.warns(ManyviewWarning) as seen:
            check_parts(step("cross_entropy(logits(a))", backbone, mix), 2, 2)
        assert [str(each.message) for each in seen] == [told.format(what)]


def test_batchnorm_over_all_processes_sees_no_part(recwarn):
    made = step("cross_entropy(logits(a))", "test_resnet", "", "train.accumulate=1")
    with pytest.warns(ManyviewWarning, match=r"BatchNorm.*; train.sync_batchnorm=true is for processes$"):
        check_parts(made, 2, 4)
    sync_batchnorm(made, 2, torch.device("cpu"))
    recwarn.clear()
    check_parts(made, 2, 4)
    check_parts(made, 1, 8)
    assert not recwarn.list
