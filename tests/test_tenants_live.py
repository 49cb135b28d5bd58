"""Tenants and settings on a real stack: who is who, quotas, changes while requests run, and the record of it."""

import contextlib
import io
import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from typing import Any, NamedTuple

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from google.rpc import error_details_pb2, status_pb2

from cotenant.cli.load_client import error_info
from cotenant.scheduler import events as ev
from cotenant.scheduler import record
from cotenant.scheduler.replay import replay
from cotenant.scheduler.shell import FLUSH_S
from stacks import IDENTITY, StackThread, delayed, write_model


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StackThread]:
    folder = tmp_path_factory.mktemp("tenants")
    repository = folder / "models"
    write_model(repository, "identity", IDENTITY)
    write_model(repository, "slow", delayed(15, slo_ms=400))
    extra = {"scheduler": (f"--settings={folder / 'settings.json'}",)}
    made = StackThread(folder, repository, record=str(folder / "log.jsonl"), extra=extra)
    yield made
    made.close()


def scheduler_of(stack: StackThread) -> str:
    return stack.stack.services["scheduler"].address


class Done(NamedTuple):
    """A command that has ended."""

    status: int
    stdout: str
    stderr: str


def command(name: str, *arguments: str) -> Done:
    """Runs `cotenant NAME ...` in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status: int = import_module(f"cotenant.cli.{name}").main(arguments)
    return Done(status, out.getvalue(), err.getvalue())


def change(stack: StackThread, *assignments: str) -> dict[str, str]:
    done = command("set", "--scheduler", scheduler_of(stack), "--json", *assignments)
    assert done.status == 0, done.stderr
    settings: dict[str, str] = json.loads(done.stdout)["settings"]
    return settings


@pytest.fixture
def settings(stack: StackThread) -> Iterator[Callable[..., dict[str, str]]]:
    """Changes settings; what was set of models and tenants is taken back in the end."""
    yield lambda *assignments: change(stack, *assignments)
    shown = command("settings", "--scheduler", scheduler_of(stack), "--json")
    set_of = {key.rpartition(".")[0] for key in json.loads(shown.stdout)["settings"] if "." in key}
    change(stack, "policy=goodput", *(f"{entry}=" for entry in sorted(set_of)))


def infer(client: Any, model: str = "identity", tenant: str | None = None, **more: Any) -> Any:
    tensor = triton.InferInput("INPUT0", [1, 16], "FP32")
    tensor.set_data_from_numpy(np.ones((1, 16), np.float32))
    headers = {"cotenant-tenant": tenant} if tenant is not None else None
    return client.infer(model, [tensor], headers=headers, **more)


def refusal(error: Any) -> tuple[grpc.StatusCode, dict[str, str], float]:
    """Code, facts, and after how many ms to try again."""
    rpc: Any = error.__context__
    info = error_info(rpc.trailing_metadata())
    assert info is not None
    retry = error_details_pb2.RetryInfo()
    for key, value in rpc.trailing_metadata():
        if key == "grpc-status-details-bin":
            for detail in status_pb2.Status.FromString(value).details:
                detail.Unpack(retry)
    return rpc.code(), dict(info.metadata), retry.retry_delay.ToNanoseconds() / 1e6


def test_a_tenant_over_its_quota_is_told_which_and_when_to_try_again(
    stack: StackThread, settings: Callable[..., dict[str, str]]
) -> None:
    settings("tenant.acme.requests_per_s=0.05", "tenant.acme.burst_requests=2")
    with triton.InferenceServerClient(stack.url) as client:
        infer(client, tenant="acme")
        infer(client, tenant="acme")
        with pytest.raises(triton.InferenceServerException, match=r"tenant 'acme' .*requests_per_s") as error:
            infer(client, tenant="acme")
        infer(client, tenant="other")
        infer(client)
    code, facts, retry_ms = refusal(error.value)
    assert code == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert (facts["tenant"], facts["quota"]) == ("acme", "requests_per_s")
    assert 0 < float(facts["retry_after_ms"]) <= 20_000
    assert retry_ms == pytest.approx(float(facts["retry_after_ms"]))


@pytest.mark.parametrize("name", ["a b", "(other)", "*", "-x", "a" * 200])
def test_a_name_that_is_none_is_refused_and_the_field_named(stack: StackThread, name: str) -> None:
    with (
        triton.InferenceServerClient(stack.url) as client,
        pytest.raises(triton.InferenceServerException, match=r"'cotenant-tenant': .* is not the name") as error,
    ):
        infer(client, tenant=name)
    assert error.value.status() == "StatusCode.INVALID_ARGUMENT"


def test_a_stream_belongs_to_one_tenant(stack: StackThread, settings: Callable[..., dict[str, str]]) -> None:
    settings("tenant.stream.max_pending=1000", "tenant.stream.requests_per_s=0.1", "tenant.stream.burst_requests=1")
    answers: list[tuple[Any, Any]] = []
    with triton.InferenceServerClient(stack.url) as client:
        client.start_stream(
            lambda result, error: answers.append((result, error)), headers={"cotenant-tenant": "stream"}
        )
        tensor = triton.InferInput("INPUT0", [1, 16], "FP32")
        tensor.set_data_from_numpy(np.ones((1, 16), np.float32))
        for _ in range(3):
            client.async_stream_infer("identity", [tensor])
        client.stop_stream()
    assert [error is None for _, error in answers] == [True, False, False]
    assert "tenant 'stream'" in str(answers[1][1])


def test_what_clients_of_a_tenant_saw_is_counted(stack: StackThread) -> None:
    with triton.InferenceServerClient(stack.url) as client:
        for _ in range(5):
            infer(client, tenant="counted")
    done = command("top", "--scheduler", scheduler_of(stack), "--once", "--json", "--interval-s", "1.5")
    rows = {row["tenant"]: row for row in json.loads(done.stdout)["tenants"]}
    assert rows["counted"]["in_time"] == 5
    assert rows["counted"]["weight"] == 1.0
    assert "default" in rows


def slo_becomes(client: Any, slo_ms: float) -> None:
    """Waits until the frontend has heard of it; the scheduler's answer may overtake what it tells frontends."""
    for _ in range(200):
        if float(client.get_model_config("slow").config.parameters["slo_ms"].string_value) == slo_ms:
            return
        time.sleep(0.02)
    raise AssertionError(f"the SLO never became {slo_ms} ms")


