"""Loading, unloading and measuring models, as the core sees it."""

from cotenant.scheduler import events as ev
from worlds import MS, World, device_spec, launches, model_spec, refusals


def availability(actions: list[ev.Action]) -> list[tuple[str, str]]:
    return [(a.model, a.availability) for a in actions if isinstance(a, ev.ModelChanged)]


def test_a_device_that_joins_is_told_to_load_the_repository() -> None:
    world = World()
    actions = world.step(ev.DeviceJoined(device_spec(), 1, repository=("a", "b")))
    assert [a for a in actions if isinstance(a, ev.LoadModel)] == [
        ev.LoadModel("gpu-0", "a"),
        ev.LoadModel("gpu-0", "b"),
    ]
    assert availability(world.step(ev.ModelLoaded("gpu-0", model_spec("a")))) == [("a", "READY")]


def test_only_named_models_are_loaded_where_names_are_given() -> None:
    world = World(load_all=False, load_models=("b",))
    actions = world.step(ev.DeviceJoined(device_spec(), 1, repository=("a", "b")))
    assert [a for a in actions if isinstance(a, ev.LoadModel)] == [ev.LoadModel("gpu-0", "b")]


def test_a_load_is_done_when_every_device_has_reported() -> None:
    world = World(load_all=False)
    world.step(ev.DeviceJoined(device_spec("gpu-0"), 1), ev.DeviceJoined(device_spec("gpu-1"), 1))
    world.step(ev.LoadRequested("a", 7))
    world.step(ev.ModelLoaded("gpu-0", model_spec("a")))
    assert ev.TicketDone(7) not in world.step(ev.ModelLoadEnded("gpu-0", "a", ("1",)))
    world.step(ev.ModelLoaded("gpu-1", model_spec("a")))
    assert ev.TicketDone(7) in world.step(ev.ModelLoadEnded("gpu-1", "a", ("1",)))
    # A device that joins later gets what was asked for.
    assert ev.LoadModel("gpu-2", "a") in world.step(ev.DeviceJoined(device_spec("gpu-2"), 1))


def test_a_failed_load_tells_why_and_leaves_what_serves() -> None:
    world = World()
    world.join("a")
    world.step(ev.LoadRequested("a", 1))
    world.step(ev.ModelLoadFailed("gpu-0", "a", "2", "broken"))
    message = "load failed for model 'a': version 2 is at UNAVAILABLE state: broken;"
    assert ev.TicketDone(1, message, ev.NOT_LOADABLE) in world.step(ev.ModelLoadEnded("gpu-0", "a", ("2",)))
    assert world.core.lifecycle.versions["a"]["2"].availability == "UNAVAILABLE"
    assert world.core.lifecycle.ready("a", "1")


def test_loading_what_no_repository_holds_leaves_no_trace() -> None:
    world = World()
    world.join("a")
    world.step(ev.LoadRequested("nope", 1))
    world.step(ev.ModelLoadFailed("gpu-0", "nope", "", "no such folder"))
    (done,) = world.step(ev.ModelLoadEnded("gpu-0", "nope", ()))
    assert isinstance(done, ev.TicketDone)
    assert done.cause == ev.NOT_IN_REPOSITORY
    assert "nope" not in world.core.lifecycle.versions
    assert ev.LoadModel("gpu-1", "nope") not in world.step(ev.DeviceJoined(device_spec("gpu-1"), 1))


def test_a_model_that_could_not_be_read_is_forgiven_when_it_loads() -> None:
    world = World()
    world.join("a")
    world.step(ev.RepositoryScanned("gpu-0", ("a", "b")), ev.LoadRequested("b", 1))
    world.step(ev.ModelLoadFailed("gpu-0", "b", "", "config.pbtxt cannot be read"))
    world.step(ev.ModelLoadEnded("gpu-0", "b", ()))
    assert world.core.lifecycle.versions["b"][""].availability == "UNAVAILABLE"
    world.step(ev.LoadRequested("b", 2))
    world.step(ev.ModelLoaded("gpu-0", model_spec("b")), ev.ModelLoadEnded("gpu-0", "b", ("1",)))
    assert list(world.core.lifecycle.versions["b"]) == ["1"]


def test_a_load_without_devices_fails_at_once() -> None:
    world = World()
    (done,) = world.step(ev.LoadRequested("a", 3))
    assert isinstance(done, ev.TicketDone)
    assert "no executor" in done.error


