"""Names of tenants: what one may look like, and the two that stand for more than one tenant.

A request that names no tenant belongs to the one whose name is empty; clients and people may call it `default`.
"""

import re

DEFAULT = "default"  # how people write the tenant without a name
ALL = "*"  # in settings: every tenant that has none of its own
OTHERS = "(other)"  # those beyond the number that are told apart, as one; no tenant can be called so

EXPECTED = "1 to 128 letters, digits and ._:/@+=,- that begin with a letter or digit"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@+=,-]{0,127}", re.ASCII)


def read(text: str) -> str:
    """A tenant's name as it is kept: empty for `default`. Raises ValueError that says what is expected."""
    if not text or text == DEFAULT:
        return ""
    if not _NAME.fullmatch(text):
        shown = text if len(text) <= 64 else text[:64] + "..."
        raise ValueError(f"{shown!r} is not the name of a tenant, expected {EXPECTED}")
    return text


def shown(name: str) -> str:
    """A name as people read it."""
    return name or DEFAULT
