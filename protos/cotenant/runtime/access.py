"""Who may call what: methods need roles, peers have them by the name in their certificate or by a bearer token.

Rule: while no rules are in force everything is allowed, as on a host that its users share; once they are, a method that
is not in the table below is for administrators. docs/security.md explains it to those who run a stack.

A file of rules is TOML, one line per role: `admin = ["name:ops.example.com", "sha256:9f86d0..."]`. `name:` is the
common name or an alternative name of a client's certificate, `sha256:` the hash of a token, as hexadecimal digits,
`any` is everybody who could connect. Roles that the file does not name keep what `DEFAULTS` says.
"""

import hashlib
import hmac
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

Rules = Mapping[str, tuple[str, ...]]  # role -> who has it

ANY = "any"
ADMIN = "admin"  # may do everything
DEFAULTS: Rules = {
    "client": (ANY,),
    **{role: (f"name:{role}",) for role in (ADMIN, "viewer", "shared-memory", "frontend", "scheduler", "executor")},
}

_INFERENCE = "inference.GRPCInferenceService"
RULES: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "grpc.health.v1.Health": {"*": (ANY,)},
    "grpc.reflection.v1alpha.ServerReflection": {"*": (ANY,)},
    _INFERENCE: {
        "*": ("client",),
        "RepositoryModelLoad": (ADMIN,),
        "RepositoryModelUnload": (ADMIN,),
        "TraceSetting": (ADMIN,),
        "LogSettings": (ADMIN,),
        "SystemSharedMemoryRegister": ("shared-memory",),
        "SystemSharedMemoryUnregister": ("shared-memory",),
        "CudaSharedMemoryRegister": ("shared-memory",),
        "CudaSharedMemoryUnregister": ("shared-memory",),
    },
    "cotenant.v1.SchedulerService": {
        "ConnectFrontend": ("frontend",),
        "ConnectExecutor": ("executor",),
        "LoadModel": ("frontend",),  # which has asked its client for the role
        "UnloadModel": ("frontend",),
        "ListModels": ("frontend", "viewer"),
        "GetStatus": ("frontend", "viewer"),
        "GetSettings": ("viewer",),
        "UpdateSettings": (ADMIN,),
        "Explain": ("viewer",),
    },
    "cotenant.v1.ExecutorService": {"Exchange": ("frontend",)},
    "cotenant.v1.PredictorService": {
        "Observe": ("executor",),
        "WatchEstimates": ("scheduler",),
        "EstimateColocation": ("viewer",),
    },
}


def needed(method: str) -> tuple[str, ...]:
    """Roles of which one is needed to call "/package.Service/Method"; administrators may call everything."""
    service, _, name = method.strip("/").partition("/")
    methods = RULES.get(service, {})
    return methods.get(name, methods.get("*", (ADMIN,)))


def read_rules(path: str) -> dict[str, tuple[str, ...]]:
    """Who has which role, by a file. Raises OSError, or ValueError that names the file and what is wrong."""
    try:
        told = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not TOML: {error}") from error
    for role, who in told.items():
        if role not in DEFAULTS:
            raise ValueError(f"{path}: there is no role '{role}'; there are {', '.join(DEFAULTS)}")
        if not isinstance(who, list) or not all(isinstance(one, str) for one in who):
            raise ValueError(f"{path}: role '{role}' must be a list of texts")
        for one in who:
            _check(path, role, one)
    return {**DEFAULTS, **{role: tuple(who) for role, who in told.items()}}


def _check(path: str, role: str, one: str) -> None:
    kind, _, value = one.partition(":")
    if one == ANY or (kind == "name" and value) or (kind == "sha256" and _is_hash(value)):
        return
    # What is wrong may be a token that somebody put here instead of its hash: it is not repeated.
    raise ValueError(f"{path}: role '{role}': expected 'any', 'name:NAME' or 'sha256:' and 64 hexadecimal digits")


def _is_hash(text: str) -> bool:
    return len(text) == 64 and all(digit in "0123456789abcdef" for digit in text)


@dataclass(frozen=True, slots=True)
class Denial:
    """Why a call is not served."""

    code: grpc.StatusCode
    message: str


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls, as far as was proven; `token` is the hash of a bearer token, "" without one."""

    names: tuple[str, ...] = ()
    token: str = ""

    def __str__(self) -> str:
        return f"certificate '{self.names[0]}'" if self.names else "a bearer token" if self.token else "nobody"


def caller(auth_context: Mapping[str, Iterable[bytes]], metadata: Iterable[tuple[str, Any]] | None) -> Caller:
    """Who calls: the certificate that TLS has verified, and the token in `authorization: Bearer TOKEN`."""
    found = [*auth_context.get("x509_common_name", ()), *auth_context.get("x509_subject_alternative_name", ())]
    names = dict.fromkeys(name.decode("utf-8", "replace") for name in found)
    header = next((str(value) for key, value in metadata or () if key == "authorization"), "")
    scheme, _, token = header.partition(" ")
    return Caller(tuple(names), digest(token.strip()) if scheme.lower() == "bearer" and token else "")


def digest(token: str) -> str:
    """What rules hold of a token. Tokens are long and random, so a plain hash is enough."""
    return hashlib.sha256(token.encode()).hexdigest()


def denial(rules: Rules, method: str, who: Caller) -> Denial | None:
    """None if the caller has a role that the method needs."""
    roles = needed(method)
    if any(_is_one_of(who, rules.get(role, (role,))) for role in (*roles, ADMIN)):
        return None
    wanted = " or ".join(f"'{role}'" for role in roles)
    name = method.rpartition("/")[2]
    if who.token and not _known(rules, who.token):
        return Denial(grpc.StatusCode.UNAUTHENTICATED, f"{name}: the bearer token is not known")
    if not who.names and not who.token:
        text = f"{name} needs the role {wanted}: show a client certificate or a bearer token that has it"
        return Denial(grpc.StatusCode.UNAUTHENTICATED, text)
    return Denial(grpc.StatusCode.PERMISSION_DENIED, f"{name} needs the role {wanted}, which {who} does not have")


def _is_one_of(who: Caller, allowed: Iterable[str]) -> bool:
    """Compares with every entry, each in constant time, so that time tells nothing of a hash."""
    claims = [ANY, *(f"name:{name}" for name in who.names), *([f"sha256:{who.token}"] if who.token else [])]
    matches = [hmac.compare_digest(one.encode(), claim.encode()) for one in allowed for claim in claims]
    return any(matches)


def _known(rules: Rules, token: str) -> bool:
    return any([_is_one_of(Caller(token=token), [one for one in who if one != ANY]) for who in rules.values()])  # noqa: C419
