"""What Nsight Compute printed, on both of its pages, and all that can be wrong with it."""

from pathlib import Path

import pytest
from structlog.testing import capture_logs

from cotenant.executor import nsight

SM = "sm__throughput.avg.pct_of_peak_sustained_elapsed"
L2 = "lts__throughput.avg.pct_of_peak_sustained_elapsed"
DRAM = "dram__throughput.avg.pct_of_peak_sustained_elapsed"

# A kernel of 3 us that computes and one of 1 us that copies.
RAW = f"""\
==PROF== Connected to process 4711 (/usr/bin/python3.11)
loaded the model, "warm"
==PROF== Profiling "gemm" - 0: 0%....50%....100% - 9 passes
==PROF== Disconnected from process 4711
"ID","Process ID","Kernel Name","Device","CC","{DRAM}","gpu__time_duration.sum","{L2}","{SM}"
"","","","","","%","ns","%","%"
"0","4711","gemm(float*, int)","0","8.9","10.00","3,000","20.00","80.00"
"1","4711","copy","0","8.9","90","1,000","60","4"
"""

DETAILS = """\
==PROF== Connected to process 4711 (/usr/bin/python3.11)
"ID","Kernel Name","Section Name","Metric Name","Metric Unit","Metric Value"
"0","gemm","GPU Speed Of Light Throughput","DRAM Throughput","%","10.00"
"0","gemm","GPU Speed Of Light Throughput","Duration","us","3.00"
"0","gemm","GPU Speed Of Light Throughput","L2 Cache Throughput","%","20.00"
"0","gemm","GPU Speed Of Light Throughput","Compute (SM) Throughput","%","80.00"
"0","gemm","Occupancy","Theoretical Occupancy","%","100"
"1","copy","GPU Speed Of Light Throughput","DRAM Throughput","%","90"
"1","copy","GPU Speed Of Light Throughput","Duration","ms","0.001"
"1","copy","GPU Speed Of Light Throughput","L2 Cache Throughput","%","60"
"1","copy","GPU Speed Of Light Throughput","Compute (SM) Throughput","%","4"
==PROF== Disconnected from process 4711
"""
MEANS = ((3 * 0.80 + 0.04) / 4, (3 * 0.20 + 0.60) / 4, (3 * 0.10 + 0.90) / 4)


@pytest.mark.parametrize("text", [RAW, DETAILS, DETAILS.replace("Compute (SM) Throughput", SM)])
def test_both_pages_give_means_weighted_by_duration(text: str) -> None:
    found = nsight.kernel_means(text.splitlines(keepends=True))
    assert found.total_ns == 4000
    assert found.throughputs == pytest.approx(MEANS)


