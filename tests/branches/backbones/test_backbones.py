"""The small networks: parameter counts, shapes, shortcuts, timm's interface; and the small stem."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
from timm.models import group_parameters
from torch import Tensor, nn

from manyview.branches.backbones.cresnet import BasicBlock, CifarResNet
from manyview.branches.backbones.stem import small_stem
from manyview.branches.backbones.wrn import WideBlock, WideResNet

CRESNETS = ["cresnet8", "cresnet20", "cresnet32", "cresnet56"]
WRNS = ["wrn28_2", "wrn28_10", "wrn40_2"]
LIGHT = ["cresnet20", "wrn28_2"]
WIDTH = {"cresnet20": 64, "wrn28_2": 128}


def make(name: str, **kwargs: object) -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model(name, **kwargs)


def images(size: int = 32, chans: int = 3, batch: int = 2) -> Tensor:
    return torch.rand(batch, chans, size, size, generator=torch.Generator().manual_seed(1))


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("name", CRESNETS + WRNS)
def test_registered_with_timm(name: str) -> None:
    assert timm.is_model(name)
    model = timm.create_model(name, device="meta")
    cfg = timm.data.resolve_data_config(model=model)
    assert cfg["input_size"] == (3, 32, 32)
    assert cfg["mean"] == (0.4914, 0.4822, 0.4465)
    assert cfg["std"] == (0.2470, 0.2435, 0.2616)
    assert model.num_classes == 10
    assert model.default_cfg["architecture"] == name
    assert isinstance(model.get_submodule(model.default_cfg["classifier"]), nn.Linear)
    assert model.get_submodule(model.default_cfg["first_conv"]).in_channels == 3
    assert not timm.models.is_model_pretrained(name)


# Weights by hand for 10 classes. ResNet-20 (n = 3): stem 3*9*16 = 432; stage 1: 6 convs 16->16 = 6*2304;
# stage 2: one 16->32 = 4608 and five 32->32 = 5*9216; stage 3: one 32->64 = 18432 and five 64->64 =
# 5*36864; BatchNorm: two numbers a channel for the stem's 16 and six layers each of 16, 32, 64; linear
# 640 + 10. ResNet-8, ResNet-32 and ResNet-56 have 2, 10 and 18 convs a stage.
@pytest.mark.parametrize(
    ("name", "total"),
    [
        ("cresnet8", 432 + 2 * 2304 + 4608 + 9216 + 18432 + 36864 + 2 * (16 + 2 * 112) + 650),
        ("cresnet20", 432 + 6 * 2304 + 4608 + 5 * 9216 + 18432 + 5 * 36864 + 2 * (16 + 6 * 112) + 650),
        ("cresnet32", 432 + 10 * 2304 + 4608 + 9 * 9216 + 18432 + 9 * 36864 + 2 * (16 + 10 * 112) + 650),
        ("cresnet56", 432 + 18 * 2304 + 4608 + 17 * 9216 + 18432 + 17 * 36864 + 2 * (16 + 18 * 112) + 650),
    ],
)
def test_cresnet_parameter_count(name: str, total: int) -> None:
    told = {"cresnet8": 75_290, "cresnet20": 269_722, "cresnet32": 464_154, "cresnet56": 853_018}[name]
    assert total == told
    assert f" {told:,} parameters with 10 classes" in timm.models.model_entrypoint(name).__doc__
    assert count(make(name, num_classes=10, device="meta")) == total


def wide_total(n: int, k: int) -> int:
    """Weights of WRN-(6n+4)-k with 10 classes, stage by stage from table 1 of the paper."""
    total = 3 * 16 * 9
    for narrow, wide in [(16, 16 * k), (16 * k, 32 * k), (32 * k, 64 * k)]:
        total += 9 * narrow * wide + 9 * wide * wide * (2 * n - 1) + narrow * wide
        total += 2 * narrow + 2 * wide * (2 * n - 1)
    return total + 2 * 64 * k + 64 * k * 10 + 10


@pytest.mark.parametrize(
    ("name", "n", "k", "total"),
    [("wrn28_2", 4, 2, 1_467_610), ("wrn28_10", 4, 10, 36_479_194), ("wrn40_2", 6, 2, 2_243_546)],
)
def test_wrn_parameter_count(name: str, n: int, k: int, total: int) -> None:
    assert wide_total(n, k) == total
    assert count(make(name, num_classes=10, device="meta")) == total


@pytest.mark.parametrize(
    ("name", "shapes"),
    [
        ("cresnet8", [(16, 32), (16, 32), (32, 16), (64, 8)]),
        ("cresnet20", [(16, 32), (16, 32), (32, 16), (64, 8)]),
        ("cresnet56", [(16, 32), (16, 32), (32, 16), (64, 8)]),
        ("wrn28_2", [(16, 32), (32, 32), (64, 16), (128, 8)]),
        ("wrn40_2", [(16, 32), (32, 32), (64, 16), (128, 8)]),
    ],
)
def test_stage_shapes(name: str, shapes: list[tuple[int, int]]) -> None:
    x = images()
    model = make(name, features_only=True)
    assert [tuple(f.shape) for f in model(x)] == [(2, c, s, s) for c, s in shapes]
    assert model.feature_info.channels() == [c for c, _ in shapes]
    assert model.feature_info.reduction() == [32 // s for _, s in shapes]
    whole = make(name).eval()
    assert torch.equal(whole.forward_features(x), make(name, features_only=True).eval()(x)[-1])


@pytest.mark.parametrize("name", LIGHT)
@pytest.mark.parametrize("size", [31, 40])
def test_other_sizes(name: str, size: int) -> None:
    model = make(name).eval()
    x = images(size)
    assert model.forward_features(x).shape == (2, WIDTH[name], (size + 3) // 4, (size + 3) // 4)
    assert model(x).shape == (2, 10)


@pytest.mark.parametrize("name", LIGHT)
def test_no_classes_gives_pooled_features(name: str) -> None:
    model = make(name, num_classes=0).eval()
    x = images()
    pooled = model(x)
    assert pooled.shape == (2, WIDTH[name])
    assert model.num_features == model.head_hidden_size == WIDTH[name]
    torch.testing.assert_close(pooled, model.forward_features(x).mean(dim=(2, 3)))
    assert isinstance(model.get_classifier(), nn.Identity)


@pytest.mark.parametrize("name", LIGHT)
def test_features_then_classifier_is_forward(name: str) -> None:
    model = make(name, num_classes=7).eval()
    x = images()
    features = model.forward_features(x)
    pooled = model.forward_head(features, pre_logits=True)
    assert pooled.shape == (2, WIDTH[name])
    assert torch.equal(model.get_classifier()(pooled), model(x))
    assert torch.equal(model.forward_head(features), model(x))
    assert model.get_classifier(name_only=True) == "fc"


@pytest.mark.parametrize("name", LIGHT)
def test_reset_classifier(name: str) -> None:
    model = make(name).double().eval()
    x = images().double()
    before = model.forward_features(x)
    model.reset_classifier(5)
    assert model.num_classes == 5
    assert model(x).shape == (2, 5)
    assert model(x).dtype == torch.float64
    model.reset_classifier(5, "catavgmax")
    assert model.head_hidden_size == 2 * WIDTH[name]
    assert model(x).shape == (2, 5)
    model.reset_classifier(0, "max")
    torch.testing.assert_close(model(x), before.amax(dim=(2, 3)))
    model.reset_classifier(3)
    assert model.global_pool.pool_type == "max"
    model.reset_classifier(0, "")
    assert torch.equal(model(x), before)


@pytest.mark.parametrize("name", LIGHT)
def test_one_input_channel(name: str) -> None:
    model = make(name, in_chans=1)
    assert model.conv1.weight.shape == (16, 1, 3, 3)
    assert model(images(chans=1)).shape == (2, 10)


@pytest.mark.parametrize("name", LIGHT)
def test_convolutions_start_from_fan_out(name: str) -> None:
    model = make(name)
    block = model.layer3[-1]
    assert block.conv2.weight.std().item() == pytest.approx((2 / (9 * WIDTH[name])) ** 0.5, rel=0.03)
    assert all(conv.bias is None for conv in model.modules() if isinstance(conv, nn.Conv2d))


@pytest.mark.parametrize("size", [4, 5])
def test_option_a_shortcut_one_number_at_a_time(size: int) -> None:
    """With the residual path silenced a block is ReLU of every second pixel, new channels zero."""
    block = BasicBlock(3, 6, stride=2)
    for parameter in block.parameters():
        nn.init.zeros_(parameter)
    x = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(2))
    kept = x.clone()
    half = (size + 1) // 2
    expected = torch.zeros(2, 6, half, half)
    for b in range(2):
        for c in range(3):
            for i in range(half):
                for j in range(half):
                    expected[b, c, i, j] = max(0.0, x[b, c, 2 * i, 2 * j].item())
    assert torch.equal(block(x), expected)
    assert torch.equal(x, kept)


def test_option_a_has_no_parameters_and_cannot_narrow() -> None:
    names = {name.split(".")[0] for name, _ in BasicBlock(16, 32, 2).named_parameters()}
    assert names == {"conv1", "bn1", "conv2", "bn2"}
    with pytest.raises(ValueError, match="only add channels"):
        BasicBlock(32, 16)


def test_wide_block_shortcut_sees_the_activated_input() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 4, 6, 6)
    kept = x.clone()
    block = WideBlock(4, 8, stride=2).eval()
    nn.init.zeros_(block.conv2.weight)
    with torch.no_grad():
        block.bn1.weight.copy_(torch.tensor([1.0, 2.0, -1.0, 0.5]))
        block.bn1.bias.copy_(torch.tensor([0.1, -0.2, 0.3, 0.0]))
        block.bn1.running_mean.copy_(torch.tensor([0.5, 0.0, -0.5, 1.0]))
        scale = block.bn1.weight / (1 + block.bn1.eps) ** 0.5
        shift = block.bn1.bias - scale * block.bn1.running_mean
        activated = (x * scale.view(4, 1, 1) + shift.view(4, 1, 1)).clamp(min=0)
        expected = torch.einsum("bihw,oi->bohw", activated[:, :, ::2, ::2], block.shortcut.weight[:, :, 0, 0])
        torch.testing.assert_close(block(x), expected)
        assert torch.equal(x, kept)

        same = WideBlock(4, 4)
        nn.init.zeros_(same.conv2.weight)
        assert same.shortcut is None
        assert torch.equal(same(x), x)


def test_wide_projections_are_where_the_shape_changes() -> None:
    model = make("wrn28_2")
    projected = {name for name, module in model.named_modules() if name.endswith("shortcut")}
    assert projected == {"layer1.0.shortcut", "layer2.0.shortcut", "layer3.0.shortcut"}
    shapes = [tuple(model.get_submodule(name).weight.shape) for name in sorted(projected)]
    assert shapes == [(32, 16, 1, 1), (64, 32, 1, 1), (128, 64, 1, 1)]
    assert [model.get_submodule(name).stride for name in sorted(projected)] == [(1, 1), (2, 2), (2, 2)]
    assert WideResNet(10, 1).layer1[0].shortcut is None


def test_block_dropout_is_not_head_dropout() -> None:
    x = images()
    block = make("wrn28_2", block_drop_rate=0.3)
    assert torch.equal(block.eval()(x), make("wrn28_2").eval()(x))
    block.train()
    assert not torch.equal(block.forward_features(x), block.forward_features(x))

    head = make("wrn28_2", drop_rate=0.5).train()
    features = head.forward_features(x)
    torch.testing.assert_close(features, head.forward_features(x), rtol=0, atol=0)
    pooled = head.forward_head(features, pre_logits=True)
    mean = features.mean(dim=(2, 3))
    dropped = pooled == 0
    assert 0.2 < dropped.float().mean().item() < 0.8
    torch.testing.assert_close(pooled[~dropped], 2 * mean[~dropped])


def test_block_dropout_is_after_the_second_relu() -> None:
    torch.manual_seed(0)
    block = WideBlock(4, 4, drop_rate=0.5).train()
    seen: dict[str, Tensor] = {}
    block.bn2.register_forward_hook(lambda _module, _inputs, out: seen.__setitem__("bn2", out.clone()))
    block.conv2.register_forward_pre_hook(lambda _module, inputs: seen.__setitem__("conv2", inputs[0].clone()))
    block(torch.randn(2, 4, 16, 16))
    active = seen["bn2"].clamp(min=0)
    kept = seen["conv2"] != 0
    assert 0.4 < kept[active > 0].float().mean().item() < 0.6
    assert torch.equal(seen["conv2"], 2 * active * kept)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("name", LIGHT)
def test_every_parameter_has_a_gradient(name: str, checkpointing: bool) -> None:
    model = make(name).train()
    model.set_grad_checkpointing(checkpointing)
    nn.functional.cross_entropy(model(images(16)), torch.tensor([1, 2])).backward()
    for path, parameter in model.named_parameters():
        assert parameter.grad is not None, path
        assert parameter.grad.abs().sum() > 0, path


@pytest.mark.parametrize("name", LIGHT)
def test_checkpointing_leaves_gradients_alone(name: str) -> None:
    plain = make(name).double().train()
    saving = copy.deepcopy(plain)
    saving.set_grad_checkpointing()
    x = images(16).double()
    plain(x).square().sum().backward()
    saving(x).square().sum().backward()
    for a, b in zip(plain.parameters(), saving.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)


@pytest.mark.parametrize("name", LIGHT)
def test_float64_is_deterministic(name: str) -> None:
    x = images(16).double()
    results = []
    for _ in range(2):
        model = make(name).double().train()
        out = model(x)
        out.square().sum().backward()
        results.append([out.detach(), *(p.grad for p in model.parameters()), *model.buffers()])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    model.eval()
    torch.testing.assert_close(model(x), torch.cat([model(x[:1]), model(x[1:])]), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", LIGHT)
def test_parameter_groups_run_from_stem_to_head(name: str) -> None:
    model = make(name)
    groups = list(group_parameters(model, model.group_matcher()).values())
    assert sorted(path for group in groups for path in group) == sorted(path for path, _ in model.named_parameters())
    assert groups[0][0] == "conv1.weight"
    assert "fc.weight" in groups[-1]
    blocks = 3 * len(model.layer1)
    assert sum(any(path.startswith("layer") for path in group) for group in groups) == blocks
    coarse = group_parameters(model, model.group_matcher(coarse=True)).values()
    assert sum(any(path.startswith("layer") for path in group) for group in coarse) == 3


@pytest.mark.parametrize("depth", [21, 2])
def test_cresnet_depth(depth: int) -> None:
    with pytest.raises(ValueError, match="is not 6n"):
        CifarResNet(depth)


@pytest.mark.parametrize(("depth", "widen", "message"), [(28, 0, "widen=0"), (29, 2, "6n"), (4, 1, "6n")])
def test_wrn_size(depth: int, widen: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        WideResNet(depth, widen)


def test_small_stem() -> None:
    torch.manual_seed(0)
    model = timm.create_model("resnet18", num_classes=4)
    x = images()
    assert model.forward_features(x).shape == (2, 512, 1, 1)
    assert small_stem(model) is model
    assert model.forward_features(x).shape == (2, 512, 4, 4)
    assert model(x).shape == (2, 4)
    assert (model.conv1.kernel_size, model.conv1.stride, model.conv1.padding) == ((3, 3), (1, 1), (1, 1))
    assert model.conv1.weight.shape == (64, 3, 3, 3)
    assert model.conv1.bias is None
    assert isinstance(model.maxpool, nn.Identity)
    assert model.conv1.weight.std().item() == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.05)


def test_small_stem_keeps_channels_dtype_and_mode() -> None:
    model = timm.create_model("resnet18", in_chans=1).double().eval()
    others = {k: v.clone() for k, v in model.state_dict().items() if k != "conv1.weight"}
    small_stem(model)
    assert model.conv1.weight.shape == (64, 1, 3, 3)
    assert model.conv1.weight.dtype == torch.float64
    assert not any(module.training for module in model.modules())
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in others.items())


def test_small_stem_reductions_are_true() -> None:
    model = small_stem(timm.create_model("resnet18"))
    sizes = {}
    hooks = [
        model.get_submodule(info["module"]).register_forward_hook(
            lambda _module, _inputs, out, path=info["module"]: sizes.__setitem__(path, out.shape[-1])
        )
        for info in model.feature_info
    ]
    with torch.no_grad():
        model(images(32))
    assert len(hooks) == 5
    assert {info["module"]: 32 // info["reduction"] for info in model.feature_info} == sizes


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "resnet18d", "cresnet20"])
def test_small_stem_refuses_other_stems(name: str) -> None:
    model = timm.create_model(name)
    with pytest.raises(ValueError, match=f"small_stem: '{name}' has no 7x7") as error:
        small_stem(model)
    assert "\n" not in str(error.value)
    assert "resnet18" in str(error.value)


def test_small_stem_is_applied_once() -> None:
    model = small_stem(timm.create_model("resnet18"))
    with pytest.raises(ValueError, match="'resnet18' has no 7x7"):
        small_stem(model)
