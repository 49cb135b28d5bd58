"""Phases of a batch: cut from its kernels, told by the executor, and learned with."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cotenant.executor.emulated_gpu import personalities, profiled
from cotenant.executor.phases import MAX_PHASES, Piece, cut
from cotenant.predictor.fluid import Fluid
from cotenant.predictor.intake import Intake
from cotenant.predictor.lives import MAX_LIVES, MAX_POINTS, Lives
from cotenant.predictor.observations import Observation, Profile, Running, Slice, timed_slices
from cotenant.runtime.estimates import BatchClass, EstimateTable, Phase, sound_phases
from cotenant.v1 import executor_pb2, types_pb2

MS = 1_000_000
HEAVY, SHORT, OTHER = (BatchClass(name, "1", 1) for name in ("heavy", "short", "other"))
# Nothing, and then everything; as its mean says, half of it all along.
COURSE = (Phase(0.5, (0.0,)), Phase(1.0, (1.0,)))


def kernel(ms: float, share: float) -> Piece:
    return Piece(ms * MS, ms * MS, (share,))


def test_a_change_is_found_and_what_is_alike_is_one() -> None:
    found = cut([kernel(0.1, 0.2)] * 30 + [kernel(0.1, 0.9)] * 10)
    assert [(round(p.end, 2), round(p.demand[0], 2)) for p in found.phases] == [(0.75, 0.2), (1.0, 0.9)]
    assert found.demand == pytest.approx((0.375,))
    assert cut([kernel(0.1, 0.2)] * 40).phases == ()
    assert cut([kernel(0.1, 0.2), kernel(0.1, 0.21)] * 20).phases == ()


def test_kernels_of_another_length_are_another_phase() -> None:
    found = cut([kernel(0.01, 0.5)] * 100 + [kernel(1.0, 0.5)])
    assert [round(p.kernel_ns / MS, 2) for p in found.phases] == [0.01, 1.0]
    assert found.kernel_ns == pytest.approx(2.0 * MS / 101)
    # Operators of a CPU are none that others wait for: their lengths part nothing.
    assert cut([Piece(MS, 0.0, (0.5,))] * 100 + [Piece(100 * MS, 0.0, (0.5,))]).phases == ()


def test_kernels_that_take_no_time() -> None:
    with pytest.raises(ValueError, match="no time"):
        cut([Piece(0.0, 0.0, (1.0,))])


pieces = st.lists(st.tuples(st.floats(1.0, 1e9), st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=200)


@given(pieces)
def test_phases_are_few_sound_and_add_up_to_the_means(rows: list[tuple[float, float, float]]) -> None:
    found = cut([Piece(ns, ns, (a, b)) for ns, a, b in rows])
    assert len(found.phases) <= MAX_PHASES
    assert sound_phases(found.phases, 2)
    if found.phases:
        for k in range(2):
            ends = [0.0, *(p.end for p in found.phases)]
            mean = sum((ends[i + 1] - ends[i]) * p.demand[k] for i, p in enumerate(found.phases))
            assert mean == pytest.approx(found.demand[k], abs=1e-6)


def test_what_a_profiler_tells_of_an_emulated_model_has_phases() -> None:
    told = profiled(personalities()["retinanet"].kernels(2))
    assert 1 < len(told.phases) <= MAX_PHASES
    assert told.demand == pytest.approx(personalities()["retinanet"].demand(2))
    noisy = profiled(personalities()["retinanet"].kernels(2), lambda: 1.2)
    assert noisy.kernel_ns == pytest.approx(1.2 * told.kernel_ns)
    assert all(share <= 1.0 for phase in noisy.phases for share in phase.demand)


# ---- what the predictor takes


def test_phases_that_cannot_be_are_counted_and_the_means_kept() -> None:
    intake = Intake()
    message = executor_pb2.ClassProfiled(work_ns=MS, demand=[0.5], kernel_ns=1e5)
    message.batch_class.model, message.batch_class.batch_size = "m", 1
    message.phases.add(end=0.5, demand=[0.1])
    profile = intake.profile(message, 1)
    assert profile is not None
    assert profile.phases == ()
    assert profile.demand == (0.5,)
    assert profile.kernel_ns == 1e5
    assert intake.rejected["phases"] == 1
    message.phases.add(end=1.0, demand=[0.9], kernel_ns=2e5)
    profile = intake.profile(message, 1)
    assert profile is not None
    assert [p.end for p in profile.phases] == [0.5, 1.0]


def test_slices_tell_which_batch_a_neighbour_was() -> None:
    message = executor_pb2.BatchFinished(started_ns=100 * MS, duration_ns=30 * MS)
    message.batch_class.model, message.batch_class.batch_size = "a", 1
    met = [types_pb2.BatchClass(model=name, batch_size=1) for name in ("z", "b")]
    message.slices.add(duration_ns=10 * MS)
    message.slices.add(duration_ns=20 * MS, co_runners=met, co_runner_elapsed_ns=[5 * MS, 0])
    seen = Intake().finished(message, 130 * MS)
    assert seen is not None
    b, z = BatchClass("b", "", 1), BatchClass("z", "", 1)
    assert seen.slices == (
        Slice(10 * MS, (), 100 * MS),
        Slice(20 * MS, (b, z), 110 * MS, (110 * MS, 105 * MS)),
    )
    del message.slices[1].co_runner_elapsed_ns[0]  # one for two: told of none
    seen = Intake().finished(message, 130 * MS)
    assert seen is not None
    assert seen.slices[1].began_ns == ()


# ---- lives


def test_a_life_is_extended_and_read_back() -> None:
    lives = Lives()
    life = lives.of(HEAVY, 1000)
    life.extend(2000, 0.0001)
    life.extend(4000, 0.0002)
    life.extend(3000, 1.0)  # known already
    assert [round(life.at(t), 3) for t in (500, 1500, 2000, 3000, 9000)] == [0.0, 0.05, 0.1, 0.3, 0.5]
    assert lives.of(HEAVY, 1000 + 50_000) is life  # the same batch, by a clock that was mapped a little otherwise
    assert lives.of(HEAVY, 1000 + 500_000) is not life
    life.extend(10**9, 1.0)
    assert life.at(2 * 10**9) < 1.0  # who was met there had not ended


def test_lives_are_few_and_short() -> None:
    lives = Lives()
    for i in range(4 * MAX_LIVES):
        life = lives.of(BatchClass(f"m{i % 7}", "1", 1), i * MS)
        for t in range(3 * MAX_POINTS):
            life.extend(i * MS + t, 1e-9)
    assert len(lives._lives) == MAX_LIVES == sum(map(len, lives._begun.values()))
    assert len(life._at_ns) == MAX_POINTS
    lives.forget(BatchClass("m3", "1", 1))
    assert all(known.model != "m3" for known, _ in lives._lives)


# ---- what is learned


def learner(*, phases: bool) -> Fluid:
    made = Fluid(1)
    made.learn_profile(Profile(HEAVY, 100 * MS, (0.5,), phases=COURSE if phases else ()))
    made.learn_profile(Profile(SHORT, 5 * MS, (1.0,)))
    return made


def meet(at: float, slowdown: float, *, began: int = 10**9) -> Observation:
    """A short batch beside a heavy one that has done this share of its work, as long as it ran alone."""
    started = began + round(at * 100 * MS)
    duration = round(5 * MS * slowdown)
    slices = timed_slices(started, [(duration, (HEAVY,), (started - began,))])
    return Observation(SHORT, duration, slices)


def taught(*, phases: bool) -> Fluid:
    """In the heavy one's first half nothing is felt, in the second everything takes twice as long."""
    made = learner(phases=phases)
    for i in range(60):
        began = 10**9 * (i + 1)
        made.learn_batch(meet(0.2, 1.0, began=began))
        made.learn_batch(meet(0.7, 2.0, began=began))
    return made


