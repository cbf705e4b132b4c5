"""Settings that are text stay the text that was written, also where YAML would read a number, a date or a truth."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from types import NoneType, SimpleNamespace
from typing import Any, get_args, get_origin, get_type_hints

import yaml
from pydantic import BaseModel

_KINDS = {
    frozenset({str}): "text",
    frozenset({str, NoneType}): "optional",
    frozenset({str, tuple[str, ...]}): "several",
}


def text_kind(annotation: Any, path: list[str]) -> str | None:
    """Whether a setting is text: "text", "optional" if null says that there is none, or "several"; None for all others.

    annotation: a model, or what a field of one holds. path: the keys from there.
    """
    for key in path:
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            fields = annotation.model_fields.items()
            annotation = next((field.annotation for name, field in fields if key in (name, field.alias)), None)
        elif get_origin(annotation) is dict:
            annotation = get_args(annotation)[1]
        else:
            return None
    kinds = {*get_args(annotation)} or {annotation}
    return _KINDS.get(frozenset(kinds))


def argument_kind(factory: Callable[..., Any] | None, name: str) -> str | None:
    """The same for an argument of a call; None where it is not known what the call builds."""
    made = factory.func if isinstance(factory, partial) else factory
    function: Any = made.__init__ if isinstance(made, type) else made  # type: ignore[misc]
    hints = getattr(function, "__annotations__", {})
    if name not in hints:
        return None
    this = SimpleNamespace(__annotations__={name: hints[name]})  # others may name what is not imported at run time
    try:
        return text_kind(get_type_hints(this, function.__globals__)[name], [])
    except NameError:
        return None


def text_value(text: str, kind: str) -> str | tuple[str, ...] | None:
    """What `key=text` gives a text setting: itself, or what YAML's quotes hold; by its kind None, or several."""
    text = text.strip()
    if not text or (kind == "optional" and text in ("null", "Null", "NULL", "~")):
        return None
    if text[:1] in ("'", '"', "["):
        with suppress(yaml.YAMLError):
            node = yaml.compose(text, Loader=yaml.SafeLoader)
            if kind == "several" and isinstance(node, yaml.SequenceNode):
                return tuple(str(item.value) for item in node.value)
            return str(node.value) if isinstance(node, yaml.ScalarNode) else text
    return text


def keep_texts(raw: Any, text: str, model: type[BaseModel], above: Sequence[str] = ()) -> None:
    """Puts back, in a recipe as read from YAML, the text of text settings that YAML took for something else.

    above: the keys under which the recipe has what was read, where that is a part of it.
    """
    places = [place[len(above) :] for place in _places(raw, model, [*above]) if len(place) > len(above)]
    root = yaml.compose(text, Loader=yaml.SafeLoader) if places else None
    for path in places:
        node, inner = root, raw
        for key in path:
            pairs = node.value if isinstance(node, yaml.MappingNode) else ()
            node = next((value for name, value in pairs if name.value == key), None)
        if isinstance(node, yaml.ScalarNode):
            for key in path[:-1]:
                inner = inner[key]
            inner[path[-1]] = node.value


def _places(raw: Any, model: type[BaseModel], path: list[str]) -> list[list[str]]:
    """Where a text setting holds neither text nor null."""
    if isinstance(raw, dict):
        return [place for key, value in raw.items() for place in _places(value, model, [*path, key])]
    odd = not isinstance(raw, (str, list, NoneType)) and text_kind(model, path) is not None
    return [path] if odd else []
