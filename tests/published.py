"""timm's published weights, from a file that stands in for the hub's."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import timm
from timm.models import _registry


def publish(monkeypatch: pytest.MonkeyPatch, name: str, path: str | Path) -> None:
    """Makes a file of weights those that timm has of a network by this name."""
    known = timm.models.get_pretrained_cfg(name)
    here = dataclasses.replace(known, file=str(path), hf_hub_id=None, url="", custom_load=False)
    for each in {name, f"{known.architecture}.{known.tag}"}:
        monkeypatch.setitem(_registry._model_pretrained_cfgs, each, here)
