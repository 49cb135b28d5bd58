"""Which tenant a call is of: metadata, certificates, and who may speak for whom; counts that stay bounded."""

import asyncio
from pathlib import Path
from typing import Any

import grpc
import pytest

from cotenant.frontend.errors import RequestError, refused
from cotenant.frontend.identity import (
    ALTERNATIVE_NAME,
    ANY,
    CERTIFICATE,
    COMMON_NAME,
    KEY,
    METADATA,
    NOBODY,
    Identity,
)
from cotenant.frontend.tenant_statistics import TenantStatistics
from cotenant.runtime.server import Server
from cotenant.runtime.status import code_of
from cotenant.runtime.transport import Transport
from cotenant.v1 import scheduler_pb2, types_pb2
from secured import echoed, issue, server_settings


class Call:
    """A gRPC call whose client showed a certificate, or none."""

    def __init__(self, common_name: str = "", *alternative_names: str) -> None:
        self.properties = {
            "x509_common_name": [common_name.encode()] if common_name else [],
            "x509_subject_alternative_name": [name.encode() for name in alternative_names],
        }

    def auth_context(self) -> Any:
        return self.properties


def tenant(identity: Identity, claimed: str | None, *certificate: str) -> str:
    metadata = [("user-agent", "x"), *([(KEY, claimed)] if claimed is not None else [])]
    context: Any = Call(*certificate)
    return identity.tenant_of(metadata, context)


@pytest.mark.parametrize(
    ("source", "claimed", "certificate", "expected"),
    [
        (ANY, None, (), ""),
        (ANY, "a", (), "a"),
        (ANY, "default", (), ""),
        (ANY, None, ("b",), "b"),
        (ANY, "b", ("b",), "b"),
        (METADATA, "a", ("b",), "a"),
        (METADATA, None, ("b",), ""),
        (CERTIFICATE, None, ("b",), "b"),
        (CERTIFICATE, None, (), ""),
        (NOBODY, "a", ("b",), ""),
    ],
)
def test_who_names_the_tenant(source: str, claimed: str | None, certificate: tuple[str, ...], expected: str) -> None:
    assert tenant(Identity(source), claimed, *certificate) == expected


@pytest.mark.parametrize(
    ("source", "claimed", "certificate"), [(ANY, "a", ("b",)), (ANY, "default", ("b",)), (CERTIFICATE, "a", ())]
)
def test_metadata_may_not_contradict_what_is_proven(source: str, claimed: str, certificate: tuple[str, ...]) -> None:
    with pytest.raises(RequestError, match=f"metadata 'cotenant-tenant' names tenant '{claimed}', but") as error:
        tenant(Identity(source), claimed, *certificate)
    assert error.value.code == grpc.StatusCode.PERMISSION_DENIED


def test_a_proxy_may_speak_for_others_and_is_itself_without() -> None:
    identity = Identity(CERTIFICATE, COMMON_NAME, ["gateway"])
    assert tenant(identity, "a", "gateway") == "a"
    assert tenant(identity, None, "gateway") == "gateway"
    with pytest.raises(RequestError, match="the certificate is of 'other'"):
        tenant(identity, "a", "other")


def test_the_alternative_name_may_be_what_counts() -> None:
    identity = Identity(ANY, ALTERNATIVE_NAME)
    assert tenant(identity, None, "common", "spiffe://cluster/ns/team", "second") == "spiffe://cluster/ns/team"
    assert tenant(identity, "x", "common") == "x"


@pytest.mark.parametrize("name", ["default", "a b", "(other)"])
def test_a_certificate_that_names_no_tenant_is_told_so(name: str) -> None:
    with pytest.raises(RequestError, match="the client's certificate: ") as error:
        tenant(Identity(), None, name)
    assert error.value.code == grpc.StatusCode.INVALID_ARGUMENT


def test_two_claims_must_agree() -> None:
    context: Any = Call()
    assert Identity().tenant_of([(KEY, "a"), (KEY, "a")], context) == "a"
    with pytest.raises(RequestError, match="names two tenants"):
        Identity().tenant_of([(KEY, "a"), (KEY, "b")], context)


def test_a_quota_has_the_status_of_an_exhausted_resource() -> None:
    assert code_of(types_pb2.REJECT_REASON_QUOTA_EXCEEDED) == grpc.StatusCode.RESOURCE_EXHAUSTED


def test_counts_of_tenants_are_bounded_and_reported_once() -> None:
    statistics = TenantStatistics()
    statistics.know(["own", "late-comer"], 2)
    for name in ("a", "b", "c", "d", "own", ""):
        statistics.succeeded(name, late=name == "b")
    statistics.failed("late-comer", refused(types_pb2.REJECT_REASON_QUOTA_EXCEEDED, "too much"))
    statistics.failed("a", refused(types_pb2.REJECT_REASON_EXECUTOR_LOST, "gone"))
    statistics.failed("a", RequestError(grpc.StatusCode.INVALID_ARGUMENT, "wrong in itself"))
    assert set(statistics.tenants) == {"a", "b", "own", "", "late-comer", "(other)"}
    assert statistics.tenants["(other)"].in_time == 2
    assert statistics.tenants["late-comer"].over_quota == 1
    frame = scheduler_pb2.ConnectFrontendRequest()
    statistics.report(frame)
    told = {row.tenant: (row.in_time, row.late, row.refused, row.failed) for row in frame.tenant_statistics}
    assert told["a"] == (1, 0, 0, 1)
    assert told["late-comer"] == (0, 0, 1, 0)
    again = scheduler_pb2.ConnectFrontendRequest()
    statistics.succeeded("b", late=False)
    statistics.report(again)
    assert [(row.tenant, row.in_time, row.late) for row in again.tenant_statistics] == [("b", 1, 0)]


class TellTenant(grpc.GenericRpcHandler):
    """Answers every call with its tenant."""

    def __init__(self, identity: Identity) -> None:
        self.identity = identity

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        async def tell(request: bytes, context: Any) -> bytes:
            try:
                return self.identity.tenant_of(context.invocation_metadata(), context).encode()
            except RequestError as error:
                return error.code.name.encode()

        return grpc.unary_unary_rpc_method_handler(tell)


@pytest.mark.parametrize(
    ("client", "claimed", "expected"),
    [("team-a", None, "team-a"), ("team-a", "team-b", "PERMISSION_DENIED"), ("gateway", "team-b", "team-b")],
)
def test_over_mutual_tls_the_certificate_says_who_it_is(
    tmp_path: Path, client: str, claimed: str | None, expected: str
) -> None:
    async def ask() -> bytes:
        served = Transport(server_settings(issue(tmp_path, "frontend", server=True)))
        served.guard = None  # who may call is another matter
        server = Server(service_names=[], secured=served)
        server.grpc.add_generic_rpc_handlers((TellTenant(Identity(proxies=["gateway"])),))
        port = server.bind("127.0.0.1:0")
        await server.grpc.start()
        try:
            calling = Transport(server_settings(issue(tmp_path, client)))
            metadata = ((KEY, claimed),) if claimed else None
            return await echoed(calling, f"localhost:{port}", metadata=metadata)
        finally:
            await server.grpc.stop(None)

    assert asyncio.run(ask()) == expected.encode()
