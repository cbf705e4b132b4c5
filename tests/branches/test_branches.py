"""Branches: which rows pass which network, with which batch statistics; normalisation, taps, members, errors."""

import copy

import pytest
import timm
import torch
from torch import nn

from manyview.branches.branch import Branch
from manyview.branches.heads import DinoHead
from manyview.branches.spec import NORMALIZATIONS, parse_branch
from manyview.data.batch import Batch
from manyview.errors import RecipeError
from manyview.load import load_recipe, packaged_recipes, parse_recipe
from manyview.optimize.optimize import make_optimizer
from manyview.recipe.streams import streams_seen
from manyview.relations.swav import SwAV
from manyview.step import Step
from manyview.views.plan import ViewSpec, plan_views
from manyview.views.streams import IMAGE
from manyview.views.view import View
from small import small

PLAN = plan_views(
    {
        "a": ViewSpec(**{"from": "image", "make": "pad_crop(16)"}),
        "b": ViewSpec(like="a"),
        "small": ViewSpec(**{"from": "image", "make": "pad_crop(12)"}),
        "r": ViewSpec(**{"from": "a", "orbit": "rotation"}),
        "two": ViewSpec(**{"from": "a", "make": "flip", "count": 2}),
    }
)
B, M, C = 3, 4, 10


def make(used=("h",), seed=0, **fields):
    torch.manual_seed(seed)
    return Branch(parse_branch("net", {"backbone": "cresnet20", **fields}), C, PLAN, set(used))


def pixels(rows, size=16, seed=0):
    return torch.rand(rows, 3, size, size, generator=torch.Generator().manual_seed(seed))


VIEWS = {
    "a": View(pixels(B, seed=1)),
    "b": View(pixels(B, seed=2)),
    "small": View(pixels(B, 12, seed=3)),
    "r": View(pixels(B * M, seed=4), members=M),
}


def normed(branch, images):
    """By hand: (pixels - mean) / std, in the branch's normalisation."""
    return (images - branch.mean) / branch.std


def recorded(module):
    """A list that grows by what each forward pass of the module is given."""
    seen = []
    module.register_forward_hook(lambda _, args, output: seen.append(args[0].detach().clone()))
    return seen


def statistics(module):
    return {name: value for name, value in module.state_dict().items() if "running" in name or "tracked" in name}


def assert_same_statistics(one, other):
    assert statistics(one)
    for name, value in statistics(one).items():
        assert torch.equal(value, statistics(other)[name]), name


# ----------------------------------------------------------------------------------------------- joint and separate


def test_joint_forward_is_one_pass_over_the_concatenated_views():
    branch = make()
    twin = copy.deepcopy(branch.backbone)
    values = branch(VIEWS, [("h", "a"), ("h", "b")])
    together = twin(normed(branch, torch.cat([VIEWS["a"].pixels, VIEWS["b"].pixels])))
    assert torch.equal(values["h", "a"], together[:B])
    assert torch.equal(values["h", "b"], together[B:])
    assert_same_statistics(branch.backbone, twin)


def test_separate_forward_is_one_pass_a_view():
    branch = make(forward="separate")
    twin = copy.deepcopy(branch.backbone)
    values = branch(VIEWS, [("h", "a"), ("h", "b")])
    assert torch.equal(values["h", "a"], twin(normed(branch, VIEWS["a"].pixels)))
    assert torch.equal(values["h", "b"], twin(normed(branch, VIEWS["b"].pixels)))
    assert_same_statistics(branch.backbone, twin)


def test_the_two_ways_differ_in_training_and_agree_in_evaluation():
    joint, separate = make(), make(forward="separate")
    wanted = [("h", "a"), ("h", "b")]
    assert not torch.allclose(joint(VIEWS, wanted)["h", "a"], separate(VIEWS, wanted)["h", "a"], atol=1e-3)
    joint, separate = make().eval(), make(forward="separate").eval()
    for pair, value in joint(VIEWS, wanted).items():
        torch.testing.assert_close(separate(VIEWS, wanted)[pair], value)


def test_gradients_of_the_two_ways():
    for forward, parts in (("joint", [["a", "b"]]), ("separate", [["a"], ["b"]])):
        branch = make(forward=forward)
        twin = copy.deepcopy(branch.backbone)
        values = branch(VIEWS, [("h", "a"), ("h", "b")])
        (values["h", "a"].square().sum() + values["h", "b"].square().sum()).backward()
        batches = [torch.cat([VIEWS[view].pixels for view in part]) for part in parts]
        sum(twin(normed(branch, batch)).square().sum() for batch in batches).backward()
        for (name, ours), theirs in zip(branch.backbone.named_parameters(), twin.parameters(), strict=True):
            torch.testing.assert_close(ours.grad, theirs.grad, msg=name)


