"""timm models by name; what timm and the hub refuse, in one line that says what failed and what would be right."""

from __future__ import annotations

import contextlib
import difflib
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any

from manyview.branches.published import Unfetched, look_for, unfetched
from manyview.errors import RecipeError, reason
from manyview.foundation.words import few

COUNTER = "num_batches_tracked"  # BatchNorm's, which has no part in what it gives
LOUD = ("timm", "huggingface_hub")  # they log what the error's line says again, each retry in a line
PADDED = 2  # what `small` may be beside True: the padding of the 3x3 convolution, as solo-learn's networks have it
SHARES = ("drop_rate", "drop_path_rate")


def timm_library() -> ModuleType:
    """timm, which knows our networks by name too.

    It is imported here and nowhere at the top of a file, since it brings torchvision and the half of torch that
    compiles: two seconds that a recipe refused for its views need not wait for.
    """
    import timm

    import manyview.branches.backbones  # noqa: F401  which registers our networks, and needs timm for that

    return timm


def timm_model(name: str, options: Mapping[str, Any], small: int = False, where: str = "") -> Any:
    """timm's model of that name. Raises RecipeError with the reason alone.

    small: with a 3x3 stem without max-pool, see `PADDED`. where: the place of a recipe's backbone, for advice on
    published weights. These are refused where they leave weights of the network at random.
    """
    from manyview.branches.backbones.stem import small_stem

    _check(options)
    try:
        with _heard() as said:
            if options.get("pretrained"):
                look_for(_published(name, options), options.get("cache_dir"))
            model = timm_library().create_model(name, **options)
        model = small_stem(model, int(small)) if small else model
    except Exception as error:  # what models and the hub raise has no common base
        raise RecipeError(_why(error, name, options, where)) from None
    if lost := _at_random(said):
        raise RecipeError(
            f"{len(lost)} of its weights are not among the published ones ({few(lost)}), and would start at random; "
            "leave out what adds them, or drop pretrained"
        )
    return model


def is_stem(small: object) -> bool:
    """Whether `small` may be this: True, False, or 2."""
    return isinstance(small, bool) or (type(small) is int and small == PADDED)


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
def _heard() -> Iterator[list[str]]:
    """What timm logs meanwhile. Nothing of it is shown, nor what the hub logs on the way to an error.

    It is heard whatever a program has made of logging: that weights are left at random is nowhere else to be found.
    """
    said: list[str] = []
    listener = logging.Handler()
    listener.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    timm_library()  # whose loggers begin with it
    tops = [logging.getLogger(name) for name in LOUD]
    known = [each for each in logging.root.manager.loggerDict.values() if isinstance(each, logging.Logger)]
    loggers = [*tops, *(each for each in known if each.name.partition(".")[0] in LOUD and each not in tops)]
    before = [(each.level, each.propagate, each.handlers, each.disabled) for each in loggers]
    disabled = logging.root.manager.disable
    try:
        for each in loggers:
            top = each in tops
            each.propagate, each.handlers, each.disabled = not top, [listener] if top else [], False
            each.setLevel(logging.INFO if top else logging.NOTSET)
        logging.disable(logging.NOTSET)
        yield said
    finally:
        logging.disable(disabled)
        for each, (level, propagate, handlers, off) in zip(loggers, before, strict=True):
            each.propagate, each.handlers, each.disabled = propagate, handlers, off
            each.setLevel(level)


def _at_random(said: Sequence[str]) -> list[str]:
    """The weights that timm did not find among the published ones, which it logs and then trains from nothing."""
    found = (re.match(r"Missing keys \((.+)\) discovered while loading", line) for line in said)
    return [name for match in found if match for name in match[1].split(", ") if not name.endswith(COUNTER)]


def _check(options: Mapping[str, Any]) -> None:
    """Refuses what timm would take, and fail at later or without a word."""
    if not isinstance(options.get("pretrained", False), bool):
        raise RecipeError(f"pretrained must be True or False, got {options['pretrained']!r}")
    for key in SHARES:
        share = options.get(key, 0)
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share < 1:
            raise RecipeError(f"{key} must be a number of at least 0 and less than 1, got {share!r}")


def _why(error: Exception, name: str, options: Mapping[str, Any], where: str) -> str:
    said = reason(error)
    if argument := re.search(r"unexpected keyword argument '(\w+)'", said):
        return f"{name} takes no argument '{argument[1]}'"
    if isinstance(error, KeyError) and error.args and (wrong := _with(options, error.args[0])):
        return f"timm knows no {wrong}={error.args[0]!r}"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if options.get("pretrained") and "loading state_dict" in said and len(lines) > 1:
        return f"its published weights are of another shape ({lines[1][:160]}); drop pretrained, or what changes it"
    if options.get("pretrained") and _is_of_the_network(error):
        return unfetched(_published(name, options), reason(error), where)
    if options.get("pretrained") and "pretrained" in said:
        return f"{said.rstrip('.')}; drop pretrained, or take one of timm.list_pretrained()"
    if said == type(error).__name__:
        return f"timm refuses these arguments with a bare {said}; leave some out"
    return (
        f"timm cannot build it with these arguments ({said})" if isinstance(error, TypeError | AttributeError) else said
    )


def _with(options: Mapping[str, Any], value: Any) -> str:
    return next((key for key, given in options.items() if given == value), "")


def _published(name: str, options: Mapping[str, Any]) -> Any:
    """timm's configuration of the weights that these options ask for."""
    given, overlay = options.get("pretrained_cfg"), options.get("pretrained_cfg_overlay")
    variant = name.partition(".")[0] if given else name
    return timm_library().models.resolve_pretrained_cfg(variant, given, overlay)


def _is_of_the_network(error: BaseException | None) -> bool:
    """Whether a connection failed, however deep that is hidden."""
    while error is not None:
        kinds = OSError, Unfetched
        if isinstance(error, kinds) or type(error).__module__.partition(".")[0] in ("huggingface_hub", "httpx"):
            return True
        error = error.__cause__ or error.__context__
    return False
