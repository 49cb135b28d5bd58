"""Whose request it is: the tenant that a call's metadata or its client's certificate names (docs/tenants.md).

A certificate proves who calls and metadata only claims it, so by default metadata may not name another tenant than the
certificate does. Where clients show no certificate, the claim is believed: such a stack trusts its clients.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import grpc

from cotenant.frontend.errors import RequestError, invalid
from cotenant.runtime import tenant_names

KEY = "cotenant-tenant"  # of the metadata
ANY, METADATA, CERTIFICATE, NOBODY = "any", "metadata", "certificate", "nobody"
SOURCES = (ANY, METADATA, CERTIFICATE, NOBODY)
COMMON_NAME, ALTERNATIVE_NAME = "common-name", "alternative-name"
_PROPERTIES = {COMMON_NAME: "x509_common_name", ALTERNATIVE_NAME: "x509_subject_alternative_name"}
FIELDS = tuple(_PROPERTIES)

Context = grpc.aio.ServicerContext[Any, Any]
Metadata = Iterable[tuple[str, Any]] | None


class Identity:
    """See the module's text. `proxies` are names of certificates that may name any tenant in metadata."""

    def __init__(self, source: str = ANY, field: str = COMMON_NAME, proxies: Iterable[str] = ()) -> None:
        self._source, self._property, self._proxies = source, _PROPERTIES[field], frozenset(proxies)

    def tenant_of(self, metadata: Metadata, context: Context) -> str:
        """The tenant of a call; empty if nothing names one. Raises RequestError."""
        if self._source == NOBODY:
            return ""
        claimed = _claimed(metadata)
        if self._source == METADATA:
            return claimed or ""
        proven = self._proven(context.auth_context())
        if claimed is None or proven == claimed:
            return proven or ""
        if proven in self._proxies or (proven is None and self._source == ANY):
            return claimed
        who = f"the certificate is of '{proven}'" if proven is not None else "only a client's certificate counts"
        message = f"metadata '{KEY}' names tenant '{tenant_names.shown(claimed)}', but {who}"
        raise RequestError(grpc.StatusCode.PERMISSION_DENIED, message)

    def _proven(self, properties: Mapping[str, Iterable[bytes]]) -> str | None:
        """What the client's certificate says; None without one. A certificate never stands for the default tenant."""
        for value in properties.get(self._property, ()):
            text = value.decode("utf-8", "replace")
            try:
                name = tenant_names.read(text)
            except ValueError as error:
                raise invalid(f"the client's certificate: {error}") from error
            if not name:
                raise invalid(f"the client's certificate: '{text}' is not the name of a tenant")
            return name
        return None


def _claimed(metadata: Metadata) -> str | None:
    """What metadata names; None if nothing. Named twice, it must be the same."""
    found: str | None = None
    for key, value in metadata or ():
        if key != KEY:
            continue
        try:
            name = tenant_names.read(value)
        except ValueError as error:
            raise invalid(f"metadata '{KEY}': {error}") from error
        if found is not None and found != name:
            raise invalid(f"metadata '{KEY}' names two tenants, expected one")
        found = name
    return found
