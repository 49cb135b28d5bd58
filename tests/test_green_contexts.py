"""Shares of multiprocessors: granules, who has them, and what the driver is asked; without a GPU, and with one."""

# ruff: noqa: N802 (a driver has the driver's names)

from enum import IntEnum
from types import SimpleNamespace
from typing import Any

import pytest

from cotenant.executor.green_contexts import GreenContexts


class Error(IntEnum):
    CUDA_SUCCESS = 0
    CUDA_ERROR_NOT_SUPPORTED = 801


def resource(count: int, least: int = 8) -> Any:
    return SimpleNamespace(sm=SimpleNamespace(smCount=count, minSmPartitionSize=least))


class FakeDriver:
    """Green contexts of a device with 132 SMs in granules of 8, as the bindings return them."""

    CUdevResourceType = SimpleNamespace(CU_DEV_RESOURCE_TYPE_SM=1)
    CUgreenCtxCreate_flags = SimpleNamespace(CU_GREEN_CTX_DEFAULT_STREAM=1)

    def __init__(self, sms: int = 132, fails: str = "") -> None:
        self.sms, self.fails = sms, fails
        self.alive: dict[int, int] = {}  # contexts and streams by handle: SMs they run on
        self.destroyed: list[str] = []
        self._next = 1000

    def _answer(self, call: str, *values: Any) -> tuple[Any, ...]:
        return (Error.CUDA_ERROR_NOT_SUPPORTED if call == self.fails else Error.CUDA_SUCCESS, *values)

    def _new(self, sms: int) -> int:
        self._next += 1
        self.alive[self._next] = sms
        return self._next

    def cuInit(self, flags: int) -> Any:
        return self._answer("cuInit")

    def cuDeviceGet(self, index: int) -> Any:
        return self._answer("cuDeviceGet", index)

    def cuDeviceGetDevResource(self, device: int, kind: int) -> Any:
        return self._answer("cuDeviceGetDevResource", resource(self.sms))

    def cuDevSmResourceSplitByCount(self, groups: int, whole: Any, flags: int, least: int) -> Any:
        count = whole.sm.smCount // least
        made = [resource(least) for _ in range(groups)]
        return self._answer("cuDevSmResourceSplitByCount", made, count, resource(whole.sm.smCount - count * least))

    def cuDevResourceGenerateDesc(self, parts: list[Any], count: int) -> Any:
        assert len(parts) == count
        return self._answer("cuDevResourceGenerateDesc", sum(part.sm.smCount for part in parts))

    def cuGreenCtxCreate(self, description: int, device: int, flags: int) -> Any:
        if self.fails == "cuGreenCtxCreate":
            return self._answer("cuGreenCtxCreate", None)
        return self._answer("cuGreenCtxCreate", self._new(description))

    def cuGreenCtxStreamCreate(self, context: int, flags: int, priority: int) -> Any:
        return self._answer("cuGreenCtxStreamCreate", self._new(self.alive[context]))

    def cuStreamDestroy(self, stream: int) -> Any:
        del self.alive[stream]
        self.destroyed.append("stream")
        return self._answer("cuStreamDestroy")

    def cuGreenCtxDestroy(self, context: int) -> Any:
        del self.alive[context]
        self.destroyed.append("context")
        return self._answer("cuGreenCtxDestroy")


def test_contexts_of_their_own_share_no_granule_and_give_them_back() -> None:
    driver = FakeDriver()
    device = GreenContexts(0, driver)
    assert (device.sm_count, device.granule_sms, device.free_sms) == (132, 8, 128)
    small, large = device.partition([20, 100])
    assert (small.sm_count, large.sm_count) == (24, 104)
    assert not set(small.granules) & set(large.granules)
    assert device.free_sms == 0
    assert driver.alive[small.stream()] == 24
    with pytest.raises(ValueError, match="a share of 8 SMs was asked for, and 0 are free"):
        device.open(8)
    small.close()
    small.close()
    assert device.free_sms == 24
    assert driver.destroyed == ["stream", "context"]
    with pytest.raises(RuntimeError, match="closed"):
        small.stream()
    device.close()
    assert (device.free_sms, driver.alive) == (128, {})


def test_overlapping_contexts_take_what_the_fewest_have() -> None:
    device = GreenContexts(0, FakeDriver())
    first = device.open(64)
    second = device.open(64, overlap=True)
    third = device.open(64, overlap=True)
    assert not set(first.granules) & set(second.granules)
    assert third.granules == first.granules
    first.close()
    assert device.free_sms == 0


def test_who_has_all_granules_has_the_rest_too() -> None:
    assert GreenContexts(0, FakeDriver()).open(129).sm_count == 132
    assert GreenContexts(0, FakeDriver(sms=128)).open(128).sm_count == 128


def test_a_partition_that_does_not_fit_leaves_nothing_behind() -> None:
    driver = FakeDriver()
    device = GreenContexts(0, driver)
    with pytest.raises(ValueError, match="a share of 80 SMs was asked for, and 64 are free"):
        device.partition([64, 80])
    assert (device.free_sms, driver.alive) == (128, {})
    for sms in (0, 133):
        with pytest.raises(ValueError, match="expected 1 to 132"):
            device.open(sms)


def test_it_is_told_why_there_are_none() -> None:
    with pytest.raises(ValueError, match="device 0 has no green contexts: cuDeviceGetDevResource: CUDA_ERROR_NOT_SUP"):
        GreenContexts(0, FakeDriver(fails="cuDeviceGetDevResource"))
    with pytest.raises(ValueError, match=r"CUDA 12\.4: the bindings have no cuDeviceGetDevResource"):
        GreenContexts(0, SimpleNamespace())
    device = GreenContexts(0, FakeDriver(fails="cuGreenCtxCreate"))
    with pytest.raises(RuntimeError, match="cuGreenCtxCreate: CUDA_ERROR_NOT_SUPPORTED"):
        device.open(8)
    assert device.free_sms == 128


@pytest.mark.gpu
def test_less_of_a_gpu_takes_longer() -> None:
    import torch

    device = GreenContexts(0)
    left = torch.randn(4096, 4096, device="cuda")
    times = {}
    for sms in (device.granule_sms, device.sm_count // 2):
        context = device.open(sms)
        stream = torch.cuda.ExternalStream(context.stream())
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        with torch.cuda.stream(stream):
            left @ left
            begin.record()
            left @ left
            end.record()
        stream.synchronize()
        times[sms] = begin.elapsed_time(end)
        context.close()
    few, many = times.values()
    assert few > 3 * many
