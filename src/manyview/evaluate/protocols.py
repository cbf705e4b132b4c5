"""What `evaluate:` and `manyview eval` may name, with their settings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from manyview.evaluate.on_one_set import ON_ONE_SET, Measure, Table, parse_protocol
from manyview.evaluate.transfer import Transfer
from manyview.foundation.vocabulary import NONE, Words, word_of

PROTOCOLS: Table = {**ON_ONE_SET, "transfer": Transfer}


def parse_protocols(texts: Sequence[str], where: str = "evaluate", words: Words = NONE) -> list[Measure]:
    """Protocols from their calls. Raises RecipeError for unknown names and arguments."""
    return [parse_protocol(text, f"{where}.{number}", PROTOCOLS, words) for number, text in enumerate(texts)]


def measure_names(protocols: Sequence[Measure]) -> dict[Measure, str]:
    """Each protocol once, with the name of its measure: `knn`, or of several `knn(k=1)`, by what sets them apart."""
    once = list(dict.fromkeys(protocols))
    names: dict[Measure, str] = {}
    for protocol in once:
        alike = [other for other in once if type(other) is type(protocol)]
        apart = [key for key in settings_of(protocol) if len({getattr(other, key) for other in alike}) > 1]
        names[protocol] = call_of(protocol, apart)
    return names


def call_of(protocol: Measure, keys: Sequence[str] | None = None) -> str:
    """The call that makes a protocol, with all its settings, or those named: `knn(k=200, temperature=0.1)`."""
    kind = word_of(type(protocol), PROTOCOLS)
    told = [f"{key}={value!r}" for key, value in settings_of(protocol).items() if keys is None or key in keys]
    return f"{kind}({', '.join(told)})" if told else kind


def settings_of(protocol: Measure) -> dict[str, Any]:
    """A protocol's settings by name: those of its fields by which two of a kind are compared."""
    return {each.name: getattr(protocol, each.name) for each in fields(protocol) if each.compare}  # type: ignore[arg-type]


def with_own_settings(texts: Sequence[str], own: Sequence[str]) -> list[str]:
    """The calls, a bare `knn` standing for those of that name in a recipe's own `evaluate`, where it has any."""
    return [call for text in texts for call in [each for each in own if each.partition("(")[0] == text] or [text]]
