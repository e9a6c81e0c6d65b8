"""What is made of measured times: medians, quantiles, ratios. Nothing here measures."""

import math
from collections.abc import Sequence


def median(values: Sequence[float]) -> float:
    """Pick the middle value."""
    return quantile(values, 0.5)


def quantile(values: Sequence[float], share: float) -> float:
    """Pick the value that this share of the values doesn't exceed.

    Raises:
        ValueError: There are no values.
    """
    if not values:
        raise ValueError("nothing was measured")
    ordered = sorted(values)
    return ordered[min(math.ceil(len(ordered) * share), len(ordered)) - 1]


def in_ms(value_s: float) -> float:
    """Give seconds as milliseconds."""
    return value_s * 1000
