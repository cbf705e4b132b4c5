"""Two processes with half of the batch each, and four with a quarter, = one with all, in every term and gradient."""

import functools

import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from manyview.foundation.distributed import gather
from manyview.load import parse_recipe
from manyview.relations.agmax import AGREEMENTS
from manyview.relations.similarity import KINDS, WHOLE_BATCH
from manyview.step import Step
from processes import on_several

pytestmark = pytest.mark.slow(reason="two processes, and four")
B, C = 8, 5
NET = "vit_tiny_patch16_224(img_size=16, patch_size=8, depth=1, embed_dim=32, num_heads=2)"  # no BatchNorm
CASES = {
    "cross_entropy": ("cross_entropy(logits(a), logits(b))",),
    "smoothing": ("cross_entropy(logits(a), smoothing=0.1)",),
    "reweigh": ("cross_entropy(logits(seen), logits(seen_often), reweigh=True)",),
    "poly": ("cross_entropy(logits(a), poly=2)",),
    **{f"similarity-{kind}": (f"similarity(h(a), h(b), kind='{kind}')",) for kind in KINDS},
    "agmax": ("agmax(logits(a), logits(b), hidden=16)",),
    "agmax-sum": ("agmax(logits(a), logits(b), hidden=16, over_classes='sum')",),
    **{f"agreement-{kind}": (f"agreement(logits(a), logits(b), kind='{kind}')",) for kind in AGREEMENTS},
    "similarity-where": ("similarity(h(a), h(b), kind='cosine', where=stop(logits(c)), threshold=0.25)",),
    "similarity-right": ("similarity(h(a), h(b), where=stop(logits(c)), threshold='right')",),
    "pseudo_label": ("pseudo_label(logits(a), toward=stop(logits(b)), threshold=0.25)",),
    "pseudo_label-sharpen": ("pseudo_label(logits(a), toward=stop(logits(b)), threshold=0.2, sharpen=0.4)",),
    "pseudo_label-family": ("pseudo_label(logits(more), toward=stop(logits(more)), threshold=0.25)",),
    "pseudo_label-fairness": ("pseudo_label(logits(a), toward=stop(logits(b)), threshold=free(), fairness=0.5)",),
    "pseudo_label-soft": ("pseudo_label(logits(a), toward=stop(logits(b)), threshold=soft(momentum=0.5, align=True))",),
    "jensen_shannon": ("jensen_shannon(logits(a), logits(b), logits(c))",),
    "joint": ("joint_cross_entropy(joint(r))",),
    "joint-sum": ("joint_cross_entropy(joint(r), reduction='sum')",),
    "orbit": ("orbit_cross_entropy(turn(r))",),
    "distill": ("joint_cross_entropy(joint(r))", "distill(logits(r.0), toward=stop(aggregate(joint(r))))"),
    "all": (
        "cross_entropy(logits(a), logits(b))",
        "similarity(h(a), h(b), kind='vicreg', weight=2)",
        "agmax(logits(a), logits(b), hidden=16)",
        "jensen_shannon(logits(a), logits(c), weight=12)",
        "joint_cross_entropy(joint(r))",
        "distill(logits(r.0), toward=stop(aggregate(joint(r))))",
    ),
    "cosine": ("cosine(p(a), toward=stop(z(b)), weight=0.5, swapped=True)",),
    "frozen": ("distill(logits(a), toward=still.logits(a), temperature=4)", "similarity(h(b), still.h(b))"),
    "cosine-ema": ("cosine(p(a), toward=teacher.z(b), weight=2, swapped=True)",),
    "nt_xent": ("nt_xent(z(a), z(b), temperature=0.2)",),
    "nt_xent-chunk": ("nt_xent(z(a), z(b), temperature=0.2, chunk=3)",),
    "info_nce": ("info_nce(z(a), toward=teacher.z(b), queue=12, temperature=0.2)",),
    "swav": ("swav(z(a), z(b), prototypes=4)",),
    "swav-others": ("swav(z(a), z(b), others=z(more), prototypes=4)",),
    "vicreg": ("vicreg(z(a), z(b))",),
    "barlow_twins": ("barlow_twins(z(a), z(b))",),
    "supervised_contrastive": ("supervised_contrastive(z(a), z(b))",),
    "supervised_contrastive-family": ("supervised_contrastive(z(more), z(b))",),
}
# state of every kind: a teacher, a queue that each update overruns, prototypes that thaw
LEARNING = {
    "moco": ("info_nce(z(a), toward=teacher.z(b), queue=12, temperature=0.2)",),
    "swav": ("swav(z(a), z(b), others=z(more), prototypes=4, freeze=1)",),
    "flex": ("pseudo_label(logits(a), toward=stop(logits(b)), threshold=flex(0.25))",),
    "free": ("pseudo_label(logits(a), toward=stop(logits(b)), threshold=free(momentum=0.5), fairness=0.1)",),
    "soft": ("pseudo_label(logits(a), toward=teacher.logits(b), threshold=soft(momentum=0.5))",),
    "both-swapped": (
        "info_nce(z(a), toward=teacher.z(b), queue=20, temperature=0.2, swapped=True)",
        "swav(z(a), z(b), prototypes=4)",
        "cosine(p(a), toward=teacher.z(b), swapped=True)",
    ),
}
NOT_A_MEAN_OVER_ROWS = [
    *(f"similarity-{kind}" for kind in WHOLE_BATCH),
    *("agmax", "agmax-sum", "all", "nt_xent", "nt_xent-chunk", "swav", "swav-others", "vicreg", "barlow_twins"),
    *("supervised_contrastive", "supervised_contrastive-family"),
]


