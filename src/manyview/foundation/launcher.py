"""Which process of a launch this is, as the launcher says in the environment. Loads quickly: nothing of torch."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

from manyview.errors import RunError

PORT = 29500  # torch's own
JOIN = "MANYVIEW_JOIN_SECONDS"
JOINS = 600  # seconds that processes wait for one another before there is a group


@dataclass(frozen=True)
class Place:
    """A process of a launch: its number of so many, its number on its machine of so many, and where all meet."""

    rank: int
    size: int
    local: int
    local_size: int
    host: str
    port: int

    @property
    def meeting(self) -> str:
        """The address as a message names it."""
        return f"{self.host}:{self.port}"

    def variables(self) -> dict[str, str]:
        """What torchrun would have set."""
        values = (self.rank, self.size, self.local, self.local_size, self.host, self.port)
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
        return dict(zip(names, map(str, values), strict=True))


def place(environment: Mapping[str, str] = os.environ) -> Place | None:
    """This process of a launch of several; None for one alone. Raises RunError for half of a launch."""
    said = _of_slurm(environment) if "RANK" not in environment and "WORLD_SIZE" not in environment else environment
    size = _number(said, "WORLD_SIZE", 1)
    if size == 1:
        return None
    for name in ("RANK", "MASTER_ADDR"):
        if not said.get(name):
            raise RunError(
                f"WORLD_SIZE={size} says that this is one of several processes, but {name} is not set; start them with "
                "torchrun, srun, accelerate launch or manyview train --processes, or unset WORLD_SIZE"
            )
    rank = _number(said, "RANK")
    if not 0 <= rank < size:
        raise RunError(f"RANK={rank}, WORLD_SIZE={size}: the processes of a group are numbered from 0 to {size - 1}")
    local_size = _number(said, "LOCAL_WORLD_SIZE", 1)
    local = _number(said, "LOCAL_RANK", rank % local_size)
    return Place(rank, size, local, local_size, said["MASTER_ADDR"], _number(said, "MASTER_PORT", PORT))


def _of_slurm(environment: Mapping[str, str]) -> Mapping[str, str]:
    """What torchrun would have set, of a step that srun started; nothing outside of one, as in a job's own script."""
    if _number(environment, "SLURM_STEP_NUM_TASKS", 1) == 1 or "SLURM_PROCID" not in environment:
        return {}
    tasks = environment.get("SLURM_STEP_TASKS_PER_NODE", "1")  # as 2(x3),1, a number for each node
    each = [count for count, times in re.findall(r"(\d+)(?:\(x(\d+)\))?", tasks) for _ in range(int(times or 1))]
    node = _number(environment, "SLURM_NODEID", 0)
    sees_one = re.fullmatch(r"(.*:)?1", environment.get("SLURM_GPUS_PER_TASK", ""))  # GPU, which is its first
    job = _number(environment, "SLURM_JOB_ID", 0) + _number(environment, "SLURM_STEP_ID", 0)
    return {
        "RANK": environment["SLURM_PROCID"],
        "WORLD_SIZE": environment["SLURM_STEP_NUM_TASKS"],
        "LOCAL_RANK": "0" if sees_one else environment.get("SLURM_LOCALID", "0"),
        "LOCAL_WORLD_SIZE": each[min(node, len(each) - 1)] if each else "1",
        "MASTER_ADDR": environment.get("MASTER_ADDR") or first_host(environment.get("SLURM_STEP_NODELIST", "")),
        # a port of its own for each job of a machine
        "MASTER_PORT": environment.get("MASTER_PORT") or str(PORT + job % 10_000),
    }


def join_seconds(environment: Mapping[str, str] = os.environ) -> float:
    """How long processes wait for one another. Raises RunError for what is no number of seconds."""
    said = environment.get(JOIN, str(JOINS))
    try:
        seconds = float(said)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < 1e6:
        raise RunError(f"{JOIN}={said}: seconds that processes wait for one another, above 0")
    return seconds


def first_host(nodes: str) -> str:
    """The first of a list of hosts as Slurm writes it.

    >>> first_host("gpu[07-12,20],login"), first_host("a1,a2"), first_host("rack[2,4]-n[1-3]")
    ('gpu07', 'a1', 'rack2-n1')
    """
    first = re.sub(r"\[(\d+)[^\]]*\]", r"\1", nodes)
    return first.partition(",")[0]


def _number(said: Mapping[str, str], name: str, default: int | None = None) -> int:
    text = said.get(name, "")
    if not text and default is not None:
        return default
    if not text.isdecimal() or (name == "WORLD_SIZE" and int(text) == 0):
        raise RunError(f"{name}={text}: a whole number, which the launcher of a group of processes sets")
    return int(text)


__all__ = ["JOIN", "Place", "first_host", "join_seconds", "place"]