@pytest.mark.parametrize(
    ("text", "old", "new", "message"),
    [
        (RAW, "Kernel Name", "Function", "no line is the header"),
        (RAW, '"80.00"', '"n/a"', "line 7: SM throughput is 'n/a', expected a number like 1,234.5"),
        (RAW, '"3,000"', '"3.000,0"', "line 7: duration is '3.000,0'"),
        (RAW, '"3,000"', '"-3"', "line 7: duration is -3, expected 0 or more"),
        (RAW, '"10.00"', '"1e999"', "line 7: DRAM throughput is 1e999"),
        (RAW, '"ns"', '"fortnight"', "line 7: duration is in 'fortnight', expected one of ns"),
        (RAW, '"%","ns"', '"byte/s","ns"', "line 7: DRAM throughput is in 'byte/s', expected %"),
        (RAW, ',"60","4"\n', ',"60"', "line 8: 8 columns, expected 9"),
        (RAW, '"","","","","","%","ns","%","%"\n', "", "line 6: expected the units of the columns"),
        (RAW, L2, "lts__t_bytes.sum", "kernel 0 has no L2 throughput"),
        (
            DETAILS,
            '"1","copy","GPU Speed Of Light Throughput","Duration","ms","0.001"\n',
            "",
            "kernel 1 has no duration",
        ),
        (DETAILS, "Metric Unit", "Unit", "the header of the table has no Metric Unit"),
        (DETAILS, '"us","3.00"', '"us",""', "line 4: duration is ''"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(text: str, old: str, new: str, message: str) -> None:
    assert old in text
    with pytest.raises(ValueError, match=message.replace("(", "\\(")):
        nsight.kernel_means(text.replace(old, new).splitlines(keepends=True))


def test_a_table_without_kernels_and_kernels_without_time_are_refused() -> None:
    lines = RAW.splitlines(keepends=True)
    for end in (5, 6):
        with pytest.raises(ValueError, match="has no kernel"):
            nsight.kernel_means(lines[:end])
    idle = RAW.replace('"3,000"', '"0"').replace('"1,000"', '"0"')
    with pytest.raises(ValueError, match="took no time"):
        nsight.kernel_means(idle.splitlines(keepends=True))


def profiles(folder: Path) -> nsight.KernelProfiles:
    found = nsight.read(folder)
    assert found is not None
    return found


def means(found: nsight.KernelProfiles, batch_size: int, bucket: str, work_ns: int) -> tuple[float, ...] | None:
    course = found.demand(batch_size, bucket, work_ns)
    return course.demand if course else None


def test_a_batchs_course_is_that_of_its_kernels(tmp_path: Path) -> None:
    """A long one that computes and then a short one: two phases, of the nearer size where that was not measured."""
    (tmp_path / "ncu-b2.csv").write_text(RAW)
    course = profiles(tmp_path).demand(2, "", 8000)
    assert course is not None
    assert [p.end for p in course.phases] == pytest.approx([0.75, 1.0])
    assert [p.kernel_ns for p in course.phases] == pytest.approx([3000, 1000])
    assert [p.demand[0] for p in course.phases] == pytest.approx([0.40, 0.02])  # half of the time passes between them
    assert course.kernel_ns == pytest.approx(2000)
    (tmp_path / "ncu-b6.csv").write_text(RAW.replace("3,000", "9,000"))
    between = profiles(tmp_path).demand(3, "", 8000)
    assert between is not None
    assert [p.end for p in between.phases] == pytest.approx([0.75, 1.0])
    assert between.kernel_ns == pytest.approx(5500 / 2)  # a quarter of the way from 4 us to 10 us


def test_gaps_between_kernels_are_idle(tmp_path: Path) -> None:
    (tmp_path / "ncu-b2.csv").write_text(RAW)
    found = profiles(tmp_path)
    assert means(found, 2, "", 4000) == pytest.approx(MEANS)
    assert means(found, 2, "", 16000) == pytest.approx(tuple(mean / 4 for mean in MEANS))
    # Longer under the profiler than without it: no gaps, and never more than the kernels themselves.
    assert means(found, 2, "", 1000) == pytest.approx(MEANS)


def test_sizes_between_two_that_were_measured_are_interpolated_and_none_beyond(tmp_path: Path) -> None:
    (tmp_path / "ncu-b2.csv").write_text(RAW)
    (tmp_path / "ncu-b6.csv").write_text(
        RAW.replace('"80.00"', '"40"').replace('"4"', '"24"').replace("3,000", "5,000")
    )
    found = profiles(tmp_path)
    low, high = means(found, 2, "", 10**6), means(found, 6, "", 10**6)
    assert low is not None
    assert high is not None
    middle = means(found, 4, "", 5000)  # kernels of (4 us + 6 us) / 2 fill it
    assert middle is not None
    assert middle[0] == pytest.approx((MEANS[0] + (5 * 0.40 + 0.24) / 6) / 2)
    assert means(found, 1, "", 4000) is None
    assert means(found, 7, "", 4000) is None


def test_a_bucket_has_files_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "ncu-b2-s64.csv").write_text(RAW)
    found = profiles(tmp_path)
    assert means(found, 2, "64", 4000) == pytest.approx(MEANS)
    assert means(found, 2, "32", 4000) is None
    assert means(found, 2, "", 4000) is None


def test_a_file_that_cannot_be_used_is_told_and_the_others_count(tmp_path: Path) -> None:
    assert nsight.read(tmp_path) is None
    (tmp_path / "ncu-b1.csv").write_text(RAW.replace('"80.00"', '"?"'))
    (tmp_path / "ncu-b2.csv").write_text(RAW)
    (tmp_path / "ncu-b3.csv").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "ncu-batch4.csv").write_text(RAW)
    (tmp_path / "ncu-b5.csv").mkdir()
    with capture_logs() as logs:
        found = profiles(tmp_path)
    told = {Path(entry["path"]).name: entry["error"] for entry in logs}
    assert "line 7: SM throughput is '?'" in told["ncu-b1.csv"]
    assert "ncu-bSIZE.csv" in told["ncu-batch4.csv"]
    assert set(told) == {"ncu-b1.csv", "ncu-b3.csv", "ncu-batch4.csv", "ncu-b5.csv"}
    assert means(found, 2, "", 4000) == pytest.approx(MEANS)
    assert means(found, 1, "", 4000) is None
