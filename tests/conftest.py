"""What holds for every test, however many processes run them."""

import os

import pytest

WORKER = "PYTEST_XDIST_WORKER" in os.environ
# Workers share the cores: one thread each, before torch, numpy and numba start theirs.
if WORKER:
    for library in ("OMP", "MKL", "OPENBLAS"):
        os.environ.setdefault(f"{library}_NUM_THREADS", "1")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with a slow test come first: each is one worker's, and none shall wait for another's at the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="session", autouse=WORKER)
def _compiled_once(tmp_path_factory):
    """One worker compiles the renderer, where it is not kept already; the others wait and read what that one kept."""
    from filelock import FileLock

    with FileLock(tmp_path_factory.getbasetemp().parent / "renderer.lock"):
        from rendered import draw_a_view

        draw_a_view()
