"""AugMix (Hendrycks, Mu, Cubuk, Zoph, Gilmer, Lakshminarayanan, ICLR 2020): chains of ops, mixed with the image."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from manyview.views.draws import Draws
from manyview.views.engine.compiler import compiled
from manyview.views.engine.program import Code, Column
from manyview.views.ops.op import TURNS, Params, ViewParams, as_uint8, check_whole, per_image
from manyview.views.ops.policy import (
    CODES,
    apply_policy_ops,
    check_resampling,
    codes_of,
    lower_policy_ops,
    magnitudes_of,
    summed,
    torchvision_space,
)

BINS = 10
RANDOM_DEPTH = 3
SPACE = {
    name: magnitude for name, magnitude in torchvision_space(share=1 / 3, bits=(4, 0)).items() if name != "identity"
}
ENHANCERS = ("brightness", "color", "contrast", "sharpness")


@dataclass(frozen=True)
class AugMix:
    """`augmix(severity)`: `width` chains of `depth` ops each, mixed by random weights, then blended with the image.

    severity: 1 to 10; an op's magnitude is one of the lowest `severity` of ten bins. depth: ops a chain, or -1 for 1 to
    3, each as likely. alpha: of the Dirichlet distribution of the chains' weights and of the Beta distribution of the
    blend. all_ops: False leaves out brightness, color, contrast and sharpness, as the paper does where it tests against
    corruptions of these kinds. Ops, magnitudes and bilinear resampling are torchvision's (`AugMix`); the mix is rounded
    to levels, where torchvision's is cut off.
    fill: in [0, 1]. interpolation: `nearest`, `bilinear` or `bicubic`.
    Parameters: `weights` float64 [B, width], sum 1; `blend` [B], the share of the chains; `depth` int64 [B, width];
    `op` int64 [B, width, d] (codes of `policy.POLICY_OPS`) and `magnitude` float64 [B, width, d] with its sign, d the
    deepest; from a chain's depth on, op is the identity and magnitude 0.
    """

    severity: int = 3
    width: int = 3
    depth: int = -1
    alpha: float = 1.0
    all_ops: bool = True
    fill: float = 0.0
    interpolation: str = "bilinear"

    def __post_init__(self) -> None:
        check_whole("severity", self.severity, most=BINS)
        check_whole("width", self.width, most=TURNS)
        if self.depth != -1 or isinstance(self.depth, float):
            check_whole("depth", self.depth, most=TURNS)
        if type(self.alpha) not in (int, float) or not 0 < self.alpha < math.inf:
            raise ValueError(f"alpha must be a positive number, got {self.alpha!r}")
        if not isinstance(self.all_ops, bool):
            raise ValueError(f"all_ops must be True or False, got {self.all_ops!r}")
        check_resampling(self.interpolation, self.fill)

    def sample(self, draws: Draws, sizes: Tensor) -> Params:
        space = SPACE if self.all_ops else {name: SPACE[name] for name in SPACE if name not in ENHANCERS}
        deepest = RANDOM_DEPTH if self.depth == -1 else self.depth
        shape, count = (len(sizes), self.width, deepest), self.width * deepest
        op = codes_of(space)[draws.integers("op", len(space), count)]
        strength = draws.integers("bin", self.severity, count).double() / (BINS - 1)
        magnitude = magnitudes_of(space, op, strength, draws.uniform("sign", count), sizes)
        if self.depth == -1:
            depth = 1 + draws.integers("depth", deepest, self.width)
        else:
            depth = torch.full((len(sizes), self.width), deepest)
        used = torch.arange(deepest) < depth[..., None]
        return {
            "weights": dirichlet(draws, "weights", self.width, self.alpha),
            "blend": dirichlet(draws, "blend", 2, self.alpha)[:, 1],
            "depth": depth,
            "op": torch.where(used, op.reshape(shape), CODES["identity"]),
            "magnitude": torch.where(used, magnitude.reshape(shape), 0.0),
        }

    def render(self, images: Tensor, params: Params) -> Tensor:
        images = as_uint8(images)
        mixed = images * per_image(1 - params["blend"], images)
        for chain in range(self.width):
            codes, magnitudes = params["op"][:, chain], params["magnitude"][:, chain]
            made = apply_policy_ops(images, codes, magnitudes, None, self.fill, self.interpolation)
            mixed = mixed + made * per_image(params["blend"] * params["weights"][:, chain], images)
        return mixed.round().clamp(0, 255).to(torch.uint8)

    def lower(self, params: Params, sizes: Tensor) -> list[Column]:
        blend = params["blend"][:, None]
        columns = [Column(Code.BEGIN_MIX, 1 - blend)]
        for chain in range(self.width):
            codes, magnitudes = params["op"][:, chain], params["magnitude"][:, chain]
            columns += lower_policy_ops(codes, magnitudes, sizes, None, self.fill, self.interpolation)
            columns.append(Column(Code.MIX_IN, blend * params["weights"][:, chain, None]))
        return [*columns, Column(Code.END_MIX)]

    def difference(self, a: Params, b: Params, frame: ViewParams | None = None) -> Tensor:
        """For each of `POLICY_OPS`, its magnitudes by their chains' shares of the image, a minus b [B, 17].

        Frames are not traced.
        """
        sum_a, sum_b = (
            summed(p["op"].flatten(1), (p["magnitude"] * (p["blend"][:, None] * p["weights"])[..., None]).flatten(1))
            for p in (a, b)
        )
        return sum_a - sum_b

    def output_size(self, sizes: Tensor) -> Tensor:
        return sizes


def dirichlet(draws: Draws, name: str, count: int, alpha: float) -> Tensor:
    """Weights of the symmetric Dirichlet distribution, float64 [B, count], sum 1; for a count of 2, Beta(alpha, alpha).

    Independent Gamma(alpha) numbers over their sum. A Gamma(alpha) number is one of Gamma(alpha + 1) times u^(1/alpha);
    in logarithms, so that no alpha is too small.
    """
    from scipy.special import gammaincinv

    # uniform draws lie on multiples of 2^-32; halfway between them neither 0 nor 1 comes up
    first, second = (draws.uniform(name, 2 * count) + 2.0**-33).chunk(2, dim=1)
    return torch.from_numpy(_shares(gammaincinv(alpha + 1, first.numpy()), second.numpy(), float(alpha)))


@compiled()
def _shares(gamma: NDArray[np.float64], uniform: NDArray[np.float64], alpha: float) -> NDArray[np.float64]:
    """gamma * uniform^(1/alpha) over the sum of its row. NumPy and torch have logarithms for each instruction set."""
    shares = np.empty(gamma.shape)
    for row in range(len(gamma)):
        for n in range(gamma.shape[1]):
            shares[row, n] = math.log(gamma[row, n]) + math.log(uniform[row, n]) / alpha
        most, total = shares[row].max(), 0.0
        for n in range(gamma.shape[1]):
            shares[row, n] = math.exp(shares[row, n] - most)
            total += shares[row, n]
        shares[row] /= total
    return shares
