"""gpulets' prediction, static and by pairs: two at once if a linear model fitted offline allows it. A baseline.

Source: Choi et al., "Serving Heterogeneous Machine Learning Models on Multi-GPU Servers with Spatio-Temporal Sharing"
(USENIX ATC 2022), and `interference_model.cpp` of its repository. From there:
- at most two share a GPU;
- solo times and throughputs are profiled offline, and drawn linearly between the profiled batch sizes;
- a batch is slowed by a constant, plus weights times the L2 and the DRAM throughput of both;
- this factor holds for all of its life, as if the other stayed; the SLO of both is checked with it;
- what would be late if it were run at once is dropped.
The rest is as in `pairs.py`.

The coefficients that its authors publish are fits to an RTX 2080 Ti and an RTX 3080, and unlike each other; ours are a
fit of the same form to all pairs of 28 classes on the emulated GPU, by `benchmarks/gpulets_coefficients.py`, which
fits them to the logs of any other device too. Of the pairs kept aside, it is within 13.3 % for nine in ten.

Not there: spatial partitions, and so the scaling of throughputs by the partition's size (a batch may use the whole
device), and the placement of models on partitions by their rates.
"""

from cotenant.runtime.estimates import BatchClass
from cotenant.scheduler.books import Device
from cotenant.scheduler.pairs import PairPolicy

CONSTANT = 0.06
# Weights of the solo shares of (L2, DRAM) of the batch itself, and of the other.
OWN = (2.103, -0.797)
OTHER = (2.111, -1.142)


class Gpulets(PairPolicy):
    """See the module's text."""

    name = "gpulets"

    def work_ns(self, device: Device, batch_class: BatchClass) -> int:
        """As it was measured alone; nothing is learned from what runs."""
        return device.profiled_ns(batch_class)

    def slowdown(self, device: Device, victim: BatchClass, other: BatchClass) -> float:
        """By the linear model; 0 where L2 and DRAM throughputs were not measured."""
        own, theirs = _throughputs(device, victim), _throughputs(device, other)
        if not own or not theirs:
            return 0.0
        return max(1.0, CONSTANT + OWN[0] * own[0] + OWN[1] * own[1] + OTHER[0] * theirs[0] + OTHER[1] * theirs[1])


def _throughputs(device: Device, batch_class: BatchClass) -> tuple[float, float] | None:
    shares = dict(zip(device.spec.resources, device.profiled_demand(batch_class), strict=False))
    return (shares["l2"], shares["dram"]) if "l2" in shares and "dram" in shares else None
