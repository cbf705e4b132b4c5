"""Readouts of frozen branches that say `keep=True`: found on disk, or made in one passage over the images.

A file is named by a digest of all that they depend on: weights and network, preparation, views, precision, images, and
how many rows pass at once. It lies in $MANYVIEW_CACHE, by default ~/.cache/manyview, beside what evaluation keeps, for
all runs that follow the same teacher; it is written whole, and mapped into memory.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection
from contextlib import closing
from functools import partial
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from manyview.branches.branch import Branch
from manyview.branches.kept import Kept, Pair, Table
from manyview.branches.weights import digest_of
from manyview.data.fingerprint import fingerprint
from manyview.data.once import Once, Part
from manyview.errors import RunError, warn
from manyview.evaluate.crew import Crew, Post, crew_of, led
from manyview.evaluate.outputs import Seen, seen_by
from manyview.foundation.environment import code, versions
from manyview.foundation.files import cache_folder, write_atomically
from manyview.optimize.optimize import images_of
from manyview.training.setup import Setup
from manyview.views.plan import stream_of
from manyview.views.view import View

INDEX = "index"


def keep_features(setup: Setup) -> None:
    """Gives each frozen branch that says so what it says of all images to train on. Raises BadImage where one is bad.

    Where the first process has no file of it, all pass the images, each its share, as in evaluation.
    """
    for name, spec in setup.recipe.branch_plan.items():
        if spec.frozen is not None and spec.frozen.keep and name in setup.step.branches:
            branch, tables = setup.step.branch(name), dict[Pair, Table]()
            for stream in setup.splits.streams:
                tables |= _tables(setup, branch, stream)
            branch.kept = Kept(tables)


def _tables(setup: Setup, branch: Branch, stream: str) -> dict[Pair, Table]:
    """What a branch says of the images of a stream."""
    reads = [read for plan in setup.recipe.relation_plan for read in plan.all_reads if read.branch == branch.spec.name]
    pairs = sorted({(read.name, read.view) for read in reads if stream_of(setup.step.plan, read.view) == stream})
    if not pairs:
        return {}
    together = _together(setup, stream)
    path = cache_folder("teachers") / f"{_key(setup, branch, pairs, stream, together)}.safetensors"
    kept, crew = _load(path), crew_of(setup.accelerator.device)

    def make(post: Post | None) -> dict[str, Tensor]:
        if kept is not None:
            return kept
        if post is not None:
            post({})
        made = _made(setup, branch, pairs, stream, together, crew)
        try:
            write_atomically(path, partial(_save, made, {"digest": _digest(made, path)}))
        except RunError as error:
            warn(f"branches.{branch.spec.name}: what it says of images is not kept: {error}")
            return made
        return _load(path) or made  # which lies in the file, not in memory

    found = led(crew, make, lambda task: _made(setup, branch, pairs, stream, together, crew))
    # the others find it where the first put it, unless that is another disk
    found = found or kept or _load(path) or _made(setup, branch, pairs, stream, together)
    members = {view: setup.step.plan[view].members if "." not in view else 1 for _, view in pairs}
    return {pair: Table(found[INDEX], found[_name(pair)], members[pair[1]]) for pair in pairs}


def _together(setup: Setup, stream: str) -> int:
    """How many images of a stream a process passes at once; as many here, since rows may round otherwise in others."""
    parts = setup.accelerator.num_processes * setup.recipe.train.accumulate
    return max(1, images_of(setup.recipe.train, setup.splits.counts)[stream] // parts)


def _name(pair: Pair) -> str:
    return f"{pair[0]}({pair[1]})"


def _key(setup: Setup, branch: Branch, pairs: Collection[Pair], stream: str, together: int) -> str:
    """A digest of all that the readouts depend on."""
    frozen, start = branch.spec.frozen, branch.starts["backbone"]
    said = (
        *(start.digest, str(branch.spec), str(frozen), branch.mean.tolist(), branch.std.tolist()),
        *(setup.recipe.train.precision, setup.accelerator.device.type, torch.get_num_threads(), together),
        *(sorted(pairs), [repr(setup.step.plan[view.partition(".")[0]]) for _, view in pairs]),
        *([repr(view) for view in setup.step.plan.values()], versions("pillow", "simplejpeg"), code()),
        fingerprint(setup.splits.streams[stream]),
    )
    return hashlib.blake2b(repr(said).encode(), digest_size=16).hexdigest()


def _load(path: Path) -> dict[str, Tensor] | None:
    """Tensors by name, which lie in the file until they are asked for; None where there is none, or a damaged one."""
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            found, told = {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
        if told.get("digest") != _digest(found, path):
            raise ValueError("its digest is another")
        return found
    except (SafetensorError, OSError, ValueError) as error:
        warn(f"{path} is damaged ({error}); what it held is made again")
        return None


def _save(made: dict[str, Tensor], told: dict[str, str], path: Path) -> None:
    try:
        save_file(made, path, told)
    except SafetensorError as error:
        raise OSError(str(error)) from None


def _digest(found: dict[str, Tensor], path: Path) -> str:
    """Of the tensors in the order of their names, since a file has an order of its own."""
    return digest_of(dict(sorted(found.items())), path.stem)


def _made(
    setup: Setup, branch: Branch, pairs: Collection[Pair], stream: str, together: int, crew: Crew | None = None
) -> dict[str, Tensor]:
    """All images of a stream passed through the branch, `together` at a time, the last of them twice if need be.

    crew: processes that all call this, of which each passes its share; empty on all but the first.
    """
    images, data, device = setup.splits.streams[stream], setup.recipe.data, setup.accelerator.device
    parts: dict[str, list[Tensor]] = {}
    ends = [*range(together, len(images), together), len(images)]
    windows = np.concatenate([np.arange(max(0, end - together), end) for end in ends])
    rank, world = (0, 1) if crew is None else (crew.rank, crew.world)
    plan = Once(images, windows, together, data.on_bad_image == "skip", rank, world, data.timeout)
    views = sorted({view.partition(".")[0] for _, view in pairs})

    @torch.no_grad()
    def look(part: Part) -> Seen:
        index = images.index[part.kept]
        if not len(index):
            return Seen({}, part.skipped)
        source = part.images
        source = source.to(device) if isinstance(source, Tensor) else [image.to(device) for image in source]
        made: dict[str, View] = setup.step.views(
            source, index=torch.from_numpy(index), epoch=0, only=views, stream=stream
        )
        with setup.accelerator.autocast(), branch.looking():
            said = branch({name: view.moved(_to(device)) for name, view in made.items()}, pairs)
        found = {_name(pair): value.reshape(len(index), -1).cpu() for pair, value in said.items()}
        return Seen({**found, INDEX: torch.from_numpy(index)}, part.skipped)

    with (
        closing(seen_by(plan, data.workers, look, crew)) as seen,
        setup.display.evaluating(f"pass {stream} through {branch.spec.name}", len(images)) as tick,
    ):
        for number, part in enumerate(seen, 1):
            for name, value in part.found.items():
                parts.setdefault(name, []).append(value)
            tick(min(number * together, len(images)), len(images))
    if crew is not None and not crew.leads:
        return {}
    whole = {name: torch.cat(values) for name, values in parts.items()}
    if not whole:
        raise RunError(f"branches.{branch.spec.name}: none of the {stream} images could be read")
    known, first = np.unique(whole[INDEX].numpy(), return_index=True)
    rows = torch.from_numpy(first)
    return {name: torch.from_numpy(known) if name == INDEX else value[rows] for name, value in whole.items()}


def _to(device: torch.device) -> Callable[[Tensor], Tensor]:
    return lambda tensor: tensor.to(device)


__all__ = ["keep_features"]