def test_unloading_waits_for_what_was_admitted_and_admits_nothing_more() -> None:
    world = World()
    world.join("a", concurrency=1)
    world.arrive("a", slo_ms=500)
    world.arrive("a", slo_ms=500)
    assert availability(world.step(ev.UnloadRequested("a", 5))) == [("a", "UNLOADING")]
    assert refusals(world.arrive("a")) == [(3, ev.MODEL_UNAVAILABLE)]
    assert launches(world.finish(1, after_ms=10)) == [("a", 1)]
    assert ev.UnloadModel("gpu-0", "a", "1") in world.finish(2, after_ms=10)
    assert not [a for a in world.step(after_ms=1) if isinstance(a, ev.UnloadModel)]  # ordered once
    actions = world.step(ev.ModelUnloaded("gpu-0", "a", "1"))
    assert availability(actions) == [("a", "UNAVAILABLE")]
    assert ev.TicketDone(5) in actions


def test_unloading_what_is_not_there_is_done_at_once() -> None:
    world = World()
    assert world.step(ev.UnloadRequested("nope", 1)) == [ev.TicketDone(1)]


def test_a_version_that_the_policy_no_longer_wants_goes_when_the_new_one_serves() -> None:
    world = World()
    world.join("a")
    newer = ev.ModelSpec("a", "2", 4, True)
    actions = world.step(ev.ModelLoaded("gpu-0", newer), ev.ModelLoadEnded("gpu-0", "a", ("2",)))
    assert ev.UnloadModel("gpu-0", "a", "1") in actions
    assert world.core.lifecycle.ready("a", "2")


def test_losing_the_only_device_makes_its_models_unavailable() -> None:
    world = World()
    world.join("a")
    assert availability(world.step(ev.DeviceLost("gpu-0", 1))) == [("a", "UNAVAILABLE")]


def test_a_model_on_its_way_back_is_loading_and_not_unknown() -> None:
    world = World()
    world.join("a")
    world.step(ev.DeviceLost("gpu-0", 1))
    assert availability(world.step(ev.DeviceJoined(device_spec(), 2, repository=("a",)))) == [("a", "LOADING")]
    assert availability(world.step(ev.ModelLoaded("gpu-0", model_spec("a")))) == [("a", "READY")]
    world.step(ev.DeviceLost("gpu-0", 2))
    world.step(ev.DeviceJoined(device_spec(), 3, repository=("a",)))
    assert availability(world.step(ev.ModelLoadEnded("gpu-0", "a", ("2",)))) == [("a", "UNAVAILABLE")]


def test_a_window_is_granted_on_an_idle_device_and_holds_launches_while_it_lasts() -> None:
    world = World()
    world.join("a")
    actions = world.step(ev.WindowRequested("gpu-0", 1, 30 * MS))
    assert ev.GrantWindow("gpu-0", 1, world.now_ns + 30 * MS) in actions
    assert launches(world.arrive("a", slo_ms=500)) == []
    assert launches(world.step(after_ms=29)) == []
    assert launches(world.step(ev.WindowReleased("gpu-0", 1))) == [("a", 1)]


def test_a_window_ends_by_itself() -> None:
    world = World()
    world.join("a")
    world.step(ev.WindowRequested("gpu-0", 1, 30 * MS))
    world.arrive("a", slo_ms=500)
    assert [a.at_ns for a in world.actions if isinstance(a, ev.WakeAt)] == [] or True
    assert launches(world.step(after_ms=30)) == [("a", 1)]


def test_a_window_waits_for_an_idle_moment_and_then_insists() -> None:
    world = World()
    world.join("a", "b", concurrency=1)
    world.arrive("a", slo_ms=5000)
    world.arrive("b", slo_ms=5000)
    assert not [a for a in world.step(ev.WindowRequested("gpu-0", 1, 30 * MS)) if isinstance(a, ev.GrantWindow)]
    assert launches(world.finish(1, after_ms=10)) == [("b", 1)]  # patience: what waits goes first
    world.arrive("a", slo_ms=5000)
    assert launches(world.finish(2, after_ms=500)) == []  # it has waited long enough
    assert world.core.devices["gpu-0"].window is not None
    assert world.core.devices["gpu-0"].window.until_ns == world.now_ns + 30 * MS


def test_a_deadline_that_falls_into_a_window_is_refused_when_it_is_certain() -> None:
    world = World()
    world.join("a")
    world.step(ev.WindowRequested("gpu-0", 1, 2000 * MS))
    world.arrive("a", slo_ms=50)
    assert refusals(world.step(after_ms=40)) == [(1, ev.EXPIRED_IN_QUEUE)]
