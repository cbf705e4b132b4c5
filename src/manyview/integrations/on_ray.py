"""Runs on the machines of a Ray cluster: `--on ray`, or `--on ray://HOST:PORT`.

A run is one Ray task, which trains as ever into its folder, on storage that all machines see. Ray starts a task anew
whose machine or process is gone; it finds the folder, and goes on from the last checkpoint. Ray Train would do this for
groups of processes, with checkpoints and a storage of its own; a run has those already, and a comparison, which is what
fills a cluster, is made of runs on one process. So a run over several machines is for torchrun or srun to launch.

What travels is text: the resolved recipe and paths. The other side must have the same manyview.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from manyview.errors import DataError, Held, Interrupted, ManyviewError, RecipeError, RunError, reason
from manyview.foundation.environment import code
from manyview.judge.judge import judge
from manyview.judge.subject import open_subject
from manyview.load import parse_recipe
from manyview.recipe.recipe import Recipe
from manyview.training.run import placed
from manyview.training.train import train
from manyview.words.load import words_of

RETRIES = 5  # times that a run is begun anew whose machine was lost
KINDS: dict[str, type[ManyviewError]] = {"DataError": DataError, "RecipeError": RecipeError, "Held": Held}
Answer = tuple[str, Any]  # "": what was asked for; else the kind of an error, and its line


@dataclass(frozen=True)
class Share:
    """What of a machine a run takes: processors, and GPUs, of which several runs may share one (0.25)."""

    cpus: float = 1.0
    gpus: float = 0.0


@final
class Cluster:
    """A Ray cluster. address: as `--on` has it, `ray` for the one of this machine or of RAY_ADDRESS, which begins if
    there is none, or `ray://HOST:PORT`. use: files of one's own words, which all machines have at the same place.

    Raises RunError where Ray is not installed, cannot be reached, or runs another manyview.
    """

    def __init__(self, address: str, share: Share | None = None, use: Sequence[Path] = ()) -> None:
        self._ray, self._share = _connected(address), share or Share()
        self._use = [str(path.resolve()) for path in use]
        self._check_room()
        self._check_code()

    def training(self, recipe: Recipe, out: Path) -> Callable[[], dict[str, Any]]:
        """Begins a run, or goes on with it; returns what waits for its result. Raises then what training raises."""
        return self._begun(_train, placed(recipe).to_yaml(), str(out.resolve()), self._use)

    def judging(self, run: Path, protocols: Sequence[str], split: str) -> Callable[[], dict[str, Any]]:
        """Begins to measure a run by protocols; returns what waits for the measures, by protocol."""
        return self._begun(_judge, str(run.resolve()), list(protocols), split, self._use)

    def _begun(self, work: Callable[..., Answer], *arguments: Any) -> Callable[[], Any]:
        ray = self._ray
        remote = ray.remote(num_cpus=self._share.cpus, num_gpus=self._share.gpus, max_retries=RETRIES)(work)
        reference = remote.remote(*arguments)

        def waited() -> Any:
            try:
                kind, found = ray.get(reference)
            except KeyboardInterrupt:
                ray.cancel(reference)
                raise
            except ray.exceptions.RayError as error:
                raise RunError(f"Ray lost it {RETRIES + 1} times, or could not run it: {reason(error)}") from None
            if kind:
                raise KINDS.get(kind, RunError)(found)
            return found

        return waited

    def _check_room(self) -> None:
        """Raises RunError where no machine is as large as a run's share, for which Ray would wait for ever."""
        share = self._share
        rooms = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        if not any(room.get("CPU", 0) >= share.cpus and room.get("GPU", 0) >= share.gpus for room in rooms):
            most = max((room.get("CPU", 0), room.get("GPU", 0)) for room in rooms) if rooms else (0, 0)
            raise RunError(
                f"no machine of the cluster has {share.cpus:g} CPUs and {share.gpus:g} GPUs for a run; the largest has "
                f"{most[0]:g} and {most[1]:g}: say --cpus and --gpus"
            )

    def _check_code(self) -> None:
        found = self._begun(_code)()
        if found != code():
            raise RunError("the cluster runs another version of manyview than this machine; install the same on both")


def _connected(address: str) -> Any:
    """Ray, connected. Raises RunError."""
    try:
        import ray  # an extra, and slow to load
    except ImportError:
        raise RunError("--on ray: Ray is not installed; pip install 'manyview[ray]'") from None
    if address != "ray" and not address.startswith("ray://"):
        raise RunError(f"--on {address}: write ray, or ray://HOST:PORT")
    if ray.is_initialized():
        return ray
    where = {} if address == "ray" else {"address": address}
    try:
        ray.init(**where, log_to_driver=False, logging_level="ERROR", configure_logging=False)
    except Exception as error:  # grpc's, and Ray's own, have no common base
        raise RunError(f"--on {address}: no Ray cluster answers there: {reason(error)}") from None
    return ray


def _answered(work: Callable[[], Any]) -> Answer:
    """What it gives, or the line of what it raises, whose kinds need not be known on the other side."""
    try:
        return "", json.loads(json.dumps(work()))
    except Interrupted:
        os._exit(1)  # the machine is going down: Ray begins it anew elsewhere
    except ManyviewError as error:
        return type(error).__name__, str(error)


def _train(recipe: str, out: str, use: list[str]) -> Answer:
    return _answered(lambda: train(parse_recipe(recipe, use=use), out, resume=True, quiet=True))


def _judge(run: str, protocols: list[str], split: str, use: list[str]) -> Answer:
    def measured() -> dict[str, Any]:
        subject = open_subject(run, use=words_of(use))
        return {str(protocol): dict(report.measures) for protocol, report in judge(subject, protocols, split).items()}

    return _answered(measured)


def _code() -> Answer:
    return "", code()


__all__ = ["Cluster", "Share"]
