"""What a run's folder notes of networks that were given from Python, and by which it knows them again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from manyview.branches.spec import FEATURES, LOGITS
from manyview.branches.weights import digest_of
from manyview.errors import RunError
from manyview.foundation.words import counted
from manyview.step import Step

Note = Mapping[str, Mapping[str, Any]]  # branch -> {"network", "class", "parameters", "weights": digest at the start}


def note_of(step: Step) -> dict[str, dict[str, Any]]:
    """The note of a step's given networks, as they are now; empty where none was given."""
    notes: dict[str, dict[str, Any]] = {}
    for name in step.branches:
        branch = step.branch(name)
        # a frozen teacher that the recipe names is noted among what the run starts from
        if branch.given and branch.spec.ema is None and not branch.starts:
            kind = type(branch.backbone)
            notes[name] = {
                "network": branch.spec.backbone.name,
                "class": f"{kind.__module__}.{kind.__qualname__}",
                "parameters": sum(each.numel() for each in branch.backbone.parameters()),
                "weights": digest_of(branch.backbone.state_dict()),
            }
            if branch.spec.frozen is not None:
                notes[name]["columns"] = {key: branch.dims[key] for key in (FEATURES, LOGITS) if key in branch.dims}
    return notes


def trained(notes: Note) -> Note:
    """The notes of networks that the run trains, without its frozen teachers, which alone note their columns."""
    return {name: note for name, note in notes.items() if "columns" not in note}


def check_networks(folder: Path, stored: Note, now: Note, begins: bool) -> None:
    """Raises RunError where a run goes on with other networks. begins: with no update done yet, so that weights count.

    Those of a frozen teacher always do.

    stored: the folder's note; now: that of the networks it is to go on with.
    """
    if stored and not now:
        raise RunError(needed(folder, stored))
    if now and not stored:
        raise RunError(f"{folder} has the network that its recipe names; leave backbone= out")
    for branch, note in stored.items():
        if branch not in now or any(note[key] != now[branch][key] for key in ("network", "parameters")):
            raise RunError(f"{folder} was begun with {_told({branch: note})}, not with {_told(now)}")
        if (begins or "columns" in note) and note["weights"] != now[branch]["weights"]:
            did = "was to begin with" if begins else "learns from"
            raise RunError(f"{folder} {did} other weights of {note['network']}; begin anew in another folder")


def needed(folder: Path, stored: Note) -> str:
    """What is missing where such a run is opened without its networks."""
    return (
        f"{folder} was trained with a network given from Python ({_told(stored)}); give one like it, backbone=model, "
        "which the command line cannot: to manyview.train(…, resume=True, backbone=model), to open_subject, or as in "
        "Run(folder).step(recipe, backbone=model)"
    )


def _told(notes: Note) -> str:
    return ", ".join(
        f"{name}: {each['network']}, {counted(each['parameters'], 'weight')}" for name, each in notes.items()
    )
