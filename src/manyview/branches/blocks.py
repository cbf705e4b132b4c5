"""The blocks of a network: what it repeats, by which its weights are shared out and its activations computed again."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

LISTS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def blocks_of(network: nn.Module) -> list[nn.Module]:
    """The innermost parts that stand in a list of parts and have weights in several layers, in order.

    Of a ViT its transformer blocks, of a ResNet its residual blocks, of a ConvNeXt or a Swin those inside each stage.
    Empty for a network that is written out layer by layer.
    """
    return list(_blocks(network, listed=False))


def _blocks(module: nn.Module, listed: bool) -> Iterator[nn.Module]:
    is_list = isinstance(module, LISTS)
    inner = [block for child in module.children() for block in _blocks(child, is_list)]
    if inner:
        yield from inner
    elif listed and not is_list and sum(bool(part._parameters) for part in module.modules()) > 1:
        yield module
