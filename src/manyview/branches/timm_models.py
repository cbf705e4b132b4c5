"""timm models by name; what timm and the hub refuse, in one line that says what failed and what would be right."""

from __future__ import annotations

import contextlib
import difflib
import logging
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from manyview.errors import RecipeError, reason

LOUD = ("timm", "huggingface_hub")  # they log what the error's line says again, each retry in a line
SHARES = ("drop_rate", "drop_path_rate")


def timm_library() -> ModuleType:
    """timm, which knows our networks by name too.

    It is imported here and nowhere at the top of a file, since it brings torchvision and the half of torch that
    compiles: two seconds that a recipe refused for its views need not wait for.
    """
    import timm

    import manyview.branches.backbones  # noqa: F401  which registers our networks, and needs timm for that

    return timm


def timm_model(name: str, options: Mapping[str, Any], small: bool = False) -> Any:
    """timm's model of that name. small: with a 3x3 stem without max-pool. Raises RecipeError with the reason alone."""
    from manyview.branches.backbones.stem import small_stem

    _check(name, options)
    try:
        with _quiet():
            model = timm_library().create_model(name, **options)
        return small_stem(model) if small else model
    except Exception as error:  # what models and the hub raise has no common base
        raise RecipeError(_why(error, name, options)) from None


def like_backbones(name: str) -> str:
    """Advice for a name that timm does not know."""
    timm = timm_library()
    bare, tag = name.partition(".")[0], name.partition(".")[2]
    if tag and timm.is_model(bare):
        tags = [each.partition(".")[2] for each in timm.list_pretrained(f"{bare}.*")]
        return f"'{bare}' has the weights {', '.join(tags) or 'none'}"
    plain = re.sub(r"[^a-z0-9_]", "", bare.lower())
    near = difflib.get_close_matches(plain, timm.list_models(), n=3)
    return f"did you mean {', '.join(near)}?" if near else "timm.list_models() has them all"


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what timm and the hub log on the way to an error."""
    loggers = [logging.getLogger(name) for name in LOUD]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _check(name: str, options: Mapping[str, Any]) -> None:
    """Refuses what timm would take, and fail at later or without a word."""
    path = options.get("checkpoint_path", "")
    if not isinstance(path, str):
        raise RecipeError(f"checkpoint_path is a file's name in quotes, got {path!r}")
    if path and not Path(path).is_file():
        raise RecipeError(f"there is no file '{path}'; checkpoint_path names the file of {name}'s weights")
    if not isinstance(options.get("pretrained", False), bool):
        raise RecipeError(f"pretrained must be True or False, got {options['pretrained']!r}")
    for key in SHARES:
        share = options.get(key, 0)
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share < 1:
            raise RecipeError(f"{key} must be a number of at least 0 and less than 1, got {share!r}")


def _why(error: Exception, name: str, options: Mapping[str, Any]) -> str:
    said, path = reason(error), options.get("checkpoint_path", "")
    if argument := re.search(r"unexpected keyword argument '(\w+)'", said):
        return f"{name} takes no argument '{argument[1]}'"
    if isinstance(error, KeyError) and error.args and (wrong := _with(options, error.args[0])):
        return f"timm knows no {wrong}={error.args[0]!r}"
    if path:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        if "state_dict" in said and len(lines) > 1:
            return f"'{path}' does not hold the weights of {name}: {lines[1][:160]}"
        kind = type(error).__name__
        return f"'{path}' is no file of weights ({said if kind == said else f'{kind}: {said}'})"
    if options.get("pretrained") and _is_of_the_network(error):
        return (
            "its published weights cannot be fetched, and are not in the cache; run this once with a network, give "
            "their file by checkpoint_path='FILE', or drop pretrained"
        )
    if options.get("pretrained") and "pretrained" in said:
        return f"{said.rstrip('.')}; drop pretrained, or take one of timm.list_pretrained()"
    if said == type(error).__name__:
        return f"timm refuses these arguments with a bare {said}; leave some out"
    return (
        f"timm cannot build it with these arguments ({said})" if isinstance(error, TypeError | AttributeError) else said
    )


def _with(options: Mapping[str, Any], value: Any) -> str:
    return next((key for key, given in options.items() if given == value), "")


def _is_of_the_network(error: BaseException | None) -> bool:
    """Whether a connection failed, however deep that is hidden."""
    while error is not None:
        if isinstance(error, OSError) or type(error).__module__.partition(".")[0] in ("huggingface_hub", "httpx"):
            return True
        error = error.__cause__ or error.__context__
    return False
