"""What is known of other batch sizes of a model, read between the lines."""

import math
from collections.abc import Mapping


def between(size: int, known: Mapping[int, float]) -> float:
    """A value at a batch size: on the line through the two nearest sizes round it, or beyond them.

    Beyond the smallest and largest the line goes on, but a time never falls below half of what the nearest size
    takes. With a single size the value is the same in proportion to sqrt(size): between a batch that costs nothing
    more and one that costs as much per item.
    """
    sizes = sorted(known)
    if size in known:
        return known[size]
    if len(sizes) == 1:
        return known[sizes[0]] * math.sqrt(size / sizes[0])
    above = next((i for i, n in enumerate(sizes) if n > size), len(sizes) - 1)
    i = max(1, above)
    low, high = sizes[i - 1], sizes[i]
    value = known[low] + (known[high] - known[low]) * (size - low) / (high - low)
    return max(value, 0.5 * known[low] if size < low else 0.0)
