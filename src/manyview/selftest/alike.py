"""Several processes against one: values, gradients and what is learnt, for every relation, stream and optimiser."""

from __future__ import annotations

import json
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch._dynamo
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from manyview.errors import ManyviewError
from manyview.foundation.files import write_json
from manyview.foundation.group import join
from manyview.foundation.several import on_several
from manyview.foundation.shards import whole
from manyview.optimize.optimize import make_optimizer
from manyview.optimize.sync_batchnorm import sync_batchnorm
from manyview.recipe.settings import Train
from manyview.selftest.cases import CASES, OF_EACH, Case
from manyview.training.sharding import beside_shards, check_shardable, shard

UPDATES = 3
CLOSE = 1e-4  # of what is compared: sums of float32 in another order, and what updates make of it
DDP, FSDP = "whole on each", "shared out"
ENDS = ("terms", "grads", "state")


@dataclass(frozen=True)
class Compared:
    """The largest differences from one process: of the terms, the gradients, and the state after some updates.

    Relative to the largest of each. what: a relation, stream or optimiser. how: how its weights lie on the processes.
    note: why it was not compared, which is no fault.
    """

    what: str
    how: str
    value: float = 0.0
    gradient: float = 0.0
    state: float = 0.0
    note: str = ""

    @property
    def same(self) -> bool:
        """Whether it is, to float32 rounding."""
        return max(self.value, self.gradient, self.state) <= CLOSE


def compare_with_one(processes: int, shared: bool) -> list[Compared]:
    """Compares so many processes on this machine's CPUs with one. shared: also with weights that are shared out."""
    with tempfile.TemporaryDirectory() as folder:
        on_several(processes, _worker, processes, shared, folder)
        return [Compared(**each) for each in json.loads((Path(folder) / "found.json").read_text())]


def _worker(rank: int, processes: int, shared: bool, folder: str) -> None:
    warnings.simplefilter("ignore")
    torch._dynamo.config.disable = True  # some optimisers would be compiled, for a minute each
    count, alone = OF_EACH * processes, slice(None)
    rows = slice(rank * OF_EACH, (rank + 1) * OF_EACH)
    # before there is a group, in which losses would look at all processes' rows
    ones = {name: _learnt(Case(name), count, alone, _plain) for name in CASES} if rank == 0 else {}
    join()
    hows: dict[str, Any] = {DDP: _replicated}
    mesh = None
    if shared:
        from torch.distributed.device_mesh import init_device_mesh

        mesh = init_device_mesh("cpu", (processes,))
        hows[FSDP] = partial(_sharded, mesh=mesh)
    found = []
    for name in CASES:
        for how, wrap in hows.items():
            with beside_shards(mesh if how == FSDP else None):
                learnt = _learnt(Case(name), count, rows, wrap)
            for term in learnt["terms"].values():
                torch.distributed.all_reduce(term)
                term /= processes
            if rank == 0:
                value, gradient, state = (
                    _distance(learnt[key], ones[name][key]) for key in ("terms", "grads", "state")
                )
                found.append(Compared(name, how, value, gradient, state))
    found += _optimizers(rank, processes)
    if mesh is not None:
        found += _optimizers_on_shards(mesh)
    if rank == 0:
        write_json(Path(folder) / "found.json", [asdict(each) for each in found])
    torch.distributed.barrier()


def _plain(step: Any, optimizer: Any) -> nn.Module:
    return step


def _replicated(step: Any, optimizer: Any) -> nn.Module:
    sync_batchnorm(step, torch.distributed.get_world_size(), torch.device("cpu"))
    return DistributedDataParallel(step)


def _sharded(step: Any, optimizer: Any, mesh: Any) -> nn.Module:
    sync_batchnorm(step, torch.distributed.get_world_size(), torch.device("cpu"))
    shard(step, optimizer, mesh, bf16=False)
    return step


def _learnt(case: Case, count: int, rows: slice, wrap: Any) -> dict[str, dict[str, Tensor]]:
    """Terms and gradients of the first update, and the state after the last."""
    step = case.step()
    optimizer = make_optimizer(step.recipe.train, step)
    module = wrap(step, optimizer)
    step.attach(optimizer)
    found: dict[str, dict[str, Tensor]] = {}
    for number in range(UPDATES):
        out = module(case.batch(number, count, rows))
        out["loss"].backward()
        if not number:
            found["terms"] = {name: value.detach().clone() for name, value in out["terms"].items()}
            grads = {name: each.grad for name, each in step.named_parameters() if each.grad is not None}
            found["grads"] = {name: whole(value).clone() for name, value in grads.items()}
        optimizer.step()
        optimizer.zero_grad()
    found["state"] = {name: whole(value).clone() for name, value in step.state_dict().items()}
    return found


def _distance(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> float:
    """The largest difference, of the largest value; infinite where they have not the same names."""
    if one.keys() != other.keys():
        return float("inf")
    largest = max(float(value.double().abs().max()) for value in other.values())
    most = max(float((value.double() - other[name].double()).abs().max()) for name, value in one.items())
    return most / largest if largest else most


class _Slopes(nn.Module):
    """Weights of which the loss is a sum of products with whole numbers, so that any order of adding is exact."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner = nn.Sequential(nn.Conv2d(3, 4, 2), nn.Linear(4, 6), nn.LayerNorm(6))

    def forward(self, slopes: list[list[Tensor]]) -> Tensor:
        return torch.stack(
            [(weight * slope).sum() for of in slopes for weight, slope in zip(self.parameters(), of, strict=True)]
        ).sum() / len(slopes)  # fmt: skip


def _optimizers(rank: int, processes: int) -> list[Compared]:
    """Every optimiser, of gradients that are to the bit those of one process."""
    from timm.optim import list_optimizers

    found = []
    for name in list_optimizers():
        train = Train(steps=1, optimizer=f"{name}(lr=0.01)")
        results: list[list[Tensor]] = []
        try:
            for many in (False, True):
                module = _Slopes()
                optimizer, wrapped = make_optimizer(train, module), DistributedDataParallel(module) if many else module
                for number in range(2):
                    generator = torch.Generator().manual_seed(number)
                    all_slopes = [
                        [torch.randint(-8, 9, each.shape, generator=generator).float() for each in module.parameters()]
                        for _ in range(processes)
                    ]
                    wrapped(all_slopes[rank : rank + 1] if many else all_slopes).backward()
                    optimizer.step()
                    optimizer.zero_grad()
                results.append([each.detach() for each in module.parameters()])
        except (AssertionError, ImportError, ManyviewError, RuntimeError, TypeError) as error:
            found.append(Compared(name, DDP, note=f"not to be had here: {str(error).partition(chr(10))[0][:80]}"))
            continue
        one, several = ({str(number): each for number, each in enumerate(of)} for of in results)
        found.append(Compared(name, DDP, state=_distance(several, one)))
    return found


def _optimizers_on_shards(mesh: Any) -> list[Compared]:
    """Which optimisers make the same updates of shards; that others are refused is no fault."""
    from timm.optim import list_optimizers

    found = []
    for name in list_optimizers():
        try:
            check_shardable(Train(steps=1, optimizer=f"{name}(lr=0.01)"), mesh)
        except (AssertionError, ImportError, ManyviewError):
            found.append(Compared(name, FSDP, note="refused"))
        else:
            found.append(Compared(name, FSDP))
    return found


__all__ = ["Compared", "compare_with_one"]
