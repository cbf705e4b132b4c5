"""Checkpoints behind one another, written while training goes on; a damaged one, and a disk that is full."""

import errno
import os
import resource
import shutil
import signal
from collections import OrderedDict
from pathlib import Path

import pytest
import torch

from killed import assert_equal
from manyview import parse_recipe
from manyview.errors import DamagedError, ManyviewWarning, RunError
from manyview.foundation.files import read_state, write_state
from manyview.training.saving import LARGE, WHOLE, Copy, Saver, kept, move_on
from manyview.training.train import train
from processes import server

RECIPE = """
data: {source: digits, limit: 64, render: memory}
views: {a: {from: image, make: "pad_crop(8, padding=1)"}}
branches: {net: {backbone: cresnet20, normalize: half}}
relations: ["cross_entropy(logits(a))"]
train: {steps: 12, batch_size: 16, checkpoint_every: 2 steps, log_every: 1, checkpoints: 3, track: []}
"""


def numbers(path):
    return [read_state(each)["run"]["number"] for each in kept(path)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    train(parse_recipe(RECIPE), folder, quiet=True)
    return folder


@pytest.fixture
def stopped(tmp_path, whole):
    """The run before its result was written."""
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    (folder / "result.json").unlink()
    return folder


def hurt(path, at=0.5):
    data = bytearray(path.read_bytes())
    data[int(len(data) * at)] ^= 1
    path.write_bytes(data)


def test_the_last_are_kept_and_the_best_alone(whole):
    last = whole / "checkpoints" / "last.pt"
    assert [each.name for each in kept(last)] == ["last.pt", "last-1.pt", "last-2.pt"]
    assert numbers(last) == [12, 10, 8]
    assert sorted(each.name for each in last.parent.iterdir()) == ["best.pt", "last-1.pt", "last-2.pt", "last.pt"]


def test_room_is_made_for_a_new_one(tmp_path):
    path = tmp_path / "last.pt"
    for number in range(5):
        move_on(path, 3)
        assert path.exists() == (number > 0)  # which the new one then replaces
        path.unlink(missing_ok=True)
        path.write_text(str(number))
    assert [each.read_text() for each in kept(path)] == ["4", "3", "2"]
    move_on(path, 1)  # kept fewer from here on
    assert [each.read_text() for each in kept(path)] == ["4"]
    (tmp_path / "last-own.pt").write_text("mine")
    assert [each.name for each in kept(path)] == ["last.pt"]


@pytest.mark.parametrize("bad", [1, 2])
@pytest.mark.parametrize("how", ["a bit", "cut short", "empty"])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(stopped, whole, bad, how):
    last = stopped / "checkpoints" / "last.pt"
    for path in kept(last)[:bad]:
        hurt(path) if how == "a bit" else path.write_bytes(path.read_bytes()[: 5000 if how == "cut short" else 0])
    used, number = kept(last)[bad].name, [12, 10, 8][bad]
    why = ": it is cut short" if how == "cut short" else ".*"
    with pytest.warns(ManyviewWarning, match=rf"last\.pt is .*{why}; going on from {used}, of step {number}$"):
        train(parse_recipe(RECIPE), stopped, resume=True, quiet=True)
    for name in ("last.pt", "best.pt"):
        assert_equal(read_state(last.with_name(name)), read_state(whole / "checkpoints" / name), name)
    assert numbers(last) == [12, 10, 8]
    assert last.with_name("last.pt.damaged").is_file()


def test_none_is_whole(stopped):
    for path in (stopped / "checkpoints").glob("last*.pt"):
        hurt(path)
    told = r"last\.pt is damaged, .* the checksum of its part \S+ .*, and so are last-1\.pt, last-2\.pt; begin anew"
    with pytest.raises(DamagedError, match=told) as caught:
        train(parse_recipe(RECIPE), stopped, resume=True, quiet=True)
    assert "\n" not in str(caught.value)


def test_a_checkpoint_is_missing_and_the_one_before_is_there(stopped, whole):
    (stopped / "checkpoints" / "last.pt").unlink()
    train(parse_recipe(RECIPE), stopped, resume=True, quiet=True)
    assert_equal(*[read_state(run / "checkpoints" / "last.pt") for run in (stopped, whole)])


def test_damaged_best_weights_are_told_and_chosen_anew(stopped):
    hurt(stopped / "checkpoints" / "best.pt")
    shutil.copy(stopped / "checkpoints" / "last-1.pt", stopped / "checkpoints" / "last.pt")
    with pytest.warns(ManyviewWarning, match=r"best\.pt is damaged.*; the best are chosen among those of step 10 and"):
        result = train(parse_recipe(RECIPE), stopped, resume=True, quiet=True)
    assert read_state(stopped / "checkpoints" / "best.pt")["run"]["number"] == 12
    assert result["selected_by"] == "validation top1"


def test_a_checkpoint_of_more_updates_than_the_run_has(stopped):
    last = stopped / "checkpoints" / "last.pt"
    saved = read_state(last)
    saved["run"]["number"] = 10**9
    write_state(last, saved)
    with pytest.raises(RunError, match=r"says that 1,000,000,000 updates were made; the run has 12$"):
        train(parse_recipe(RECIPE), stopped, resume=True, quiet=True)


# ------------------------------------------------------------------------------------------------- while it trains


def state():
    weight = torch.randn(3, 4, 5, 5).to(memory_format=torch.channels_last)
    state = OrderedDict(weight=weight, tied=weight.detach(), none=None, deep=[{"x": torch.arange(3)}, (1.5, "text")])
    state._metadata = {"": {"version": 2}}
    return state


def test_a_copy_is_what_was_there_and_nothing_of_it_changes():
    given = state()
    expected = given["weight"].clone()
    first = Copy([])
    copied = first.of(given)
    given["weight"].zero_()
    assert torch.equal(copied["weight"], expected)
    assert copied["weight"].stride() == expected.stride()
    assert copied["tied"] is copied["weight"]
    assert copied["deep"][1] == (1.5, "text")
    assert copied._metadata == given._metadata
    places = [tensor.data_ptr() for tensor in first.taken]
    second = Copy(first.taken)
    assert torch.equal(second.of(given)["weight"], given["weight"])
    assert [tensor.data_ptr() for tensor in second.taken] == places  # no memory is asked for twice


@pytest.mark.parametrize("size", [100, LARGE // 8, LARGE // 4 + 1])
def test_what_is_saved_is_of_that_moment_and_in_order(tmp_path, size):
    value = torch.zeros(size)
    with Saver(4) as saver:
        for number in range(6):
            value.fill_(number)
            saver.save(tmp_path / "last.pt", {"value": value, "number": number})
            value.fill_(-1)
            if size == 100:
                assert read_state(tmp_path / "last.pt")["number"] == number
    assert [float(read_state(path)["value"].mean()) for path in kept(tmp_path / "last.pt")] == [5, 4, 3, 2]


@pytest.mark.parametrize("size", [1, LARGE])
def test_an_error_ends_the_next_save_or_the_block(tmp_path, size):
    (tmp_path / "last.pt").mkdir()
    state = {"value": torch.zeros(size)}
    with pytest.raises(RunError, match=r"^cannot write .*last\.pt: "), Saver(2) as saver:
        saver.save(tmp_path / "last.pt", state)
    if size == 1:
        return
    with pytest.raises(RunError, match=r"^the first error$"):
        fail_both(tmp_path / "last.pt", state)


def fail_both(path, state):
    with Saver(2) as saver:
        saver.save(path, state)
        raise RunError("the first error")


def on_a_full_disk(folder, size):
    """A limit on the size of a file is the one full disk that a test can make without rights."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    try:
        train(parse_recipe(RECIPE), folder, resume=True, quiet=True)
    except RunError as error:
        Path(f"{folder}.told").write_text(str(error))


@pytest.mark.skipif(not hasattr(signal, "SIGXFSZ"), reason="no limits on files")
def test_a_full_disk_ends_the_run_with_the_old_checkpoint_whole(stopped, whole):
    last = stopped / "checkpoints" / "last.pt"
    for path in kept(last)[:2]:  # it stands at step 8
        path.unlink()
    before = last.with_name("last-2.pt").read_bytes()
    process = server().Process(target=on_a_full_disk, args=(stopped, len(before) // 2))
    process.start()
    process.join(60)
    assert process.exitcode == 0
    told = Path(f"{stopped}.told").read_text()
    assert told == f"cannot write {last}: {os.strerror(errno.EFBIG)}{WHOLE}"
    assert last.with_name("last-2.pt").read_bytes() == before
    assert not [*last.parent.glob(".*")]
    train(parse_recipe(RECIPE), stopped, resume=True, quiet=True)
    assert_equal(read_state(last), read_state(whole / "checkpoints" / "last.pt"))
