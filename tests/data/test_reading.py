"""A worker that dies, and an image that never comes back: named in one line, and left out where the recipe says so."""

import multiprocessing
import os
import re
import signal
import time
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from manyview.data.loader import Batches, load
from manyview.data.once import Once, read_once
from manyview.data.reading import LOST, _ended
from manyview.errors import ManyviewWarning, RunError
from manyview.evaluate.outputs import collect
from subjects import pictures

BAD = 5


class Odd:
    """Images of which one does something else than to be read, so often."""

    def __init__(self, what, folder, times=1000):
        self.whole, self.what, self.folder, self.times = pictures(16), what, folder, times
        self.labels, self.index, self.size, self.channels = self.whole.labels, self.whole.index, None, 3

    def __len__(self):
        return len(self.whole)

    def read(self, position, scale=1):
        done = len(list(self.folder.iterdir()))
        if position == BAD and done < self.times:
            (self.folder / str(done)).touch()
            os.kill(os.getpid(), signal.SIGKILL) if self.what == "dies" else time.sleep(1000)
        return self.whole.read(position)

    def size_of(self, position):
        return None

    def name(self, position):
        return f"picture {position}"


def batches(images, skip=True):
    return Batches(images, 4, 4, seed=1, skip=skip)


def read(images, skip=True, workers=2):
    return list(load(batches(images, skip), 0, 8, workers, patience=0.5))


def tensors(made):
    return [(batch.images, batch.index, [*batch.skipped]) for batch in made]


@pytest.mark.parametrize("what", ["hangs", "dies"])
def test_an_image_that_a_reader_cannot_leave_is_left_out(tmp_path, what):
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always", ManyviewWarning)
        made = read(Odd(what, tmp_path))
    line = "picture 5: reading it took longer than 0.5 s"
    if what == "dies":
        line = (
            r"a process that reads images (is killed.*|exited unexpectedly), at picture 5, perhaps for want of memory"
        )
        assert len(seen) == 1
        assert re.match(rf"{line}.*; its batch is read again$", str(seen[0].message))
    skipped = [told for batch in made for told in batch.skipped]
    assert len(skipped) == 2  # once an epoch
    assert all(re.match(line, told) for told in skipped)
    plan = batches(pictures(16))
    for number, batch in enumerate(made):
        epoch, positions = plan.positions(number)
        expected = [int(p) if p != BAD else next(plan.instead_of(BAD, epoch)) for p in positions]
        assert batch.index.tolist() == expected
        assert torch.equal(batch.images, pictures(16).pixels[expected])


@pytest.mark.parametrize(("end", "told"), [("exit", "exited unexpectedly"), ("kill", "is killed by signal: Killed")])
def test_an_end_that_torch_has_not_noticed_is_told_as_torch_would(end, told):
    """What a worker handed over lies with it: to take it fails in other ways than torch's where it dies just then."""
    worker = multiprocessing.get_context("fork").Process(
        target=os._exit if end == "exit" else signal.raise_signal, args=(3 if end == "exit" else signal.SIGKILL,)
    )
    worker.start()
    found = _ended(SimpleNamespace(_workers=[worker]), EOFError())
    assert found == f"DataLoader worker (pid {worker.pid}) {told}"
    assert LOST.search(found)
    with pytest.raises(FileNotFoundError, match="in DataLoader worker process 0"):
        _ended(SimpleNamespace(_workers=[worker]), FileNotFoundError("Caught it in DataLoader worker process 0."))


def test_a_worker_that_died_once_changes_nothing(tmp_path):
    with pytest.warns(ManyviewWarning, match=r"at picture 5, perhaps .*; its batch is read again$"):
        made = tensors(read(Odd("dies", tmp_path, times=1)))
    for (images, index, skipped), whole in zip(made, load(batches(pictures(16)), 0, 8, 0), strict=True):
        assert torch.equal(images, whole.images)
        assert torch.equal(index, whole.index)
        assert skipped == []


TOLD = {
    "hangs": r"^picture 5: reading it took longer than 0\.5 s; repair it, leave such images out with data\.on_bad_",
    "dies": r"^a process that reads images (is killed|exited).*, at picture 5, perhaps .*; try fewer data\.workers",
}


@pytest.mark.parametrize("what", TOLD)
def test_without_skipping_it_is_one_line(tmp_path, what):
    with pytest.raises(RunError, match=TOLD[what]) as caught:
        read(Odd(what, tmp_path), skip=False)
    assert "\n" not in str(caught.value)


def test_evaluation_waits_as_long_as_the_run_says(tmp_path):
    with pytest.raises(RunError, match=TOLD["hangs"]):
        collect(None, Odd("hangs", tmp_path), workers=1, patience=0.5)


def test_evaluation_names_it_too(tmp_path):
    with pytest.warns(ManyviewWarning, match="its batch is read again"):
        parts = list(read_once(Once(Odd("dies", tmp_path), np.arange(16), 4, skip=True), workers=1))
    assert np.concatenate([part.kept for part in parts]).tolist() == [n for n in range(16) if n != BAD]
