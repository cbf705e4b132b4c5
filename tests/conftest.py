"""What holds for every test, however many processes run them."""

import os

# Workers share the cores: one thread each, before torch, numpy and numba start theirs.
if "PYTEST_XDIST_WORKER" in os.environ:
    for library in ("OMP", "MKL", "OPENBLAS"):
        os.environ.setdefault(f"{library}_NUM_THREADS", "1")
