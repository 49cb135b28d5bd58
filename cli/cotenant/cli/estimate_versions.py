"""Versions of estimates in words. They need only ascend; our predictor's are the time of day, in us, of their push.

A version that cannot be such a time is another predictor's, and is shown as the number it is.
"""

from datetime import UTC, datetime

# 2001 and 2100: counters are smaller, other units larger or smaller.
_FIRST_S, _LAST_S = 978_307_200.0, 4_102_444_800.0


def pushed_s(version: int) -> float | None:
    """When estimates of this version were pushed, in s since 1970; None if the version does not tell."""
    seconds = version / 1e6
    return seconds if _FIRST_S <= seconds < _LAST_S else None


def age_s(version: int, now_s: float) -> float | None:
    """How old they are at `now_s`, 0 at least, since clocks of hosts differ; None if the version does not tell."""
    seconds = pushed_s(version)
    return None if seconds is None else max(0.0, now_s - seconds)


def age_text(seconds: float) -> str:
    """An age as people say it: "0.4 s", "5 min", "3.2 h", "4.0 days"."""
    if seconds < 120:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 172_800 else f"{seconds / 86_400:.1f} days"


def date_text(version: int) -> str:
    """The date of a version's push, in UTC; "version N" if it does not tell."""
    seconds = pushed_s(version)
    if seconds is None:
        return f"version {version}"
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S} UTC"
