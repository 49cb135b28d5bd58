"""Changes of settings as data: what a change makes of them, what is refused, and the file that keeps them."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cotenant.cli import settings_words
from cotenant.inference import inference_pb2
from cotenant.runtime import model_options
from cotenant.scheduler import settings_codec
from cotenant.scheduler.policies import POLICIES
from cotenant.scheduler.settings import Change, ModelSettings, Settings, TenantSettings, changed, check
from cotenant.scheduler.state import CoreConfig
from cotenant.v1 import scheduler_pb2

START = CoreConfig().settings


def after(*assignments: str, of: Settings = START) -> Settings:
    """Settings after what someone wrote, over the wire."""
    asked = scheduler_pb2.UpdateSettingsRequest.FromString(settings_words.request(assignments).SerializeToString())
    return changed(of, settings_codec.change(asked), POLICIES)


def test_a_change_touches_what_it_names_and_no_more() -> None:
    once = after("policy=edf", "model.a.b.slo_ms=12.5", "tenant.acme.weight=3", "tenant.acme.max_pending=5")
    assert once.policy == "edf"
    assert once.models == (ModelSettings("a.b", slo_ns=12_500_000),)
    assert once.tenants == (TenantSettings("acme", weight=3.0, max_pending=5),)
    twice = after(
        "model.a.b.max_queue_delay_us=300", "tenant.acme.weight=4", "tenant.default.device_share=0.5", of=once
    )
    assert twice.models == (ModelSettings("a.b", slo_ns=12_500_000, max_queue_delay_ns=300_000),)
    assert twice.tenants == (TenantSettings("", device_share=0.5), TenantSettings("acme", weight=4.0, max_pending=5))
    assert twice.revision == 2
    assert after("tenant.acme=", "tenant.default=", "model.a.b=", of=twice).tenants == ()


def test_what_is_taken_back_and_set_in_one_change_is_only_what_is_set() -> None:
    once = after("tenant.acme.weight=3", "tenant.acme.requests_per_s=9")
    assert after("tenant.acme=", "tenant.acme.weight=2", of=once).tenants == (TenantSettings("acme", weight=2.0),)


@pytest.mark.parametrize(
    ("assignment", "problem"),
    [
        ("policy=fastest", "policy: there is no policy 'fastest'; there are clockwork, edf"),
        ("level=1", "level: expected a share between 0 and 1, got 1"),
        ("level=nan", "level: expected a share between 0 and 1, got nan"),
        ("max_pending=0", "max_pending: expected 1 to 1e\\+09, got 0"),
        ("fair_turn_ms=0", "fair_turn_ns: expected"),
        ("model.a.priority_levels=2 model.a.default_priority=3", "models 'a'.default_priority: expected at most 2"),
        ("tenant.a.weight=0", "tenants 'a'.weight: expected 0.001 to 1000, got 0"),
        ("tenant.a.weight=inf", "tenants 'a'.weight: expected 0.001 to 1000, got inf"),
        ("tenant.default.requests_per_s=-1", "tenants 'default'.requests_per_s: expected"),
        ("tenant.a b.weight=1", "tenants: 'a b' is not the name of a tenant, expected 1 to 128"),
        ("tenant.x=", "reset_tenants: tenant 'x' has no settings of its own"),
        ("model.x=", "reset_models: model 'x' has no settings of its own"),
    ],
)
def test_what_cannot_be_is_refused_by_name(assignment: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        after(*assignment.split(" ") if "model.a.p" in assignment else [assignment])


@pytest.mark.parametrize(
    ("assignment", "problem"),
    [
        ("level", "expected KEY=VALUE"),
        ("=1", "expected KEY=VALUE"),
        ("nothing=1", "there is no setting 'nothing'; there are policy"),
        ("model.a.slo=1", "expected model.NAME.KEY=VALUE with one of slo_ms"),
        ("tenant.weight=1", "expected tenant.NAME.KEY=VALUE"),
        ("max_tenants=1.5", "expected a whole number"),
        ("observe_only=yes", "expected true or false"),
        ("fair_turn_ms=inf", "expected a number"),
    ],
)
def test_what_cannot_be_read_is_told_as_it_was_written(assignment: str, problem: str) -> None:
    with pytest.raises(ValueError, match=f"'{assignment}'.*{problem}"):
        settings_words.request([assignment])


def given_or_not(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | values


tenants = st.builds(
    TenantSettings,
    st.sampled_from(["", "*", "(other)", "a", "CN=x,O=y", "spiffe://c/ns"]),
    given_or_not(st.sampled_from([0.25, 1.0, 3.0])),
    given_or_not(st.integers(0, 10**6).map(float)),
    given_or_not(st.integers(0, 1000)),
    given_or_not(st.sampled_from([0.0, 0.5, 8.0])),
    given_or_not(st.integers(0, 10**6).map(lambda ms: ms * 1_000_000)),
    given_or_not(st.integers(0, 1000)),
)
models = st.builds(
    ModelSettings,
    st.sampled_from(["a", "a.b", "model"]),
    given_or_not(st.integers(0, 10**6).map(lambda ms: ms * 1_000_000)),
    given_or_not(st.integers(0, 9)),
    st.none(),
    given_or_not(st.integers(0, 100)),
    given_or_not(st.integers(0, 10**6).map(lambda us: us * 1000)),
)


@given(
    st.lists(tenants, max_size=4, unique_by=lambda entry: entry.tenant),
    st.lists(models, max_size=3, unique_by=lambda entry: entry.model),
    st.sampled_from(sorted(POLICIES)),
)
def test_what_is_shown_can_be_set_again(
    of_tenants: list[TenantSettings], of_models: list[ModelSettings], policy: str
) -> None:
    settings = changed(START, Change({"policy": policy}, tuple(of_models), tuple(of_tenants)), POLICIES)
    message = scheduler_pb2.Settings()
    settings_codec.put_settings(message, settings)
    shown = [f"{key}={value}" for key, value in settings_words.assignments(message)]
    again = after(*shown)
    assert again.tenants == tuple(filter(_says_something, settings.tenants))
    assert again.models == tuple(filter(_says_something, settings.models))
    assert (again.policy, again.level, again.fair_turn_ns) == (policy, START.level, START.fair_turn_ns)


def _says_something(entry: TenantSettings | ModelSettings) -> bool:
    return any(value is not None for value in msgspec.structs.astuple(entry)[1:])


def test_the_file_keeps_settings_over_flags_and_says_what_is_wrong_with_it(tmp_path: Path) -> None:
    path = tmp_path / "settings.json"
    kept = after("tenant.acme.weight=3", "max_pending=16384", "model.a.slo_ms=40")
    settings_codec.write(path, kept)
    flags = msgspec.structs.replace(START, max_pending=7, policy="edf")
    read = settings_codec.read(path, flags, POLICIES)
    assert read == msgspec.structs.replace(kept, revision=0)
    assert read.max_pending == 16384  # that it is the default does not make it less set
    assert list(tmp_path.iterdir()) == [path]
    told = json.loads(path.read_text())
    for change, problem in (
        ({"policy": "none"}, "there is no policy 'none'"),
        ({"polcy": "edf"}, "there is no setting 'polcy'"),
        ({"tenants": [{"tenant": "a", "weight": "much"}]}, "Expected `float | null`"),
    ):
        path.write_text(json.dumps({**told, **change}))
        with pytest.raises(ValueError, match=f"settings.json: .*{problem}".replace("|", r"\|")):
            settings_codec.read(path, flags, POLICIES)
    path.write_text("{")
    with pytest.raises(ValueError, match=r"settings\.json: "):
        settings_codec.read(path, flags, POLICIES)


def test_clients_see_in_a_models_configuration_what_holds() -> None:
    config = inference_pb2.ModelConfig(name="a", max_batch_size=4)
    config.dynamic_batching.priority_levels = 3
    config.parameters["slo_ms"].string_value = "100"
    config.parameters["other"].string_value = "x"

    def seen(settings: ModelSettings) -> inference_pb2.ModelConfig:
        told = settings_codec.with_model_settings(config.SerializeToString(), settings)
        return inference_pb2.ModelConfig.FromString(told)

    assert model_options.read(seen(ModelSettings("a", slo_ns=1_234_567))).slo_ns == 1_234_567
    assert "slo_ms" not in seen(ModelSettings("a", slo_ns=0)).parameters
    found = seen(ModelSettings("a", max_queue_delay_ns=300_000, max_queue_size=9))
    assert model_options.read(found).slo_ns == 100_000_000
    assert found.dynamic_batching.max_queue_delay_microseconds == 300
    assert found.dynamic_batching.default_queue_policy.max_queue_size == 9
    assert found.dynamic_batching.priority_levels == 3
    assert found.parameters["other"].string_value == "x"


def test_settings_are_a_part_of_the_configuration() -> None:
    config = CoreConfig(policy="edf", first_batch_id=77, max_tenants=3)
    assert config.with_settings(config.settings) == config
    other = msgspec.structs.replace(config.settings, level=0.5, revision=9)
    assert config.with_settings(other).settings == other
    assert config.with_settings(other).first_batch_id == 77
    check(other, POLICIES)
