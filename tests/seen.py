"""Models of few lines, which know by construction what they know: for protocols that look at a model."""

import torch

from manyview.views.engine.render import together
from manyview.views.ops.op import as_float
from manyview.views.plan import TEST, usual_test_view
from manyview.views.view import draw_views


class Looks:
    """features, scores: functions of pixels [B, C, h, w]. side: of the square that it looks at; without, all of it."""

    name, key, orbit = "looks", "looks", None
    device = torch.device("cpu")
    normalization = torch.tensor([0.4, 0.5, 0.6]).view(1, 3, 1, 1), torch.tensor([0.2, 0.25, 0.3]).view(1, 3, 1, 1)

    def __init__(self, features, scores=None, labels=None, side=None):
        self.features, self.scores, self.labels, self.side = features, scores, labels, side
        self.rows = 0

    def prepare(self, images):
        batch = images if isinstance(images, torch.Tensor) else together(images)
        if self.side is None:
            return as_float(batch)
        return draw_views({TEST: usual_test_view((self.side,) * 2)}, batch, None, range(len(images)), 0, 0)[TEST].pixels

    def read(self, pixels, *, aggregated=False):
        self.rows += len(pixels)
        found = {"h": self.features(pixels).float()}
        return found if self.scores is None else {**found, "logits": self.scores(pixels).float()}
