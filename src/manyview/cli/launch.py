"""`--processes N`: this command becomes N of its own, by torch's elastic launcher, on one machine or on several."""

from __future__ import annotations

import logging
import math
import os
import re
import socket
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from signal import Signals
from typing import Annotated, NoReturn

import typer

from manyview.cli.speech import tell
from manyview.errors import Interrupted, RunError, reason
from manyview.foundation.launcher import JOIN, join_seconds, place

Processes = Annotated[
    int | None, typer.Option(help="Processes to start on this machine, one a GPU, or on CPUs.", min=1, metavar="N")
]
Nodes = Annotated[int, typer.Option(help="Machines that the same command is started on.", min=1, metavar="M")]
Meet = Annotated[
    str | None, typer.Option(help="With --nodes, where they meet: the first machine's address.", metavar="HOST:PORT")
]


def starts(processes: int | None, nodes: int, meet: str | None) -> bool:
    """Whether this process is to start others, and is none of them yet. Raises RunError for what cannot be meant."""
    if processes is None:
        if nodes != 1 or meet is not None:
            raise RunError("--nodes and --meet go with --processes, how many each machine starts")
        return False
    if (here := place()) is not None:
        if here.local_size != processes or here.size != processes * nodes:
            raise RunError(
                f"--processes {processes}, but a launcher started {here.size}, {here.local_size} on this machine; "
                "leave --processes out under torchrun, srun or accelerate launch"
            )
        return False
    if nodes > 1 and meet is None:
        raise RunError("--nodes: say where the machines meet, --meet HOST:PORT, the same on all of them")
    if meet is not None and not re.fullmatch(r".+:\d{1,5}", meet):
        raise RunError(f"--meet: {meet} is no HOST:PORT, such as trainer-0:29500")
    return processes * nodes > 1


def start(words: Sequence[str], processes: int, nodes: int, meet: str | None) -> NoReturn:
    """Starts `manyview WORDS` so many times, and leaves as they do: what they had to say, they have said."""
    seconds = join_seconds()
    if meet is not None:
        _reach(meet, seconds)
        if nodes > 1:
            tell(f"{nodes} machines meet at {meet}; waiting for all, up to {seconds:g} s")

    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.elastic.rendezvous.api import RendezvousTimeoutError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.getLogger("torch.distributed").setLevel(logging.CRITICAL)  # it says again what the processes say
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores // processes)))
    config = LaunchConfig(
        min_nodes=nodes,
        max_nodes=nodes,
        nproc_per_node=processes,
        rdzv_backend="c10d",
        rdzv_endpoint=meet or "localhost:0",
        rdzv_configs={"join_timeout": math.ceil(seconds)},
        run_id="manyview" if meet else uuid.uuid4().hex,
        max_restarts=0,
        local_addr="localhost" if nodes == 1 else None,
        signals_to_handle="SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1,SIGUSR2",  # which it passes on
        shutdown_timeout=300,  # seconds that they have to finish their step and save
    )
    try:
        elastic_launch(config, sys.executable)("-m", "manyview", *words)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode < 0:
            name = Signals(-failure.exitcode).name
            told = f"process {rank} was ended by {name}" + ", perhaps for want of memory" * (name == "SIGKILL")
            raise RunError(f"{told}; continue with the same command and --resume") from None
        raise typer.Exit(failure.exitcode) from None
    except SignalException as error:
        stopped = Interrupted("stopped", error.sigval)
        stopped.tells = False  # they have said so
        raise stopped from None
    except RendezvousTimeoutError:
        raise RunError(
            f"fewer than {nodes} machines came to {meet} within {seconds:g} s; start the same command on each, with "
            f"the same --nodes and --meet ({JOIN} says how long they wait)"
        ) from None
    except Exception as error:  # of the meeting, whose errors have no common base
        where = f" at {meet}" if meet else ""
        raise RunError(f"{nodes} machines did not meet{where}: {reason(error)}") from None
    raise typer.Exit(0)


def _reach(meet: str, seconds: float) -> None:
    """Waits until HOST:PORT answers, unless HOST is this machine, which answers there itself. Raises RunError.

    torch waits for a minute, and tells each try in C++.
    """
    host, _, port = meet.replace("[", "").replace("]", "").rpartition(":")
    until, why = time.monotonic() + seconds, ""
    while time.monotonic() < until:
        try:
            if _is_here(host):
                return
            with socket.create_connection((host, int(port)), timeout=max(0.1, until - time.monotonic())):
                return
        except OSError as error:
            if not why:
                tell(f"{meet} does not answer yet ({reason(error)}); waiting for it, up to {seconds:g} s")
            why = reason(error)
        time.sleep(min(1.0, seconds / 10))
    raise RunError(f"--meet: {meet} did not answer within {seconds:g} s ({why}); name one of the machines, the first")


def _is_here(host: str) -> bool:
    """Whether a name is this machine's. Raises OSError for one that is not known."""
    for family, kind, protocol, _, address in socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM):
        with suppress(OSError), socket.socket(family, kind, protocol) as tried:
            tried.bind(address)
            return True
    return False


@contextmanager
def _as_one() -> Iterator[None]:
    from manyview.foundation.group import as_one, join, losing_none

    join()
    with losing_none(), as_one():
        yield


def together() -> AbstractContextManager[None]:
    """What processes of a launch do, each for itself, but all or none of them; nothing where this is one alone."""
    return nullcontext() if place() is None else _as_one()


__all__ = ["Meet", "Nodes", "Processes", "start", "starts", "together"]
