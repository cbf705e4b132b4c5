"""Weights that timm publishes: whether they can be had, found out at once, and what to do where they cannot."""

from __future__ import annotations

import os
from typing import Any

from manyview.foundation.hub import no_answer

FILES = ("model.safetensors", "pytorch_model.bin")  # in the order in which timm looks for them


class Unfetched(Exception):
    """Published weights that are not in the cache, where no network answers."""


def look_for(cfg: Any, cache: str | None = None) -> None:
    """Raises Unfetched, after one try, where neither the cache nor the hub gives timm's weights.

    cfg: timm's pretrained_cfg. cache: its cache_dir. Whatever else is wrong is left for timm to find.
    """
    if not cfg.hf_hub_id or cfg.file or cfg.state_dict:
        return
    import huggingface_hub as hub  # only what fetches weights needs it

    repository, _, revision = cfg.hf_hub_id.partition("@")
    files = [cfg.hf_hub_filename] if cfg.hf_hub_filename else FILES
    wanted = {"cache_dir": cache, "revision": revision or None}
    if any(isinstance(hub.try_to_load_from_cache(repository, file, **wanted), str) for file in files):
        return
    if said := no_answer(repository, files[0], revision or None):
        raise Unfetched(said)


def unfetched(cfg: Any, said: str, where: str = "") -> str:
    """One line for weights that cannot be fetched: which file it would be, and how a recipe names it.

    where: the backbone's place in the recipe, for an override.
    """
    file, source = cfg.hf_hub_filename or FILES[0], f"huggingface.co/{cfg.hf_hub_id}"
    if not cfg.hf_hub_id and cfg.url:
        file, source = os.path.basename(cfg.url), cfg.url
    said = said.rstrip(".")
    given = f"{where}.init={file}" if where else f"init='{file}'"
    return (
        f"its published weights are not in the cache and cannot be fetched ({said}); fetch {file} of {source} where "
        f"there is a network and write {given}, set HF_HOME to a cache that has it, or drop pretrained"
    )