def test_an_slo_set_at_run_time_holds_for_the_next_request_and_shows(
    stack: StackThread, settings: Callable[..., dict[str, str]]
) -> None:
    with triton.InferenceServerClient(stack.url) as client:
        infer(client, "slow")
        assert settings("model.slow.slo_ms=5")["model.slow.slo_ms"] == "5"
        slo_becomes(client, 5.0)
        with pytest.raises(triton.InferenceServerException, match="late") as error:
            infer(client, "slow")
        code, facts, _ = refusal(error.value)
        assert code == grpc.StatusCode.DEADLINE_EXCEEDED
        assert float(facts["budget_ms"]) == 5.0
        settings("model.slow=")
        slo_becomes(client, 400.0)
        infer(client, "slow")


def test_policies_change_under_load_and_no_request_is_lost(
    stack: StackThread, settings: Callable[..., dict[str, str]]
) -> None:
    def send(number: int) -> str:
        with triton.InferenceServerClient(stack.url) as client:
            for _ in range(12):
                infer(client, "slow", tenant=f"t{number % 3}", timeout=20_000_000)
        return "answered"

    with ThreadPoolExecutor(8) as pool:
        sending = [pool.submit(send, number) for number in range(8)]
        for policy in ("edf", "triton", "exclusive-fifo", "goodput"):
            assert settings(f"policy={policy}", "level=0.9", "model.slow.slo_ms=0")["policy"] == policy
        assert [done.result(timeout=60) for done in sending] == ["answered"] * 8
    shown = command("top", "--scheduler", scheduler_of(stack), "--once", "--json", "--interval-s", "0.2")
    assert json.loads(shown.stdout)["predictor_connected"]  # though it is asked for bounds of another level now


@pytest.mark.parametrize(
    ("assignment", "problem"),
    [
        ("policy=nothing", "INVALID_ARGUMENT: policy: there is no policy 'nothing'"),
        ("level=1.5", "INVALID_ARGUMENT: level: expected a share between 0 and 1"),
        ("tenant.a.weight=0", "INVALID_ARGUMENT: tenants 'a'.weight: expected 0.001 to 1000"),
        ("tenant.a b.weight=1", "INVALID_ARGUMENT: tenants: 'a b' is not the name of a tenant"),
        ("tenant.nobody=", "INVALID_ARGUMENT: reset_tenants: tenant 'nobody' has no settings"),
        ("tenant.a.weigth=1", "expected tenant.NAME.KEY=VALUE with one of weight"),
        ("levl=1", "there is no setting 'levl'"),
        ("level=high", "'level=high': expected a number"),
    ],
)
def test_a_change_that_cannot_be_changes_nothing(stack: StackThread, assignment: str, problem: str) -> None:
    before = command("settings", "--scheduler", scheduler_of(stack), "--json").stdout
    done = command("set", "--scheduler", scheduler_of(stack), "max_tenants=7", assignment)
    assert done.status in (1, 2)
    assert problem in done.stderr
    assert command("settings", "--scheduler", scheduler_of(stack), "--json").stdout == before


def test_a_change_meant_for_an_older_revision_is_refused(
    stack: StackThread, settings: Callable[..., dict[str, str]]
) -> None:
    settings("tenant.x.weight=2")
    revision = json.loads(command("settings", "--scheduler", scheduler_of(stack), "--json").stdout)["revision"]
    settings("tenant.x.weight=3")
    done = command("set", "--scheduler", scheduler_of(stack), "--revision", str(revision), "tenant.x.weight=4")
    assert done.status == 1
    assert "ABORTED" in done.stderr


def test_the_record_of_all_this_replays_and_settings_are_kept_in_their_file(
    stack: StackThread, settings: Callable[..., dict[str, str]]
) -> None:
    settings("tenant.kept.weight=4")
    folder = stack.stack.options.model_repository.parent
    kept = json.loads((folder / "settings.json").read_text())
    assert {"tenant": "kept", "weight": 4.0} in kept["tenants"]
    with triton.InferenceServerClient(stack.url) as client:
        infer(client, tenant="kept")
    time.sleep(2 * FLUSH_S)
    path = folder / "log.jsonl"
    events = [e for g in record.read(path) if isinstance(g, record.Group) for e in g.events]
    assert any(isinstance(e, ev.SettingsChanged) for e in events)
    outcome = replay(path)
    assert outcome.groups > 20
    assert outcome.difference is None, outcome.difference