def test_a_head_with_batch_norm_follows_the_same_way():
    for forward, parts in (("joint", [["a", "b"]]), ("separate", [["a"], ["b"]])):
        branch = make(used=["z"], forward=forward, z="projector(h, 8)")
        net, head = copy.deepcopy(branch.backbone), copy.deepcopy(branch.heads["z"])
        values = branch(VIEWS, [("z", "a"), ("z", "b")])
        by_hand = torch.cat([head(net(normed(branch, torch.cat([VIEWS[v].pixels for v in part])))) for part in parts])
        assert torch.equal(torch.cat([values["z", "a"], values["z", "b"]]), by_hand)
        assert_same_statistics(branch.heads["z"], head)


def test_views_of_unlike_sizes_pass_in_groups_of_one_size():
    branch = make()
    twin, seen = copy.deepcopy(branch.backbone), recorded(branch.backbone)
    values = branch(VIEWS, [("h", "a"), ("h", "small"), ("h", "b")])
    assert [tuple(batch.shape) for batch in seen] == [(2 * B, 3, 16, 16), (B, 3, 12, 12)]
    large = twin(normed(branch, torch.cat([VIEWS["a"].pixels, VIEWS["b"].pixels])))
    assert torch.equal(torch.cat([values["h", "a"], values["h", "b"]]), large)
    assert torch.equal(values["h", "small"], twin(normed(branch, VIEWS["small"].pixels)))


@pytest.mark.parametrize("forward", ["joint", "separate"])
def test_multi_crop_gives_what_each_crop_gives_alone(forward):
    """In evaluation mode, two large views, a small one and families of small ones, whole and by members."""
    views = {
        **VIEWS,
        "crops": View(pixels(B * 3, 12, seed=5), members=3),
        "tiny": View(pixels(B * 2, 10, seed=6), members=2),
    }
    branch = make(used=["p"], z="projector(h, 8)", p="predictor(z, 4)", forward=forward)
    branch(views, [("p", "a"), ("p", "crops")])  # so that statistics are no longer those at the beginning
    branch.eval()
    wanted = [(name, view) for name in "hzp" for view in ("a", "b", "small", "crops", "crops.1", "tiny.0", "tiny.1")]
    with torch.no_grad():
        found = branch(views, wanted)
        for name, view in wanted:
            base, _, member = view.partition(".")
            rows = views[base].pixels[int(member) :: views[base].members] if member else views[base].pixels
            for at, image in enumerate(rows):
                alone = branch.read(image[None], [name])[name][0]
                torch.testing.assert_close(found[name, view][at], alone, rtol=1e-4, atol=1e-5)


def test_small_crops_are_one_pass_in_both_ways():
    """A family is one view, of B*count rows; with other views of its size it is one batch in a joint forward."""
    views = {**VIEWS, "crops": View(pixels(B * 3, 12, seed=5), members=3)}
    for forward, shapes in (
        ("joint", [(2 * B, 16), (4 * B, 12)]),
        ("separate", [(B, 16), (B, 16), (B, 12), (3 * B, 12)]),
    ):
        branch = make(forward=forward)
        seen = recorded(branch.backbone)
        branch(views, [("h", view) for view in ("a", "b", "small", "crops")])
        assert [(len(batch), batch.shape[-1]) for batch in seen] == shapes


def test_order_is_that_of_the_views_whatever_the_order_asked():
    one, other = make(), make()
    ahead = one(VIEWS, [("h", "a"), ("h", "b")])
    back = other(dict(VIEWS), [("h", "b"), ("h", "a")])
    assert all(torch.equal(ahead[pair], back[pair]) for pair in ahead)


def test_only_views_that_are_read_pass():
    branch = make()
    seen = recorded(branch.backbone)
    assert list(branch(VIEWS, [("h", "b")])) == [("h", "b")]
    assert [len(batch) for batch in seen] == [B]


def test_uint8_views_are_scaled():
    branch = make().eval()
    raw = torch.randint(0, 256, (B, 3, 16, 16), dtype=torch.uint8)
    values = branch({"a": View(raw)}, [("h", "a")])
    torch.testing.assert_close(values["h", "a"], branch.backbone(normed(branch, raw.double().div(255).float())))


# ------------------------------------------------------------------------------------------------ families, members


