"""A network of one's own in the place of the recipe's: the same losses to the bit; the object itself, left plain."""

import copy
import pickle
import warnings
from collections import namedtuple
from dataclasses import dataclass

import pytest
import timm
import torch
import torchvision
from torch import nn

from cases import in_turn
from manyview.branches.given import Reader, left_out
from manyview.branches.timm_models import timm_library
from manyview.errors import ManyviewError, ManyviewWarning
from manyview.evaluate.model import StepModel
from manyview.load import parse_recipe
from manyview.optimize.optimize import make_optimizer
from manyview.step import Step

B, C = 6, 10
TIED = """
views: {a: {from: image, make: "pad_crop(32, padding=2) | flip(0.5)"}, b: {like: a}}
branches: {net: {backbone: "NAMED"HEADS}}
relations: ["cross_entropy(logits(a), logits(b))", "similarity(h(a), h(b), kind='mse', weight=2)"LINES]
train: {steps: 10, optimizer: "sgd(lr=0.1)"}
"""
AUGSELF = """
views: {a: {from: image, make: "crop(32, scale=(0.3, 1)) | flip(0.5) | jitter(0.4, 0.4, 0.4, 0.1)"}, b: {like: a}}
branches: {net: {backbone: "NAMED", z: "projector(h, 16)", p: "predictor(z, 8)", forward: separateHEADS}}
relations:
- cosine(p(a), toward=stop(z(b)), weight=0.5, swapped=True)
- augself(h(a), h(b), crop=1.0, color=1.0)
train: {steps: 10}
"""
BYOL = """
views: {a: {from: image, make: "crop(32)"}, b: {like: a}}
branches:
  net: {backbone: "NAMED", z: "projector(h, 16)", p: "predictor(z, 8)"HEADS}
  teacher: ema(net, momentum=0.5)
relations: ["cosine(p(a), toward=teacher.z(b))"]
train: {steps: 10, ema: 0.5}
"""
VIT = {"img_size": 32, "patch_size": 8, "depth": 2, "embed_dim": 32, "num_heads": 2}
NAMED_VIT = f"vit_tiny_patch16_224({', '.join(f'{key}={value}' for key, value in VIT.items())})"
HALF = ", normalize: half"


def recipe(text=TIED, named="cresnet20", heads=HALF, lines=""):
    return parse_recipe(text.replace("NAMED", named).replace("HEADS", heads).replace("LINES", lines))


def photos(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (B, 3, 32, 32), generator=generator, dtype=torch.uint8)


LABELS = torch.arange(B) * 3 % C
BATCH = {"index": range(B), "epoch": 2}


class Net(nn.Module):
    """Somebody's network around another, whose output is what `see` makes of the images."""

    def __init__(self, see, **parts):
        super().__init__()
        self.see = see
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, images):
        return self.see(self, images)


def cresnet():
    return timm_library().create_model("cresnet20", num_classes=0)


def plain():
    return Net(lambda net, images: net.body(images), body=cresnet())


def maps():
    return Net(lambda net, images: net.body.forward_features(images), body=cresnet())


def conv(channels=3, width=8):
    return nn.Conv2d(channels, width, 3, stride=2)


def small(classes=C):
    """A convolution and a classifier, as in a first tutorial."""
    return Net(
        lambda net, x: net.fc(net.conv(x).relu().view(len(x), -1)), conv=conv(), fc=nn.Linear(8 * 15 * 15, classes)
    )


def vit():
    return timm.create_model("vit_tiny_patch16_224", num_classes=C, **VIT)


def resnet():
    return torchvision.models.resnet18(num_classes=C)


def given(model, text=TIED, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ManyviewWarning)
        return Step(recipe(text, **options), C, backbone=model)


