"""Networks as the code of others builds them, by their names for every weight: what `manyview import` reads.

Written anew from the structure of each repository, as small as that allows.
"""

import itertools

import torch
import torch.nn.functional as F
from torch import nn


class Block(nn.Module):
    """A residual block of torchvision's names; `shortcut` in place of `downsample` is kuangliu's."""

    def __init__(self, before, channels, stride, deep, around):
        super().__init__()
        out, sizes = channels * (4 if deep else 1), (1, 3, 1) if deep else (3, 3)
        widths = (before, channels, channels, out) if deep else (before, channels, out)
        self.count = len(sizes)
        for number, size in enumerate(sizes, 1):
            strides = stride if number == (2 if deep else 1) else 1
            ins, outs = widths[number - 1 : number + 1]
            setattr(self, f"conv{number}", nn.Conv2d(ins, outs, size, strides, size // 2, bias=False))
            setattr(self, f"bn{number}", nn.BatchNorm2d(outs))
        self.around = around
        if stride != 1 or before != out:
            way = nn.Sequential(nn.Conv2d(before, out, 1, stride, bias=False), nn.BatchNorm2d(out))
            setattr(self, around, way)

    def forward(self, x):
        y = x
        for number in range(1, self.count + 1):
            y = getattr(self, f"bn{number}")(getattr(self, f"conv{number}")(y))
            y = F.relu(y) if number < self.count else y
        return F.relu(y + (getattr(self, self.around)(x) if hasattr(self, self.around) else x))


class ResNet(nn.Module):
    """torchvision's ResNet, narrow; `small` has a 3x3 stem without max-pool."""

    def __init__(
        self, small=False, deep=False, layers=(1, 1, 1, 1), channels=(4, 8, 8, 16), around="downsample", fc=None, pad=1
    ):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 3, 1, pad, bias=False) if small else nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1, self.relu = nn.BatchNorm2d(64), nn.ReLU()
        self.maxpool = nn.Identity() if small else nn.MaxPool2d(3, 2, 1)
        before = 64
        for stage, (count, width) in enumerate(zip(layers, channels, strict=True), 1):
            blocks = []
            for number in range(count):
                blocks.append(Block(before, width, 2 if stage > 1 and number == 0 else 1, deep, around))
                before = width * (4 if deep else 1)
            setattr(self, f"layer{stage}", nn.Sequential(*blocks))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Identity() if fc is None else fc if isinstance(fc, nn.Module) else nn.Linear(before, fc)
        self.width = before

    def features(self, x):
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        return self.avgpool(self.layer4(self.layer3(self.layer2(self.layer1(x))))).flatten(1)

    def forward(self, x):
        return self.fc(self.features(x))


def numbered(net):
    """A Sequential of a ResNet's children, but for its last, as SLA and lightly make it."""
    return nn.Sequential(*[child for name, child in net.named_children() if name != "fc"], nn.Flatten())


class SlaBlock(nn.Module):
    """A basic block of SLA's models/cifar_resnet.py, shortcut A."""

    def __init__(self, before, out, stride):
        super().__init__()
        self.conv_a, self.bn_a = nn.Conv2d(before, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out)
        self.conv_b, self.bn_b = nn.Conv2d(out, out, 3, 1, 1, bias=False), nn.BatchNorm2d(out)
        self.halves = stride == 2

    def forward(self, x):
        y = self.bn_b(self.conv_b(F.relu(self.bn_a(self.conv_a(x)))))
        if self.halves:
            x = F.avg_pool2d(x, 1, 2)
            x = torch.cat((x, x * 0), 1)
        return F.relu(x + y)


def sla_cresnet(blocks=3):
    """SLA's `check_model('cresnet20')`, without classifiers."""
    stages = []
    for width, before in ((16, 16), (32, 16), (64, 32)):
        first = SlaBlock(before, width, 1 if width == before else 2)
        stages.append(nn.Sequential(first, *(SlaBlock(width, width, 1) for _ in range(blocks - 1))))
    stem = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()
    return nn.Sequential(*stem, *stages, nn.AdaptiveAvgPool2d(1), nn.Flatten())


class Sla(nn.Module):
    """SLA's PredictionModel."""

    def __init__(self, base, width, *heads):
        super().__init__()
        self.base_model = base
        self.classifiers = nn.ModuleList(nn.Linear(width, out) for out in heads)


class WideBlock(nn.Module):
    """xternalbz's BasicBlock (`convShortcut`, no biases), or AgMax's (`shortcut`, biases)."""

    def __init__(self, before, out, stride, around, bias):
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(before), nn.Conv2d(before, out, 3, stride, 1, bias=bias)
        self.bn2, self.conv2 = nn.BatchNorm2d(out), nn.Conv2d(out, out, 3, 1, 1, bias=bias)
        self.way = None
        if before != out:
            setattr(self, around, nn.Conv2d(before, out, 1, stride, bias=bias))
            self.way = around

    def forward(self, x):
        y = F.relu(self.bn1(x))
        around = x if self.way is None else getattr(self, self.way)(y)
        return around + self.conv2(F.relu(self.bn2(self.conv1(y))))


class Stage(nn.Module):
    """xternalbz's NetworkBlock."""

    def __init__(self, blocks):
        super().__init__()
        self.layer = nn.Sequential(*blocks)

    def forward(self, x):
        return self.layer(x)


class Wide(nn.Module):
    """A Wide ResNet of xternalbz's names, which Tied-Augment has, or of AgMax's."""

    def __init__(self, blocks=4, widen=2, agmax=False, classes=10):
        super().__init__()
        around, before = "shortcut" if agmax else "convShortcut", 16
        stem = nn.Conv2d(3, 16, 3, 1, 1, bias=agmax)
        self.names = ["conv" if agmax else "conv1"]
        setattr(self, self.names[0], stem)
        for stage, width in enumerate((16 * widen, 32 * widen, 64 * widen), 1):
            made = []
            for number in range(blocks):
                made.append(WideBlock(before, width, 2 if stage > 1 and number == 0 else 1, around, agmax))
                before = width
            self.names.append(f"layer{stage}" if agmax else f"block{stage}")
            setattr(self, self.names[-1], nn.Sequential(*made) if agmax else Stage(made))
        self.names.append("bn" if agmax else "bn1")
        setattr(self, self.names[-1], nn.BatchNorm2d(before))
        self.width = before
        if not agmax:
            self.fc = nn.Linear(before, classes)

    def features(self, x):
        for name in self.names:
            x = getattr(self, name)(x)
        return F.relu(x).mean((2, 3))


class AgMax(nn.Module):
    """AgMax's AgMaxNet around its Backbone: `backbone.feature_extractor`, `backbone.classifier`, `qnet.model`."""

    def __init__(self, extractor, width, classes, hidden=16):
        super().__init__()
        self.backbone = nn.Module()
        self.backbone.feature_extractor = extractor
        self.backbone.classifier = nn.Linear(width, classes)
        self.qnet = nn.Module()
        self.qnet.model = nn.Sequential(nn.Linear(2 * classes, hidden), nn.ReLU(), nn.Linear(hidden, classes))


class Attention(nn.Module):
    """DINO's."""

    def __init__(self, dim, heads):
        super().__init__()
        self.heads, self.qkv, self.proj = heads, nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, x):
        batch, tokens, dim = x.shape
        q, k, v = self.qkv(x).reshape(batch, tokens, 3, self.heads, dim // self.heads).permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(-2, -1) * (dim // self.heads) ** -0.5).softmax(-1)
        return self.proj((weights @ v).transpose(1, 2).reshape(batch, tokens, dim))


class ViTBlock(nn.Module):
    """DINO's."""

    def __init__(self, dim, heads):
        super().__init__()
        self.norm1, self.attn, self.norm2 = nn.LayerNorm(dim, 1e-6), Attention(dim, heads), nn.LayerNorm(dim, 1e-6)
        self.mlp = nn.Module()
        self.mlp.fc1, self.mlp.fc2 = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)

    def forward(self, x):
        x = x + self.attn(self.norm1(x))
        return x + self.mlp.fc2(F.gelu(self.mlp.fc1(self.norm2(x))))


