"""A step whose weights, gradients and optimiser's state are shared out over the processes: `train.shard` (FSDP2).

torch's `fully_shard` takes each block of a backbone, each head and each branch by itself (Zhao et al., PyTorch FSDP,
VLDB 2023): before it looks, its weights are gathered, and afterwards only this process's part remains. EMAs and
averages are shared out alike, so that they follow part by part. A frozen teacher stands aside, whole on every process,
and so do buffers: statistics, queues, counters.

What is measured between updates is a twin of the step with whole weights, on the CPU until it is asked.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, final

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from manyview.branches.blocks import blocks_of
from manyview.branches.branch import Branch
from manyview.errors import RecipeError, RunError, reason, warn
from manyview.foundation.grammar import Call
from manyview.foundation.shards import is_shard, whole
from manyview.optimize.optimize import make_optimizer, split_options
from manyview.optimize.wrapping import optimizer_call
from manyview.recipe.settings import Train
from manyview.step import Step

CLOSE = 1e-4  # of a parameter, by which two updates may differ that were computed in parts


def shared_over(accelerator: Accelerator, train: Train, given: bool) -> Any:
    """The processes that a step is shared out over, as a DeviceMesh; None where it is not.

    given: whether networks were given from Python. Raises RunError where it cannot be. All processes must call it.
    """
    if not train.shard:
        return None
    if given:
        told = "a network that was given from Python stays whole; name it in the recipe, or leave shard out"
        raise RunError(f"train.shard: {told}")
    if accelerator.num_processes == 1:
        warn("train.shard: there is one process, which holds all there is")
        return None
    from torch.distributed.device_mesh import init_device_mesh

    mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
    check_shardable(train, mesh)
    return mesh


def refuse_shard(train: Train, loop: str) -> None:
    """Raises RecipeError for `train.shard` in a loop that wraps the step in its own way."""
    if train.shard:
        raise RecipeError(f"train.shard: {loop} does not share weights out; train with manyview train, or drop it")


def shard(step: Step, optimizer: torch.optim.Optimizer, mesh: Any, bf16: bool) -> None:
    """Shares a step out over the processes, in place, and gives the optimiser the parts. All processes must call it.

    bf16: matrices of blocks are gathered as bfloat16, in which autocast computes with them anyway; what else there is,
    as norms, is float32, and so are the shards themselves and the averaging of gradients.
    """
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    before = dict(step.named_parameters())
    for parameter in before.values():  # shards are of rows one after another; channels may lie last
        parameter.data = parameter.data.contiguous()
    low = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)
    try:
        for branch in _branches(step):
            for block in blocks_of(branch.backbone) if branch.spec.frozen is None else ():
                vectors = _vectors(block) if bf16 else None
                if vectors:
                    fully_shard(vectors, mesh=mesh)
                fully_shard(block, mesh=mesh, mp_policy=MixedPrecisionPolicy() if vectors is None else low)
            for head in branch.heads.values():
                fully_shard(head, mesh=mesh)
            fully_shard(branch, mesh=mesh)
        fully_shard(step, mesh=mesh)
    except (NotImplementedError, ValueError, RuntimeError, AssertionError) as error:
        raise RunError(f"train.shard: torch cannot share out this network: {reason(error)}") from None
    parts = dict(step.named_parameters())
    now = {id(parameter): parts[name] for name, parameter in before.items()}
    for group in optimizer.param_groups:
        group["params"] = [now[id(parameter)] for parameter in group["params"]]


def _vectors(block: nn.Module) -> list[nn.Module] | None:
    """The layers of a block that are no matrices, as norms; None where there are weights that are neither."""
    owners = [part for part in block.modules() if any(each is not None for each in part._parameters.values())]
    others = [part for part in owners if not isinstance(part, (nn.Linear, _ConvNd))]
    plain = all(each.ndim <= 1 for part in others for each in part.parameters())
    return others if plain and not any(part is block for part in others) else None


def _branches(step: Step) -> list[Branch]:
    own = [step.branch(name) for name in step.branches]
    return own if step.average is None else [*own, step.average.module]


def check_shardable(train: Train, mesh: Any) -> None:
    """Raises RunError for an optimiser that makes other updates of shards than of whole tensors, or none.

    It makes two of small tensors, in both ways. All processes must call it.
    """
    from torch.distributed.tensor import Shard, distribute_tensor

    call = optimizer_call(train.optimizer)
    alone = train.model_copy(update={"optimizer": str(Call(call.name, (), split_options(call)[0]))})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        trial = nn.Sequential(nn.Conv2d(3, 4, 2), nn.Linear(4, 6), nn.LayerNorm(6)).to(mesh.device_type)
        slopes = [[torch.randn_like(each) for each in trial.parameters()] for _ in range(2)]
    shared = copy.deepcopy(trial)
    for part in shared.modules():
        for name, each in part._parameters.items():
            if each is not None:
                part._parameters[name] = nn.Parameter(distribute_tensor(each.detach(), mesh, [Shard(0)]))
    told = f"train.shard: {call.name} does not work on weights that are shared out"
    try:
        for module in (trial, shared):
            optimizer = make_optimizer(alone, module)
            for of in slopes:
                for each, slope in zip(module.parameters(), of, strict=True):
                    each.grad = distribute_tensor(slope.clone(), mesh, [Shard(0)]) if is_shard(each) else slope.clone()
                with beside_shards(mesh):
                    optimizer.step()
    except (RuntimeError, AssertionError, TypeError, ValueError, NotImplementedError) as error:
        raise RunError(f"{told} ({reason(error)[:120]}); take another, as adamw or sgd, or leave shard out") from None
    pairs = zip(trial.parameters(), shared.parameters(), strict=True)
    found = [float((whole(b).detach() - a.detach()).abs().max()) for a, b in pairs]
    if not max(found) <= CLOSE:
        raise RunError(f"{told}: its updates differ, by {max(found):.1g}; take another, as adamw, or leave shard out")


def share_out(saved: dict[str, Any], step: Step, optimizer: torch.optim.Optimizer, mesh: Any) -> None:
    """Takes of a checkpoint that was read whole this process's parts, in place; what was read as parts stays.

    Of an optimiser's state these are all tensors that are no single numbers, of parameters that are shared out.
    """
    now = step.state_dict()
    saved["step"] = {name: _part(value, now.get(name), mesh) for name, value in saved["step"].items()}
    parameters = [each for group in optimizer.param_groups for each in group["params"]]
    for number, state in saved["optimizer"]["state"].items():
        for name, value in state.items():
            if isinstance(value, Tensor) and value.ndim:
                state[name] = _part(value, parameters[number], mesh)


def _part(saved: Any, now: Any, mesh: Any) -> Any:
    from torch.distributed.tensor import Shard, distribute_tensor

    if not is_shard(now) or is_shard(saved):
        return saved
    return distribute_tensor(saved.to(now.device), mesh, [Shard(0)], src_data_rank=None)


@contextmanager
def beside_shards(mesh: Any) -> Iterator[None]:
    """Inside, a tensor that is the same on all processes may be computed with shards: counters, buffers, an lr."""
    if mesh is None:
        yield
        return
    from torch.distributed.tensor.experimental import implicit_replication

    with implicit_replication(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "FSDP2-wrapped module")  # of readouts, which nothing writes into
        yield


@final
class Twin:
    """A copy of a step, made before it is shared out, that has whole weights while it is looked at."""

    def __init__(self, step: Step) -> None:
        teachers = [branch.backbone for branch in _branches(step) if branch.spec.frozen is not None]
        left_out: dict[int, Any] = {id(network): nn.Identity() for network in teachers}  # which nothing measures
        self.step = copy.deepcopy(step, left_out).to("cpu").eval()

    @contextmanager
    def like(self, step: Step, device: torch.device) -> Iterator[None]:
        """Inside, it lies on the device, with the weights that the step has now. All processes must enter it."""
        self.step.load_state_dict({name: _taken(value) for name, value in step.state_dict().items()})
        self.step.updates = step.updates
        self.step.to(device)
        try:
            yield
        finally:
            self.step.to("cpu")


def _taken(value: Any) -> Any:
    return whole(value).cpu() if isinstance(value, Tensor) else value