def losses(step, updates=2):
    optimizer = torch.optim.SGD([p for p in step.parameters() if p.requires_grad], lr=0.05, momentum=0.9)
    handle = step.attach(optimizer)
    found = []
    for update in range(updates):
        loss = step(photos(update), LABELS, index=range(B * update, B * update + B), epoch=0)["loss"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        found.append(loss.item())
    handle.remove()
    return found


# ------------------------------------------------------------------------------------------------ as the named


@pytest.mark.parametrize("text", [TIED, AUGSELF], ids=["tied", "simsiam_augself"])
@pytest.mark.parametrize(
    ("named", "make", "prefix", "head"),
    [
        ("cresnet20", plain, "body.", None),
        ("cresnet20", maps, "body.", None),
        (NAMED_VIT, vit, "", "head"),
        pytest.param("resnet18", resnet, "", "fc", marks=pytest.mark.slow(reason="a ResNet-18 of its real width")),
    ],
    ids=["module", "maps", "timm_vit", "torchvision_resnet"],
)
def test_losses_are_those_of_the_named_backbone_to_the_bit(text, named, make, prefix, head):
    theirs, model = Step(recipe(text, named), C), make()
    start = {prefix + name: value.clone() for name, value in theirs.main.backbone.state_dict().items()}
    if head and "logits" in theirs.main.heads:
        start |= {f"{head}.{name}": value.clone() for name, value in theirs.main.heads["logits"].state_dict().items()}
    model.load_state_dict({**model.state_dict(), **start})
    keys, fresh = list(model.state_dict()), make()
    ours = given(model, text)
    for name in ours.main.heads:
        ours.main.heads[name].load_state_dict(theirs.main.heads[name].state_dict())
    ours.relations.load_state_dict(theirs.relations.state_dict())
    assert ours.main.backbone is model
    assert losses(ours) == losses(theirs)

    assert list(model.state_dict()) == keys  # it leaves as it came
    fresh.load_state_dict(model.state_dict())
    trained = {prefix + name: value for name, value in theirs.main.backbone.state_dict().items()}
    assert all(torch.equal(value, fresh.state_dict()[name]) for name, value in trained.items())


@pytest.mark.parametrize(
    "make", [vit, pytest.param(resnet, marks=pytest.mark.slow(reason="a ResNet-18 of its real width")), small]
)
def test_a_classifier_is_trained_as_logits_and_the_object_is_a_finished_model(make):
    model = make()
    head = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)][-1]
    before = model.get_submodule(head).weight.detach().clone()
    step = given(model)
    assert "logits" not in step.main.heads
    assert step.classifier == "logits"
    assert step.main.head("logits") is model.get_submodule(head)
    losses(step)
    assert not torch.equal(model.get_submodule(head).weight, before)
    step.eval()
    pixels = (photos().float() / 255 - step.main.mean) / step.main.std
    with torch.no_grad():
        torch.testing.assert_close(model(pixels), step.predict(photos())["logits"], rtol=1e-5, atol=1e-6)
    assert {id(each) for each in model.parameters()} == {id(each) for each in step.parameters()}


def test_a_network_without_classifier_has_the_recipes_heads():
    step = given(plain())
    assert set(step.main.heads) == {"logits"}
    assert step.main.heads["logits"].in_features == 64


@in_turn(
    "see, width",
    [
        (lambda net, x: net.conv(x).mean((2, 3)), 8),
        (lambda net, x: net.conv(x), 8),
        (lambda net, x: net.conv(x).flatten(2).transpose(1, 2), 8),
        (lambda net, x: {"p4": net.conv(x)[:, :2], "p5": net.conv(x)}, 8),  # torchvision's maps: the last
        (lambda net, x: {"last_hidden_state": net.conv(x), "pooler_output": net.conv(x)[:, :5, 0, 0]}, 5),
        (lambda net, x: {"last_hidden_state": net.conv(x).flatten(2).transpose(1, 2), "pooler_output": None}, 8),
    ],
)
def test_vectors_maps_tokens_and_mappings_are_pooled(see, width):
    step = given(Net(see, conv=conv()))
    assert step.main.dims["h"] == width
    torch.testing.assert_close(
        step.main.read(photos(), ["h"])["h"][:, : width - 3],
        {5: lambda m: m[:, :2, 0, 0], 8: lambda m: m.mean((2, 3))[:, :5]}[width](
            step.main.backbone.conv((photos().float() / 255 - 0.5) / 0.5)
        ),
    )


