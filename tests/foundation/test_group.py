"""Processes that form a group or say in one line why not; what one refuses, all refuse."""

import os
import re
import signal
import socket

import pytest
import torch

from manyview.errors import REQUEUE, DataError, Interrupted, Lost, RunError
from manyview.foundation.group import as_one, check_alike, join, losing_none
from processes import on_two

pytestmark = pytest.mark.slow(reason="two processes")


def refusal(act):
    """What is told, and by whom."""
    try:
        act()
    except RunError as error:
        return [str(error), error.tells, type(error).__name__]
    return None


def refusing(text):
    with as_one():
        if text:
            raise DataError(text)


def stopping(rank):
    with as_one():
        if rank:  # the signal has not come to the first yet
            raise Interrupted("stopped", signal.SIGTERM)


def losing():
    with losing_none():
        raise RuntimeError("[pair.cc:538] Read error [127.0.0.1]:3: Connection reset by peer\nmore")


def worker(rank, folder, ports):
    found, right = {}, dict(os.environ)
    cases = {"size": {"WORLD_SIZE": str(2 + rank)}, "one of three": {"WORLD_SIZE": "3"}}
    for (case, wrong), port in zip(cases.items(), ports, strict=True):
        seconds = "2" if case == "one of three" else "60"
        os.environ.update(right, MASTER_PORT=str(port), MANYVIEW_JOIN_SECONDS=seconds, **wrong)
        found[case] = refusal(join)
    os.environ.update(right)
    join()
    found["none"] = refusal(lambda: refusing(""))
    found["all"] = [type(error).__name__ for error in [_raised(lambda: refusing("broken"))]]
    found["second"] = refusal(lambda: refusing("broken" if rank else ""))
    found["stopped"] = [error.code for error in [_raised(lambda: stopping(rank))]]
    found["recipe"] = refusal(lambda: check_alike({"recipe": f"steps: {rank}", "folder": "runs/x"}))
    found["lost"] = refusal(losing)
    torch.save(found, f"{folder}/{rank}.pt")


def _raised(act):
    try:
        act()
    except (DataError, Interrupted) as error:
        return error


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    on_two(worker, str(folder), free_ports(2))
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize(
    ("case", "told", "tells"),
    [
        ("size", r"process 1 has another WORLD_SIZE than process 0 \(3, not 2\); .*", [True, False]),
        ("one of three", r"2 of 3 processes came to 127.0.0.1:\d+ within 2 s, RANK 2 did not; .*", [True, False]),
        ("second", r"process 1 of 2: broken", [True, False]),
        ("recipe", r"process 1 has another recipe than process 0 \(steps: 1, not steps: 0\); .*", [True, False]),
        ("lost", r"another process of the group ended, .*\(Connection reset by peer\); .*", [True, False]),
    ],
)
def test_all_refuse_and_the_first_tells(two, case, told, tells):
    for process in two:
        assert re.fullmatch(told, process[case][0])
    assert [process[case][1] for process in two] == tells


def test_what_all_refuse_stays_the_mistake_it_is(two):
    assert all(process["none"] is None and process["all"] == ["DataError"] for process in two)
    assert {process["lost"][2] for process in two} == {Lost.__name__}


def test_what_a_scheduler_stops_all_leave_to_be_queued_again(two):
    assert [found["stopped"] for found in two] == [[REQUEUE], [REQUEUE]]


def test_one_alone_is_no_group(monkeypatch):
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    join()
    assert not torch.distributed.is_initialized()
    with pytest.raises(DataError, match="broken"):
        refusing("broken")
