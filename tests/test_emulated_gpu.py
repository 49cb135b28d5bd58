"""The emulated GPU's law: what must hold for any kernels, and what is known by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cotenant.executor import emulated_gpu
from cotenant.executor.emulated_gpu import (
    DRAIN_NS,
    LAUNCH_GAP_NS,
    LAWS,
    EmulatedGpu,
    Kernel,
    personalities,
    progress_rates,
)
from cotenant.runtime.sharing import fair_level

MS = 1_000_000
shares = st.floats(0, 1)
kernels = st.lists(st.builds(Kernel, st.floats(1e3, 1e6), shares, shares, shares), min_size=1, max_size=6)


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> None:
    """No noise."""
    monkeypatch.setattr(emulated_gpu, "BATCH_NOISE", 0.0)
    monkeypatch.setattr(emulated_gpu, "KERNEL_NOISE", 0.0)


def run(gpu: EmulatedGpu) -> dict[int, float]:
    """Runs until everything has ended; ends by key."""
    ends: dict[int, float] = {}
    while (at_ns := gpu.next_finish_ns()) is not None:
        ends.update({stream.key: stream.finished_ns for stream in gpu.finished(at_ns)})
    return ends


@pytest.mark.usefixtures("silent")
def test_a_kernel_waits_for_blocks_to_drain_and_then_has_its_share() -> None:
    """Beside one that holds all SMs: nothing for as long as its blocks run, half of what it needs from then on."""
    lasts = {}
    for law in LAWS:
        gpu = EmulatedGpu(1, law=law)
        gpu.start(0, 1, [Kernel(10_000_000, 1.0, 0.0, 0.0)])
        lasts[law] = gpu.foretell(1_000_000, [Kernel(1_000_000, 1.0, 0.0, 0.0)])
    assert lasts["fair"] == pytest.approx(2_000_000, rel=0.01)
    assert lasts["draining"] == pytest.approx(DRAIN_NS + 2_000_000, rel=0.01)
    assert lasts["leftover"] > 9_000_000


@pytest.mark.usefixtures("silent")
def test_alone_a_batch_takes_its_kernels_and_the_gaps_between_them() -> None:
    gpu = EmulatedGpu()
    gpu.start(0, 1, [Kernel(100_000.0, 1.0, 1.0, 1.0), Kernel(50_000.0, 0.1, 0.1, 0.1)])
    assert run(gpu)[1] == pytest.approx(150_000 + 2 * LAUNCH_GAP_NS)


@pytest.mark.usefixtures("silent")
def test_two_that_need_all_of_one_resource_take_turns_and_two_that_need_different_ones_do_not() -> None:
    def end(a: Kernel, b: Kernel) -> float:
        gpu = EmulatedGpu()
        gpu.start(0, 1, [a])
        gpu.start(0, 2, [b])
        return run(gpu)[1]

    alone = 1 * MS + LAUNCH_GAP_NS
    compute, memory = Kernel(float(MS), 1.0, 0.0, 0.0), Kernel(float(MS), 0.0, 1.0, 0.0)
    assert end(compute, compute) == pytest.approx(2 * alone, rel=0.01)
    assert end(compute, memory) == pytest.approx(alone, rel=0.01)
    small = Kernel(float(MS), 0.3, 0.0, 0.0)
    assert end(small, compute) == pytest.approx(alone, rel=0.01)  # max-min: who needs little gets it
    assert end(compute, small) == pytest.approx(0.3 * MS + MS, rel=0.02)


@pytest.mark.usefixtures("silent")
def test_under_the_leftover_law_who_came_first_keeps_its_sms() -> None:
    def ends(*kernels: Kernel) -> list[float]:
        gpu = EmulatedGpu(law="leftover")
        for key, kernel in enumerate(kernels):
            gpu.start(key * 1000, key, [kernel])
        return [run_end for _, run_end in sorted(run(gpu).items())]

    big, small = Kernel(float(MS), 0.8, 0.1, 0.0), Kernel(float(MS), 0.4, 0.1, 0.0)
    first, second = ends(big, small)
    assert first == pytest.approx(MS + LAUNCH_GAP_NS, rel=0.001)  # as if alone
    assert second == pytest.approx(1.5 * MS, rel=0.01)  # at half speed on the 0.2 that are left, until the first ends
    first, second = ends(Kernel(float(MS), 1.0, 0.1, 0.0), small)
    assert second == pytest.approx(2 * MS, rel=0.01)  # nothing was left
    fair = EmulatedGpu()
    fair.start(0, 0, [big])
    fair.start(1000, 1, [small])
    assert run(fair)[0] > 1.1 * MS  # shared, the first pays too


@pytest.mark.usefixtures("silent")
@pytest.mark.parametrize("law", LAWS)
def test_what_is_foretold_comes_true_where_nobody_comes_later(law: str) -> None:
    gpu = EmulatedGpu(law=law)
    kernels = [Kernel(300_000.0, 0.8, 0.4, 0.3), Kernel(200_000.0, 0.3, 0.9, 0.5)]
    gpu.start(0, 1, kernels * 3)
    gpu.start(100_000, 2, kernels)
    foretold = gpu.foretell(250_000, kernels * 2)
    assert gpu.foretell(250_000, kernels * 2) == foretold  # asking changes nothing
    gpu.start(250_000, 3, kernels * 2)
    assert run(gpu)[3] - 250_000 == pytest.approx(foretold, abs=2)


def test_a_law_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="there are fair, leftover, draining"):
        EmulatedGpu(law="fairest")


@pytest.mark.usefixtures("silent")
def test_caches_interfere() -> None:
    hungry = Kernel(float(MS), 0.1, 0.5, 0.9)
    lean = Kernel(float(MS), 0.1, 0.5, 0.0)
    assert progress_rates([hungry, hungry])[0] < progress_rates([hungry, lean])[0] == 1.0


def test_needs_that_exceed_the_whole_by_rounding_alone_are_all_met() -> None:
    needs = [0.34, 0.56, 0.1]
    assert sum(needs) > 1.0
    assert fair_level(needs) >= max(needs)


@given(kernels)
def test_rates_are_fair_and_never_exceed_what_there_is(running: list[Kernel]) -> None:
    rates = progress_rates(running)
    assert all(0 < rate <= 1 for rate in rates)
    for resource in (1, 2):
        used = sum(rate * k[resource] for rate, k in zip(rates, running, strict=True))
        assert used <= 1.0 + 1e-6 + 1e-3 * len(running)


@given(st.lists(st.floats(0, 2), min_size=1, max_size=8))
def test_the_level_of_max_min_fairness_divides_exactly_what_there_is(needs: list[float]) -> None:
    level = fair_level(needs)
    granted = sum(min(need, level) for need in needs)
    assert granted == pytest.approx(min(1.0, sum(needs)))


@given(st.lists(st.tuples(st.integers(0, 10 * MS), st.sampled_from(sorted(personalities()))), min_size=1, max_size=5))
def test_looking_ahead_and_looking_often_change_nothing(starts: list[tuple[int, str]]) -> None:
    def ends(look_every_ns: int) -> dict[int, float]:
        gpu, found, clock = EmulatedGpu(7), {}, 0
        for key, (at_ns, name) in enumerate(sorted(starts)):
            while look_every_ns and clock + look_every_ns < at_ns:
                clock += look_every_ns
                gpu.next_finish_ns()
                found.update({s.key: s.finished_ns for s in gpu.finished(clock)})
            found.update({s.key: s.finished_ns for s in gpu.finished(at_ns)})
            gpu.start(at_ns, key, personalities()[name].kernels(1)[:12])
        return found | run(gpu)

    assert ends(0) == pytest.approx(ends(700_000), rel=1e-9)


def test_noise_is_seeded_and_small() -> None:
    def duration(seed: int) -> int:
        gpu = EmulatedGpu(seed)
        gpu.start(0, 1, personalities()["resnet50"].kernels(4))
        end = gpu.next_finish_ns()
        assert end is not None
        return end

    assert duration(1) == duration(1)
    durations = [duration(seed) for seed in range(20)]
    mean = sum(durations) / 20
    assert all(abs(d / mean - 1) < 0.08 for d in durations)
    assert len(set(durations)) == 20


@pytest.mark.parametrize("name", sorted(personalities()))
def test_personalities_are_plausible(name: str) -> None:
    personality = personalities()[name]
    totals = [sum(k.duration_ns for k in personality.kernels(size)) for size in (1, 2, 4, 8)]
    assert totals == sorted(totals)
    assert totals[3] < 8 * totals[0] * 1.001  # batching never costs more than running one by one
    for size in (1, 8):
        assert all(0 <= d <= 1 for d in personality.demand(size))
    measured = sum(row[0] for row in personality.rows)
    assert sum(k.duration_ns for k in personality.kernels(personality.batch_size)) == pytest.approx(measured)


def test_the_same_key_or_no_kernels_is_refused() -> None:
    gpu = EmulatedGpu()
    gpu.start(0, 1, [Kernel(1e6, 0.1, 0.1, 0.1)])
    with pytest.raises(ValueError, match="runs already"):
        gpu.start(0, 1, [Kernel(1e6, 0.1, 0.1, 0.1)])
    with pytest.raises(ValueError, match="no kernels"):
        gpu.start(0, 2, [])
