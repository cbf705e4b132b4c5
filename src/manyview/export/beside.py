"""The Python file beside the weights of a network that timm does not know: ours, which registers it with timm.

It needs timm and torch, and nothing of manyview.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from manyview.branches.backbones import stem
from manyview.branches.branch import Branch
from manyview.branches.weights import SMALL

HEADER = """\
# Registers '{name}' with timm, from the folder in which this file and the weights lie:
#
#     import sys; sys.path.insert(0, "FOLDER"); import {name}
#     model = timm.create_model("local-dir:FOLDER", pretrained=True)
#
# Written by `manyview export`; needs torch and timm. Apache-2.0.
"""
ENTRY = '''

@register_model
def small_{name}(pretrained: bool = False, pretrained_cfg: Any = None, cache_dir: Any = None, **kwargs: Any) -> Any:
    """timm's {name} with the small-image stem, its weights those of the folder that it is made from."""
    model = small_stem(model_entrypoint("{name}")(pretrained_cfg=pretrained_cfg, **kwargs), {padding})
    if pretrained:
        # in_chans: its first convolution is not that of published weights, which would be adapted
        load_pretrained(model, num_classes=model.num_classes, in_chans=3, cache_dir=cache_dir)
    return model
'''
IMPORTS = "from timm.models import load_pretrained, model_entrypoint, register_model\nfrom torch import nn\n"


def name_for_timm(branch: Branch) -> str:
    """What an exported network is called in timm's register; the small stem makes another one of it."""
    bare = branch.spec.backbone.name.partition(".")[0]
    return f"{SMALL}{bare}" if branch.spec.backbone.kwargs.get("small") else bare


def file_beside(branch: Branch) -> str | None:
    """The text of the Python file that registers a network; None where timm, or a user's own words, know it."""
    name = name_for_timm(branch)
    if small := branch.spec.backbone.kwargs.get("small"):
        text = _source(stem).replace("from torch import nn\n", IMPORTS)
        text += ENTRY.format(name=branch.spec.backbone.name.partition(".")[0], padding=int(small))
    elif type(branch.backbone).__module__.startswith("manyview."):
        text = _source(sys.modules[type(branch.backbone).__module__])
    else:
        return None
    return HEADER.format(name=name) + text


def _source(module: Any) -> str:
    return Path(module.__file__).read_text(encoding="utf-8")


__all__ = ["file_beside", "name_for_timm"]