@pytest.mark.parametrize("forward", ["joint", "separate"])
def test_a_family_is_one_view_of_all_its_rows(forward):
    branch = make(used=["h", "logits"], forward=forward)
    twin, seen = copy.deepcopy(branch), recorded(branch.backbone)
    values = branch(VIEWS, [("h", "r"), ("logits", "r")])
    assert [len(batch) for batch in seen] == [B * M]
    h = twin.backbone(normed(branch, VIEWS["r"].pixels))
    assert torch.equal(values["h", "r"], h)
    assert torch.equal(values["logits", "r"], twin.heads["logits"](h))


def test_members_of_a_family_that_is_read_are_slices_and_cost_nothing():
    branch = make(used=["h", "joint", "logits"], joint="linear(h, orbit=r)")
    seen = recorded(branch.backbone)
    of_head = {name: recorded(head) for name, head in branch.heads.items()}
    wanted = [("joint", "r"), ("logits", "r.0"), ("h", "r.2"), ("joint", "r.1"), ("h", "r")]
    values = branch(VIEWS, wanted)
    assert list(values) == wanted
    assert [len(batch) for batch in seen] == [B * M]
    assert torch.equal(values["h", "r.2"], values["h", "r"][2::M])
    assert torch.equal(values["joint", "r.1"], values["joint", "r"][1::M])
    # the class head sees one row an image: those of member 0
    assert {name: [len(batch) for batch in batches] for name, batches in of_head.items()} == {
        "joint": [B * M],
        "logits": [B],
    }
    assert torch.equal(of_head["logits"][0], values["h", "r"][::M])


@pytest.mark.parametrize("member", range(M))
def test_a_member_alone_passes_alone(member):
    branch = make(used=["logits"])
    twin, seen = copy.deepcopy(branch), recorded(branch.backbone)
    values = branch(VIEWS, [("logits", f"r.{member}")])
    assert [len(batch) for batch in seen] == [B]
    by_hand = twin.heads["logits"](twin.backbone(normed(branch, VIEWS["r"].pixels[member::M])))
    assert torch.equal(values["logits", f"r.{member}"], by_hand)


@pytest.mark.parametrize(("forward", "passes"), [("joint", [3 * B]), ("separate", [B, B, B])])
def test_members_and_views_without_their_family(forward, passes):
    branch = make(forward=forward)
    twin, seen = copy.deepcopy(branch.backbone), recorded(branch.backbone)
    values = branch(VIEWS, [("h", "r.3"), ("h", "a"), ("h", "r.1")])
    assert [len(batch) for batch in seen] == passes
    batches = [VIEWS["a"].pixels, VIEWS["r"].pixels[1::M], VIEWS["r"].pixels[3::M]]  # in the order of the views
    batches = [torch.cat(batches)] if forward == "joint" else batches
    by_hand = torch.cat([twin(normed(branch, batch)) for batch in batches])
    assert torch.equal(torch.cat([values["h", view] for view in ("a", "r.1", "r.3")]), by_hand)


def test_rows_of_members_enter_a_head_in_a_fixed_order():
    # BatchNorm sums over rows, so that an order that changes between processes changes the bits
    branch = make(used=["h", "z"], z="projector(h, 8)")
    seen = recorded(branch.heads["z"])
    values = branch(VIEWS, [("h", "r"), *(("z", f"r.{t}") for t in (3, 0, 2, 1))])
    assert len(seen) == 1
    assert torch.equal(seen[0], torch.cat([values["h", "r"][t::M] for t in range(M)]))


def test_heads_are_computed_for_the_rows_that_are_asked_only():
    branch = make(used=["z", "p", "logits"], z="projector(h, 8)", p="predictor(z, 4)")
    seen = {name: recorded(head) for name, head in branch.heads.items()}
    values = branch(VIEWS, [("p", "a"), ("z", "b"), ("logits", "small")])
    assert {name: [len(batch) for batch in batches] for name, batches in seen.items()} == {
        "z": [2 * B],
        "p": [B],
        "logits": [B],
    }
    assert sorted(values) == [("logits", "small"), ("p", "a"), ("z", "b")]


def test_heads_stack():
    branch = make(used=["p"], z="projector(h, 8)", p="predictor(z, 4)").eval()
    h = branch.backbone(normed(branch, VIEWS["a"].pixels))
    torch.testing.assert_close(branch(VIEWS, [("p", "a")])["p", "a"], branch.heads["p"](branch.heads["z"](h)))


def test_read_gives_readouts_of_any_images():
    branch = make(used=["logits"]).eval()
    images = pixels(5, seed=9)
    values = branch.read(images, ["h", "logits"])
    assert {name: tuple(value.shape) for name, value in values.items()} == {"h": (5, 64), "logits": (5, C)}
    assert torch.equal(values["logits"], branch.heads["logits"](branch.backbone(normed(branch, images))))


