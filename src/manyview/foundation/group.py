"""Several processes become one group, whoever launched them: where they meet, and one line where they cannot.

A launcher says in the environment which process each is: torchrun and `accelerate launch` (and `manyview train
--processes`, which is torch's own launcher) in RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT, srun in
Slurm's variables. All meet at one address, compare what they are, and join: with gloo on CPUs, nccl on GPUs. This is
the one place where a group of processes is made.
"""

from __future__ import annotations

import atexit
import json
import os
import re
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, NoReturn

import torch
import torch.distributed as dist
import torch.distributed.nn.functional  # whose defaults would otherwise hold the group of the first import for ever

from manyview.errors import Interrupted, Lost, ManyviewError, RunError
from manyview.foundation.environment import code
from manyview.foundation.launcher import JOIN, PORT, Place, join_seconds, place

LINGERS = timedelta(seconds=10)  # that the host stays, for the others to read why there is no group
LOST = re.compile(r"gloo|NCCL|Connection \w+ by peer|Broken pipe")
WHY = re.compile(r"Connection \w+ by peer|Broken pipe|[Tt]imed out[^\n.]*")


def on_cpus() -> bool:
    """Whether networks are trained on CPUs: no GPU of torch's, or ACCELERATE_USE_CPU. Apple's GPUs lack float64."""
    asked = os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes", "on", "y", "t")
    return asked or torch.backends.mps.is_available() or not torch.accelerator.is_available()


def join() -> None:
    """Makes the group that this process was launched into; does nothing for a process alone, or where there is one.

    The processes' code and torch must be the same. Raises RunError where no group comes about, on each that is there.
    """
    here = place()
    if here is None and dist.is_initialized() and dist.get_world_size() > 1:  # by a caller who has set nothing
        rank, size = dist.get_rank(), dist.get_world_size()
        here = Place(rank, size, rank % max(1, torch.accelerator.device_count()), size, "localhost", PORT)
    if here is None:
        if on_cpus():  # accelerate would make a group of one
            os.environ.pop("LOCAL_RANK", None)
        return
    os.environ.update(here.variables())
    if not dist.is_initialized() and (on_cpus() or torch.cuda.is_available()):  # others are accelerate's affair
        _fit(here)
        with _torch_hushed():
            store = _meet(here)
        told = f"the {here.size} processes met at {here.meeting}, but could not join"
        try:
            backend = "gloo" if on_cpus() else "cpu:gloo,cuda:nccl"
            dist.init_process_group(backend, store=store, rank=here.rank, world_size=here.size)
        except (RuntimeError, ValueError) as error:
            raise RunError(f"{told}: {_first_line(error)}") from None
        # before the interpreter goes: gloo's threads let go of tensors, and abort the process where there is no Python
        atexit.register(leave)
    if dist.is_initialized() and dist.get_world_size() != here.size:
        raise RunError(f"this process is in a group of {dist.get_world_size()}, but its launcher says {here.size}")


def leave() -> None:
    """Ends the group, where there is one."""
    if dist.is_initialized():
        dist.destroy_process_group()


def end(code: int) -> NoReturn:
    """Ends this process with an exit code; one of a group at once, behind all that was to be done at exit.

    gloo's threads may outlive Python, for as long as anything holds the group: an error's frames, what wrapped the
    step. And one that gives up waits for none of its messages that are under way: the others find it gone.
    """
    if alone():
        sys.exit(code)
    atexit.unregister(leave)
    threading._shutdown()  # type: ignore[attr-defined]  # as the interpreter would
    try:
        atexit._run_exitfuncs()
    finally:
        at_once(code)


def at_once(code: int) -> NoReturn:
    """Ends this process now; what was printed is there."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def alone() -> bool:
    """Whether there is no other process."""
    return not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1


@contextmanager
def as_one() -> Iterator[None]:
    """What one process of the group refuses inside, all refuse; the first tells it, and none waits for another.

    All must enter and leave it; inside, they may not wait for each other but by this.
    """
    mine: ManyviewError | None = None
    try:
        yield
    except ManyviewError as error:
        if alone():
            raise
        mine = error
    if alone():
        return
    own = None if mine is None else (str(mine), mine.signal if isinstance(mine, Interrupted) else 0)
    told: list[tuple[str, int] | None] = [None] * dist.get_world_size()
    dist.all_gather_object(told, own)
    said = {each: rank for rank, each in reversed([*enumerate(told)]) if each is not None}
    if not said:
        return
    (text, _), rank = min(said.items(), key=lambda item: item[1])
    if stops := [each for each in said if each[1]]:  # by a signal, which all get sooner or later, and leave alike
        mine = Interrupted(*stops[0])
    elif mine is None or str(mine) != text or told.count(own) < len(told):
        mine = RunError(f"process {rank} of {len(told)}: {text}")
    mine.tells = dist.get_rank() == 0
    raise mine


def check_alike(values: Mapping[str, str]) -> None:
    """Raises RunError on all processes where one has other values than the first. values: what -> text, or a digest."""
    if alone():
        return
    all_values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(all_values, dict(values))
    with as_one():
        for rank, others in enumerate(all_values):
            _compare(rank, others, all_values[0])


@contextmanager
def losing_none(then: str = "continue with the same command and resume=True") -> Iterator[None]:
    """Raises Lost, in place of torch's many lines, where another process of the group has gone. then: the cure."""
    try:
        yield
    except RuntimeError as error:
        if alone() or not (isinstance(error, dist.DistError) or LOST.search(str(error))):
            raise
        why = WHY.search(str(error))
        lost = Lost(
            "another process of the group ended, or could not be reached any more; what it said, or what its launcher "
            f"says of it, is the reason ({why[0] if why else _first_line(error)}); {then}"
        )
        lost.tells = dist.get_rank() == 0
        raise lost from None


