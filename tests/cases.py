"""Cases that say the same of many values: run in turn within one test, where a test for each would be thousands."""

import inspect
from collections.abc import Callable, Iterable
from functools import wraps
from typing import Any

import pytest

Test = Callable[..., None]


def in_turn(names: str, cases: Iterable[Any], by: str | None = None) -> Callable[[Test], Test]:
    """As `pytest.mark.parametrize(names, cases)`, but one test of all cases; with `by`, one for each value of a name.

    The first case that fails ends the test, which says what it was. Not for tests with fixtures that a case leaves its
    traces in. by: one of several names, whose values are texts.
    """
    keys = [name.strip() for name in names.split(",")]
    rows = [dict(zip(keys, case if len(keys) > 1 else (case,), strict=True)) for case in cases]

    def wrap(test: Test) -> Test:
        @wraps(test)
        def run(**given: Any) -> None:
            for row in rows:
                if by is None or row[by] == given[by]:
                    try:
                        test(**{**given, **row})
                    except Exception as error:
                        raise AssertionError(f"{', '.join(f'{key}={row[key]!r}' for key in keys)}: {error}") from error

        signature = inspect.signature(test)
        left = [parameter for key, parameter in signature.parameters.items() if key not in keys or key == by]
        run.__signature__ = signature.replace(parameters=left)  # type: ignore[attr-defined]
        return run if by is None else pytest.mark.parametrize(by, list(dict.fromkeys(row[by] for row in rows)))(run)

    return wrap