# ------------------------------------------------------------------------------------------------------ what is built


def test_only_heads_in_use_are_built_with_those_below_them():
    fields = {"z": "projector(h, 8)", "p": "predictor(z, 4)", "q": "mlp(h, 8)", "joint": "linear(h, orbit=r)"}
    assert list(make(used=["h"], **fields).heads) == []
    assert list(make(used=["p"], **fields).heads) == ["z", "p"]
    assert list(make(used=["logits"], **fields).heads) == ["logits"]
    joint = make(used=["joint"], **fields)
    assert (list(joint.heads), joint.dims["joint"]) == (["joint"], C * M)
    assert joint.orbits["joint"] is PLAN["r"]


def test_logits_is_a_linear_layer_unless_the_recipe_says_otherwise():
    plain = make(used=["logits"]).heads["logits"]
    assert isinstance(plain, nn.Linear)
    assert (plain.in_features, plain.out_features) == (64, C)
    other = make(used=["logits"], logits="mlp(h, 7)").heads["logits"]
    assert [m.out_features for m in other if isinstance(m, nn.Linear)] == [7, C]


@pytest.mark.parametrize("name", packaged_recipes())
def test_every_parameter_of_a_packaged_recipe_gets_a_gradient(name):
    recipe = load_recipe(name, *small(name), "seed=3")
    step = Step(recipe, C, total_steps=10)
    step.updates = 5  # past the start of a warm-up, where the weight is 0
    for module in step.modules():
        if isinstance(module, (SwAV, DinoHead)):
            module.updates.fill_(module.freeze)  # and past that of prototypes and layers that stand still
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (4, 3, 32, 32), generator=generator, dtype=torch.uint8)
    others = {stream: Batch(images, None, range(4), 1) for stream in streams_seen(recipe) if stream != IMAGE}
    out = step(images, torch.arange(4), index=range(4), epoch=1, streams=others)
    out["loss"].backward()
    trained = {key: parameter for key, parameter in step.named_parameters() if parameter.requires_grad}
    fixed = dict(step.named_parameters()).keys() - trained
    assert all(key.startswith(("branches.teacher.", "average.")) for key in fixed)
    assert [key for key, parameter in trained.items() if parameter.grad is None] == []
    assert [key for key, parameter in trained.items() if not parameter.grad.any()] == []
    assert all(parameter.grad.isfinite().all() for parameter in trained.values())
    optimizer = make_optimizer(recipe.train, step)  # its rules name parts that are there
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(trained)


# ------------------------------------------------------------------------------------------------------ normalisation


@pytest.mark.parametrize("name", NORMALIZATIONS)
def test_normalisation_by_name(name):
    branch = make(normalize=name)
    mean, std = NORMALIZATIONS[name]
    seen = recorded(branch.backbone)
    branch(VIEWS, [("h", "a")])
    by_hand = torch.stack(
        [(VIEWS["a"].pixels[:, c] - mean[c % len(mean)]) / std[c % len(std)] for c in range(3)], dim=1
    )
    torch.testing.assert_close(seen[0], by_hand)


def test_named_normalisations_are_the_published_ones():
    assert NORMALIZATIONS["imagenet"] == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert NORMALIZATIONS["none"] == ((0,), (1,))
    assert NORMALIZATIONS["half"] == ((0.5,), (0.5,))


def test_normalisation_by_values():
    branch = make(normalize=[[0.1, 0.2, 0.3], [1, 2, 4]])
    assert branch.mean.flatten().tolist() == pytest.approx([0.1, 0.2, 0.3])
    assert branch.std.flatten().tolist() == [1, 2, 4]


@pytest.mark.parametrize("backbone", ["resnet18", "vit_tiny_patch16_224", "mobilenetv3_small_050"])
def test_normalisation_is_the_backbones_own_by_default(backbone):
    options = "(img_size=32)" if backbone.startswith("vit") else ""
    branch = make(backbone=backbone + options)
    cfg = timm.create_model(backbone).pretrained_cfg
    assert branch.mean.flatten().tolist() == pytest.approx(cfg["mean"])
    assert branch.std.flatten().tolist() == pytest.approx(cfg["std"])
    if backbone == "vit_tiny_patch16_224":
        assert cfg["mean"] == (0.5, 0.5, 0.5)  # so that the case above tells two defaults apart


