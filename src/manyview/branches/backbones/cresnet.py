"""ResNets for 32x32 images, with parameter-free shortcuts.

He, Zhang, Ren & Sun, "Deep Residual Learning for Image Recognition", CVPR 2016, section 4.2. A 3x3 stem
with 16 channels, three stages of n = (depth - 2) / 6 basic blocks with 16, 32 and 64 channels, global
average pooling, one linear layer. Where a stage halves the image, the shortcut is option A: every second
pixel, new channels zero.

Choices that the paper leaves open, and who made them:

- The zero channels come after the old ones, as in fb.resnet.torch and in SLA's ResNet-32; zeros on both sides
  would be the same network with its channels renumbered.
- Convolutions start from a normal with variance 2 / fan_out (Kaiming), as in both.
- The linear layer keeps PyTorch's start, so that one from `reset_classifier` starts alike. So does SLA's: its code
  gives ResNet's own classifier a Kaiming normal, and then puts a fresh linear layer in its place.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import create_classifier
from timm.models import build_model_with_cfg, checkpoint_seq, generate_default_cfgs, register_model
from torch import Tensor, nn

__all__ = ["BasicBlock", "CifarResNet", "cresnet8", "cresnet20", "cresnet32", "cresnet56"]


class BasicBlock(nn.Module):
    """conv-BN-ReLU-conv-BN plus shortcut, then ReLU: [B, in_chs, H, W] to [B, out_chs, H/stride, W/stride].

    Odd sizes round up.

    Raises:
        ValueError: `out_chs` is smaller than `in_chs`; option A can only add channels.
    """

    def __init__(
        self,
        in_chs: int,
        out_chs: int,
        stride: int = 1,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if out_chs < in_chs:
            raise ValueError(f"option A shortcuts only add channels: in_chs={in_chs}, out_chs={out_chs}")
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        self.stride = stride
        self.extra_chs = out_chs - in_chs
        self.conv1 = nn.Conv2d(in_chs, out_chs, 3, stride=stride, padding=1, bias=False, **dd)
        self.bn1 = nn.BatchNorm2d(out_chs, **dd)
        self.conv2 = nn.Conv2d(out_chs, out_chs, 3, padding=1, bias=False, **dd)
        self.bn2 = nn.BatchNorm2d(out_chs, **dd)

    def shortcut(self, x: Tensor) -> Tensor:
        """Option A: [B, in_chs, H, W] to [B, out_chs, H/stride, W/stride], no parameters."""
        if self.stride != 1:
            x = x[:, :, :: self.stride, :: self.stride]
        if self.extra_chs:
            x = F.pad(x, (0, 0, 0, 0, 0, self.extra_chs))
        return x

    def forward(self, x: Tensor) -> Tensor:
        """[B, in_chs, H, W] to [B, out_chs, H/stride, W/stride]; `x` stays as it is."""
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = self.bn2(self.conv2(y))
        y += self.shortcut(x)
        return F.relu(y, inplace=True)


class CifarResNet(nn.Module):
    """ResNet for CIFAR with timm's model interface: images [B, in_chans, H, W] to logits [B, num_classes].

    Args:
        depth: 6n + 2: the stem, 6n convolutions in blocks, the linear layer.
        num_classes: outputs; 0 gives the pooled features [B, 64].
        in_chans: channels of the images.
        global_pool: avg, max, avgmax, catavgmax, or '' for none (features stay [B, 64, H/4, W/4]).
        drop_rate: dropout before the linear layer.

    Raises:
        ValueError: `depth` is not 6n + 2.
    """

    def __init__(
        self,
        depth: int,
        num_classes: int = 10,
        in_chans: int = 3,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if depth < 8 or depth % 6 != 2:
            raise ValueError(f"depth={depth} is not 6n + 2 (8, 14, 20, 26, 32, ...)")
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        blocks = (depth - 2) // 6
        self.num_classes = num_classes
        self.in_chans = in_chans
        self.drop_rate = drop_rate
        self.grad_checkpointing = False

        self.conv1 = nn.Conv2d(in_chans, 16, 3, padding=1, bias=False, **dd)
        self.bn1 = nn.BatchNorm2d(16, **dd)
        self.act1 = nn.ReLU(inplace=True)
        self.layer1 = _stage(16, 16, blocks, stride=1, **dd)
        self.layer2 = _stage(16, 32, blocks, stride=2, **dd)
        self.layer3 = _stage(32, 64, blocks, stride=2, **dd)
        self.feature_info = [
            {"num_chs": 16, "reduction": 1, "module": "act1"},
            {"num_chs": 16, "reduction": 1, "module": "layer1"},
            {"num_chs": 32, "reduction": 2, "module": "layer2"},
            {"num_chs": 64, "reduction": 4, "module": "layer3"},
        ]
        self.num_features = 64
        self.reset_classifier(num_classes, global_pool)
        self.init_weights()

    @torch.jit.ignore
    def init_weights(self) -> None:
        """Draw the convolutions anew from Kaiming's normal (fan_out); all else keeps PyTorch's start."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Patterns for timm's layer-wise learning rates: the stem, then stages (coarse) or blocks."""
        return {"stem": r"^conv1|^bn1", "blocks": r"^layer(\d+)" if coarse else r"^layer(\d+)\.(\d+)"}

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Keep only the blocks' inputs for the backward pass and compute the rest twice."""
        self.grad_checkpointing = enable

    @torch.jit.ignore
    def get_classifier(self, name_only: bool = False) -> str | nn.Module:
        """The linear layer (`nn.Identity` where num_classes is 0), or its name."""
        return "fc" if name_only else self.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """A fresh linear layer for `num_classes` (0: none); `global_pool` None keeps the pooling."""
        if global_pool is None:
            global_pool = self.global_pool.pool_type
        self.num_classes = num_classes
        pool, fc = create_classifier(self.num_features, num_classes, pool_type=global_pool)
        weight = self.conv1.weight
        self.global_pool: Any = pool.train(self.training)
        self.fc = fc.to(device=weight.device, dtype=weight.dtype).train(self.training)
        self.head_hidden_size = self.num_features * pool.feat_mult()

    def forward_features(self, x: Tensor) -> Tensor:
        """Images [B, in_chans, H, W] to unpooled features [B, 64, H/4, W/4]."""
        x = self.act1(self.bn1(self.conv1(x)))
        if self.grad_checkpointing and not torch.jit.is_scripting():
            return checkpoint_seq([self.layer1, self.layer2, self.layer3], x, flatten=True)
        return self.layer3(self.layer2(self.layer1(x)))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Unpooled features [B, 64, h, w] to logits [B, num_classes], or to pooled features [B, 64]."""
        x = self.global_pool(x)
        if self.drop_rate > 0.0:
            x = F.dropout(x, p=self.drop_rate, training=self.training)
        return x if pre_logits else self.fc(x)

    def forward(self, x: Tensor) -> Tensor:
        """Images [B, in_chans, H, W] to logits [B, num_classes]; to pooled features if num_classes is 0."""
        return self.forward_head(self.forward_features(x))


def _stage(in_chs: int, out_chs: int, blocks: int, stride: int, **dd: Any) -> nn.Sequential:
    first = BasicBlock(in_chs, out_chs, stride, **dd)
    return nn.Sequential(first, *(BasicBlock(out_chs, out_chs, **dd) for _ in range(blocks - 1)))


def _cfg(**kwargs: Any) -> dict[str, Any]:
    return {
        "num_classes": 10,
        "input_size": (3, 32, 32),
        "pool_size": (8, 8),
        "crop_pct": 1.0,
        "interpolation": "bilinear",
        "mean": (0.4914, 0.4822, 0.4465),
        "std": (0.2470, 0.2435, 0.2616),
        "first_conv": "conv1",
        "classifier": "fc",
        **kwargs,
    }


default_cfgs = generate_default_cfgs(
    {
        "cresnet8.untrained": _cfg(),
        "cresnet20.untrained": _cfg(),
        "cresnet32.untrained": _cfg(),
        "cresnet56.untrained": _cfg(),
    }
)


def _create(variant: str, pretrained: bool, **kwargs: Any) -> CifarResNet:
    feature_cfg = {"out_indices": (0, 1, 2, 3)}
    return build_model_with_cfg(CifarResNet, variant, pretrained, feature_cfg=feature_cfg, **kwargs)


@register_model
def cresnet8(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    """ResNet-8, the shortest of the family (n = 1; not in the paper): 75,290 parameters with 10 classes."""
    return _create("cresnet8", pretrained, **dict(kwargs, depth=8))


@register_model
def cresnet20(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    """ResNet-20 for CIFAR (He et al. 2016, table 6): 269,722 parameters with 10 classes."""
    return _create("cresnet20", pretrained, **dict(kwargs, depth=20))


@register_model
def cresnet32(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    """ResNet-32 for CIFAR (He et al. 2016, table 6), SLA's network: 464,154 parameters with 10 classes."""
    return _create("cresnet32", pretrained, **dict(kwargs, depth=32))


@register_model
def cresnet56(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    """ResNet-56 for CIFAR (He et al. 2016, table 6): 853,018 parameters with 10 classes."""
    return _create("cresnet56", pretrained, **dict(kwargs, depth=56))
