"""One at a time."""

import threading
import time

import pytest

from manyview.foundation.lock import alone_at


def test_others_wait_or_are_told(tmp_path):
    inside, most = [], []

    def enter():
        with alone_at(tmp_path / "below" / "lock"):
            inside.append(1)
            most.append(len(inside))
            time.sleep(0.02)
            inside.pop()

    threads = [threading.Thread(target=enter) for _ in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert most == [1, 1, 1, 1]
    with alone_at(tmp_path / "lock"), pytest.raises(BlockingIOError), alone_at(tmp_path / "lock", wait=False):
        pass
