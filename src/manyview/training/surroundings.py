"""A run leaves the process as it found it: generators, switches, filters and variables that are everybody's."""

from __future__ import annotations

import contextlib
import os
import random
import warnings
from collections.abc import Iterator

import numpy as np
import torch
from accelerate.state import AcceleratorState, GradientState, PartialState

SHARED = (AcceleratorState, GradientState, PartialState)  # of accelerate, whose objects all have one state a process


@contextlib.contextmanager
def left_as_found() -> Iterator[None]:
    """Puts back, whichever way the block ends, what it may change for all of the process.

    These are the generators of torch (on all devices), NumPy and Python, cuDNN's switches, the number of torch's
    threads, filters of warnings, variables of the environment, and accelerate's states; signals are `interruptible`'s.
    Inside, cuDNN is deterministic, and accelerate begins anew: else a second run could not choose its precision. A
    group of processes stays, since the others are in it too.
    """
    generators = random.getstate(), np.random.get_state()  # noqa: NPY002
    switches = torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic
    threads, variables = torch.get_num_threads(), dict(os.environ)
    states = [dict(kind._shared_state) for kind in SHARED]
    for kind in (AcceleratorState, GradientState):
        kind._shared_state.clear()
    try:
        with torch.random.fork_rng([*range(torch.cuda.device_count())]), warnings.catch_warnings():
            # the fastest algorithm may be another one next time, and then a resumed run would differ
            torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = False, True
            yield
    finally:
        for kind, state in zip(SHARED, states, strict=True):
            kind._shared_state.clear()
            kind._shared_state.update(state)
        random.setstate(generators[0])
        np.random.set_state(generators[1])  # noqa: NPY002
        torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = switches
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        if dict(os.environ) != variables:
            os.environ.clear()
            os.environ.update(variables)
