"""YAML as recipes have it: duplicate keys refused, `1e-5` a number, every mistake one line."""

from __future__ import annotations

import re
from typing import Any

import yaml

from manyview.errors import RecipeError
from manyview.foundation.bounded_yaml import check_yaml


class _Strict(yaml.SafeLoader):
    """PyYAML with 1e-5 a number and duplicate keys refused; there is no other way to extend its loader."""


_Strict.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"^[-+]?(?:\d[\d_]*\.?[\d_]*|\.\d[\d_]*)(?:[eE][-+]?\d+)?$|^[-+]?\.(?:inf|Inf|INF)$|^\.(?:nan|NaN|NAN)$"
    ),
    list("-+0123456789."),
)


def _mapping(loader: _Strict, node: yaml.MappingNode) -> dict[Any, Any]:
    mapping: dict[Any, Any] = {}
    for key_node, value_node in node.value:
        key = loader.construct_object(key_node, deep=True)
        line = f"line {key_node.start_mark.line + 1}"
        if not isinstance(key, str):
            raise RecipeError(f"{line}: key {key!r} is not text; quote it if it was meant as a name")
        if key in mapping:
            raise RecipeError(f"{line}: key {key!r} stands twice; keep one")
        mapping[key] = loader.construct_object(value_node, deep=True)
    return mapping


_Strict.add_constructor("tag:yaml.org,2002:map", _mapping)


def read_yaml(text: str) -> Any:
    """Strict YAML: duplicate keys refused, `1e-5` a number. Raises RecipeError with the line."""
    try:
        check_yaml(text)
        return yaml.load(text, Loader=_Strict)
    except RecursionError:
        raise RecipeError("not YAML: it is nested too deeply") from None
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        tab = ": a tab, but YAML is indented with spaces" if "\\t" in str(error.problem) else ""
        raise RecipeError(f"{line}not YAML: {error.problem}{tab}") from None
    except (yaml.YAMLError, ValueError) as error:  # a ValueError: a date such as 2020-13-01
        raise RecipeError(f"not YAML: {str(error).splitlines()[0]}") from None
