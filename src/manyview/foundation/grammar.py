"""The one grammar of recipes: Python call syntax, parsed with `ast` and `literal_eval`; nothing is ever run.

call      crop(32, scale=(0.2, 1))        flip            (no parentheses: no arguments)
pipeline  crop(32) | flip(0.5)
readout   p(a)   teacher.z(b)   stop(z(r.0))
value     a literal, a name (a view, as in orbit=r), a member of a family (r.0), or a call
"""

from __future__ import annotations

import ast
import inspect
import io
import keyword
import tokenize
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from torch import nn

from manyview.errors import ManyviewError, RecipeError, misfit, reason, unknown
from manyview.foundation.vocabulary import own_fault

T = TypeVar("T")
LONGEST = 10_000  # characters of a call or pipeline


@dataclass(frozen=True)
class Name:
    """A name in argument position: a view `a`, or a member `r.0` of a family."""

    text: str

    def __str__(self) -> str:
        return self.text

    __repr__ = __str__  # so that messages show what was written


@dataclass(frozen=True)
class Call:
    """A parsed call. name may be dotted (`teacher.z`); values are literals, `Name`s and `Call`s."""

    name: str
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        given = [_show(value) for value in self.args] + [f"{key}={_show(value)}" for key, value in self.kwargs.items()]
        return f"{self.name}({', '.join(given)})"


def _show(value: Any) -> str:
    return str(value) if isinstance(value, (Call, Name)) else repr(value)


def check_name(name: object, where: str) -> None:
    """Raises RecipeError unless the name can be written in a call and given to a module."""
    if not isinstance(name, str) or not name.isidentifier() or keyword.iskeyword(name) or hasattr(nn.ModuleDict, name):
        raise RecipeError(f"{where}: {name!r} cannot be a name; take a word that Python and PyTorch leave free")


def parse_call(text: str, where: str) -> Call:
    """One call, or a bare name, which stands for a call without arguments. Raises RecipeError naming `where`."""
    return _call(_parse(text, where), text, where)


def parse_pipeline(text: str, where: str) -> list[Call]:
    """Calls joined by `|`, in order. Raises RecipeError naming `where`."""
    node: ast.expr = _parse(text, where)
    steps: list[ast.expr] = []
    while isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        steps.insert(0, node.right)
        node = node.left
    return [_call(step, text, where) for step in [node, *steps]]


def parse_value(text: str, where: str) -> Any:
    """A literal, a name or a call. Raises RecipeError naming `where`."""
    return _value(_parse(text, where), text, where)


def bind(factory: Callable[..., T], call: Call, where: str, **extra: Any) -> T:
    """Calls `factory` with a call's arguments, after checking them against its signature.

    Raises RecipeError naming `where`, for unknown, missing and surplus arguments, and for what the factory refuses.
    """
    arguments = {**call.kwargs, **extra}
    check_arguments(factory, call, where, extra)
    try:
        return factory(*call.args, **arguments)
    except ManyviewError as error:
        raise type(error)(f"{where}: {error}") from None
    except (TypeError, AttributeError) as error:  # Python's words, about our code, change with its version
        if (own := own_fault(error)) is not None:
            raise RecipeError(f"{where}: {own}") from None
        raise RecipeError(f"{where}: {call}: an argument is of a kind that {call.name} cannot take") from None
    except (ValueError, ArithmeticError, RuntimeError, MemoryError) as error:
        raise RecipeError(f"{where}: {call}: {reason(error)}") from None


def check_arguments(factory: Callable[..., Any], call: Call, where: str, extra: dict[str, Any] | None = None) -> None:
    """Raises RecipeError unless the call's arguments fit the signature of `factory`."""
    signature = inspect.signature(factory)
    names = [name for name in signature.parameters if name not in (extra or {})]
    keywords = any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values())
    for key in call.kwargs:
        if key not in names and not keywords:
            raise RecipeError(f"{where}: {call.name}: {unknown('argument', key, names)}")
    fault = misfit(signature, call.args, {**call.kwargs, **(extra or {})})
    if fault:
        raise RecipeError(f"{where}: {call}: {fault}; arguments: {', '.join(names) or 'none'}")


