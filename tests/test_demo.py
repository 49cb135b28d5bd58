"""The demo's parts that judge and choose; the whole of it is for scripts/check-long."""

import asyncio
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cotenant.cli import demo_check, demo_mix
from cotenant.cli.load_inputs import Input, Model
from cotenant.cli.report_log import Log
from cotenant.cli.report_records import Device
from cotenant.runtime.estimates import BatchClass


def test_sentences_that_say_the_same_must_be_closest() -> None:
    rng = np.random.default_rng(0)
    meanings = np.repeat(rng.standard_normal((5, 64)), 3, axis=0)
    groups = np.repeat(np.arange(5), 3)
    texts = [f"sentence {i}" for i in range(15)]
    found = demo_check.compare(meanings + 0.3 * rng.standard_normal(meanings.shape), groups, texts)
    assert found.sensible
    assert found.closest_alike == 15
    (alike, one, paraphrase), (unlike, same, stranger) = found.examples
    assert one == same == "sentence 0"
    assert (paraphrase, stranger) == ("sentence 1", "sentence 3")
    assert alike > unlike
    assert not demo_check.compare(rng.standard_normal((15, 64)), groups, texts).sensible
    with pytest.raises(ValueError, match="14 answers for 15 sentences"):
        demo_check.compare(meanings[:14], groups, texts)


def measured(kind: str, **work_ms: float) -> Log:
    """A log that tells solo times; `name_16` is the bucket 16 of a model."""
    log = Log(devices={"d": Device("d", kind, max_concurrency=2)})
    for key, ms in work_ms.items():
        name, _, bucket = key.partition("_")
        log.work_ns["d", BatchClass(name, "1", 1, bucket)] = round(ms * 1e6)
        log.work_ns["d", BatchClass(name, "1", 8, bucket)] = 10**12  # of other sizes, which are not asked
    return log


def model(name: str, *buckets: int) -> Model:
    return Model(name, (Input("x", "INT64", (-1,) if buckets else (4,)),), True, 8, 0.0, buckets)


def test_each_model_gets_the_same_share_of_the_devices_time(tmp_path: Path) -> None:
    log = measured("cuda", a=10, b=40)
    found = demo_mix.rates(log, [model("a"), model("b")], tmp_path, utilisation=0.5, free_cores=8)
    assert found == {"a": 50.0, "b": 12.5}  # half of two places for each: 0.5 s of work in a second
    busy = demo_mix.rates(
        measured("cuda", a=0.1, b=0.1), [model("a"), model("b")], tmp_path, utilisation=0.5, free_cores=8
    )
    assert sum(busy.values()) == demo_mix.MOST_PER_S
    shared = demo_mix.rates(
        measured("cpu", a=10, b=40), [model("a"), model("b")], tmp_path, utilisation=0.5, free_cores=8
    )
    assert shared["a"] == pytest.approx(0.5e9 / (10e6 + demo_mix.SERVICE_NS), abs=0.01)
    crowded = demo_mix.rates(measured("cpu", a=10, b=40), [model("a"), model("b")], tmp_path, 0.5, free_cores=1)
    assert crowded["a"] == pytest.approx(shared["a"] / 2, abs=0.01)
    emulated = demo_mix.rates(measured("emulated", a=10, b=40), [model("a"), model("b")], tmp_path, 0.5, free_cores=1)
    assert emulated == crowded


def test_at_least_half_of_the_cores_are_counted_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ticks of 10 ms: 200 of them in a second are two idle cores."""
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    monkeypatch.setattr("os.sysconf", lambda _: 100)
    for idle, expected in ((0, 2.0), (3, 3.0), (9, 4.0)):
        ticks = iter([1000, 1000 + idle])
        monkeypatch.setattr(demo_mix, "_idle_ticks", lambda ticks=ticks: next(ticks))
        assert asyncio.run(demo_mix.free_cores(0.01)) == pytest.approx(expected)


def test_the_work_of_a_model_with_buckets_is_that_of_its_samples(tmp_path: Path) -> None:
    (tmp_path / "t").mkdir()
    np.savez(tmp_path / "t" / "samples.npz", **{f"x.{i}": np.ones(n, np.int64) for i, n in enumerate((3, 16, 9, 30))})  # type: ignore[arg-type]
    log = measured("cuda", t_16=2, t_32=6)
    assert demo_mix.mean_work_ns(log, model("t", 16, 32), tmp_path) == 3e6  # three short ones, one long
    assert demo_mix.mean_work_ns(log, model("t", 16, 32), tmp_path / "none") == 4e6
    with pytest.raises(ValueError, match="model 'u' was not measured alone"):
        demo_mix.mean_work_ns(log, model("u"), tmp_path)


@pytest.mark.long
def test_the_whole_demo(tmp_path: Path) -> None:
    flags = [f"--model-repository={tmp_path / 'models'}", f"--output={tmp_path / 'page.html'}", "--duration-s=10"]
    command = [sys.executable, "-m", "cotenant.cli", "demo", *flags, "--slo-scale=4", "--utilisation=0.3"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    (share,) = re.findall(r"^all .*?([\d.]+)%", ended.stdout, re.MULTILINE)
    assert float(share) > 50
    assert "sentences are closest to one that says the same" in ended.stdout
    assert (tmp_path / "page.html").stat().st_size > 50_000
