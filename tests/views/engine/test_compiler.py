"""Kernels are compiled when first called: then the names of their file are bound to what was made."""

import importlib.util
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from manyview.foundation.streams import hushed
from manyview.views.engine import compiler
from manyview.views.engine.compiler import Later, compiled


@compiled()
def doubled(value):
    """Twice as much."""
    return 2 * value


@compiled()
def doubled_sum(values):
    total = 0.0
    for value in values:
        total += doubled(value)
    return total


KEPT = (doubled_sum,)  # as others import it


def test_a_kernel_is_made_at_its_first_call_with_those_that_it_calls():
    assert isinstance(doubled_sum, Later)
    assert isinstance(doubled, Later)
    assert (doubled.__name__, doubled.__doc__) == ("doubled", "Twice as much.")
    (kept,), values = KEPT, np.arange(5.0)
    with ThreadPoolExecutor(4) as pool:  # all at once, as the threads of a first batch do
        assert [*pool.map(kept, [values] * 8)] == [20.0] * 8
    assert not isinstance(doubled, Later)
    assert not isinstance(doubled_sum, Later)
    assert doubled_sum is kept.made()
    assert len(doubled_sum.overloads) == 1
    assert (kept(values), doubled_sum(values), doubled(3)) == (20.0, 20.0, 6)


SOURCE = """
from manyview.views.engine.compiler import compiled

@compiled()
def half(value):
    return value / 2
"""


def test_compiling_is_told_where_it_was_not_kept(tmp_path, monkeypatch, caplog):
    file = tmp_path / "kept_kernels.py"
    file.write_text(SOURCE)

    def told(value) -> list[str]:
        """What is said while the file's kernel is called, as in a new process."""
        monkeypatch.setattr(compiler, "_TOLD", threading.Event())
        caplog.clear()
        spec = importlib.util.spec_from_file_location("kept_kernels", file)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        assert module.half(value) == value / 2
        return caplog.messages

    (line,) = told(3.0)
    assert line.startswith("manyview: compiling the renderer, on a machine's first run alone")
    assert told(3.0) == []
    with hushed():
        assert told(3) == []  # which is compiled anew
