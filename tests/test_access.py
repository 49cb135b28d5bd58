"""Who may call what: rules, roles and Triton's restricted groups, without any server."""

from pathlib import Path

import grpc
import pytest

from cotenant.frontend import restricted
from cotenant.inference import inference_pb2
from cotenant.runtime import access
from cotenant.runtime.access import Caller
from cotenant.v1 import executor_pb2, predictor_pb2, scheduler_pb2

SERVICES = [
    scheduler_pb2.DESCRIPTOR.services_by_name["SchedulerService"],
    executor_pb2.DESCRIPTOR.services_by_name["ExecutorService"],
    predictor_pb2.DESCRIPTOR.services_by_name["PredictorService"],
]
SCHEDULER, FRONTEND = "/cotenant.v1.SchedulerService/", "/inference.GRPCInferenceService/"
TOKEN = "correct horse battery staple"


def allowed(method: str, *names: str, token: str = "", rules: access.Rules = access.DEFAULTS) -> bool:
    return access.denial(rules, method, Caller(names, access.digest(token) if token else "")) is None


def test_every_method_between_services_has_its_rule() -> None:
    for service in SERVICES:
        for method in service.methods:
            assert method.name in access.RULES[service.full_name], f"{service.full_name}/{method.name} has no rule"


def test_a_method_without_a_rule_is_for_administrators() -> None:
    assert access.needed("/cotenant.v1.SchedulerService/NotYetThere") == (access.ADMIN,)
    assert access.needed("/somebody.Else/Method") == (access.ADMIN,)


@pytest.mark.parametrize(
    ("method", "who", "expected"),
    [
        (FRONTEND + "ModelInfer", "", True),
        (FRONTEND + "RepositoryIndex", "", True),
        (FRONTEND + "RepositoryModelLoad", "client", False),
        (FRONTEND + "RepositoryModelLoad", "admin", True),
        (FRONTEND + "LogSettings", "client", False),
        (FRONTEND + "SystemSharedMemoryRegister", "client", False),
        (FRONTEND + "SystemSharedMemoryRegister", "shared-memory", True),
        (SCHEDULER + "ConnectFrontend", "executor", False),
        (SCHEDULER + "ConnectFrontend", "frontend", True),
        (SCHEDULER + "ConnectExecutor", "frontend", False),
        (SCHEDULER + "UpdateSettings", "frontend", False),
        (SCHEDULER + "UpdateSettings", "viewer", False),
        (SCHEDULER + "UpdateSettings", "admin", True),
        (SCHEDULER + "GetStatus", "viewer", True),
        ("/cotenant.v1.ExecutorService/Exchange", "scheduler", False),
        ("/cotenant.v1.PredictorService/Observe", "executor", True),
        ("/grpc.health.v1.Health/Check", "", True),
    ],
)
def test_roles_by_the_name_in_a_certificate(method: str, who: str, expected: bool) -> None:
    assert allowed(method, *([who] if who else [])) is expected


def test_names_are_compared_as_they_are() -> None:
    for name in ("Admin", "admin.example.com", "name:admin", "admin\0", "any", ""):
        assert not allowed(SCHEDULER + "UpdateSettings", name)


