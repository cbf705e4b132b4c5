"""What a run, and the making of a step, leave behind in a process: nothing."""

import os
import random
import signal
import threading
import time
import warnings

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState

from manyview import ManyviewError, Step, parse_recipe
from manyview.errors import Interrupted
from manyview.training.surroundings import left_as_found
from manyview.training.train import train

RECIPE = """
data: {source: digits, limit: 120, render: memory}
views: {a: {from: image, make: "pad_crop(8, padding=1)"}, b: {like: a}}
branches: {net: {backbone: "cresnet20(drop_rate=0.1)", normalize: half}}
relations: ['cross_entropy(logits(a), logits(b))']
train: {steps: 4, batch_size: 24, optimizer: "sgd(lr=0.05)", precision: bf16, accumulate: 2, log_every: 1}
"""
ENDINGS = {
    "finished": ([], None),
    "refused by the schedule": (["train.schedule=cosine(warmup='4 steps')"], "leaves nothing of a run"),
    "refused by the data": (["data.limit=100000"], "data.limit"),
    "diverged": (["train.optimizer.lr=1e9", "train.steps=30"], "is not finite"),
    "interrupted": (["train.steps=4000"], "continue with the same command"),
}


def state():
    """All that is everybody's in a process, so that it can be compared."""
    return {
        "torch": torch.get_rng_state().tolist(),
        "cuda": [each.tolist() for each in torch.cuda.get_rng_state_all()] if torch.cuda.is_available() else [],
        "numpy": str(np.random.get_state()),  # noqa: NPY002
        "python": random.getstate(),
        "cudnn": (torch.backends.cudnn.enabled, torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic),
        "threads": torch.get_num_threads(),
        "modes": (torch.is_grad_enabled(), torch.get_default_dtype(), torch.are_deterministic_algorithms_enabled()),
        "filters": list(warnings.filters),
        "shown by": warnings.showwarning,
        "signals": [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)],
        "variables": dict(os.environ),
        "accelerate": [dict(kind._shared_state) for kind in (AcceleratorState, GradientState, PartialState)],
    }


@pytest.fixture
def unusual():
    """A process that has its own ways; its ways of before come back."""
    with left_as_found(), warnings.catch_warnings():
        torch.manual_seed(5)
        np.random.seed(6)  # noqa: NPY002
        random.seed(7)
        torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = True, False
        warnings.simplefilter("ignore", BytesWarning)
        yield


def stop_once_it_writes(path):
    while not (path.exists() and path.read_text().count("\n") > 1):
        time.sleep(0.002)
    os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_run_leaves_all_as_it_was_however_it_ends(tmp_path, unusual, ending):
    overrides, message = ENDINGS[ending]
    recipe = parse_recipe(RECIPE, *overrides)
    before = state()
    stopper = threading.Thread(target=stop_once_it_writes, args=(tmp_path / "run" / "metrics.jsonl",), daemon=True)
    if ending == "interrupted":
        stopper.start()
    if message is None:
        train(recipe, tmp_path / "run", quiet=True)
    else:
        with pytest.raises(ManyviewError, match=message) as caught:
            train(recipe, tmp_path / "run", quiet=True)
        assert (ending == "interrupted") == isinstance(caught.value, Interrupted)
    after = state()
    for name, value in before.items():
        assert after[name] == value, name


def test_an_accelerator_of_ones_own_goes_on(tmp_path, unusual):
    """Its precision and the parts that it accumulates are read from states that all accelerators share."""
    mine = Accelerator(cpu=True, gradient_accumulation_steps=3)
    before = state()["accelerate"]
    train(parse_recipe(RECIPE), tmp_path / "run", quiet=True)
    assert state()["accelerate"] == before
    assert mine.mixed_precision == "no"
    assert mine.gradient_accumulation_steps == 3


def test_the_block_may_change_what_it_likes():
    @left_as_found()
    def block():
        torch.manual_seed(1)
        np.random.seed(1)  # noqa: NPY002
        random.seed(1)
        torch.set_num_threads(torch.get_num_threads() + 1)
        torch.backends.cudnn.benchmark = True
        os.environ["SAID_IN_THE_BLOCK"] = "1"
        warnings.simplefilter("error")
        raise KeyError

    before = state()
    with pytest.raises(KeyError):
        block()
    assert state() == before


def test_making_a_step_leaves_all_generators_alone(unusual, monkeypatch):
    """Those of GPUs too, which torch.manual_seed would seed, even before there is one."""
    asked = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", asked.append)
    before = state()
    Step(parse_recipe(RECIPE), 10)
    assert state() == before
    assert asked == []


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_generators_of_a_gpu_are_left_alone(tmp_path):
    torch.cuda.manual_seed_all(3)
    expected = torch.rand(4, device="cuda")
    torch.cuda.manual_seed_all(3)
    Step(parse_recipe(RECIPE), 10)
    train(parse_recipe(RECIPE), tmp_path / "run", quiet=True)
    assert torch.equal(torch.rand(4, device="cuda"), expected)
