"""Where images come from: streams, each with an order, epochs and draws of its own.

`image` is the stream that there always is, of labelled images where there are labels. `unlabeled` is beside it where
the recipe's `data.unlabeled` opens it; nothing that is trained sees a label of it.
"""

from __future__ import annotations

from manyview.views.draws import key_of

IMAGE = "image"
UNLABELED = "unlabeled"
STREAMS = (IMAGE, UNLABELED)


def seed_of(seed: int, stream: str) -> int:
    """A stream's own seed, of which its order and all its draws are functions; that of `image` is the run's."""
    if stream == IMAGE:
        return seed
    low, high = key_of(seed, "stream", stream)
    return high << 32 | low


__all__ = ["IMAGE", "STREAMS", "UNLABELED", "seed_of"]