def test_what_a_short_batch_meets_depends_on_how_far_its_neighbour_is() -> None:
    made = taught(phases=True)
    early, late = (made.explain(SHORT, meet(at, 1.5, began=10**12).slices) for at in (0.2, 0.7))
    assert early == pytest.approx(1.0, abs=0.05)
    assert late == pytest.approx(2.0, abs=0.15)
    blind = taught(phases=False)
    early, late = (blind.explain(SHORT, meet(at, 1.5, began=10**12).slices) for at in (0.2, 0.7))
    assert early == pytest.approx(late)
    assert 1.2 < early < 1.8


def test_a_forecast_follows_phases_to_come() -> None:
    made = taught(phases=True)
    begins = [Running(HEAVY, ()), Running(HEAVY, (Slice(80 * MS, ()),)), Running(HEAVY, (Slice(48 * MS, ()),))]
    early, late, changing = (made.forecast(SHORT, [other]) for other in begins)
    assert early == pytest.approx(1.0, abs=0.05)
    assert late == pytest.approx(2.0, abs=0.15)
    assert early + 0.2 < changing < late - 0.1


def test_neighbours_of_unknown_beginning_are_taken_as_they_are_on_average() -> None:
    made = taught(phases=True)
    seen = Observation(SHORT, 7 * MS, (Slice(7 * MS, (HEAVY,)),))
    assert made.explain(SHORT, seen.slices) == pytest.approx(made.slowdown(SHORT, (HEAVY,)))
    made.learn_batch(seen)