def test_normalisation_is_not_saved_but_moves_with_the_module():
    branch = make()
    assert not {"mean", "std"} & set(branch.state_dict())
    assert branch.double().mean.dtype == torch.float64


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (
            "imagnet",
            "branches.net.normalize: unknown normalisation 'imagnet'; did you mean 'imagenet'? normalisations: "
            "cifar10, cifar100, half, imagenet, none",
        ),
        (3, "branches.net.normalize: expected a name or [[means], [stds]], got 3"),
        ([[1, 2, 3]], "branches.net.normalize: expected a name or [[means], [stds]], got [[1, 2, 3]]"),
        (
            [[0.5] * 3, [0.5] * 2],
            "branches.net.normalize: expected 3 means and 3 positive stds, one a channel, "
            "got [[0.5, 0.5, 0.5], [0.5, 0.5]]",
        ),
        (
            [[0, 0, 0], [1, 1, 0]],
            "branches.net.normalize: expected 3 means and 3 positive stds, one a channel, got [[0, 0, 0], [1, 1, 0]]",
        ),
        (
            [[0.5] * 4, [0.5] * 4],
            "branches.net.normalize: expected 3 means and 3 positive stds, one a channel, "
            "got [[0.5, 0.5, 0.5, 0.5], [0.5, 0.5, 0.5, 0.5]]",
        ),
    ],
)
def test_wrong_normalisations(value, message):
    with pytest.raises(RecipeError) as caught:
        make(normalize=value)
    assert str(caught.value) == message


# ----------------------------------------------------------------------------------------------------- backbones, taps


@pytest.mark.parametrize(
    ("backbone", "name", "options", "size"),
    [
        ("resnet18", "resnet18", {}, 32),
        ("mobilenetv3_small_050", "mobilenetv3_small_050", {}, 32),
        ("vit_tiny_patch16_224(img_size=32)", "vit_tiny_patch16_224", {"img_size": 32}, 32),
        ("cresnet20", "cresnet20", {}, 16),
        ("wrn28_2", "wrn28_2", {}, 16),
        ("convnext_atto", "convnext_atto", {}, 32),
    ],
)
def test_h_is_timms_own_pooled_feature(backbone, name, options, size):
    branch = make(backbone=backbone).eval()
    torch.manual_seed(1)
    theirs = timm.create_model(name, num_classes=0, **options).eval()
    theirs.load_state_dict(branch.backbone.state_dict())
    images = pixels(2, size, seed=7)
    found = branch.read(images, ["h"])["h"]
    expected = theirs(normed(branch, images))
    torch.testing.assert_close(found, expected)
    assert found.shape == (2, branch.dims["h"])
    assert found.std() > 0


def test_small_replaces_the_stem():
    branch = make(backbone="resnet18(small=True)")
    conv = branch.backbone.conv1
    assert (conv.kernel_size, conv.stride, conv.padding) == ((3, 3), (1, 1), (1, 1))
    assert isinstance(branch.backbone.maxpool, nn.Identity)
    assert branch.read(pixels(2, 32), ["h"])["h"].shape == (2, 512)
    plain = make(backbone="resnet18(small=False)").backbone.conv1
    assert (plain.kernel_size, plain.stride) == ((7, 7), (2, 2))


@pytest.mark.parametrize("layer", ["layer1", "layer2", "layer3.2"])
def test_a_tap_is_the_pooled_output_of_the_layer(layer):
    branch = make(used=["mid", "h"], mid=f"pool('{layer}')").eval()
    assert branch.backbone.training is False
    kept = []
    handle = branch.backbone.get_submodule(layer).register_forward_hook(lambda m, args, output: kept.append(output))
    h = branch.backbone(normed(branch, VIEWS["a"].pixels))
    handle.remove()
    values = branch(VIEWS, [("mid", "a"), ("h", "a")])
    torch.testing.assert_close(values["mid", "a"], kept[0].mean(dim=(2, 3)))
    torch.testing.assert_close(values["h", "a"], h)
    assert branch.dims["mid"] == kept[0].shape[1] == values["mid", "a"].shape[1]


@pytest.mark.parametrize("layer", ["layer1", "layer2"])
def test_maps_are_the_whole_output_of_the_layer(layer):
    branch = make(used=["whole", "mid", "h"], whole=f"maps('{layer}')", mid=f"pool('{layer}')").eval()
    values = branch(VIEWS, [("whole", "a"), ("mid", "a")])
    whole = values["whole", "a"]
    assert branch.dims["whole"] == whole.shape[1] > branch.dims["mid"]
    channels = branch.dims["mid"]
    torch.testing.assert_close(whole.view(B, channels, -1).mean(dim=2), values["mid", "a"])


