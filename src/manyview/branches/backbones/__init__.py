"""The small networks of the papers' CIFAR tables, and the CIFAR stem for timm's ImageNet ResNets.

Importing this package registers the networks with timm: `timm.create_model("wrn28_2", num_classes=10)`
finds them beside timm's own. timm's registry is the explicit table (`timm.list_models(module="wrn")` shows
our part); there is no second one here.

- `cresnet.py`: `cresnet8`, `cresnet20`, `cresnet32`, `cresnet56` (He et al. 2016, section 4.2)
- `wrn.py`: `wrn28_2`, `wrn28_10`, `wrn40_2` (Zagoruyko & Komodakis 2016)
- `stem.py`: `small_stem(model)`, a 3x3 stride-1 stem without max-pool
"""

from manyview.branches.backbones.cresnet import CifarResNet, cresnet8, cresnet20, cresnet32, cresnet56
from manyview.branches.backbones.stem import small_stem
from manyview.branches.backbones.wrn import WideResNet, wrn28_2, wrn28_10, wrn40_2

__all__ = [
    "CifarResNet",
    "WideResNet",
    "cresnet8",
    "cresnet20",
    "cresnet32",
    "cresnet56",
    "small_stem",
    "wrn28_2",
    "wrn28_10",
    "wrn40_2",
]