def test_prefix_tokens_are_left_out_of_the_mean():
    model = timm.create_model("vit_tiny_patch16_224", num_classes=0, global_pool="", **VIT)
    step = given(model).eval()
    tokens = model((photos().float() / 255 - 0.5) / 0.5)
    torch.testing.assert_close(step.main.read(photos(), ["h"])["h"], tokens[:, 1:].mean(dim=1))


def test_a_view_of_maps_wants_images_that_lie_as_they_always_did():
    assert given(small()).main.reader.memory_format == torch.contiguous_format
    assert given(resnet()).main.reader.memory_format == torch.channels_last


@pytest.mark.parametrize(
    ("make", "options", "mean"),
    [
        (vit, {}, (0.5, 0.5, 0.5)),
        (resnet, {}, (0.485, 0.456, 0.406)),
        (plain, {}, (0.5, 0.5, 0.5)),
        (resnet, {"heads": ", normalize: none"}, (0, 0, 0)),
    ],
    ids=["timm", "torchvision", "own", "recipe"],
)
def test_normalisation_is_the_recipes_else_the_networks_own(make, options, mean):
    step = given(make(), **{"heads": "", **options})
    torch.testing.assert_close(step.main.mean.flatten(), torch.tensor(mean, dtype=torch.float32))


@pytest.mark.parametrize(
    ("make", "heads", "told"),
    [
        (lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()), "", True),
        (lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()), HALF, False),
        (lambda: torchvision.models.squeezenet1_0(num_classes=C).features, "", True),
        (lambda: timm.create_model("test_resnet", num_classes=C), "", False),
        (lambda: torchvision.models.squeezenet1_0(num_classes=C), "", False),
    ],
    ids=["own", "said", "part of torchvision's", "timm's", "torchvision's"],
)
def test_a_network_that_tells_no_normalisation_is_told_which_is_taken(make, heads, told):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        step = Step(recipe(heads=heads), C, backbone=make())
    lines = [str(each.message) for each in caught if "normalised" in str(each.message)]
    assert len(lines) == told
    if told:
        assert lines[0].endswith(
            "does not tell what it was made for, so pixels are normalised by mean 0.5 and std 0.5; say "
            "branches.net.normalize=half, imagenet, or none where it normalises them itself"
        )
        assert step.main.mean.flatten().tolist() == [0.5] * 3
        for name in ("half", "imagenet", "none"):
            assert recipe(heads=f", normalize: {name}").branch_plan["net"].normalize is not None


# -------------------------------------------------------------------------------------------- looked at, not touched


def test_nothing_of_the_network_or_of_chance_changes_by_looking():
    model = Net(
        lambda net, x: net.norm(net.conv(x + torch.rand_like(x) * net.training)), conv=conv(), norm=nn.BatchNorm2d(8)
    )
    model.norm.eval()
    state, chance = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    step = given(model)
    assert torch.equal(torch.get_rng_state(), chance)
    assert [module.training for module in model.modules()] == [True, True, False]
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())
    assert step.main.backbone is model


def test_an_ema_and_an_average_are_copies():
    step = given(small(), BYOL)
    model, teacher, average = step.main.backbone, step.branch("teacher").backbone, step.average.module.backbone
    losses(step, 1)
    ours, theirs, mean = (net.conv.weight for net in (model, teacher, average))
    assert len({each.data_ptr() for each in (ours, theirs, mean)}) == 3
    assert not torch.equal(ours, theirs)
    assert list(teacher.state_dict()) == list(model.state_dict())