def test_a_file_of_rules_replaces_the_roles_that_it_names(tmp_path: Path) -> None:
    path = tmp_path / "access.toml"
    path.write_text(f'admin = ["name:ops", "sha256:{access.digest(TOKEN)}"]\nclient = ["name:shop"]\n')
    rules = access.read_rules(str(path))
    assert allowed(FRONTEND + "RepositoryModelLoad", "ops", rules=rules)
    assert allowed(FRONTEND + "RepositoryModelLoad", token=TOKEN, rules=rules)
    assert not allowed(FRONTEND + "RepositoryModelLoad", "admin", rules=rules)
    assert not allowed(FRONTEND + "RepositoryModelLoad", token=TOKEN + "!", rules=rules)
    assert allowed(FRONTEND + "ModelInfer", "shop", rules=rules)
    assert allowed(FRONTEND + "ModelInfer", "ops", rules=rules)
    assert not allowed(FRONTEND + "ModelInfer", rules=rules)
    assert allowed(SCHEDULER + "ConnectFrontend", "frontend", rules=rules)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("admin", "not TOML"),
        ('root = ["any"]', "there is no role 'root'; there are client, admin, "),
        ('admin = "any"', "role 'admin' must be a list of texts"),
        (f'admin = ["{TOKEN}"]', "role 'admin': expected 'any', 'name:NAME' or 'sha256:' and 64 hexadecimal digits"),
        (f'admin = ["sha256:{TOKEN}"]', "role 'admin': expected"),
        ('admin = ["name:"]', "role 'admin': expected"),
    ],
)
def test_rules_that_make_no_sense_are_told_without_what_may_be_a_secret(
    tmp_path: Path, text: str, expected: str
) -> None:
    path = tmp_path / "access.toml"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"access\.toml") as caught:
        access.read_rules(str(path))
    assert expected in str(caught.value)
    assert TOKEN not in str(caught.value)


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ([("authorization", f"Bearer {TOKEN}")], access.digest(TOKEN)),
        ([("authorization", f"bearer  {TOKEN} ")], access.digest(TOKEN)),
        ([("authorization", f"Basic {TOKEN}")], ""),
        ([("authorization", "Bearer")], ""),
        ([("x-authorization", f"Bearer {TOKEN}")], ""),
        ([], ""),
    ],
)
def test_which_header_is_a_token(metadata: list[tuple[str, str]], expected: str) -> None:
    assert access.caller({}, metadata).token == expected


def test_what_a_certificate_proves() -> None:
    context = {"x509_common_name": [b"ops"], "x509_subject_alternative_name": [b"ops", b"spiffe://site/ops"]}
    assert access.caller(context, None) == Caller(("ops", "spiffe://site/ops"), "")
    assert "unknown" in access.caller({"x509_common_name": [b"unknown"]}, None).names


def test_a_caller_is_never_described_by_a_secret() -> None:
    assert str(Caller(token=access.digest(TOKEN))) == "a bearer token"
    denied = access.denial(access.DEFAULTS, SCHEDULER + "GetStatus", Caller(token=access.digest(TOKEN)))
    assert denied is not None
    assert denied.code == grpc.StatusCode.UNAUTHENTICATED
    assert access.digest(TOKEN) not in denied.message


# ---- Triton's restricted groups


def test_every_method_of_the_protocol_is_in_one_group() -> None:
    methods = [m.name for m in inference_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods]
    assert sorted(m for group in restricted.GROUPS.values() for m in group) == sorted(methods)


def test_lines_are_read_as_triton_reads_its_flag(tmp_path: Path) -> None:
    path = tmp_path / "restricted"
    path.write_text("# who may load\n\nmodel-repository,logging:Admin-Key=a=b:c\ninference:infer-key=x\n")
    secrets = restricted.read(str(path))
    assert secrets[FRONTEND + "RepositoryModelLoad"] == ("triton-grpc-protocol-admin-key", "a=b:c")
    assert secrets[FRONTEND + "ModelStreamInfer"] == ("triton-grpc-protocol-infer-key", "x")
    assert FRONTEND + "ModelConfig" not in secrets


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("inference:key", "expected GROUP,GROUP:KEY=VALUE"),
        ("inference=secret", "expected GROUP,GROUP:KEY=VALUE"),
        (":key=secret", "expected GROUP,GROUP:KEY=VALUE"),
        ("infer:key=secret", "there is no group 'infer'"),
        ("inference:a=secret\ninference:b=secret", "line 2: group 'inference' stands in another line as well"),
    ],
)
def test_lines_that_make_no_sense_are_told_without_the_secret(tmp_path: Path, line: str, expected: str) -> None:
    path = tmp_path / "restricted"
    path.write_text(line)
    with pytest.raises(ValueError, match="restricted, line") as caught:
        restricted.read(str(path))
    assert expected in str(caught.value)
    assert "secret" not in str(caught.value)
