"""The script that runs tests as if on another processor."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import instruction_sets
from instruction_sets import ROOT, SETTINGS, other


def test_kernels_never_keep_this_machines_instructions_under_anothers_name_unawares():
    for name in ("avx2", "sse"):
        assert SETTINGS[name]["NUMBA_CPU_FEATURES"] == ""
    assert "NUMBA_CPU_FEATURES" not in SETTINGS["kernels"]  # which tries just that


@pytest.mark.skipif(torch.backends.cpu.get_cpu_capability() == "DEFAULT", reason="there is nothing older")
def test_the_other_setting_is_not_this_machines():
    assert SETTINGS[other()].get("ATEN_CPU_CAPABILITY") != torch.backends.cpu.get_cpu_capability().lower()


def test_what_it_runs_exists():
    for path in (*instruction_sets.CORE, *instruction_sets.NUMERIC):
        assert (ROOT / path.partition("::")[0]).exists(), path


def test_an_unknown_setting_is_refused():
    command = [sys.executable, str(Path(instruction_sets.__file__)), "avx3"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert "no setting avx3; settings: native, avx2, sse" in ended.stderr
