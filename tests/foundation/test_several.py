"""Processes that were joined leave without an abort, whatever of the group is still held."""

import subprocess
import sys
from pathlib import Path

import pytest

LEFT = """
import sys
from pathlib import Path
import torch.distributed as dist
from manyview.foundation.group import leave
dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
from manyview.foundation.distributed import gather
leave()
print(*(path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")))
"""


@pytest.mark.slow(reason="torch in a process of its own")
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads are counted as Linux tells of them")
def test_nothing_of_ours_holds_a_group_that_was_left():
    done = subprocess.run([sys.executable, "-c", LEFT], capture_output=True, text=True, check=True)
    assert "gloo" not in done.stdout
