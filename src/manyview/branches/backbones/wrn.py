"""Wide ResNets for 32x32 images.

Zagoruyko & Komodakis, "Wide Residual Networks", BMVC 2016, section 2 and table 1. A 3x3 stem with 16
channels, three stages of n = (depth - 4) / 6 pre-activation blocks with 16k, 32k and 64k channels, a last
BatchNorm and ReLU, global average pooling, one linear layer. Where the shape changes, the shortcut is a 1x1
convolution of the *activated* input (BN and ReLU shared with the residual path), as in the authors' code;
elsewhere it is the input.

Where implementations differ:

- Convolutions start from a normal with variance 2 / fan_out, as in the authors' Torch code.
- The linear layer keeps PyTorch's start, so that one from `reset_classifier` starts alike; the authors'
  Torch code sets its bias to zero.
- AgMax's WRN-40-2 has biases in its convolutions; here none has, as in the paper.
- FixMatch's WRN-28-2 has LeakyReLU(0.1) and BatchNorm momentum 0.001 (in PyTorch's sense); here both are as
  in the original: ReLU and 0.1.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import create_classifier
from timm.models import build_model_with_cfg, checkpoint_seq, generate_default_cfgs, register_model
from torch import Tensor, nn

__all__ = ["WideBlock", "WideResNet", "wrn28_2", "wrn28_10", "wrn40_2"]


class WideBlock(nn.Module):
    """BN-ReLU-conv-BN-ReLU-dropout-conv plus shortcut: [B, in_chs, H, W] to [B, out_chs, H/stride, W/stride].

    Odd sizes round up. Dropout sits between the convolutions, after the ReLU (section 2.4 of the paper).
    """

    def __init__(
        self,
        in_chs: int,
        out_chs: int,
        stride: int = 1,
        drop_rate: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        self.drop_rate = drop_rate
        self.bn1 = nn.BatchNorm2d(in_chs, **dd)
        self.conv1 = nn.Conv2d(in_chs, out_chs, 3, stride=stride, padding=1, bias=False, **dd)
        self.bn2 = nn.BatchNorm2d(out_chs, **dd)
        self.conv2 = nn.Conv2d(out_chs, out_chs, 3, padding=1, bias=False, **dd)
        self.shortcut: nn.Conv2d | None = None
        if stride != 1 or in_chs != out_chs:
            self.shortcut = nn.Conv2d(in_chs, out_chs, 1, stride=stride, bias=False, **dd)

    def forward(self, x: Tensor) -> Tensor:
        """[B, in_chs, H, W] to [B, out_chs, H/stride, W/stride]; `x` stays as it is."""
        activated = F.relu(self.bn1(x), inplace=True)
        y = F.relu(self.bn2(self.conv1(activated)), inplace=True)
        if self.drop_rate > 0.0:
            y = F.dropout(y, p=self.drop_rate, training=self.training)
        y = self.conv2(y)
        y += x if self.shortcut is None else self.shortcut(activated)
        return y


class WideResNet(nn.Module):
    """Wide ResNet with timm's model interface: images [B, in_chans, H, W] to logits [B, num_classes].

    Args:
        depth: 6n + 4: the stem, 6n convolutions in blocks, and three shortcut convolutions.
        widen: the paper's k; D = 64 * widen features.
        num_classes: outputs; 0 gives the pooled features [B, D].
        in_chans: channels of the images.
        global_pool: avg, max, avgmax, catavgmax, or '' for none (features stay [B, D, H/4, W/4]).
        drop_rate: dropout before the linear layer (timm's meaning).
        block_drop_rate: dropout inside every block (the paper's).

    Raises:
        ValueError: `depth` is not 6n + 4, or `widen` not positive.
    """

    def __init__(
        self,
        depth: int,
        widen: int,
        num_classes: int = 10,
        in_chans: int = 3,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
        block_drop_rate: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if depth < 10 or depth % 6 != 4:
            raise ValueError(f"depth={depth} is not 6n + 4 (10, 16, 22, 28, 34, 40, ...)")
        if widen < 1:
            raise ValueError(f"widen={widen} is not a positive integer")
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        blocks = (depth - 4) // 6
        w1, w2, w3 = 16 * widen, 32 * widen, 64 * widen
        self.num_classes = num_classes
        self.in_chans = in_chans
        self.drop_rate = drop_rate
        self.grad_checkpointing = False

        self.conv1 = nn.Conv2d(in_chans, 16, 3, padding=1, bias=False, **dd)
        self.layer1 = _stage(16, w1, blocks, 1, block_drop_rate, **dd)
        self.layer2 = _stage(w1, w2, blocks, 2, block_drop_rate, **dd)
        self.layer3 = _stage(w2, w3, blocks, 2, block_drop_rate, **dd)
        self.bn = nn.BatchNorm2d(w3, **dd)
        self.act = nn.ReLU(inplace=True)
        # The last stage is taken after its BatchNorm and ReLU: the same features as forward_features.
        self.feature_info = [
            {"num_chs": 16, "reduction": 1, "module": "conv1"},
            {"num_chs": w1, "reduction": 1, "module": "layer1"},
            {"num_chs": w2, "reduction": 2, "module": "layer2"},
            {"num_chs": w3, "reduction": 4, "module": "act"},
        ]
        self.num_features = w3
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
        """Patterns for timm's layer-wise learning rates: stem, stages (coarse) or blocks, the last BN."""
        stages = r"^layer(\d+)" if coarse else r"^layer(\d+)\.(\d+)"
        return {"stem": r"^conv1", "blocks": [(stages, None), (r"^bn", (99999,))]}

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
        """Images [B, in_chans, H, W] to unpooled, activated features [B, D, H/4, W/4]."""
        x = self.conv1(x)
        if self.grad_checkpointing and not torch.jit.is_scripting():
            x = checkpoint_seq([self.layer1, self.layer2, self.layer3], x, flatten=True)
        else:
            x = self.layer3(self.layer2(self.layer1(x)))
        return self.act(self.bn(x))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Unpooled features [B, D, h, w] to logits [B, num_classes], or to pooled features [B, D]."""
        x = self.global_pool(x)
        if self.drop_rate > 0.0:
            x = F.dropout(x, p=self.drop_rate, training=self.training)
        return x if pre_logits else self.fc(x)

    def forward(self, x: Tensor) -> Tensor:
        """Images [B, in_chans, H, W] to logits [B, num_classes]; to pooled features if num_classes is 0."""
        return self.forward_head(self.forward_features(x))


def _stage(in_chs: int, out_chs: int, blocks: int, stride: int, drop_rate: float, **dd: Any) -> nn.Sequential:
    first = WideBlock(in_chs, out_chs, stride, drop_rate, **dd)
    return nn.Sequential(first, *(WideBlock(out_chs, out_chs, 1, drop_rate, **dd) for _ in range(blocks - 1)))


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
        "wrn28_2.untrained": _cfg(),
        "wrn28_10.untrained": _cfg(),
        "wrn40_2.untrained": _cfg(),
    }
)


def _create(variant: str, pretrained: bool, **kwargs: Any) -> WideResNet:
    feature_cfg = {"out_indices": (0, 1, 2, 3)}
    return build_model_with_cfg(WideResNet, variant, pretrained, feature_cfg=feature_cfg, **kwargs)


@register_model
def wrn28_2(pretrained: bool = False, **kwargs: Any) -> WideResNet:
    """WRN-28-2, as in FixMatch and Tied-Augment: 1,467,610 parameters with 10 classes."""
    return _create("wrn28_2", pretrained, **dict(kwargs, depth=28, widen=2))


@register_model
def wrn28_10(pretrained: bool = False, **kwargs: Any) -> WideResNet:
    """WRN-28-10, the paper's best, as in Tied-Augment and AgMax: 36,479,194 parameters with 10 classes."""
    return _create("wrn28_10", pretrained, **dict(kwargs, depth=28, widen=10))


@register_model
def wrn40_2(pretrained: bool = False, **kwargs: Any) -> WideResNet:
    """WRN-40-2, as in AugMix and AgMax: 2,243,546 parameters with 10 classes."""
    return _create("wrn40_2", pretrained, **dict(kwargs, depth=40, widen=2))
