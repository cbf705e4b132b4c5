"""Runs the tests as if on another processor: libraries are told to leave newer instructions alone.

    python tests/instruction_sets.py                     all tests under every setting
    python tests/instruction_sets.py --core other        the numeric core, under one that is not this machine's own
    python tests/instruction_sets.py --numeric avx2 sse  the numeric half, under two settings
    python tests/instruction_sets.py avx2 -- tests/views/engine -x    what pytest is given, under one

What is promised bit for bit must hold under all of them. Ends with 1 if a test failed, and with 2 for a setting that
does not exist. The compiler keeps what it made for each processor by itself, so the first run under one takes longer.
Settings that name instructions newer than the machine's end in a crash.
"""

import argparse
import os
import platform
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

ROOT = Path(__file__).parents[1]
# Without NUMBA_CPU_FEATURES numba would keep this machine's own instructions under another processor's name.
SETTINGS: Mapping[str, Mapping[str, str]] = {
    "native": {},
    "avx2": {
        "ATEN_CPU_CAPABILITY": "avx2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "MKL_CBWR": "AVX2",
        "NUMBA_CPU_NAME": "x86-64-v3",
        "NUMBA_CPU_FEATURES": "",
        "OPENBLAS_CORETYPE": "Haswell",
    },
    "sse": {
        "ATEN_CPU_CAPABILITY": "default",
        "ONEDNN_MAX_CPU_ISA": "SSE41",
        "MKL_CBWR": "COMPATIBLE",
        "NUMBA_CPU_NAME": "x86-64",
        "NUMBA_CPU_FEATURES": "",
        "OPENBLAS_CORETYPE": "Nehalem",
    },
    "matrices": {"MKL_CBWR": "COMPATIBLE", "OPENBLAS_CORETYPE": "Haswell", "ONEDNN_MAX_CPU_ISA": "AVX2"},
    "torch": {"ATEN_CPU_CAPABILITY": "default"},
    "kernels": {"NUMBA_CPU_NAME": "x86-64-v3"},  # as many set it: with the machine's own instructions
    "one-thread": {"OMP_NUM_THREADS": "1"},
}
CORE = (
    "tests/test_digests.py",
    "tests/views/engine",
    "tests/views/ops/test_ops.py::test_a_batch_is_rendered_as_its_images_are_alone",
    "tests/views/ops/test_ops.py::test_channels_are_rendered_as_they_are_alone",
    "tests/views/ops/test_ops.py::test_grey_levels_and_floats_agree",
    "tests/test_functional.py",
    "tests/views/test_draws.py",
)
NUMERIC = (
    "tests/test_digests.py",
    "tests/views/ops",
    "tests/branches/backbones",
    "tests/views/engine",
    "tests/evaluate",
    "tests/data/test_reduced.py",
    "tests/views/test_draws.py",
    "tests/test_functional.py",
    "tests/branches/test_heads.py",
    "tests/recipe/test_readouts.py",
    "tests/relations/test_relations.py",
    "tests/test_step.py",
    "tests/views/test_views.py",
)


def other() -> str:
    """A setting that this machine can run and that is not its own; on other makes than x86 only torch is told."""
    if platform.machine() not in ("x86_64", "AMD64"):
        return "torch"
    return "avx2" if torch.backends.cpu.get_cpu_capability() == "AVX512" else "sse"


def run(name: str, what: Sequence[str]) -> bool:
    """Whether pytest passes under a setting; says so, with the time it took."""
    print(
        f"{name}: {' '.join(f'{key}={value}' for key, value in SETTINGS[name].items()) or 'nothing is set'}", flush=True
    )
    start = time.perf_counter()
    command = [sys.executable, "-m", "pytest", *what]
    # torch's compiler would take up what it made for other instructions
    apart = {"TORCHINDUCTOR_CACHE_DIR": str(ROOT / ".pytest_cache" / f"inductor-{name}")}
    code = subprocess.run(command, cwd=ROOT, env={**os.environ, **apart, **SETTINGS[name]}, check=False).returncode
    print(f"{name}: {'failed' if code else 'passed'} in {time.perf_counter() - start:.0f} s", flush=True)
    return code == 0


def main() -> int:
    """Reads the command line and runs one setting after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("settings", nargs="*", help=f"{', '.join(SETTINGS)}, or other; by default all")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--core", action="store_true", help="what is promised bit for bit alone")
    size.add_argument("--numeric", action="store_true", help="all tests of numbers")
    given, beyond = sys.argv[1:], []
    if "--" in given:
        given, beyond = given[: given.index("--")], given[given.index("--") + 1 :]
    asked = parser.parse_args(given)
    names = [other() if name == "other" else name for name in asked.settings] or list(SETTINGS)
    if unknown := [name for name in names if name not in SETTINGS]:
        parser.error(f"no setting {', '.join(unknown)}; settings: {', '.join(SETTINGS)}, other")
    what = [*(CORE if asked.core else NUMERIC if asked.numeric else ()), *beyond]
    failed = [name for name in names if not run(name, what)]
    print(f"failed: {', '.join(failed)}" if failed else f"passed: {', '.join(names)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
