"""Layer-wise decay of the lr, as timm's and BEiT's (Bao et al., ICLR 2022): each layer learns less than the next.

What a layer is, and their order, each of timm's models says itself (`group_matcher`); of those that do not, timm takes
twelve parameters for one. Heads and relations, which come after a backbone, learn at the whole lr, as its classifier
does in timm.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from torch import nn

AFTER = "~"  # in the place of our heads, which no pattern of a model's layers matches


def scales(module: nn.Module, decay: float) -> dict[str, float]:
    """Parameter's name -> factor of its lr, for those of the backbones of a step. Raises ValueError."""
    return {name: decay**after for name, after in layers_after(module).items()}


def layers_after(module: nn.Module) -> dict[str, int]:
    """Parameter's name -> how many layers come after its own, for the backbones of a step. Raises ValueError."""
    found: dict[str, int] = {}
    backbones: dict[str, nn.Module] = getattr(module, "backbones", {})
    for prefix, backbone in backbones.items():
        layers = _layers(backbone, prefix)
        last = max(layers.values())
        found |= {f"{prefix}.{name}": last - layer for name, layer in layers.items()}
    return found


def _layers(backbone: Any, where: str) -> dict[str, int]:
    """Parameter's name -> the number of its layer, from the image on."""
    from timm.models import group_parameters
    from timm.optim import auto_group_layers

    names = [*backbone.named_parameters()]
    classifier = (getattr(backbone, "pretrained_cfg", None) or {}).get("classifier")
    if hasattr(backbone, "group_matcher"):
        seen = SimpleNamespace(named_parameters=lambda: iter([*names, (AFTER, None)]))
        return group_parameters(seen, backbone.group_matcher(coarse=False), reverse=True)
    if classifier is None:
        raise ValueError(
            f"layer_decay: {where}: {type(backbone).__name__} does not tell its layers; give it a "
            "group_matcher(self, coarse=False) as timm's models have, such as "
            "return {'stem': '^conv1', 'blocks': r'^layer(\\d+)'}"
        )
    first = classifier if isinstance(classifier, str) else classifier[0]
    seen = SimpleNamespace(
        named_parameters=lambda: iter([*names, (f"{first}.{AFTER}", None)]), pretrained_cfg={"classifier": classifier}
    )
    return auto_group_layers(seen)