def make(case, train="epochs: 1"):
    lines = ", ".join(f'"{line}"' for line in case)
    text = f"""
    views:
      a: {{from: image, make: "pad_crop(16, padding=2) | flip(0.5)"}}
      b: {{like: a}}
      c: {{like: a}}
      r: {{from: a, orbit: rotation}}
      more: {{from: a, make: "flip(0.5) | grayscale(0.5)", count: 2}}
      seen: {{from: image, make: "pad_crop(16, padding=8) | soften"}}
      seen_often: {{from: image, make: "pad_crop(16, padding=8) | cutout(6) | soften(3)", count: 2}}
    branches:
      net:
        backbone: "{NET}"
        joint: linear(h, orbit=r)
        turn: linear(h, 4)
        z: mlp(h, 16, 6)
        p: mlp(z, 16, 6)
      teacher: ema(net, momentum=0.7, schedule='cosine')
      still: frozen()
    relations: [{lines}]
    train: {{{train}}}
    """
    return Step(parse_recipe(text), C, total_steps=4, backbone={"still": still()} if "still." in text else None)


def still():
    """A teacher of its own, whose BatchNorm would differ by process if it looked in training mode."""
    torch.manual_seed(1)
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 32, 4, 4), torch.nn.BatchNorm2d(32), torch.nn.AdaptiveAvgPool2d(1))
    return torch.nn.Sequential(network, torch.nn.Flatten(), torch.nn.Linear(32, C))


def batch(rows=slice(None), seed=0):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (B, 3, 16, 16), generator=generator, dtype=torch.uint8)
    return (images[rows], (torch.arange(B) % C)[rows]), {"index": torch.arange(B)[rows] + 50, "epoch": 1}


def measured(module, rows=slice(None)):
    """Terms and gradients of one step."""
    args, kwargs = batch(rows)
    out = module(*args, **kwargs)
    out["loss"].backward()
    grads = {name.removeprefix("module."): p.grad for name, p in module.named_parameters() if p.requires_grad}
    return {"terms": {name: value.detach() for name, value in out["terms"].items()}, "grads": grads}


@functools.cache
def alone(case):
    """What one process with the whole batch measures."""
    return measured(make(CASES[case]))


def updates(module, step, rows=slice(None), count=3):
    """The state after some updates."""
    optimizer = torch.optim.SGD([p for p in module.parameters() if p.requires_grad], lr=0.1, momentum=0.9)
    for seed in range(count):
        optimizer.zero_grad()
        args, kwargs = batch(rows, seed)
        module(*args, **kwargs)["loss"].backward()
        optimizer.step()
        step.after_step()
    return step.state_dict()


