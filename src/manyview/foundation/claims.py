"""What a file of weights says of itself, held against what it is: checksums, sizes, how deep and how many.

torch.save keeps a checksum (CRC-32) of every tensor, which torch.load does not look at; here it is. What strangers
wrote is read the same way, so it can claim no more than a stated multiple of its own size.
"""

from __future__ import annotations

import zipfile
from argparse import Namespace
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

CLAIMS = 16  # times its size in bytes that the tensors of a file may have in all; those that share memory count each
LEAST_CLAIM = 2**26  # bytes that they may have whatever its size
PARTS = 300_000  # tensors, values and collections in a file
DEPTH = 100  # collections within one another


def check_archive(path: Path) -> None:
    """Raises ValueError where what torch.save wrote is not what it wrote, or would unfold to more than it is."""
    if not zipfile.is_zipfile(path):
        with path.open("rb") as file:
            if file.read(2) == b"PK":
                raise ValueError("it is cut short")
        return  # of old it was a pickle
    with zipfile.ZipFile(path) as archive:
        parts = archive.infolist()
        if any(part.compress_type != zipfile.ZIP_STORED for part in parts):
            raise ValueError("a part of it is compressed, which torch.save never does")
        if sum(part.file_size for part in parts) > path.stat().st_size:
            raise ValueError("its parts lie upon one another")
        if any(part.CRC for part in parts) and (bad := archive.testzip()) is not None:  # else it was asked for none
            raise ValueError(f"the checksum of its part {bad} is not that of what it holds")


def check_claims(found: Any, size: int) -> None:
    """Raises ValueError for tensors that are far larger than the file, and for values without end."""
    from torch import Tensor

    claimed, most = 0, max(CLAIMS * size, LEAST_CLAIM)
    for number, value in enumerate(_values(found)):
        if number > PARTS:
            raise ValueError(f"it holds more than {PARTS:,} values")
        if isinstance(value, Tensor):
            if value.is_meta or value.layout is not Tensor().layout:
                raise ValueError("it holds a tensor without values, or a sparse one")
            claimed += value.numel() * value.element_size()
            if claimed > most:
                raise ValueError(f"its tensors claim more than {most:,} bytes, and it has {size:,}")


def _values(found: Any) -> Iterator[Any]:
    """All values, those in collections too, as often as they are named."""
    left = [(found, 0)]
    while left:
        value, depth = left.pop()
        if depth > DEPTH:
            raise ValueError(f"its values are nested more than {DEPTH} deep")
        yield value
        inside: Any = vars(value) if isinstance(value, Namespace) else value
        if isinstance(inside, Mapping):
            left += [(each, depth + 1) for item in inside.items() for each in item]
        elif isinstance(inside, list | tuple | set | frozenset):
            left += [(each, depth + 1) for each in inside]
