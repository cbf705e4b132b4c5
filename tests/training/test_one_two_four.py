"""The same run on one, two and four processes: the weights of twenty updates, and BatchNorm over all of them."""

import json

import pytest
import torch
import torch.distributed as dist
from timm.layers import BatchNormAct2d
from torch import nn

from manyview import parse_recipe
from manyview.foundation.files import read_state
from manyview.load import load_recipe
from manyview.optimize.sync_batchnorm import sync_batchnorm
from manyview.training.train import train
from processes import on_several

pytestmark = pytest.mark.slow(reason="runs on one, two and four processes")
VIT = "test_vit(img_size=8, patch_size=4)"  # no BatchNorm
BASE = """
seed: 3
data: {{source: digits}}
views:
  a: {{from: image, make: "pad_crop(8, padding=1) | flip(0.5)"}}
  b: {{like: a}}
branches:
  net: {{backbone: "{backbone}", normalize: half, z: "mlp(h, 16, 8)", p: "mlp(z, 16, 8)"}}
  teacher: ema(net, momentum=0.9)
relations: ["{relations}"]
train: {{steps: 20, batch_size: 16, checkpoint_every: 20 steps, schedule: constant(), optimizer: "{optimizer}"{more}}}
"""
CALM = "sgd(lr=0.01, momentum=0.9)"


def recipe(relations, backbone=VIT, optimizer=CALM, more=""):
    return parse_recipe(BASE.format(relations=relations, backbone=backbone, optimizer=optimizer, more=more))


def recipes():
    """Each with state of another kind. Adam's eps is such that it does not move by the rounding of gradients of 0."""
    short = ("train.epochs=null", "train.steps=20", "train.optimizer=sgd(lr=0.01)", "train.schedule=constant()")
    vit = f"branches.net.backbone={VIT}"
    return {
        "cross_entropy": recipe("cross_entropy(logits(a), logits(b))", more=", ema: 0.9, clip: 1.0"),
        "batchnorm": recipe("cross_entropy(logits(a))", "test_resnet", more=", sync_batchnorm: true"),
        "queue": recipe(
            "info_nce(z(a), toward=teacher.z(b), queue=48, temperature=0.2)", more=", sync_batchnorm: true"
        ),
        "byol": recipe("cosine(p(a), toward=teacher.z(b), swapped=True)", more=", sync_batchnorm: true"),
        "sam": recipe("cross_entropy(logits(a))", optimizer="sam(sgd(lr=0.01, momentum=0.9), rho=0.05)"),
        "adamw": recipe(
            "cross_entropy(logits(a))", optimizer="adamw(lr=1e-4, eps=1e-4)", more=", micro_batch: 3"
        ),  # pieces that are cut otherwise on each
        "fixmatch": load_recipe("fixmatch_digits", vit, *short, "train.batch_size=8"),
    }


CASES = ["cross_entropy", "batchnorm", "queue", "byol", "sam", "adamw", "fixmatch"]


def run_all(rank, folder):
    made = recipes()
    assert [*made] == CASES
    for name, each in made.items():
        train(each, f"{folder}/{name}", quiet=True)


NORMS = {
    "1d": (lambda: nn.BatchNorm1d(5), (8, 5)),
    "2d": (lambda: nn.BatchNorm2d(5, momentum=None), (8, 5, 3, 2)),
    "act": (lambda: BatchNormAct2d(5, act_layer=nn.SiLU, inplace=False), (8, 5, 3, 2)),
    "no weights": (lambda: nn.BatchNorm2d(5, affine=False), (8, 5, 3, 2)),
    "no statistics": (lambda: nn.BatchNorm2d(5, track_running_stats=False), (8, 5, 3, 2)),
}


SHARES = {2: (range(5), range(5, 8)), 4: (range(3), range(3, 4), range(4, 6), range(6, 8))}


def normalised(kind, world=1, rows=slice(None)):
    """What two batches of eight rows become, their gradients, and what remains; the loss weighs each number."""
    make, shape = NORMS[kind]
    norm = nn.Sequential(make()).double()
    sync_batchnorm(norm, world, torch.device("cpu"))
    generator, found = torch.Generator().manual_seed(0), {}
    for number in range(2):
        images, weights = torch.randn(2, *shape, generator=generator, dtype=torch.float64)
        mine = (3 * images + 50)[rows].clone().requires_grad_()
        made = norm(mine)
        (made * weights[rows]).sum().backward()
        found[f"rows made {number}"], found[f"rows grad {number}"] = made.detach(), mine.grad
    found |= {f"sum {name}": value.grad for name, value in norm.named_parameters()}
    return found | {name: value.clone() for name, value in norm.named_buffers()}


def worker(rank, folder, world):
    run_all(rank, folder)
    rows = list(SHARES[world][rank])
    torch.save({kind: normalised(kind, world, rows) for kind in NORMS}, f"{folder}/norms-{rank}.pt")
    dist.barrier()


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """All runs on one process."""
    folder = tmp_path_factory.mktemp("one")
    run_all(0, folder)
    return folder


@pytest.fixture(scope="module", params=[2, 4])
def several(request, tmp_path_factory):
    """How many processes, and the folder of their runs."""
    folder = tmp_path_factory.mktemp(f"on{request.param}")
    on_several(request.param, worker, str(folder), request.param)
    return request.param, folder


def weights(folder):
    return read_state(folder / "checkpoints" / "last.pt")["step"]


@pytest.mark.parametrize("case", CASES)
def test_weights_of_twenty_updates_are_those_of_one_process(one, several, case):
    _, folder = several
    alone, shared = weights(one / case), weights(folder / case)
    assert alone.keys() == shared.keys()
    for name, value in alone.items():
        torch.testing.assert_close(shared[name], value, rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")
    results = [json.loads((where / case / "result.json").read_text()) for where in (one, folder)]
    assert results[0].keys() == results[1].keys()


@pytest.mark.parametrize("kind", NORMS)
def test_batchnorm_on_cpus_is_that_of_the_joined_batch(several, kind):
    world, folder = several
    alone = normalised(kind)
    each = [torch.load(folder / f"norms-{rank}.pt")[kind] for rank in range(world)]
    for name, value in alone.items():
        found = [process[name] for process in each]
        if name.startswith("rows"):
            found = [torch.cat(found)]
        if name.startswith("sum"):
            found = [sum(found)]
        for mine in found:
            torch.testing.assert_close(mine, value, rtol=1e-9, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}")
