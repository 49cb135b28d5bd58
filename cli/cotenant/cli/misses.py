"""Why a request was refused or late, in one line; `cotenant explain` tells the rest."""


def refused(reason: str, message: str) -> str:
    """For one that was refused."""
    return f"refused, {reason}: {message}" if message else f"refused, {reason}"


def late(
    budget_ms: float, answered_ms: float, launched_ms: float, duration_ms: float, predicted_ms: float, bound_ms: float
) -> str:
    """For one that was answered late: instants count from its arrival, the rest are of its batch's run."""
    told = f"late by {answered_ms - budget_ms:.1f} of {budget_ms:g} ms: launched at +{launched_ms:.1f} ms"
    told += f", ran {duration_ms:.1f} ms"
    if not predicted_ms:
        return f"{told}, of which nothing was known before"
    off = duration_ms / predicted_ms - 1.0
    held = "within" if duration_ms <= bound_ms else "beyond"
    return f"{told}, {abs(off):.0%} {'more' if off > 0 else 'less'} than expected, {held} its bound"
