"""Timings of kernels: CUPTI's records on a stand-in (fake_cupti.py), other sources, and how clocks are aligned."""

import itertools
import threading
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cotenant.executor.backend import Kernel
from cotenant.executor.cupti_timing import CuptiSource
from cotenant.executor.device_clock import Alignment, Sample, sample
from cotenant.executor.kernel_timing import KernelTiming, TorchProfiler, kernels_of
from fake_cupti import Cupti, Kind

KERNEL, COPY, FILL = Kind.CONCURRENT_KERNEL, Kind.MEMCPY, Kind.MEMSET


class Ticks:
    """A clock on which every reading takes 100 ns."""

    def __init__(self) -> None:
        self.at_ns = 10**9

    def __call__(self) -> int:
        self.at_ns += 100
        return self.at_ns


now = Ticks()


def source_of(cupti: Cupti, stream: int = 7) -> CuptiSource:
    return CuptiSource(cupti, now, lambda handle: handle and stream)


# ---- CUPTI


def test_a_batchs_kernels_and_copies_are_told_in_order_and_nobody_elses() -> None:
    cupti = Cupti(now)
    source = source_of(cupti)
    token = source.begin(1)
    at = now()
    other = threading.Thread(target=lambda: cupti.launch((KERNEL, "theirs", at, 50), stream=9))
    other.start()
    other.join()
    cupti.launch((KERNEL, "second", at + 3000, 200), (KERNEL, "third", at + 4000, 300))  # a graph's launch
    cupti.launch((COPY, "", at + 1000, 100))
    cupti.launch((FILL, "", at + 2000, 10))
    kernels = source.end(token)
    assert [k.name for k in kernels] == ["memcpy HTOD", "memset", "second", "third"]
    assert [k.duration_ns for k in kernels] == [100, 10, 200, 300]
    assert [b.offset_ns - a.offset_ns for a, b in itertools.pairwise(kernels)] == [1000, 1000, 1000]


def test_nothing_is_recorded_unless_a_sampled_batch_runs() -> None:
    cupti = Cupti(now)
    source = source_of(cupti)
    assert not cupti.enabled
    first, second = source.begin(1), None
    started = threading.Event()
    over = threading.Event()
    told: list[list[Kernel]] = []

    def run() -> None:
        token = source.begin(2)
        started.set()
        over.wait(10)
        cupti.launch((KERNEL, "b", now(), 1))
        told.append(source.end(token))

    thread = threading.Thread(target=run)
    thread.start()
    started.wait(10)
    cupti.launch((KERNEL, "a", now(), 1))
    assert [k.name for k in source.end(first)] == ["a"]
    assert cupti.enabled  # the other is still running
    over.set()
    thread.join()
    assert [[k.name for k in kernels] for kernels in told] == [["b"]]
    assert not cupti.enabled
    assert source._records == []
    assert source._batch_of == {}
    assert second is None


def test_instants_are_on_our_clock_whatever_the_devices_does() -> None:
    cupti = Cupti(now, offset_ns=10**18, drift=400e-6)
    source = source_of(cupti)
    token = source.begin(1)
    now.at_ns += 20_000_000
    at = now()
    cupti.launch((KERNEL, "k", at, 1000))
    now.at_ns += 20_000_000
    (kernel,) = source.end(token)
    # Without the samples it would be off by years, without the line between them by 8 us.
    assert abs(kernel.offset_ns - (at - token.started_ns)) < 200


def test_records_that_come_late_are_waited_for() -> None:
    cupti = Cupti(now, late_s=0.01)
    source = source_of(cupti)
    token = source.begin(1)
    cupti.launch((KERNEL, "k", now(), 1))
    assert [k.name for k in source.end(token)] == ["k"]


def test_without_records_of_calls_the_batchs_stream_and_time_count() -> None:
    cupti = Cupti(now, tells_calls=False)
    source = source_of(cupti)
    before = now() - 1000
    token = source.begin(1)
    at = now()
    for name, start_ns, stream in (("k", at, 7), ("theirs", at, 9), ("earlier", before, 7)):
        cupti.launch((KERNEL, name, start_ns, 1), stream=stream)
    assert [k.name for k in source.end(token)] == ["k"]
    unknown = source.begin(0)
    cupti.launch((KERNEL, "k", now(), 1))
    assert source.end(unknown) == []


# ---- the choice of a source


class Told:
    """A source that tells what it is told to."""

    name = "told"

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.begun = 0

    def begin(self, stream: int) -> Any:
        self.begun += 1
        if self.answers[0] == "fails at once":
            raise OSError("no")
        return None if self.answers[0] == "busy" and self.answers.pop(0) else self

    def end(self, token: Any) -> list[Kernel]:
        assert token is self
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return list(answer)


K = [Kernel("k", 0, 1)]


def run_of(timing: KernelTiming) -> list[str]:
    result, kernels = timing.time(lambda: "result", 1)
    assert result == "result"
    return [k.name for k in kernels]


def missing() -> Any:
    raise ModuleNotFoundError("No module named 'cupti'")


def test_the_first_source_that_is_there_is_used_and_made_when_needed() -> None:
    made: list[str] = []
    first, second = Told(K, K), Told(K)

    def make() -> Told:
        made.append("made")
        return first

    timing = KernelTiming([missing, make, lambda: second])
    assert made == []
    assert run_of(timing) == run_of(timing) == ["k"]
    assert made == ["made"]
    assert second.begun == 0