class ViT(nn.Module):
    """DINO's ViT-Ti/16, for images of 32 pixels."""

    def __init__(self, dim=192, depth=12, heads=3, side=2):
        super().__init__()
        self.cls_token = nn.Parameter(torch.randn(1, 1, dim) / 10)
        self.pos_embed = nn.Parameter(torch.randn(1, 1 + side**2, dim) / 10)
        self.patch_embed = nn.Module()
        self.patch_embed.proj = nn.Conv2d(3, dim, 16, 16)
        self.blocks = nn.ModuleList(ViTBlock(dim, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(dim, 1e-6)

    def features(self, x):
        x = self.patch_embed.proj(x).flatten(2).transpose(1, 2)
        x = torch.cat((self.cls_token.expand(len(x), -1, -1), x), 1) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        return self.norm(x)[:, 0]


def mlp(*widths, last_bn=False):
    """Linear layers with BatchNorm and ReLU between."""
    layers = []
    for before, out in itertools.pairwise(widths):
        layers += [nn.Linear(before, out, bias=False), nn.BatchNorm1d(out), nn.ReLU()]
    return nn.Sequential(*layers[: None if last_bn else -2])


def stirred(net):
    """The network in evaluation mode, its BatchNorm and biases as after training."""
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
                module.running_mean.uniform_(-0.2, 0.2)
                module.running_var.uniform_(0.5, 2)
                if module.affine:
                    module.weight.uniform_(0.5, 1.5)
                    module.bias.uniform_(-0.2, 0.2)
    return net.eval()


def under(prefix, state):
    """Names behind a prefix."""
    return {f"{prefix}{name}": value for name, value in state.items()}
