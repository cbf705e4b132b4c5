"""The small-image stem for ImageNet ResNets."""

from __future__ import annotations

from typing import Any, TypeVar

from torch import nn

ModelT = TypeVar("ModelT", bound=nn.Module)


def small_stem(model: ModelT, padding: int = 1) -> ModelT:
    """Fit a timm ResNet to small images: a 3x3 stride-1 first convolution, and no max-pool.

    Chen et al., "A Simple Framework for Contrastive Learning of Visual Representations" (SimCLR), ICML
    2020, appendix B.9; DSSL's CIFAR code has this stem too. Every stage gets 4 times the height and width
    that it had: the last one of a ResNet-18 gives [B, 512, H/8, W/8] instead of [B, 512, H/32, W/32]. The
    reductions that `feature_info` states are set to match.

    padding: of that convolution; solo-learn's networks for CIFAR have 2, and maps two pixels larger.

    Changes `model` in place and returns it. The new convolution has the old one's channels, device and
    dtype, no bias, and starts from Kaiming's normal (fan_out) as timm's does; pretrained weights of the old
    one are lost.

    Raises:
        ValueError: the model's `conv1` is not one 7x7 stride-2 convolution, or it has no `maxpool`.
    """
    old = getattr(model, "conv1", None)
    pool = getattr(model, "maxpool", None)
    shape = (old.kernel_size, old.stride) if isinstance(old, nn.Conv2d) else None
    if not isinstance(old, nn.Conv2d) or shape != ((7, 7), (2, 2)) or not isinstance(pool, nn.Module):
        cfg: Any = getattr(model, "pretrained_cfg", None) or {}
        name = cfg.get("architecture") or type(model).__name__
        raise ValueError(
            f"small_stem: '{name}' has no 7x7 stride-2 conv1 followed by maxpool; "
            "supported: timm ResNets with the plain stem, such as resnet18, resnet50, resnext50_32x4d"
        )

    like: dict[str, Any] = {"device": old.weight.device, "dtype": old.weight.dtype}
    new = nn.Conv2d(old.in_channels, old.out_channels, 3, stride=1, padding=padding, bias=False, **like)
    nn.init.kaiming_normal_(new.weight, mode="fan_out", nonlinearity="relu")
    model.conv1 = new.train(model.training)
    model.maxpool = nn.Identity().train(model.training)

    info: Any = getattr(model, "feature_info", [])
    for stage in info:
        stage["reduction"] = max(1, stage["reduction"] // 4)
    return model
