"""Worlds with tenants: what they are told, and that results tell who had what."""

from pathlib import Path

import pytest

from cotenant.cli import simulate
from cotenant.scheduler.replay import replay
from cotenant.scheduler.simulation import world
from cotenant.scheduler.simulation.building import Setting
from cotenant.scheduler.simulation.study import Extras, Study

WORLD = """
seconds = 1.0
policy = "edf-fixed"
predictor = "solo"
[devices]
kind = "phases"
concurrency = 2
[[models]]
name = "resnet50"
personality = "resnet50"
rate = 1600
slo_ms = 60
tenants = { quiet = 1, flood = 10 }
"""


def told(folder: Path, more: str = "", text: str = WORLD) -> Path:
    path = folder / "world.toml"
    path.write_text(text + more)
    return path


def test_results_tell_of_each_tenant_and_the_quiet_one_is_served(tmp_path: Path) -> None:
    study = Study(world.read(told(tmp_path)))
    row = study.run("edf-fixed", Setting(), 0, extras=Extras(tmp_path / "log"))
    by_name = {tenant.tenant: tenant for tenant in row.tenants}
    assert by_name.keys() == {"quiet", "flood"}
    assert sum(tenant.offered for tenant in row.tenants) == row.offered
    assert sum(tenant.in_time for tenant in row.tenants) == row.in_time
    assert sum(tenant.late + tenant.refused for tenant in row.tenants) == row.offered - row.in_time
    assert sum(tenant.work_share or 0.0 for tenant in row.tenants) == pytest.approx(1.0)
    shares = {name: tenant.in_time / tenant.offered for name, tenant in by_name.items()}
    assert shares["quiet"] > 0.9
    assert shares["flood"] < 0.6
    assert replay(tmp_path / "log").difference is None


def test_quotas_hold_in_a_world(tmp_path: Path) -> None:
    limited = '[[tenants]]\nname = "flood"\nrequests_per_s = 50\nburst_requests = 5\n'
    row = Study(world.read(told(tmp_path, limited))).run("edf-fixed", Setting(), 0)
    flood = next(tenant for tenant in row.tenants if tenant.tenant == "flood")
    assert flood.over_quota >= flood.offered - 50 - 5 - 1
    assert row.in_time == row.offered - flood.over_quota


def test_the_table_has_a_line_for_each(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert simulate.main([str(told(tmp_path)), "--seconds", "0.3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any("edf-fixed" in line and "quiet" in line for line in lines)
    assert any("edf-fixed" in line and "flood" in line for line in lines)


@pytest.mark.parametrize(
    ("more", "problem"),
    [
        ('[[tenants]]\nname = "a b"\n', "tenants: 'a b' is not the name of a tenant"),
        ('[[tenants]]\nname = "a"\nweight = 0.0\n', "tenants 'a'.weight: expected"),
        ('[[tenants]]\nname = "a"\nquota = 1\n', "quota"),
    ],
)
def test_a_world_that_cannot_be_names_the_field(tmp_path: Path, more: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        world.read(told(tmp_path, more))


def test_shares_of_tenants_are_above_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"models 'resnet50'\.tenants.quiet: expected a number above 0"):
        world.read(told(tmp_path, text=WORLD.replace("quiet = 1", "quiet = 0")))


def test_the_example_is_a_world() -> None:
    found = world.read(Path(__file__).parent.parent / "examples" / "worlds" / "tenants.toml")
    assert {name for model in found.models for name in model.tenants} == {"quiet", "flood"}