def test_a_tie_of_whole_maps_is_the_mean_over_all_their_elements():
    """Tied-Augment's inner layers: MSE over B*C*h*w, which pooling would make smaller."""
    text = """
    views: {a: {from: image, make: "pad_crop(16)"}, b: {like: a}, small: {from: image, make: "resize(12)"}}
    branches: {net: {backbone: cresnet20, normalize: half, low: "maps('layer2')"}}
    relations: ["similarity(low(a), low(%s))"]
    train: {epochs: 1}
    """
    step = Step(parse_recipe(text % "b"), C)
    images, kept = torch.randint(256, (B, 3, 16, 16), dtype=torch.uint8), []
    step.main.backbone.layer2.register_forward_hook(lambda m, args, output: kept.append(output))
    loss = step(images, index=range(B), epoch=0)["loss"]
    one, two = kept[0].split(B)
    torch.testing.assert_close(loss, (one - two).square().mean())
    pooled = (one.mean(dim=(2, 3)) - two.mean(dim=(2, 3))).square().mean()
    assert loss > 2 * pooled
    with pytest.raises(RecipeError) as caught:
        Step(parse_recipe(text % "small"), C)
    assert str(caught.value).endswith("views of 16x16 and 12x12 have unlike maps; read views of one size, or pool")


def test_a_tap_of_a_transformer_is_the_mean_token():
    plan = plan_views({"a": ViewSpec(**{"from": "image", "make": "pad_crop(32)"})})
    raw = {"backbone": "vit_tiny_patch16_224(img_size=32, depth=2)", "mid": "pool('blocks.0')", "z": "mlp(mid, 8)"}
    branch = Branch(parse_branch("net", raw), C, plan, {"mid", "z"}).eval()
    kept = []
    branch.backbone.blocks[0].register_forward_hook(lambda m, args, output: kept.append(output))
    values = branch.read(pixels(2, 32), ["mid", "z"])
    assert kept[0].shape == (2, 5, 192)
    torch.testing.assert_close(values["mid"], kept[0].mean(dim=1))
    torch.testing.assert_close(values["z"], branch.heads["z"](kept[0].mean(dim=1)))


def test_taps_leave_no_hook_and_no_statistics_behind():
    branch = make(used=["mid"], mid="pool('layer2')")
    fresh = make()
    assert branch.training
    assert_same_statistics(branch.backbone, fresh.backbone)  # finding the widths did not count as a batch
    branch(VIEWS, [("mid", "a")])
    assert not any(module._forward_hooks for module in branch.modules())


def test_heads_read_taps_and_members_of_taps():
    branch = make(used=["mid", "z"], mid="pool('layer2')", z="projector(mid, 8)")
    seen = recorded(branch.backbone)
    values = branch(VIEWS, [("mid", "r"), ("z", "r.1")])
    assert [len(batch) for batch in seen] == [B * M]
    assert values["mid", "r"].shape == (B * M, 32)
    assert values["z", "r.1"].shape == (B, 8)


def refused(**fields):
    used = {key for key in fields if key not in ("backbone", "forward", "normalize")} | {"h"}
    with pytest.raises(RecipeError) as caught:
        make(used=used, **fields)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("backbone", "message"),
    [
        ("resnet18('small')", "write arguments of a backbone by name, as in resnet18(small=True)"),
        ("resnet18(global_pool='')", "h is the pooled feature; drop global_pool=''"),
        ("resnet18(in_chans=1)", "data.channels says how many channels images have (now 3); drop in_chans"),
        ("resnet18(in_chans='x')", "data.channels says how many channels images have (now 3); drop in_chans"),
        ("resnet18(small='yes')", "small must be True or False, got 'yes'"),
        (
            "resnet18(pretrained=True, pretrained_cfg_overlay={'file': 'x.pt', 'hf_hub_id': None})",
            "pretrained_cfg_overlay: init='FILE' says where weights are; drop file, hf_hub_id",
        ),
        (
            "resnet18(pretrained=True, pretrained_cfg={'url': 'http://x.org/x.pt'})",
            "pretrained_cfg: init='FILE' says where weights are; drop url",
        ),
        ("resnet18(num_classes=10)", "the classifier is the head `logits: linear(h)`; drop num_classes"),
        (
            "cresnet20(small=True)",
            "cresnet20(small=True): small_stem: 'cresnet20' has no 7x7 stride-2 conv1 followed by maxpool; "
            "supported: timm ResNets with the plain stem, such as resnet18, resnet50, resnext50_32x4d",
        ),
    ],
)
def test_wrong_backbones(backbone, message):
    assert refused(backbone=backbone) == f"branches.net.backbone: {message}"