@pytest.mark.parametrize("answers", [("fails at once",), (OSError("no"),), ([], [], [])])
def test_a_source_that_fails_or_tells_nothing_is_given_up_for_the_next(answers: tuple[Any, ...]) -> None:
    first, second = Told(*answers), Told(K, K, K, K)
    timing = KernelTiming([lambda: first, lambda: second])
    timing.prepare(lambda: None, 1)
    assert run_of(timing) == ["k"]
    assert first.begun == len(answers)


def test_where_no_source_is_left_runs_go_on() -> None:
    timing = KernelTiming([missing, lambda: Told("fails at once")])
    assert run_of(timing) == run_of(timing) == []


def test_a_batch_that_a_source_has_no_time_for_is_run_all_the_same() -> None:
    timing = KernelTiming([lambda: Told("busy", K)])
    assert run_of(timing) == []
    assert run_of(timing) == ["k"]


def test_it_can_be_switched_off_and_on_while_it_runs() -> None:
    source = Told(K, K)
    timing = KernelTiming([lambda: source])
    timing.on = False
    assert run_of(timing) == []
    assert source.begun == 0
    timing.on = True
    assert run_of(timing) == ["k"]


def test_what_a_run_raises_is_raised_and_is_not_the_sources_fault() -> None:
    source = Told([], [], [], [], K)
    timing = KernelTiming([lambda: source])

    def fail() -> None:
        raise ValueError("the model's")

    for _ in range(4):
        with pytest.raises(ValueError, match="the model's"):
            timing.time(fail, 1)
    assert run_of(timing) == ["k"]


# ---- torch's profiler


def event(name: str, device: str, *, id_: int = 0, linked: int = 0, at: int = 0, scope: int = 0) -> Any:
    return SimpleNamespace(
        name=lambda: name,
        device_type=lambda: SimpleNamespace(name=device),
        correlation_id=lambda: id_,
        linked_correlation_id=lambda: linked,
        start_ns=lambda: at,
        duration_ns=lambda: 10,
        scope=lambda: scope,
    )


def test_only_what_the_profiled_thread_launched_is_told() -> None:
    events = [
        event("cotenant.batch", "CPU", id_=1, at=1000),
        event("aten::copy_", "CPU", id_=2, at=1100),
        event("of a graph", "CUDA", id_=40, linked=1, at=1500),
        event("Memcpy HtoD", "CUDA", id_=41, linked=2, at=1200),
        event("another thread's", "CUDA", id_=42, linked=0, at=1300),
        event("a user's range", "CPU", id_=9, at=1000, scope=7),
        event("of that range", "CUDA", id_=43, linked=9, at=1300),
    ]
    assert kernels_of(events) == [Kernel("Memcpy HtoD", 200, 10), Kernel("of a graph", 500, 10)]
    assert kernels_of(events[1:]) == []


def test_torch_without_cuda_is_no_source() -> None:
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("it has CUDA")
    with pytest.raises(RuntimeError, match="built without CUDA"):
        TorchProfiler()


def test_torchs_profiler_knows_the_operator_that_launches_belong_to() -> None:
    torch = pytest.importorskip("torch")
    from torch.profiler import ProfilerActivity, profile

    with (
        profile(activities=[ProfilerActivity.CPU]) as profiler,
        torch._C._profiler._RecordFunctionFast("cotenant.batch"),
    ):
        torch.ones(2)
    events = profiler.profiler.kineto_results.events()
    (ours,) = [e for e in events if e.name() == "cotenant.batch"]
    assert (ours.device_type().name, ours.scope()) == ("CPU", 0)
    launched = event("k", "CUDA", linked=ours.correlation_id(), at=ours.start_ns() + 5)
    assert kernels_of([*events, launched]) == [Kernel("k", 5, 10)]


# ---- clocks


def test_the_narrowest_of_several_samples_is_taken() -> None:
    ours = iter([0, 100, 200, 204, 300, 900, 1000, 1100, 1200, 1300])
    theirs = iter([5, 6, 7, 8, 9])
    assert sample(lambda: next(theirs), lambda: next(ours)) == Sample(202, 6, 2)


@given(
    drift=st.floats(-500e-6, 500e-6),
    offset=st.integers(-(10**18), 10**18),
    length=st.integers(1, 10**11),
    where=st.floats(0, 1),
    skewed=st.tuples(st.integers(-20_000, 20_000), st.integers(-20_000, 20_000)),
)
def test_a_mapped_instant_is_no_further_off_than_its_samples(
    drift: float, offset: int, length: int, where: float, skewed: tuple[int, int]
) -> None:
    def theirs(ours: int) -> int:
        return offset + ours + round(ours * drift)

    before, after = (Sample(at + off, theirs(at), 20_000) for at, off in zip((0, length), skewed, strict=True))
    alignment = Alignment(before, after)
    assert alignment.error_ns == 20_000
    at = round(where * length)
    drifted = round(1_000_000 * abs(drift))  # over a stretch too short for a line
    assert abs(alignment.to_ours(theirs(at)) - at) <= 20_000 + drifted + 2


def test_a_clock_that_was_set_in_between_is_mapped_by_the_nearer_sample() -> None:
    alignment = Alignment(Sample(0, 0, 10), Sample(10**9, 5 * 10**9, 10))
    assert alignment.to_ours(1000) == 1000
    assert alignment.to_ours(5 * 10**9 - 1000) == 10**9 - 1000
