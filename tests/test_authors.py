"""Packaged recipes have the settings of the authors' code, or their header says where they differ."""

import pytest

from manyview.branches.initial import Normal, Torch
from manyview.foundation.grammar import parse_call
from manyview.load import load_recipe, packaged_recipes

NAMES = sorted(packaged_recipes())
DSSL_STD = (0.2023, 0.1994, 0.2010)


def those(*parts):
    """Recipes in whose names all parts stand."""
    found = [name for name in NAMES if all(part in name for part in parts)]
    assert found
    return found


def ops_of(recipe, name):
    return [planned.op for view in recipe.view_plan.values() for planned in view.ops if planned.name == name]


def first_branch(recipe):
    return next(iter(recipe.branch_plan.values()))


def says(name, *words):
    header = " ".join(line.lstrip("# ") for line in packaged_recipes()[name].splitlines() if line.startswith("#"))
    assert all(word in header for word in words), header


@pytest.mark.parametrize("name", those("tied", "cifar10"))
def test_tied_augment_on_cifar_looks_at_each_view_alone_and_resamples_bicubically(name):
    recipe = load_recipe(name)
    assert not first_branch(recipe).joint
    assert {op.interpolation for op in ops_of(recipe, "randaugment")} == {"bicubic"}


def test_tied_augment_on_imagenet_is_joint_and_its_crops_differ_and_say_so():
    recipe = load_recipe("tied_imagenet")
    assert first_branch(recipe).joint
    assert {op.interpolation for op in ops_of(recipe, "randaugment")} == {"bicubic"}
    says("tied_imagenet", "crops are bicubic too, where ours are bilinear")


@pytest.mark.parametrize("name", those("agmax_cifar10"))
def test_agmax_on_cifar_has_a_cosine_by_epoch_torchs_weights_and_one_coin(name):
    recipe = load_recipe(name)
    assert parse_call(recipe.train.schedule, "") == parse_call("cosine(per='epoch')", "")
    assert first_branch(recipe).init == Torch()
    assert "std" not in recipe.relation_plan[1].options  # Q starts as its branch does
    coins = {(op.coin, op.p) for op in ops_of(recipe, "cutmix")}
    assert coins == ({("shared", 0.5)} if "cutmix" in name else set())


def test_agmax_on_imagenet_starts_all_layers_from_a_normal():
    assert first_branch(load_recipe("agmax_imagenet")).init == Normal(0.2)


@pytest.mark.parametrize("name", those("sla_"))
def test_sla_normalises_by_a_half(name):
    assert first_branch(load_recipe(name)).normalize == ((0.5,), (0.5,))


@pytest.mark.parametrize("name", [*those("dssl", "cifar10"), "simsiam_cifar10"])
def test_dssl_on_cifar(name):
    recipe = load_recipe(name)
    assert first_branch(recipe).normalize[1] == DSSL_STD
    assert first_branch(recipe).init == Torch()
    assert parse_call(recipe.train.schedule, "") == parse_call("cosine(warmup='10 epochs', per='epoch')", "")
    assert {(op.n, op.m, op.ops) for op in ops_of(recipe, "randaugment")} == (
        {(2, 9, "dssl")} if "dssl" in name else set()
    )
    if name in ("simsiam_cifar10", "simsiam_dssl_cifar10"):
        says(name, "e/9 there, whose first epoch learns nothing", "lets it follow the schedule")


@pytest.mark.parametrize("name", those("dssl", "imagenet"))
def test_dssl_on_imagenet(name):
    recipe = load_recipe(name)
    assert first_branch(recipe).init == Torch()
    ops = ops_of(recipe, "randaugment")
    assert {op.ops for op in ops} <= {"dssl"}
    if name == "simsiam_dssl_imagenet":
        (way,) = set(ops_of(recipe, "one_of"))
        assert way.ways == ("randaugment(2, 5, ops='dssl')", "grid_shuffle(4)")
        assert way.p == (0.9, 0.1)
        assert recipe.branch_plan["online"].heads["z"].kwargs == {"layers": 3, "affine": True}
    else:
        assert ops


def test_rows_that_compare_with_each_other_have_one_network_and_one_schedule():
    rows = [load_recipe(f"{name}_cifar10") for name in ("simsiam", "byol", "moco", "simclr", "swav", "byol_dssl")]
    assert len({(first_branch(row).normalize, first_branch(row).init, row.train.schedule) for row in rows}) == 1


@pytest.mark.parametrize("name", [*those("simsiam_augself_stl10"), *those("simsiam_augself_imagenet")])
def test_augselfs_simsiam_has_an_affine_behind_its_projector(name):
    assert load_recipe(name).branch_plan["online"].heads["z"].kwargs["affine"] is True


@pytest.mark.parametrize("name", [*those("augself_stl10"), *those("augself_imagenet100")])
def test_augselfs_own_runs_saturate_as_kornia(name):
    assert {op.saturate for op in ops_of(load_recipe(name), "jitter")} == {"hsv"}


def test_swav_lets_go_of_its_prototypes_at_the_410th_step():
    assert load_recipe("swav_augself_stl10").relation_plan[0].options["freeze"] == 409


@pytest.mark.parametrize("name", sorted(set(packaged_recipes()) - {"quickstart", "simclr_digits"}))
def test_a_papers_lr_is_for_its_batch(name):
    recipe = load_recipe(name)
    assert parse_call(recipe.train.optimizer, "").kwargs["per"] == recipe.train.batch_size
    assert "scale lr alike" not in packaged_recipes()[name]
