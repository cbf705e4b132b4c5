"""Packaged recipes have the settings of the authors' code, or their header says where they differ."""

import pytest
import torch

import references as ref
from manyview import Step
from manyview.branches.initial import Normal, Torch
from manyview.foundation.grammar import parse_call
from manyview.load import load_recipe, packaged_recipes
from manyview.optimize.wrapping import optimizer_call

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


# Tied-FixMatch passes the rows of both streams together, as FixMatch's code does
@pytest.mark.parametrize("name", sorted({*those("tied", "cifar10")} - {"tied_fixmatch_cifar10"}))
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


@pytest.mark.parametrize(
    "name", sorted({*NAMES} - {"quickstart", "simclr_digits", "fixmatch_digits", "few_images_cifar10"})
)
def test_a_papers_lr_is_for_its_batch(name):
    recipe = load_recipe(name)
    said = {"dino_imagenet": 256}.get(name, recipe.train.batch_size)  # DINO's is 5e-4 * batch / 256
    assert optimizer_call(recipe.train.optimizer).kwargs["per"] == said
    assert "scale lr alike" not in packaged_recipes()[name]


def test_rows_on_a_hundred_classes_and_on_deeper_networks_are_those_they_vary():
    """All but what the names say: the data, the network, the width of Q."""
    agmax, sla, deep, reduced = (
        load_recipe(name)
        for name in ("agmax_cifar100", "sla_cifar100", "agmax_imagenet_resnet101", "tied_cifar10_reduced")
    )
    for recipe, other in ((agmax, "agmax_cifar10"), (sla, "sla_cifar10"), (deep, "agmax_imagenet")):
        first = load_recipe(other)
        assert (recipe.views, recipe.train, recipe.evaluate) == (first.views, first.train, first.evaluate)
    assert (agmax.data.source, sla.data.source) == ("cifar100", "cifar100")
    assert agmax.relation_plan[1].options["hidden"] == 512
    assert [first_branch(recipe).backbone.name for recipe in (deep, reduced)] == ["resnet101", "wrn28_2"]
    assert (reduced.data.labels_per_class, reduced.train.epochs) == (400, 500)
    assert reduced.relations == load_recipe("tied_cifar10").relations


def test_r_drop_is_two_forwards_of_one_view_whose_dropout_alone_differs():
    """L = CE of both + alpha / 2 (KL(P1 || P2) + KL(P2 || P1)), alpha = 0.6."""
    recipe = load_recipe("rdrop_cifar10")
    step = Step(recipe, 10, total_steps=4)
    images = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    labels, given = torch.arange(4), {"index": torch.arange(4), "epoch": 0}
    views = step.views(images, labels, **given)
    assert torch.equal(views["a"].images, views["b"].images)
    seen = []
    step.branch("net").head("logits").register_forward_hook(lambda module, inputs, output: seen.append(output.detach()))
    terms = step(images, labels, **given)["terms"]
    first, second = (ref.log_softmax(rows.numpy()) for rows in torch.cat(seen).chunk(2))
    apart = sum(ref.kl_rows(first, second) + ref.kl_rows(second, first)) / 4
    assert float(terms["agreement"].detach()) == pytest.approx(0.6 / 2 * apart, rel=1e-4)
    assert apart > 0
    assert float(step.eval()(images, labels, **given)["terms"]["agreement"].detach()) == 0


def test_supcon_has_the_authors_setting_and_says_what_it_is_not():
    recipe = load_recipe("supcon_cifar10")
    assert recipe.relation_plan[1].options == {"temperature": 0.1}
    assert recipe.branch_plan["net"].heads["z"] == parse_call("mlp(h, 2048, 128)", "")
    says("supcon_cifar10", "Not a row of the paper", "second stage")
