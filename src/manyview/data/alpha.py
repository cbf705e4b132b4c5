"""What an image shows where it is transparent: white."""

from __future__ import annotations

from PIL import Image

PNG = b"\x89PNG\r\n\x1a\n"


def png_bits(content: bytes) -> int | None:
    """Bits a sample of a PNG, from its header; None for all else."""
    return content[24] if content.startswith(PNG) and len(content) > 24 else None


def scale_key(image: Image.Image, content: bytes) -> None:
    """Brings a PNG's one transparent colour to the 8 bits of Pillow's pixels; the file states it in its own bits."""
    key, bits = image.info.get("transparency"), png_bits(content)
    if image.mode == "L" and isinstance(key, int) and bits in (2, 4):
        image.info["transparency"] = key * (255 // (2**bits - 1))
    elif image.mode == "RGB" and isinstance(key, tuple) and bits == 16:
        image.info["transparency"] = tuple(value >> 8 for value in key)


def over_white(image: Image.Image) -> Image.Image:
    """An image with transparency as RGB, composited over white."""
    white = Image.new("RGBA", image.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
