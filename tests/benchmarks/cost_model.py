"""Cost of a stage as a line through measured times: seconds = a + b n, and how far the measurements are from it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Line:
    """A fitted cost.

    Attributes:
        fixed: seconds that are paid once, 0 or more.
        each: seconds for each further one.
        off: largest relative distance of a measurement from the line.
    """

    fixed: float
    each: float
    off: float

    def seconds(self, count: float) -> float:
        """Of so many."""
        return self.fixed + self.each * count

    def __str__(self) -> str:
        return f"{self.fixed:.3g} s + {1e6 * self.each:.3g} µs each, within {self.off:.0%}"


def line(seconds: dict[int, float]) -> Line:
    """Fit a line to times by their number, so that relative distances are least; a negative fixed part is none."""
    n, y = np.array(list(seconds), float), np.array(list(seconds.values()))
    design = np.stack([np.ones_like(n), n], axis=1) / y[:, None]
    (fixed, each), *_ = np.linalg.lstsq(design, np.ones_like(y), rcond=None)
    if fixed < 0:
        fixed, each = 0.0, float(np.sum(n / y) / np.sum((n / y) ** 2))
    return Line(float(fixed), float(each), float(np.max(np.abs((fixed + each * n) / y - 1))))


def power(seconds: dict[int, float]) -> float:
    """Slope between the two largest on logarithmic axes: 1 grows with the number, 2 with its square."""
    (n, y), (m, z) = sorted(seconds.items())[-2:]
    return float(np.log(z / y) / np.log(m / n))
