"""Pictures are written in the format that their file's name says, or refused before they are made."""

from __future__ import annotations

from collections.abc import Collection
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from manyview.errors import RunError
from manyview.foundation.files import write_bytes

if TYPE_CHECKING:
    from PIL import Image

PHOTOS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
OPTIONS: dict[str, dict[str, Any]] = {"PNG": {"optimize": True}, "JPEG": {"quality": 95}, "WEBP": {"lossless": True}}
DRAWINGS = (".svg", ".png", ".pdf")


def check_name(path: Path, endings: Collection[str], option: str) -> None:
    """Raises RunError unless the name ends in one of these, in any case."""
    if path.suffix.lower() not in endings and not path.is_dir():  # a folder is told as such when it is written
        known = list(endings)
        raise RunError(
            f"{option}: '{path.name}' does not say what to write; end it in {', '.join(known[:-1])} or {known[-1]}, "
            f"as in {path.with_suffix(known[0])}"
        )


def save_picture(picture: Image.Image, path: Path) -> None:
    """Writes the picture whole or not at all: PNG, JPEG or WebP by its name. Raises RunError."""
    check_name(path, PHOTOS, "--out")
    kind = PHOTOS.get(path.suffix.lower(), "PNG")
    buffer = BytesIO()
    picture.save(buffer, kind, **OPTIONS[kind])
    write_bytes(path, buffer.getvalue())
