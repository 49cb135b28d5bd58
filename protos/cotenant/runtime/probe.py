"""Asks a server whether it serves, over `grpc.health.v1`: `python -m cotenant.runtime.probe ADDRESS [SERVICE]`.

Container health checks run it every few seconds, so it imports gRPC's blocking half and nothing else of ours.
Exit status: 0 if the server says SERVING, 1 if it says anything else or does not answer, 2 for bad usage.
"""

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

TIMEOUT_S = 2.0
_USAGE = """\
usage: python -m cotenant.runtime.probe ADDRESS [SERVICE]

ADDRESS is host:port or unix:path; SERVICE a gRPC service's full name, by default the server as a whole.
Prints what the server answers, and exits with 0 if that is SERVING, 1 if it is not, 2 for bad usage.
With COTENANT_TLS=FOLDER/NAME it talks TLS, shows NAME.pem of the folder, and believes its ca.pem.\
"""


def probe(address: str, service: str = "", *, timeout_s: float = TIMEOUT_S) -> str:
    """What a server answers, e.g. "SERVING"; where it does not, the status code and why, e.g. "UNAVAILABLE: ..."."""
    try:
        channel = _channel(address, os.environ)
    except OSError as error:
        return f"UNKNOWN: {error}"
    with channel:
        stub = health_pb2_grpc.HealthStub(channel)
        try:
            answer = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=timeout_s)
        except grpc.RpcError as error:
            return ": ".join(filter(None, [error.code().name, error.details()]))
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))


def _channel(address: str, environment: Mapping[str, str]) -> grpc.Channel:
    told = environment.get("COTENANT_TLS", "")
    if not told:
        return grpc.insecure_channel(address)
    files = (Path(told).parent / "ca.pem", Path(f"{told}.key"), Path(f"{told}.pem"))
    # It asks its own host, whatever address the certificate is for.
    options = [("grpc.ssl_target_name_override", "localhost")]
    credentials = grpc.ssl_channel_credentials(*(file.read_bytes() for file in files))
    return grpc.secure_channel(address, credentials, options=options)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `python -m cotenant.runtime.probe`; returns the exit status."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    if arguments and arguments[0] in {"-h", "--help"}:
        print(_USAGE)  # noqa: T201
        return 0
    well_formed = len(arguments) in {1, 2} and not any(argument.startswith("-") for argument in arguments)
    if not well_formed or not (arguments[0].startswith("unix:") or arguments[0].rpartition(":")[2].isdigit()):
        print(_USAGE, file=sys.stderr)  # noqa: T201
        return 2
    found = probe(*arguments)
    print(found)  # noqa: T201
    return 0 if found == "SERVING" else 1


if __name__ == "__main__":
    sys.exit(main())