def test_an_unknown_backbone_shows_its_neighbours():
    found = refused(backbone="esnet18")
    assert found.startswith("branches.net.backbone: unknown backbone 'esnet18'; did you mean ")
    assert "resnet18" in found
    expected = "branches.net.backbone: unknown backbone 'qqq'; timm.list_models() has them all"
    assert refused(backbone="qqq") == expected


@pytest.mark.parametrize(
    "backbone",
    [
        "resnet18(smal=True)",
        "resnet18(img_size=32)",
        "vit_tiny_patch16_224(img_size='x')",
        "resnet18(global_pool='nope')",
        "resnet18(pretrained_cfg='nope', pretrained=True)",
    ],
)
def test_arguments_that_the_backbone_does_not_take(backbone):
    assert refused(backbone=backbone).startswith("branches.net.backbone: ")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"forward": "jiont"}, "branches.net.forward: unknown way 'jiont'; did you mean 'joint'? "
                               "ways: joint, separate"),
        ({"z": "projectr(h, 8)"}, "branches.net.z: unknown head 'projectr'; did you mean 'projector'? heads: "
                                  "dino_head, linear, maps, mlp, pool, predictor, projector"),
        ({"z": "projector(8)"}, "branches.net.z: a head first names what it reads, as in projector(h), "
                                "got projector(8)"),
        ({"z": "projector(q, 8)"}, "branches.net.z: unknown readout 'q'; readouts: h"),
        ({"p": "predictor(z, 8)", "z": "linear(h)"}, "branches.net.p: unknown readout 'z'; readouts: h"),
        ({"h": "linear(h)"}, "branches.net.h: 'h' cannot name a head; h is the backbone's feature"),
        (
            {"z-1": "linear(h)"},
            "branches.net.z-1: 'z-1' cannot be a name; take a word that Python and PyTorch leave free",
        ),
        ({"z": "projector(h)"}, "branches.net.z: projector(): missing a required argument: 'out'; arguments: "
                                "out, hidden, layers, norm_last, affine"),
        ({"z": "projector(h, 8, layer=2)"}, "branches.net.z: projector: unknown argument 'layer'; did you mean "
                                            "'layers'? arguments: affine, hidden, layers, norm_last, out"),
        ({"z": "projector(h, 0)"}, "branches.net.z: projector(0): width must be a whole number of at least 1, got 0"),
        ({"mid": "pool(layer2)"}, "branches.net.mid: write the layer's name in quotes, as in pool('layer2'), "
                                  "got pool(layer2)"),
        ({"j": "linear(h, orbit=a)"}, "branches.net.j: orbit= names a family of views, got a; "
                                      "families: ['r', 'two']"),
        ({"j": "linear(h, orbit='r')"}, "branches.net.j: orbit= names a family of views, got r; "
                                        "families: ['r', 'two']"),
        ({"j": "linear(h, 3, orbit=r)"}, "branches.net.j: linear(3): orbit= fixes the number of columns; "
                                         "drop the other one"),
        ({"j": "mlp(h, 3, orbit=r)"}, "branches.net.j: mlp: unknown argument 'orbit'; arguments: hidden, layers, out"),
    ],
)  # fmt: skip
def test_wrong_branches(fields, message):
    assert refused(**fields) == message


def test_an_unknown_layer_shows_those_that_exist():
    found = refused(mid="pool('layer9')")
    assert found.startswith("branches.net.mid: unknown layer 'layer9'; did you mean 'layer")
    assert "layer3" in found.split("layers: ")[1]


@pytest.mark.parametrize("raw", ["resnet18", {}, None, {"backbone": 3}, {"backbone": "resnet18", "z": 3}])
def test_a_branch_is_a_mapping_of_calls(raw):
    with pytest.raises(RecipeError) as caught:
        parse_branch("net", raw)
    assert str(caught.value).startswith("branches.net")
    assert "\n" not in str(caught.value)


def test_init_std_draws_the_weights_of_all_convolutions_and_linear_layers():
    fields = {"init_std": 0.05, "z": "projector(h, 64)"}
    branch, plain = make(used=["logits", "z"], **fields), make(used=["logits", "z"], z="projector(h, 64)")
    drawn = {name for name, m in branch.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))}
    assert {"heads.logits", "heads.z.0", "backbone.conv1"} <= drawn
    for name in drawn:
        weight = branch.get_submodule(name).weight.detach()
        assert abs(float(weight.std()) - 0.05) < 5 * 0.05 / (2 * weight.numel()) ** 0.5, name
    others = [n for n, _ in branch.named_parameters() if n.removesuffix(".weight") not in drawn]
    assert any("bn1" in name for name in others)
    for name in others:  # norms and biases are as without it
        if "bias" not in name or "bn" in name:
            assert torch.equal(branch.get_parameter(name), plain.get_parameter(name)), name


