"""Where a run's measures go beside metrics.jsonl, see `train.track`: TensorBoard's events, or accelerate's trackers.

Nothing leaves the machine by default: wandb writes offline into the run's folder, mlflow and trackio into their own
local stores; libraries' reports on their use are switched off. Their own environment variables say otherwise, as
WANDB_MODE=online, MLFLOW_TRACKING_URI and TRACKIO_SPACE_ID do. A run that is resumed goes on in the tracked run that it
began; what was logged behind its checkpoint is logged again, with the same values.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import secrets
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol, final

from manyview.errors import ManyviewWarning, RecipeError, RunError, reason
from manyview.foundation.files import read_json, write_json

PROJECT = "manyview"
LIST = "trackers.json"
SILENT = {"WANDB_ERROR_REPORTING": "false", "MLFLOW_DISABLE_TELEMETRY": "true", "GRADIO_ANALYTICS_ENABLED": "False"}
FOR_EVER = ("mlflow",)  # what its runs keep beside measures cannot be said again otherwise


class Tracker(Protocol):
    """Takes measures by name; accelerate's do so."""

    def log(self, values: dict[str, float], step: int) -> None:
        """Finite numbers of an update."""

    def finish(self) -> None:
        """Writes what is still held."""


def check_trackers(names: Sequence[str]) -> None:
    """Raises RecipeError for a tracker that is not installed."""
    for name in names:
        if find_spec(name) is None:
            raise RecipeError(f"train.track: {name} is not installed; pip install 'manyview[track]', or {name} alone")


@final
@dataclass
class Trackers:
    """The trackers of a run by name. One that fails while the run goes on is left out from there, with a warning."""

    running: dict[str, Tracker]

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Measures of an update, of which those that are finite are passed on."""
        self._each(lambda tracker: tracker.log(dict(values), step=step))

    def finish(self) -> None:
        """Ends all."""
        with _silence():
            self._each(lambda tracker: tracker.finish())

    def _each(self, act: Callable[[Tracker], None]) -> None:
        for name, tracker in [*self.running.items()]:
            try:
                act(tracker)
            except Exception as error:  # a server that is down must not end training
                del self.running[name]
                told = f"{name} takes no more measures, which metrics.jsonl still has: {reason(error)}"
                warnings.warn(told, ManyviewWarning, stacklevel=3)


def start_trackers(
    names: Sequence[str], folder: Path, start: int = 0, config: Mapping[str, Any] | None = None
) -> Trackers:
    """Begins tracked runs, or goes on with those that the run in this folder began. Raises RunError.

    start: updates done. config: what a tracker keeps beside the measures, flat.
    """
    known = _known(folder)
    running: dict[str, Tracker] = {}
    for name in names:
        if name == "tensorboard":
            board = _board(folder, start)
            running |= {} if board is None else {name: board}
            continue
        for variable, value in SILENT.items():
            os.environ.setdefault(variable, value)
        make, identity = _MADE[name]
        try:
            with _silence():
                tracker = make(folder, known.get(name))
                tracker.start()
                if name not in known or name not in FOR_EVER:
                    tracker.store_init_configuration({key: _plain(value) for key, value in (config or {}).items()})
        except Exception as error:  # of other people's code: any
            Trackers(running).finish()
            told = f"train.track: {name} does not begin: {reason(error)}"
            raise RunError(f"{told}; a run may also go on without it, as with train.track=[]") from None
        running[name] = tracker
        known[name] = str(identity(tracker.tracker))
        write_json(folder / LIST, known)
    return Trackers(running)


def _silence() -> contextlib.redirect_stdout[io.StringIO]:
    """Trackers have much to tell where they begin and end; in between stdout is other threads', too."""
    return contextlib.redirect_stdout(io.StringIO())


def _known(folder: Path) -> dict[str, str]:
    path = folder / LIST
    try:
        return dict(read_json(path)) if path.is_file() else {}
    except (OSError, ValueError, TypeError) as error:
        raise RunError(f"{path} is damaged: {error}") from None


def _plain(value: Any) -> Any:
    return value if isinstance(value, bool | int | float | str) or value is None else str(value)


# ------------------------------------------------------------------------------------------------------- each of them


@final
class _Board:
    """Events of TensorBoard in the run's folder; those after step `start`, which will be written again, are purged."""

    def __init__(self, folder: Path, start: int) -> None:
        from torch.utils.tensorboard import SummaryWriter  # takes seconds

        self._writer = SummaryWriter(str(folder), purge_step=start + 1 if start else 0)

    def log(self, values: dict[str, float], step: int) -> None:
        """A scalar each."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def finish(self) -> None:
        """Flushes the events."""
        self._writer.close()


def _board(folder: Path, start: int) -> _Board | None:
    try:
        return _Board(folder, start)
    except UnicodeEncodeError:
        told = "no events for TensorBoard, whose writer takes no folder with a name that is not UTF-8"
        warnings.warn(f"{folder}: {told}", ManyviewWarning, stacklevel=2)
        return None


def _wandb(folder: Path, known: str | None) -> Any:
    import wandb
    from accelerate.tracking import WandBTracker

    return WandBTracker(
        os.environ.get("WANDB_PROJECT", PROJECT),
        id=known or secrets.token_hex(4),
        name=os.environ.get("WANDB_NAME", folder.name),
        dir=os.environ.get("WANDB_DIR", str(folder)),
        mode=os.environ.get("WANDB_MODE", "offline"),
        resume="allow" if known and os.environ.get("WANDB_MODE") == "online" else None,  # offline it cannot look
        settings=wandb.Settings(console="off", silent=True),
    )


def _trackio(folder: Path, known: str | None) -> Any:
    import trackio
    from accelerate.tracking import TrackioTracker

    project = os.environ.get("TRACKIO_PROJECT", PROJECT)
    name = known or f"{folder.name}-{secrets.token_hex(4)}"
    tracker = TrackioTracker(project, name=name, resume="allow", embed=False)
    tracker.finish = trackio.finish  # which forgets the run, too: else Python's end would finish it again, aloud
    return tracker


def _mlflow(folder: Path, known: str | None) -> Any:
    from accelerate.tracking import MLflowTracker

    if "MLFLOW_LOGGING_LEVEL" not in os.environ:
        logging.getLogger("mlflow").setLevel(logging.WARNING)  # else it tells of each table of a new store
    return MLflowTracker(PROJECT, run_id=known, run_name=folder.name)


_MADE: dict[str, tuple[Callable[[Path, str | None], Any], Callable[[Any], str]]] = {
    "wandb": (_wandb, lambda run: run.id),
    "trackio": (_trackio, lambda run: run.name),
    "mlflow": (_mlflow, lambda run: run.info.run_id),
}
"""Name -> how a tracker is made, for a run that it may know, and by what it finds that again."""
