"""What a recipe's backbone asks of timm, checked as far as it can be without building the network."""

from __future__ import annotations

import difflib
import inspect
import sys
from typing import Any

from manyview.branches.origin import INIT, origin_of, without_origin
from manyview.branches.timm_models import is_stem, like_backbones, timm_library
from manyview.errors import RecipeError
from manyview.foundation.grammar import Call

# what timm's configuration says of the place of weights, which older versions unpickle: a recipe never loads code
PLACES = ("custom_load", "file", "hf_hub_filename", "hf_hub_id", "source", "state_dict", "url")
CONFIGURATIONS = ("pretrained_cfg", "pretrained_cfg_overlay")


def timm_options(call: Call, where: str, channels: int = 3) -> tuple[dict[str, Any], int]:
    """timm's arguments of `resnet18(small=True, …)`, without classifier, and `small`. channels: of the images.

    `init`, the place of its weights, is none of them.

    Raises RecipeError for names that timm does not know, and for arguments that nothing in the model's module takes or
    that are the recipe's to give.
    """
    options = dict(without_origin(call).kwargs)
    small = options.pop("small", False)
    if call.args:
        raise RecipeError(f"{where}: write arguments of a backbone by name, as in {call.name}(small=True)")
    origin_of(call, where)
    if not timm_library().is_model(call.name):
        raise RecipeError(f"{where}: unknown backbone '{call.name}'; {like_backbones(call.name)}")
    options.setdefault("num_classes", 0)
    if options["num_classes"] != 0:
        raise RecipeError(f"{where}: the classifier is the head `logits: linear(h)`; drop num_classes")
    if options.get("in_chans", channels) != channels:
        raise RecipeError(f"{where}: data.channels says how many channels images have (now {channels}); drop in_chans")
    if channels != 3:
        options["in_chans"] = channels
    if options.get("global_pool") == "":
        raise RecipeError(f"{where}: h is the pooled feature; drop global_pool=''")
    if options.get("features_only"):
        raise RecipeError(f"{where}: h is the pooled feature; drop features_only, and read layers by pool('layer2')")
    if not is_stem(small):
        raise RecipeError(f"{where}: small must be True or False, got {small!r}")
    for key in CONFIGURATIONS:
        places = sorted({*options[key]} & {*PLACES}) if isinstance(options.get(key), dict) else ()
        if places:
            raise RecipeError(f"{where}: {key}: init='FILE' says where weights are; drop {', '.join(places)}")
    known = {"small", INIT, "num_classes", "in_chans", "pretrained"}
    if set(options) - known:
        known |= _arguments(call.name)
        for key in options:
            if key not in known:
                near = difflib.get_close_matches(key, known, n=3)
                hint = f"; did you mean {', '.join(near)}?" if near else ""
                raise RecipeError(f"{where}: {call}: {call.name} takes no argument '{key}'{hint}")
    return options, small


def _arguments(name: str) -> set[str]:
    """All that a timm model could take: arguments of timm's factories and of every class beside its entry point."""
    timm = timm_library()
    entry = timm.models.model_entrypoint(name)
    beside = [value for value in vars(sys.modules[entry.__module__]).values() if inspect.isclass(value)]
    names: set[str] = set()
    for factory in (timm.create_model, timm.models.build_model_with_cfg, entry, *beside):
        try:
            names |= set(inspect.signature(factory).parameters)
        except (ValueError, TypeError):  # classes of C have no signature
            continue
    return names - {"self", "args", "kwargs"}