def test_a_classifier_that_no_relation_reads_stays_and_is_told():
    model = small()
    before = copy.deepcopy(model.fc.state_dict())
    with pytest.warns(ManyviewWarning, match="has the classifier 'fc', which no relation reads: it stays as it is"):
        step = Step(recipe(AUGSELF), C, backbone=model)
    held = {id(p) for group in make_optimizer(step.recipe.train, step).param_groups for p in group["params"]}
    assert id(model.conv.weight) in held
    assert id(model.fc.weight) not in held
    losses(step)
    assert all(torch.equal(value, before[name]) for name, value in model.fc.state_dict().items())
    assert step.classifier is None
    ignored = {"branches.net.backbone.fc.weight", "branches.net.backbone.fc.bias"}
    assert step.idle == set(step._ddp_params_and_buffers_to_ignore) == ignored


def test_the_classifier_is_the_part_logits():
    step = given(small())
    options = "sgd(lr=1.0, scale={'backbone': 0.1, 'logits': 0.5})"
    train = step.recipe.train.model_copy(update={"optimizer": options})
    rates = {id(p): group["lr"] for group in make_optimizer(train, step).param_groups for p in group["params"]}
    assert rates[id(step.main.backbone.conv.weight)] == pytest.approx(0.1)
    assert rates[id(step.main.backbone.fc.weight)] == pytest.approx(0.5)