def with_argument(call: Call, key: str, value: Any, factory: Callable[..., Any] | None) -> Call:
    """The call with one argument set, whether it stood there by position, by keyword, or not at all."""
    parameters = inspect.signature(factory).parameters.values() if factory else ()
    positions = [parameter.name for parameter in parameters if parameter.kind is parameter.POSITIONAL_OR_KEYWORD]
    if key in positions[: len(call.args)]:
        at = positions.index(key)
        return Call(call.name, (*call.args[:at], value, *call.args[at + 1 :]), call.kwargs)
    return Call(call.name, call.args, {**call.kwargs, key: value})


def _parse(text: str, where: str) -> ast.expr:
    if not isinstance(text, str) or not text.strip():
        raise RecipeError(f"{where}: expected a call such as name(…), got {text!r}")
    if len(text) > LONGEST:  # how much Python can parse changes with its version
        raise RecipeError(f"{where}: {len(text)} characters are too long for a call; at most {LONGEST}")
    try:
        return ast.parse(_members_as_subscripts(text), mode="eval").body
    except (SyntaxError, tokenize.TokenError, ValueError, RecursionError, MemoryError) as error:
        too_deep = isinstance(error, (RecursionError, MemoryError))
        reason = "it is nested too deeply" if too_deep else "a call is written name(argument, key=value)"
        if text.count("(") != text.count(")"):
            reason = "its brackets do not match; inside [ ] or { } YAML cuts at commas, so quote it there"
        raise RecipeError(f"{where}: cannot read {text!r}: {reason}") from None


def _members_as_subscripts(text: str) -> str:
    """`r.0`, which Python cannot parse, as `r[0]`; strings are left alone."""
    pieces: list[tuple[int, str]] = []
    previous = None
    for token in tokenize.generate_tokens(io.StringIO(text.strip()).readline):
        value = token.string
        if (
            token.type == tokenize.NUMBER
            and value[:1] == "."
            and value[1:].isdigit()
            and previous is not None
            and previous.type == tokenize.NAME
            and previous.end == token.start
        ):
            pieces.append((tokenize.OP, f"[{int(value[1:])}]"))
        else:
            pieces.append((token.type, value))
        previous = token
    return tokenize.untokenize(pieces).strip()


def _call(node: ast.expr, text: str, where: str) -> Call:
    value = _value(node, text, where)
    if isinstance(value, Name) and "." not in value.text:
        value = Call(value.text)
    if not isinstance(value, Call):
        raise RecipeError(f"{where}: expected a call such as name(…), got {text!r}")
    return value


def _value(node: ast.expr, text: str, where: str) -> Any:
    if isinstance(node, ast.Call):
        if any(keyword.arg is None for keyword in node.keywords) or any(isinstance(a, ast.Starred) for a in node.args):
            raise RecipeError(f"{where}: {text!r}: arguments are written out; * and ** are not part of the grammar")
        given = [keyword.arg for keyword in node.keywords]
        twice = [name for name in given if given.count(name) > 1]
        if twice:
            raise RecipeError(f"{where}: {text!r}: argument '{twice[0]}' is given twice")
        arguments = tuple(_value(argument, text, where) for argument in node.args)
        keywords = {str(keyword.arg): _value(keyword.value, text, where) for keyword in node.keywords}
        return Call(_dotted(node.func, text, where), arguments, keywords)
    if isinstance(node, ast.Name):
        return Name(node.id)
    if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name) and _is_index(node.slice):
        return Name(f"{node.value.id}.{ast.literal_eval(node.slice)}")
    try:
        value = ast.literal_eval(node)
        if isinstance(node, ast.Dict) and len(value) < len(node.keys):
            raise RecipeError(f"{where}: {text!r}: a key is given twice")
        if ast.literal_eval(repr(value)) == value and value is not ...:
            return value
        raise ValueError
    except (ValueError, TypeError, SyntaxError):
        raise RecipeError(
            f"{where}: {ast.unparse(node)!r} in {text!r} is neither a literal, a name nor a call; "
            f"recipes have no expressions"
        ) from None


def _is_index(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and type(node.value) is int


def _dotted(node: ast.expr, text: str, where: str) -> str:
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        return f"{node.value.id}.{node.attr}"
    raise RecipeError(f"{where}: cannot call {ast.unparse(node)!r} in {text!r}; write name(…) or branch.name(…)")