def test_estimates_tell_phases_and_the_scheduler_reads_them_as_the_learner_does() -> None:
    made = taught(phases=True)
    table = EstimateTable()
    table.update([made.estimate(HEAVY), made.estimate(SHORT)], [], complete=True)
    for mine, theirs in zip(made.stages(HEAVY), table.stages(HEAVY), strict=True):
        (own,) = made.stages(SHORT)
        believed = made.rate(own, (mine,))
        assert table.rate(table.stages(SHORT)[0], (theirs,)) == pytest.approx(believed, abs=1e-4)


def test_phases_outlive_a_restart_and_go_with_their_class() -> None:
    made = taught(phases=True)
    again = Fluid(1)
    again.restore(made.dump(), {c: made.dump_class(c) for c in made.classes})
    assert again.estimate(HEAVY) == made.estimate(HEAVY)
    assert len(again.estimate(HEAVY).phases) == 2
    bigger = BatchClass("heavy", "1", 2)
    assert [p.end for p in made.stages(bigger)] == [0.5, 1.0]  # a size never measured has its sibling's course
    made.forget(HEAVY)
    assert len(made.stages(HEAVY)) == 1


def test_kernels_that_are_waited_for_are_learned_from_their_lengths() -> None:
    """Two models that demand the same; one holds the processors for long. A third is foretold by its lengths alone."""
    made = Fluid(1)
    kernels = {"fine": 1e4, "coarse": 1e6, "between": 2e5}
    for name, kernel_ns in kernels.items():
        made.learn_profile(Profile(BatchClass(name, "1", 1), 10 * MS, (0.9,), kernel_ns=kernel_ns))
    victim = BatchClass("victim", "1", 1)
    made.learn_profile(Profile(victim, 10 * MS, (0.5,), kernel_ns=1e5))
    for _ in range(200):
        for name, slowdown in (("fine", 1.2), ("coarse", 4.0)):
            duration = round(10 * MS * slowdown)
            made.learn_batch(Observation(victim, duration, (Slice(duration, (BatchClass(name, "1", 1),)),)))
    fine, between, coarse = (made.slowdown(victim, (BatchClass(n, "1", 1),)) for n in ("fine", "between", "coarse"))
    assert fine == pytest.approx(1.2, abs=0.1)
    assert coarse == pytest.approx(4.0, rel=0.05)
    assert fine + 0.3 < between < coarse - 0.3