def test_init_torch_is_what_torch_draws_and_has_no_norm_of_zero():
    """DSSL's networks; timm sets the last norm of each block of a ResNet to zero, and draws by the fan out."""
    plain, branch = make(backbone="resnet18"), make(backbone="resnet18", init="torch", used=["z"], z="projector(h, 8)")
    assert not plain.backbone.layer1[0].bn2.weight.any()
    for name, module in branch.named_modules():
        if isinstance(module, nn.Conv2d):
            bound = (module.weight[0].numel()) ** -0.5  # uniform: kaiming with a = sqrt(5)
            assert module.weight.abs().max() <= bound, name
            assert float(module.weight.detach().std()) == pytest.approx(bound / 3**0.5, rel=0.1), name
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.affine:
            assert (module.weight == 1).all(), name
            assert not module.bias.any(), name


def test_init_normal_is_agmaxs_start_for_backbone_heads_and_q():
    """N(0, 0.2) for every convolution and linear layer, Q included, biases zero, norms at 1 and 0."""
    text = """
    views: {a: {from: image, make: "pad_crop(16)"}, b: {like: a}}
    branches: {net: {backbone: resnet18, init: normal(0.2)}}
    relations: ["cross_entropy(logits(a), logits(b))", "agmax(logits(a), logits(b), hidden=256%s)"]
    train: {epochs: 1}
    """
    step = Step(parse_recipe(text % ""), C)
    layers = [m for m in step.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    assert step.relations["agmax"].joint[0] in layers
    for module in layers:
        count = module.weight.numel()
        assert abs(float(module.weight.detach().std()) - 0.2) < 5 * 0.2 / (2 * count) ** 0.5
        assert module.bias is None or not module.bias.any()
    assert all((m.weight == 1).all() for m in step.modules() if isinstance(m, nn.BatchNorm2d))
    other = Step(parse_recipe(text % ", std=0.01"), C).relations["agmax"].joint[0]  # unless Q has a spread of its own
    assert float(other.weight.detach().std()) == pytest.approx(0.01, rel=0.1)


@pytest.mark.parametrize(
    ("init", "message"),
    [
        ("norml(0.2)", "unknown start of weights 'norml'; did you mean 'normal'? starts: normal, torch"),
        ("normal", "normal(): missing a required argument: 'std'; arguments: std"),
        ("normal(0)", "normal(0): std must be a positive number, got 0"),
        ("normal(std='x')", "normal(std='x'): std must be a positive number, got 'x'"),
        ("torch(1)", "torch(1): too many positional arguments; arguments: none"),
        (0.2, "expected a call such as name(…), got 0.2"),
    ],
)
def test_wrong_starts(init, message):
    assert refused(init=init).startswith(f"branches.net.init: {message}")


def test_weights_start_in_one_way():
    assert refused(init="torch", init_std=0.1).startswith("branches.net.init_std: init says how weights start; drop ")
    assert (
        parse_branch("net", {"backbone": "cresnet20", "init_std": 0.1}).init
        == parse_branch("net", {"backbone": "cresnet20", "init": "normal(0.1)"}).init
    )


def test_published_weights_have_no_other_start():
    message = refused(backbone="resnet18(pretrained=True)", init="torch")
    assert message == ("branches.net.init: torch would draw the published weights anew; drop it, or pretrained=True")


@pytest.mark.parametrize("value", [0, -0.2, "small", [0.2], True])
def test_wrong_init_std(value):
    assert refused(init_std=value) == f"branches.net.init_std: expected a positive number, got {value!r}"


def test_a_tap_of_a_network_of_fixed_size_that_the_views_do_not_tell():
    # the first view only flips, so its size is that of the images, which the recipe does not know
    recipe = parse_recipe("""
    views: {a: {from: image, make: flip}, b: {like: a}}
    branches: {net: {backbone: "vit_tiny_patch16_224(img_size=32, depth=1)", mid: "pool('blocks.0')"}}
    relations: ["similarity(mid(a), mid(b))"]
    train: {epochs: 1}
    """)
    step = Step(recipe, C)
    assert step.main.dims["mid"] == 192


def test_a_network_of_fixed_size_that_the_views_do_not_have():
    branch = make(backbone="vit_tiny_patch16_224(img_size=32, depth=1)")
    with pytest.raises(RecipeError) as caught:
        branch(VIEWS, [("h", "a")])
    assert str(caught.value) == (
        "branches.net.backbone: vit_tiny_patch16_224(img_size=32, depth=1) cannot read views of 16x16: "
        "Input height (16) doesn't match model (32)."
    )
