"""What share of a device a class keeps busy, by hand; which source counts; and what a device can do at most."""

from pathlib import Path

import pytest
from structlog.testing import capture_logs

from cotenant.executor import nsight, peaks
from cotenant.executor.backend import Operator
from cotenant.executor.demand import Solo, of_solo
from cotenant.executor.peaks import Peaks
from cotenant.runtime.estimates import BatchClass

MS = 1_000_000
MIB = 2**20
# 1 TFLOP/s, 1 GB/s of cache and 0.5 GB/s of memory; a cache of 40 MiB, nothing before it.
GPU = Peaks(1e12, 1e9, 0.5e9, 40 * MIB, 0, half_flops_per_s=4e12)
CPU = Peaks(0.0, 1e9, 0.5e9, 40 * MIB, 1 * MIB)
KNOWN = BatchClass("m", "1", 2)


def operator(flops: int = 0, weights: int = 0, activations: int = 0, ms: int = 0, element: int = 4) -> Operator:
    return Operator("op", flops, weights, activations, element, ms * MS)


def solo(
    *operators: Operator, work_ms: int = 10, cpu_ms: int = 0, kernels: nsight.KernelProfiles | None = None
) -> Solo:
    return Solo(KNOWN, work_ms * MS, cpu_ms * MS, 30 * MIB, 10 * MIB, operators, kernels)


def test_a_class_with_a_half_that_computes_and_a_half_that_copies_has_both() -> None:
    computes = operator(flops=4_000_000_000, ms=5)  # 4 ms at the peak
    copies = operator(activations=80 * MIB, ms=5)  # more than can pass in 5 ms, half of it beyond the cache
    found = of_solo(solo(computes, copies), GPU, cores=0, threads=1)
    assert found.basis == "OPERATORS"
    assert found.shares == pytest.approx((0.4, 0.5, 0.5))
    slower = of_solo(solo(computes, copies, work_ms=20), GPU, cores=0, threads=1)
    assert slower.shares == pytest.approx((0.2, 0.25, 0.25))  # gaps between operators are idle


def test_operators_that_differ_are_phases_and_those_of_a_cpu_are_not_waited_for() -> None:
    computes, copies = operator(flops=4_000_000_000, ms=5), operator(activations=80 * MIB, ms=5)
    found = of_solo(solo(computes, copies, work_ms=20), GPU, cores=0, threads=1)
    assert [phase.end for phase in found.phases] == pytest.approx([0.5, 1.0])
    assert [phase.demand for phase in found.phases] == [
        pytest.approx((0.4, 0.0, 0.0)),
        pytest.approx((0.0, 0.5, 0.5)),
    ]
    assert found.kernel_ns == pytest.approx(5 * MS)
    on_cpu = of_solo(solo(computes, copies, cpu_ms=10), CPU, cores=2, threads=1)
    assert [phase.demand[0] for phase in on_cpu.phases] == pytest.approx([0.5, 0.5])  # of the cores, all along
    assert on_cpu.kernel_ns == 0.0
    assert {phase.kernel_ns for phase in on_cpu.phases} == {0.0}


def test_without_times_of_operators_the_whole_run_counts() -> None:
    found = of_solo(solo(operator(flops=4_000_000_000), operator(activations=4_000_000)), GPU, cores=0, threads=1)
    assert found.basis == "MODEL"
    assert found.shares == pytest.approx((0.4, 0.4, 0.0))


def test_times_that_tracing_made_longer_are_scaled_down() -> None:
    first, second = operator(activations=8_000_000, ms=20), operator(ms=20)  # 5 ms each of the 10 that a run takes
    assert of_solo(solo(first, second), GPU, cores=0, threads=1).shares[1] == pytest.approx(0.5)


def test_numbers_of_16_bits_have_a_peak_of_their_own() -> None:
    found = of_solo(solo(operator(flops=4_000_000_000, ms=5, element=2)), GPU, cores=0, threads=1)
    assert found.shares[0] == pytest.approx(0.1)