def worker(rank, folder, world):
    dist.init_process_group("gloo")
    rows = slice(rank * B // world, (rank + 1) * B // world)
    found = {case: measured(DistributedDataParallel(make(CASES[case])), rows) for case in CASES}
    step = make(CASES["all"], train="epochs: 1, ema: 0.5")
    found["updates"] = updates(DistributedDataParallel(step), step, rows)
    for case, lines in LEARNING.items():
        step = make(lines, train="steps: 6")
        found[f"updates-{case}"] = updates(DistributedDataParallel(step), step, rows)

    own = torch.arange(6.0).view(2, 3) + 10 * rank
    mine = own.clone().requires_grad_()
    all_rows = gather(mine)
    # every process weighs all rows in its own way: gradients must be summed over the processes
    (all_rows * (rank + 1) * torch.arange(2.0 * world)[:, None]).sum().backward()
    strided = gather(torch.arange(6.0).view(3, 2).T)  # not contiguous
    found["gather"] = {"rows": all_rows.detach(), "grad": mine.grad, "strided": strided}
    torch.save(found, f"{folder}/{rank}.pt")
    dist.barrier()


@pytest.fixture(scope="module", params=[2, 4])
def several(request, tmp_path_factory):
    """What each process found, for all cases."""
    folder = tmp_path_factory.mktemp("several")
    on_several(request.param, worker, str(folder), request.param)
    return [torch.load(folder / f"{rank}.pt") for rank in range(request.param)]


@pytest.mark.parametrize("case", CASES)
def test_terms_are_those_of_the_joined_batch(several, case):
    one = alone(case)["terms"]
    assert list(one) == list(several[0][case]["terms"])
    for name, value in one.items():
        mean = sum(process[case]["terms"][name] for process in several) / len(several)
        torch.testing.assert_close(mean, value, rtol=1e-5, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("case", CASES)
def test_gradients_are_those_of_the_joined_batch(several, case):
    one = alone(case)["grads"]
    assert one
    assert all(value is not None for value in one.values())
    largest = max(float(value.abs().max()) for value in one.values())
    for name, value in one.items():
        # float32 sums in another order: 1e-5 of the parameter's largest gradient, which may be 0 (a bias that the loss
        # takes out again), where rounding adds up over B rows of the largest of all
        close = 1e-5 * float(value.abs().max()) + B * 2**-23 * max(1.0, largest)
        for process in several:
            found = process[case]["grads"][name]
            torch.testing.assert_close(found, value, rtol=1e-4, atol=close, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("case", NOT_A_MEAN_OVER_ROWS)
def test_the_comparison_can_tell(case):
    """Without a gather these losses would be the mean of two halves, which is another number."""
    whole = sum(alone(case)["terms"].values())
    halves = [sum(measured(make(CASES[case]), rows)["terms"].values()) for rows in (slice(0, B // 2), slice(B // 2, B))]
    assert abs(float(sum(halves) / 2 - whole)) > 1e-3 * abs(float(whole))


def test_updates_with_averaged_weights_are_those_of_one_process(several):
    step = make(CASES["all"], train="epochs: 1, ema: 0.5")
    one = updates(step, step)
    assert list(one) == list(several[0]["updates"])
    for name, value in one.items():
        torch.testing.assert_close(several[0]["updates"][name], value, rtol=1e-4, atol=1e-5, msg=name)
        assert torch.equal(several[0]["updates"][name], several[-1]["updates"][name]), name


@pytest.mark.parametrize("case", LEARNING)
def test_teachers_queues_and_prototypes_are_those_of_one_process(several, case):
    step = make(LEARNING[case], train="steps: 6")
    begun = {name: value.clone() for name, value in step.state_dict().items()}
    one = updates(step, step)
    found = [process[f"updates-{case}"] for process in several]
    assert list(one) == list(found[0])
    lines = " ".join(LEARNING[case])
    kinds = {"branches.teacher.": "teacher", ".queue": "queue", ".prototypes": "prototypes", ".rule.": "threshold="}
    for kind, said in kinds.items():
        names = [name for name in one if kind in name]
        assert bool(names) == (said in lines)
        assert all(not torch.equal(one[name], begun[name]) for name in names if "num_batches" not in name)
    for name, value in one.items():
        torch.testing.assert_close(found[0][name], value, rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")
        assert torch.equal(found[0][name], found[-1][name]), name


def test_gather_joins_rows_in_rank_order_and_sums_gradients(several):
    world = len(several)
    rows = torch.cat([torch.arange(6.0).view(2, 3) + 10 * rank for rank in range(world)])
    for rank, process in enumerate(several):
        assert torch.equal(process["gather"]["rows"], rows)
        assert torch.equal(process["gather"]["strided"], torch.arange(6.0).view(3, 2).T.repeat(world, 1))
        # rows 2 rank and 2 rank + 1 are weighed 1, 2, … times their number by the processes
        expected = sum(range(1, world + 1)) * torch.tensor([2.0 * rank, 2.0 * rank + 1])[:, None].expand(2, 3)
        assert torch.equal(process["gather"]["grad"], expected)


def test_gather_on_a_single_process_is_the_tensor_itself():
    rows = torch.randn(3, 2)
    assert gather(rows) is rows