def test_a_recipes_init_is_for_heads_alone_then():
    model = plain()
    before = copy.deepcopy(model.state_dict())
    with pytest.warns(ManyviewWarning, match=r"keeps its weights; init: normal\(0.2\) is for heads and relations"):
        step = Step(recipe(heads=f"{HALF}, init: normal(0.2)"), C, backbone=model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert step.main.heads["logits"].weight.std().item() == pytest.approx(0.2, rel=0.1)


@pytest.mark.parametrize("training", [True, False])
def test_a_layer_is_read_on_the_way(training):
    step = given(resnet(), heads=f"{HALF}, low: \"pool('layer2')\"", lines=', "similarity(low(a), low(b))"').train(
        training
    )
    kept = []
    handle = step.main.backbone.layer2.register_forward_hook(lambda m, args, output: kept.append(output))
    out = step(photos(), LABELS, **BATCH)
    handle.remove()
    a, b = kept[0].mean((2, 3)).split(B)
    torch.testing.assert_close(out["terms"]["similarity_2"], (a - b).square().mean())


def test_gradient_checkpointing_and_drop_path_stay_as_they_are():
    one = vit()
    other = copy.deepcopy(one)
    other.set_grad_checkpointing()
    assert losses(given(one)) == losses(given(other))
    assert other.grad_checkpointing
    dropping = timm.create_model("vit_tiny_patch16_224", num_classes=C, drop_path_rate=0.5, **VIT)
    step = given(dropping)
    torch.manual_seed(0)
    first = step(photos(), LABELS, **BATCH)["loss"].item()
    assert step(photos(), LABELS, **BATCH)["loss"].item() != first
    assert step.eval()(photos(), LABELS, **BATCH)["loss"].item() == step(photos(), LABELS, **BATCH)["loss"].item()


@pytest.mark.slow(reason="torch's compiler is loaded")
def test_a_compiled_network_gives_the_same():
    model = vit()
    step, twin = given(model), given(copy.deepcopy(model))
    twin.main.backbone.compile(backend="eager")
    for epoch in range(2):
        ours, theirs = (each(photos(), LABELS, index=range(B), epoch=epoch)["loss"] for each in (step, twin))
        torch.testing.assert_close(theirs, ours)
    with torch.no_grad():
        assert twin.main.backbone(torch.zeros(2, 3, 32, 32)).shape == (2, C)  # whole again


def test_fine_tuning_reads_features_and_not_scores():
    model = small()
    step = given(model).eval()
    trunk = StepModel(step).trainable().eval()
    assert trunk.backbone is not model
    torch.testing.assert_close(trunk(photos().float() / 255), step.predict(photos())["h"])


def test_a_layer_that_is_left_out_is_put_back_whatever_happens():
    model = small()
    layer = model.fc
    with pytest.raises(KeyboardInterrupt), left_out(model, "fc"):
        raise KeyboardInterrupt
    assert model.fc is layer
    assert Reader("fc", torch.contiguous_format)(model, torch.zeros(1, 3, 32, 32)).shape == (1, 8 * 15 * 15)


# ------------------------------------------------------------------------------------------------ refused

TWO = """
views: {a: {from: image, make: "crop(32)"}, b: {like: a}}
branches: {one: {backbone: cresnet20}, two: {backbone: cresnet20}, idle: {backbone: cresnet20}, ema: ema(one)}
relations: ["similarity(one.h(a), two.h(b))", "similarity(one.h(a), ema.h(b))"]
train: {steps: 10}
"""
SHARED = conv()


@in_turn(
    "model, told",
    [
        ("resnet18", r"^backbone: expected an nn.Module, got the name 'resnet18'; names are the recipe's"),
        (nn.Flatten, "got the class Flatten; call it"),
        ([nn.Flatten()], "expected an nn.Module, got list"),
        (nn.DataParallel(small()), "a network in DataParallel was given; wrap the step instead"),
        ({"nte": small()}, "unknown branch 'nte'; did you mean 'net'"),
        ({"net": "resnet18"}, r"^backbone\['net'\]: expected an nn.Module, got the name"),
        (small().requires_grad_(False), "4 parameters, of which none requires gradients, so nothing of it would be"),
        (small().bfloat16(), "has weights of torch.bfloat16; give them as float32"),
        (small().to("meta"), "lies on the meta device"),
        (small(12), None),
        (
            torchvision.models.mobilenet_v3_small(),
            r"a classifier of 1,000 classes, 'classifier.3', and there are 10; .*",
        ),
        (
            timm.create_model("resnet10t"),
            r"a classifier of 1,000 classes, 'fc', .*model\.reset_classifier\(10\) of timm",
        ),
        (timm.create_model("resnet10t", features_only=True), "gives a list of 5, where one tensor is needed"),
        (Net(lambda net, x: (net.conv(x), x), conv=conv()), "gives a tuple of 2, where one tensor is needed"),
        (
            Net(lambda net, x: net.conv(x)[..., None], conv=conv()),
            r"gives a Tensor of torch.float32 \[2, 8, 15, 15, 1\]",
        ),
        (Net(lambda net, x: net.conv(x).argmax(1), conv=conv()), r"gives a Tensor of torch.int64 \[2, 15, 15\]"),
        (Net(lambda net, x: net.conv(x) * float("nan"), conv=conv()), "gives NaN or infinity"),
        (Net(lambda net, x: net.conv(x).mean((2, 3)).flatten()[:, None], conv=conv()), "gives 16 rows for 2 images"),
        (Net(lambda net, x: net.conv(x), conv=conv(1)), "cannot read an image of 3x32x32: .*expected input"),
    ],
)
def test_what_cannot_be_trained_is_refused_in_one_line(model, told):
    if told is None:
        with pytest.warns(ManyviewWarning, match="ends in the linear layer 'fc' of 12 columns, read as the feature h"):
            Step(recipe(), C, backbone=model)
        return
    with pytest.raises(ManyviewError, match=told) as caught:
        Step(recipe(), C, backbone=model)
    assert "\n" not in str(caught.value)


@in_turn(
    "networks, told",
    [
        (lambda: small(), r"the recipe has 3 branches; say whose it is: backbone=\{'one': …, 'two': …"),
        (
            lambda: {"ema": small()},
            r"backbone\['ema'\]: this branch is an EMA, a copy of 'one'; give the network of 'one'",
        ),
        (lambda: {"idle": small()}, r"backbone\['idle'\]: no relation reads this branch"),
        (lambda: {"one": nn.Sequential(SHARED), "two": nn.Sequential(SHARED)}, "shares parameters with .*one"),
    ],
)
def test_whose_network_it_is_must_be_plain(networks, told):
    with pytest.raises(ManyviewError, match=told):
        Step(parse_recipe(TWO), C, backbone=networks())


def test_branches_may_have_networks_of_their_own():
    one, two = (Net(lambda net, x: net.conv(x), conv=conv()) for _ in range(2))
    step = given(nn.ModuleDict({"one": one, "two": two}), TWO)
    assert step.main.backbone is one
    step = given({"one": one, "two": two}, TWO)
    assert (step.branch("one").backbone, step.branch("two").backbone) == (one, two)
    assert step.branch("ema").backbone is not one


def test_a_network_that_was_moved_alone_is_told():
    step = given(small())
    step.main.backbone.to("meta")
    with pytest.raises(
        ManyviewError, match=r"the given Net lies on meta, and the rest of the step on cpu; call step\.to"
    ):
        step(photos(), LABELS, **BATCH)


def test_scores_of_places_are_no_classifier():
    tokens = Net(lambda net, x: net.fc(net.conv(x).flatten(2).transpose(1, 2)), conv=conv(), fc=nn.Linear(8, C))
    assert given(tokens).main.reader.classifier is None


def test_another_head_for_logits_is_refused_beside_a_classifier():
    with pytest.raises(
        ManyviewError, match=r"has a classifier, 'fc', and the recipe another, logits: mlp\(h, 8\); take it"
    ):
        given(small(), heads=f'{HALF}, logits: "mlp(h, 8)"')
    with pytest.raises(ManyviewError, match="layer 'fc' is the given network's classifier; read logits"):
        given(resnet(), heads=f"{HALF}, low: \"pool('fc')\"", lines=', "similarity(low(a), low(b))"')


def test_every_size_of_a_view_is_tried():
    text = TIED.replace("b: {like: a}", 'b: {like: a}, s: {from: image, make: "crop(16)"}')
    with pytest.raises(
        ManyviewError, match=r"gives 1,800 columns for an image of 3x32x32, and 392 for one of 3x16x16; pool"
    ):
        given(small(), text, lines=', "similarity(h(a), h(s))"')


def test_layers_that_wait_for_their_first_image_are_made_by_it():
    lazy = nn.Sequential(nn.LazyConv2d(8, 3, stride=2), nn.LazyBatchNorm2d(), nn.Flatten(), nn.LazyLinear(C))
    step = given(lazy)
    assert step.main.dims["h"] == 8 * 15 * 15
    assert losses(step)[0] > 0


def test_scores_after_a_softmax_are_told():
    see = Net(lambda net, x: net.fc(net.conv(x).mean((2, 3))).log_softmax(1), conv=conv(), fc=nn.Linear(8, C))
    with pytest.warns(ManyviewWarning, match=r"gives 10 columns, one a class, but not by a last linear layer"):
        Step(recipe(), C, backbone=see)


def test_a_feature_without_gradients_is_refused_when_it_is_trained():
    see = Net(lambda net, x: net.conv(x).detach(), conv=conv())
    with pytest.raises(ManyviewError, match=r"gives a feature without gradients; look for no_grad\(\) and detach\(\)"):
        given(see)(photos(), LABELS, **BATCH)
    low = {"heads": f"{HALF}, low: \"pool('conv')\"", "lines": ', "similarity(low(a), low(b))"'}
    inside = Net(lambda net, x: net.last(_checkpointed(net.conv, x)), conv=conv(), last=conv(8))
    with pytest.raises(ManyviewError, match="layer 'conv' runs without gradients, as in a checkpoint"):
        given(inside, **low)(photos(), LABELS, **BATCH)


def _checkpointed(layer, x):
    return torch.utils.checkpoint.checkpoint(layer, x.requires_grad_(), use_reentrant=True)


# ------------------------------------------------------------------------------- classifiers that are no last layer


def pooled(*layers):
    return nn.Sequential(conv(), nn.ReLU(), *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


class Multiplied(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.weight = conv(), nn.Parameter(torch.randn(C, 8))

    def forward(self, images):
        return nn.functional.linear(self.conv(images).mean((2, 3)), self.weight)


@in_turn(
    "model, told",
    [
        (pooled(nn.Conv2d(8, C, 1)), "gives 10 columns, one a class, but not by a last linear layer"),
        (nn.Sequential(nn.Conv2d(3, C, 1), nn.AdaptiveAvgPool2d(1)), "gives 10 columns, one a class"),
        (nn.Conv2d(3, C, 1), "gives 10 columns, one a class"),
        (Multiplied(), "gives 10 columns, one a class"),
        (Net(lambda net, x: {"out": net.conv(x)}, conv=conv(3, C)), "gives 10 columns, one a class"),
        (torchvision.models.squeezenet1_1(num_classes=C), "gives 10 columns, one a class"),
        (pooled(nn.Conv2d(8, 12, 1)), "ends in the convolution '2' of 12 columns, .* end in an nn.Linear of 10 and"),
    ],
)
def test_scores_by_other_than_a_last_linear_layer_are_told(model, told):
    with pytest.warns(ManyviewWarning, match=told):
        Step(recipe(), C, backbone=model)


def test_a_convolution_of_other_classes_that_ends_torchvisions_network_is_refused():
    model = torchvision.models.squeezenet1_1()
    with pytest.raises(
        ManyviewError, match=r"a classifier of 1,000 classes, 'classifier\.1', which is no linear layer"
    ):
        given(model)
    model.classifier[1] = nn.Identity()
    assert given(model).main.dims["h"] == 512


# ------------------------------------------------------------------------------------------------ objects by name

Pair = namedtuple("Pair", "logits aux")


@dataclass
class Output:
    pooler_output: torch.Tensor
    hidden: object = None


@in_turn(
    "model",
    [
        Net(lambda net, x: Pair(net.fc(net.conv(x).mean((2, 3))), x), conv=conv(), fc=nn.Linear(8, C)),
        Net(lambda net, x: Output(net.conv(x).mean((2, 3))), conv=conv()),
    ],
)
def test_objects_with_the_names_of_hugging_face_are_read_as_mappings_are(model):
    step = given(model)
    assert step.main.dims["h"] == 8
    assert losses(step)[0] > 0


# ------------------------------------------------------------------------------------------------------- frozen bodies


def small_frozen():
    model = small()
    model.conv.requires_grad_(False)
    return model


def timm_frozen():
    model = timm.create_model("resnet10t", num_classes=C).requires_grad_(False)
    model.fc.requires_grad_(True)
    return model


@pytest.mark.parametrize(
    "make",
    [small_frozen, timm_frozen, lambda: plain().requires_grad_(False)],
    ids=["before", "timm", "whole"],
)
def test_a_classifier_is_trained_on_a_frozen_body(make):
    model = make()
    before = copy.deepcopy([p for p in model.parameters() if not p.requires_grad])
    step = given(model, lines="").eval()  # whose statistics of BatchNorm stay
    step.hold(["backbone"])
    with pytest.warns(ManyviewWarning, match="^similarity: the value has no gradient, so nothing learns by it"):
        first, second = losses(step.train())
    assert first != second
    after = [p for p in model.parameters() if not p.requires_grad]
    assert all(torch.equal(*pair) for pair in zip(before, after, strict=True))


def test_a_body_may_be_frozen_after_the_step_is_made():
    model = small()
    step = given(model)
    model.conv.requires_grad_(False)
    optimizer = torch.optim.SGD(model.fc.parameters(), lr=0.1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        step.attach(optimizer)
        warnings.simplefilter("ignore")
        step(photos(), LABELS, **BATCH)["loss"].backward()
    assert model.fc.weight.grad is not None


# --------------------------------------------------------------------------------------------------- kept by pickle


@pytest.mark.parametrize("protocol", [2, pickle.DEFAULT_PROTOCOL])
def test_a_step_is_pickled_with_its_network(protocol):
    step = given(resnet().eval())
    twin = pickle.loads(pickle.dumps(step, protocol))
    assert twin.main.reader == step.main.reader
    assert torch.equal(twin.eval().predict(photos())["logits"], step.eval().predict(photos())["logits"])
