"""Layer-wise decay of the lr gives each parameter what timm's own groups give it."""

import pytest
import timm
from timm.optim import param_groups_layer_decay
from torch import nn

from manyview.errors import RecipeError
from manyview.load import parse_recipe
from manyview.optimize.optimize import make_optimizer
from manyview.step import Step

TEXT = """
views: {a: {from: image, make: "crop(32)"}, b: {like: a}}
branches: {net: {backbone: "NAMED", normalize: half}}
relations: ["cross_entropy(logits(a), logits(b))"]
train: {steps: 10, optimizer: "adamw(lr=0.1, weight_decay=0.05, layer_decay=0.7, decay_norms=False)"}
"""
VIT = {"img_size": 32, "patch_size": 8, "depth": 3, "embed_dim": 32, "num_heads": 2}


def found(step, names, key):
    groups = make_optimizer(step.recipe.train, step).param_groups
    return {names[id(p)]: (round(group[key], 9), group["weight_decay"]) for group in groups for p in group["params"]}


@pytest.mark.parametrize(
    ("name", "options"),
    [("vit_tiny_patch16_224", VIT), ("resnet10t", {}), ("convnext_atto", {"depths": (1, 1, 2, 1)}), ("cresnet20", {})],
)
def test_each_parameter_has_timms_factor_and_decay(name, options):
    Step(parse_recipe(TEXT.replace("NAMED", "cresnet20")), 10)  # registers our networks with timm
    model = timm.create_model(name, num_classes=10, **options)
    theirs = param_groups_layer_decay(model, 0.05, getattr(model, "no_weight_decay", set)(), layer_decay=0.7)
    names = {id(p): each for each, p in model.named_parameters()}
    wanted = {names[id(p)]: (round(g["lr_scale"], 9), g["weight_decay"]) for g in theirs for p in g["params"]}
    recipe = parse_recipe(TEXT.replace("NAMED", "cresnet20"))
    assert found(Step(recipe, 10, backbone=model), names, "scale") == wanted

    arguments = f"({', '.join(f'{key}={value}' for key, value in options.items())})" if options else ""
    named = Step(parse_recipe(TEXT.replace("NAMED", name + arguments)), 10)
    classifier = model.pretrained_cfg["classifier"]
    ours = {
        id(p): each.replace("branches.net.backbone.", "").replace("branches.net.heads.logits", classifier)
        for each, p in named.named_parameters()
    }
    assert found(named, ours, "scale") == wanted


def test_rates_are_those_of_the_factors():
    step = Step(parse_recipe(TEXT.replace("NAMED", "cresnet20")), 10)
    groups = make_optimizer(step.recipe.train, step).param_groups
    assert all(group["lr"] == pytest.approx(0.1 * group["scale"]) for group in groups)
    assert max(group["scale"] for group in groups) == 1


def test_a_network_that_does_not_tell_its_layers_is_refused():
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3))
    recipe = parse_recipe(TEXT.replace("NAMED", "cresnet20"))
    with pytest.raises(
        RecipeError, match=r"layer_decay: branches.net.backbone: Sequential does not tell its layers; give"
    ):
        make_optimizer(recipe.train, Step(recipe, 10, backbone=net))
    net.group_matcher = lambda coarse=False: {"stem": r"^0\.", "blocks": r"^(\d+)"}
    step = Step(recipe, 10, backbone=net)
    rates = {id(p): g["scale"] for g in make_optimizer(recipe.train, step).param_groups for p in g["params"]}
    assert rates[id(net[0].weight)] == pytest.approx(0.49)
    assert rates[id(net[1].weight)] == pytest.approx(0.7)


@pytest.mark.parametrize("value", ["0", "1.5", "'x'", "True"])
def test_a_factor_that_is_none_is_refused(value):
    with pytest.raises(RecipeError, match="layer_decay is a factor above 0 and at most 1"):
        parse_recipe(TEXT.replace("NAMED", "cresnet20").replace("layer_decay=0.7", f"layer_decay={value}"))