def test_what_a_cache_holds_does_not_reach_the_next_one() -> None:
    # Weights are read again one run later: half of a footprint of 80 MiB exceeds the shared cache.
    halves = [operator(weights=40 * MIB, ms=500)] * 2
    weights = of_solo(solo(*halves, work_ms=1000), GPU, cores=0, threads=1)
    assert weights.shares[1:] == pytest.approx((80 * MIB / 1e9, 40 * MIB / 0.5e9))
    # A tensor of half a MiB between two operators stays in a core's own cache; with 2 MiB, half does.
    small = operator(activations=MIB // 2, ms=1)
    assert of_solo(solo(small), CPU, cores=2, threads=1).shares[1:] == (0.0, 0.0)
    large = operator(activations=2 * MIB, ms=10)
    assert of_solo(solo(large), CPU, cores=2, threads=1).shares[1:] == pytest.approx((MIB / 1e9 / 0.01, 0.0))
    assert of_solo(solo(large), CPU, cores=2, threads=2).shares[1:] == (0.0, 0.0)


def test_a_cpus_processors_are_its_cores() -> None:
    counted = operator(flops=10**12, activations=1, ms=10)
    assert of_solo(solo(counted, cpu_ms=10), CPU, cores=4, threads=1).shares[0] == pytest.approx(0.25)
    assert of_solo(solo(cpu_ms=30), CPU, cores=2, threads=2).shares[0] == 1.0


def test_what_cannot_be_counted_is_estimated_from_outside() -> None:
    found = of_solo(solo(work_ms=1000, cpu_ms=1000), CPU, cores=4, threads=1)
    assert found.basis == "OUTSIDE"
    assert found.shares == pytest.approx((0.25, 1.0, 40 * MIB / 0.5e9))
    assert of_solo(solo(work_ms=1000), GPU, cores=0, threads=1).shares[0] == 1.0  # nothing tells: the safe side


def test_what_nsight_measured_wins_where_it_was_measured() -> None:
    means = nsight.KernelMeans((0.8, 0.4, 0.2), 5 * MS)
    kernels = nsight.KernelProfiles({("", 2): means})
    found = of_solo(solo(operator(flops=1, ms=1), kernels=kernels), GPU, cores=0, threads=1)
    assert found[:2] == ((0.4, 0.2, 0.1), "NSIGHT")
    other = nsight.KernelProfiles({("", 8): means})
    assert of_solo(solo(operator(flops=1, ms=1), kernels=other), GPU, cores=0, threads=1).basis == "OPERATORS"
    assert of_solo(solo(kernels=other), GPU, cores=0, threads=1).basis == "OUTSIDE"


# ---- peaks


def test_a_cpus_peaks_are_plausible_and_its_caches_are_read() -> None:
    found = peaks.of_cpu()
    assert 1e8 < found.memory_bytes_per_s < 1e13
    assert 1e8 < found.cache_bytes_per_s < 1e14
    assert 0 < found.private_bytes < found.cache_bytes


def test_peaks_of_torch_are_plausible() -> None:
    torch = pytest.importorskip("torch")
    found = peaks.of_torch(torch.device("cpu"), 2**20, memory_copy=2**22, product=64)
    assert 1e6 < found.flops_per_s < 1e15
    assert 1e7 < found.memory_bytes_per_s < 1e13
    assert (found.cache_bytes, found.private_bytes) == (2**20, 0)


@pytest.mark.gpu
def test_peaks_of_a_gpu_are_plausible() -> None:
    torch = pytest.importorskip("torch")
    found = peaks.of_torch(torch.device("cuda", 0), torch.cuda.get_device_properties(0).L2_cache_size)
    assert 1e12 < found.flops_per_s < found.half_flops_per_s < 1e16
    assert 1e11 < found.memory_bytes_per_s < 1e14


def test_caches_are_read_as_the_system_tells_them(tmp_path: Path) -> None:
    assert peaks.cache_bytes(tmp_path / "nowhere") == (2**20, 32 * 2**20)
    told = [("1", "Data", "48K"), ("1", "Instruction", "32K"), ("2", "Unified", "2M"), ("3", "Unified", "16M")]
    for i, (level, kind, size) in enumerate(told):
        folder = tmp_path / f"index{i}"
        folder.mkdir()
        for name, text in (("level", level), ("type", kind), ("size", size)):
            (folder / name).write_text(text + "\n")
    (tmp_path / "index9").mkdir()  # tells nothing
    assert peaks.cache_bytes(tmp_path) == (2 * MIB, 16 * MIB)
    (tmp_path / "index3" / "size").write_text("many")
    assert peaks.cache_bytes(tmp_path) == (48 * 2**10, 2 * MIB)


def test_peaks_are_measured_once_per_device_and_again_if_unreadable(tmp_path: Path) -> None:
    measured: list[int] = []

    def measure() -> Peaks:
        measured.append(1)
        return GPU

    assert peaks.known("a", measure, None) == peaks.known("a", measure, tmp_path) == GPU
    assert peaks.known("a", measure, tmp_path) == GPU
    assert len(measured) == 2
    peaks.known("b", measure, tmp_path)
    assert len(measured) == 3
    for path in tmp_path.glob("peaks-*.json"):
        path.write_text('{"flops_per_s": "many"}')
    with capture_logs() as logs:
        assert peaks.known("a", measure, tmp_path) == GPU
    assert len(measured) == 4
    assert "flops_per_s" in logs[0]["error"]
    (tmp_path / "file").touch()
    with capture_logs() as logs:
        assert peaks.known("c", measure, tmp_path / "file") == GPU  # cannot be kept
    assert logs[0]["event"] == "peaks of the device not kept"
