"""The constants of every corruption at severities 1 to 5, for both published sets.

Source: Hendrycks & Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions and Perturbations",
ICLR 2019, and the published code that made ImageNet-C (images of 224 px) and CIFAR-10-C (of 32 px). Lengths are in
pixels, intensities in [0, 1]. `docs/corruptions.md` shows this table.
"""

from __future__ import annotations

from dataclasses import dataclass

SIZES = {224: "ImageNet-C", 32: "CIFAR-10-C"}
Row = tuple[float, ...]


@dataclass(frozen=True)
class Severities:
    """What a corruption's constants are called, and their values at severities 1 to 5 in each of the two sets."""

    names: tuple[str, ...]
    imagenet: tuple[Row, Row, Row, Row, Row]
    cifar: tuple[Row, Row, Row, Row, Row]

    def of(self, size: int) -> tuple[Row, Row, Row, Row, Row]:
        """The five rows for images of 224 or 32 px."""
        return self.imagenet if size == 224 else self.cifar


def _one(name: str, imagenet: Row, cifar: Row) -> Severities:
    """The table of a corruption with a single constant."""
    a, b, c, d, e = ((value,) for value in imagenet)
    f, g, h, i, j = ((value,) for value in cifar)
    return Severities((name,), (a, b, c, d, e), (f, g, h, i, j))


_SNOW = ("mean", "sd", "zoom", "threshold", "radius", "sigma", "share")
_SPATTER = ("mean", "sd", "sigma", "threshold", "strength", "mud")

SEVERITIES: dict[str, Severities] = {
    "gaussian_noise": _one("sd", (0.08, 0.12, 0.18, 0.26, 0.38), (0.04, 0.06, 0.08, 0.09, 0.10)),
    "shot_noise": _one("photons", (60, 25, 12, 5, 3), (500, 250, 100, 75, 50)),
    "impulse_noise": _one("amount", (0.03, 0.06, 0.09, 0.17, 0.27), (0.01, 0.02, 0.03, 0.05, 0.07)),
    "defocus_blur": Severities(
        ("radius", "alias"),
        ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)),
        ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)),
    ),
    "glass_blur": Severities(
        ("sigma", "reach", "rounds"),
        ((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2)),
        ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)),
    ),
    "motion_blur": Severities(
        ("radius", "sigma"),
        ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)),
        ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)),
    ),
    "zoom_blur": Severities(
        ("stop", "step"),
        ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03)),
        ((1.06, 0.01), (1.11, 0.01), (1.16, 0.01), (1.21, 0.01), (1.26, 0.01)),
    ),
    "snow": Severities(
        _SNOW,
        (
            (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
            (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
            (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
            (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
            (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
        ),
        (
            (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
            (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
            (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
            (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
            (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
        ),
    ),
    "frost": Severities(
        ("image", "frost", "every"),
        ((1, 0.4, 1), (0.8, 0.6, 1), (0.7, 0.7, 1), (0.65, 0.7, 1), (0.6, 0.75, 1)),
        ((1, 0.2, 5), (1, 0.3, 5), (0.9, 0.4, 5), (0.85, 0.4, 5), (0.75, 0.45, 5)),
    ),
    "fog": Severities(
        ("amount", "decay"),
        ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4)),
        ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)),
    ),
    "brightness": _one("amount", (0.1, 0.2, 0.3, 0.4, 0.5), (0.05, 0.1, 0.15, 0.2, 0.3)),
    "contrast": _one("factor", (0.4, 0.3, 0.2, 0.1, 0.05), (0.75, 0.5, 0.4, 0.3, 0.15)),
    "elastic_transform": Severities(  # the factor 244, not 224, is the published code's
        ("amplitude", "sigma", "corner"),
        (
            (244 * 2, 244 * 0.7, 244 * 0.1),
            (244 * 2, 244 * 0.08, 244 * 0.2),
            (244 * 0.05, 244 * 0.01, 244 * 0.02),
            (244 * 0.07, 244 * 0.01, 244 * 0.02),
            (244 * 0.12, 244 * 0.01, 244 * 0.02),
        ),
        (
            (0, 0, 32 * 0.08),
            (32 * 0.05, 32 * 0.2, 32 * 0.07),
            (32 * 0.08, 32 * 0.06, 32 * 0.06),
            (32 * 0.1, 32 * 0.04, 32 * 0.05),
            (32 * 0.1, 32 * 0.03, 32 * 0.03),
        ),
    ),
    "pixelate": _one("scale", (0.6, 0.5, 0.4, 0.3, 0.25), (0.95, 0.9, 0.85, 0.75, 0.65)),
    "jpeg_compression": _one("quality", (25, 18, 15, 10, 7), (80, 65, 58, 50, 40)),
    "speckle_noise": _one("sd", (0.15, 0.2, 0.35, 0.45, 0.6), (0.06, 0.1, 0.12, 0.16, 0.2)),
    "gaussian_blur": _one("sigma", (1, 2, 3, 4, 6), (0.4, 0.6, 0.7, 0.8, 1)),
    "spatter": Severities(
        _SPATTER,
        (
            (0.65, 0.3, 4, 0.69, 0.6, 0),
            (0.65, 0.3, 3, 0.68, 0.6, 0),
            (0.65, 0.3, 2, 0.68, 0.5, 0),
            (0.65, 0.3, 1, 0.65, 1.5, 1),
            (0.67, 0.4, 1, 0.65, 1.5, 1),
        ),
        (
            (0.62, 0.1, 0.7, 0.7, 0.5, 0),
            (0.65, 0.1, 0.8, 0.7, 0.5, 0),
            (0.65, 0.3, 1, 0.69, 0.5, 0),
            (0.65, 0.1, 0.7, 0.69, 0.6, 1),
            (0.65, 0.1, 0.5, 0.68, 0.6, 1),
        ),
    ),
    "saturate": Severities(
        ("factor", "amount"),
        ((0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (20, 0.2)),
        ((0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2)),
    ),
}


def constants(name: str, severity: int, size: int) -> Row:
    """The constants of a corruption, in the order of `SEVERITIES[name].names`.

    Raises ValueError for a severity that is not one of 1 to 5, or a size other than 224 and 32.
    """
    if type(severity) is not int or not 1 <= severity <= 5:
        raise ValueError(f"severity must be a whole number from 1 to 5, got {severity!r}")
    if type(size) is not int or size not in SIZES:
        raise ValueError(f"size must be 224, the constants of ImageNet-C, or 32, those of CIFAR-10-C, got {size!r}")
    return SEVERITIES[name].of(size)[severity - 1]