# -------------------------------------------------------------------------------------------------------- the meeting


def _meet(here: Place) -> dist.Store:
    """Where all processes of the launch have met, and found that they are alike. Raises RunError."""
    seconds = join_seconds()
    agents = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"  # torch's launcher is the host
    try:
        tcp = dist.TCPStore(
            here.host,
            here.port,
            here.size,
            is_master=here.rank == 0 and not agents,
            timeout=timedelta(seconds=seconds),
            wait_for_workers=False,
            multi_tenant=True,
        )
    except (RuntimeError, ValueError) as error:
        if "EADDRINUSE" in str(error) or "already in use" in str(error):
            told = f"{here.meeting}, where the processes were to meet, is taken; give all of them another MASTER_PORT"
            raise RunError(told) from None
        raise RunError(
            f"process {here.rank} of {here.size} could not reach the first one at {here.meeting} within {seconds:g} s; "
            "see that it was started, and that MASTER_ADDR and MASTER_PORT are its own on every machine"
        ) from None
    store = dist.PrefixStore(f"manyview/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", tcp)
    mine = {"WORLD_SIZE": str(here.size), "torch": torch.__version__, "manyview's code": code()}
    if store.add(f"came/{here.rank}", 1) > 1:
        raise RunError(f"two processes say that they are the one of RANK={here.rank}; each has a number of its own")
    store.set(f"told/{here.rank}", json.dumps(mine))
    try:
        first = mine
        for rank in range(here.size):
            told = json.loads(_await(store, here, rank, seconds))
            first = told if rank == 0 else first
            _compare(rank, told, first)
            _compare(here.rank, mine, first)
    except RunError as error:
        with suppress(RuntimeError):  # its host may have gone, having told the same
            error.tells = here.rank == 0 or not store.check(["told/0"])
            store.set(f"left/{here.rank}", "")
            if here.rank == 0:  # which may be the host, and the others read here of this
                came = [rank for rank in range(here.size) if store.check([f"told/{rank}"])]
                store.wait([f"left/{rank}" for rank in came], LINGERS)
        raise
    return dist.PrefixStore("group", store)


@contextmanager
def _torch_hushed() -> Iterator[None]:
    """What torch's C++ writes of a meeting that fails is many lines, and said in one; $TORCH_CPP_LOG_LEVEL keeps it."""
    if "TORCH_CPP_LOG_LEVEL" in os.environ:
        yield
        return
    sys.stderr.flush()
    with suppress(OSError), open(os.devnull, "wb") as nowhere:
        kept = os.dup(2)
        os.dup2(nowhere.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def _await(store: dist.Store, here: Place, rank: int, seconds: float) -> bytes:
    try:
        store.wait([f"told/{rank}"], timedelta(seconds=seconds))
        return store.get(f"told/{rank}")
    except RuntimeError:
        missing = _missing(store, here)
    raise RunError(
        f"{here.size - len(missing)} of {here.size} processes came to {here.meeting} within {seconds:g} s, RANK "
        f"{', '.join(map(str, missing[:8]))}{', …' * (len(missing) > 8)} did not; start all of them, with the same "
        f"MASTER_ADDR and MASTER_PORT ({JOIN} says how long they wait)"
    )


def _missing(store: dist.Store, here: Place) -> list[int]:
    try:
        return [rank for rank in range(here.size) if not store.check([f"told/{rank}"])]
    except RuntimeError:  # the first process, which hosts it, has given up
        return [0]


def _compare(rank: int, values: Mapping[str, str], first: Mapping[str, str]) -> None:
    """Raises RunError where a process has other values than the first."""
    for what, value in first.items():
        if values.get(what) != value:
            told = f"process {rank} has another {what} than process 0"
            shown = f" ({values.get(what)}, not {value})" if len(value) <= 20 else ""
            raise RunError(f"{told}{shown}; all of a group run the same recipe, with the same code")


def _fit(here: Place) -> None:
    """Gives the process its GPU, or its share of the threads. Raises RunError where there is no GPU for it."""
    if on_cpus():
        if not os.environ.get("OMP_NUM_THREADS"):
            cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
            os.environ["OMP_NUM_THREADS"] = str(max(1, cores // here.local_size))
            torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
        return
    if here.local >= torch.cuda.device_count():
        raise RunError(
            f"process {here.local} of this machine has no GPU of its own, there are {torch.cuda.device_count()}; start "
            "one process a GPU, or set ACCELERATE_USE_CPU=true"
        )
    torch.cuda.set_device(here.local)


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0][:200] or type(error).__name__


__all__ = ["alone", "as_one", "at_once", "check_alike", "end", "join", "leave", "losing_none", "on_cpus"]
