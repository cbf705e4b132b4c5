"""Backbones that a words file registers with timm by `@timm.models.register_model`; recipes know them by name."""

from __future__ import annotations

import contextlib
import inspect
import sys
import warnings
from collections.abc import Iterator
from types import ModuleType

from manyview.branches.timm_models import timm_library
from manyview.foundation.vocabulary import PREFIX

DECORATOR = b"register_model"


@contextlib.contextmanager
def registering(source: bytes) -> Iterator[list[str]]:
    """While the block runs a file; gives a list that holds, afterwards, the names of others that the file took.

    timm is asked, and first imported, only where the file may register something. Its own networks are put back.
    """
    taken: list[str] = []
    if DECORATOR not in source:
        yield taken
        return
    models = timm_library().models
    before = {name: models.model_entrypoint(name) for name in models.list_models()}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Overwriting .* in registry")  # refused, or a file as it was before
        try:
            yield taken
        finally:  # of a file that raises, nothing stays
            for name, known in before.items():
                if models.model_entrypoint(name) is not known and not known.__module__.startswith(PREFIX):
                    models.register_model(known)
                    taken.append(name)


def registered(module: ModuleType) -> tuple[str, ...]:
    """The backbones that a module registered, in alphabetical order; of timm's, these are the last to have the name."""
    timm = sys.modules.get("timm")
    if timm is None:
        return ()
    found = []
    for name, value in vars(module).items():
        if inspect.isfunction(value) and value.__module__ == module.__name__ and timm.models.is_model(name):
            known = timm.models.model_entrypoint(name)
            if known is not value and known.__module__.startswith(PREFIX):  # the file as it was edited meanwhile
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    timm.models.register_model(value)
                known = value
            found += [name] if known is value else []
    return tuple(sorted(found))
