"""Orion: one high-priority batch at a time, and beside it only batches that want what it does not. A baseline.

Source: Strati et al., "Orion: Interference-aware, Fine-grained GPU Sharing for ML Applications" (EuroSys 2024), and the
scheduler and roofline analysis of its repository. Orion decides kernel by kernel for one high-priority client and
several best-effort ones; here whole batches are in the place of kernels:
- the high-priority client is the most urgent (priority, then deadline) of all batches that run or wait;
- a kernel is compute-bound above the knee of the roofline and memory-bound below it; a batch is compute-bound if it
  keeps more of the SMs busy than of the DRAM bandwidth, on average over its solo run, else memory-bound, and goes with
  either kind if that was not measured (Orion's -1);
- durations and SMs are those of the solo profile.

Rules, in order:
1. A request whose deadline has passed while it waited is dropped; Orion itself knows no deadlines.
2. What is more urgent than all that runs is launched at once, whoever runs: high priority is never held back.
3. Anything else is best effort. It is launched beside the high-priority batch if the two are of opposite kinds, all
   best-effort batches together need no more than the device's SMs, and their work left is at most `MOST_WORK`
   times that of the high-priority one: nothing of it can be taken back when the next high-priority batch comes.
4. The device's limit on batches at once, and models' on instances, hold before all.

Orion's threshold in rule 3 is a share of a high-priority request, found by a sweep for each experiment; its kernels
take some 10 us. Batches are not that short. Of 1/4 to 32 times the high-priority batch, in powers of two, 32 served
most in time on the load of benchmarks/policies.py, and no limit at all as much. Below 8 a long batch hardly ever runs
beside a short one, and the device is left to one of them.
"""

from cotenant.runtime.estimates import BatchClass
from cotenant.scheduler.baselines import backlog_finish_ns, expired, may_run, unaware_launch
from cotenant.scheduler.books import Device, Queue, Running
from cotenant.scheduler.events import ModelSpec, Request
from cotenant.scheduler.planning import class_of
from cotenant.scheduler.policy import Outlook, Turn

MOST_WORK = 32.0
COMPUTE, MEMORY, UNKNOWN = 1, 0, -1


class Orion:
    """See the module's text."""

    name = "orion"

    def __init__(self, level: float) -> None:
        self.level = level

    def outlook(self, device: Device, request: Request, now_ns: int) -> Outlook:
        """Admits everything."""
        return Outlook(backlog_finish_ns(device, request, now_ns, device.spec.max_concurrency), None)

    def turn(self, device: Device, now_ns: int) -> Turn:
        """The most urgent batch that may begin."""
        gone = self.doomed(device, now_ns)
        if gone.rejections or len(device.running) >= device.spec.max_concurrency:
            return gone
        for queue in device.by_urgency():
            if may_run(device, queue) and _may_begin(device, queue):
                requests, _ = queue.batch_at(0)
                return Turn([], unaware_launch(device, queue, requests, now_ns, self.level), gone.wake_ns)
        return gone

    def doomed(self, device: Device, now_ns: int) -> Turn:
        """What has waited past its deadline."""
        return expired(device, now_ns)


def _may_begin(device: Device, queue: Queue) -> bool:
    """Rules 2 and 3."""
    running = sorted(device.running.values(), key=lambda body: _urgency(device, body))
    if not running or queue.urgency_at(0) < _urgency(device, running[0]):
        return True
    own = class_of(queue, queue.batch_at(0)[1])
    high, effort = running[0], running[1:]
    kinds = {_kind(device, own), _kind(device, high.batch_class)}
    if len(kinds) == 1 and UNKNOWN not in kinds:
        return False
    sms, work_ns = _share(device, own, "sm"), float(device.profiled_ns(own))
    for body in effort:
        sms += _share(device, body.batch_class, "sm")
        work_ns += body.remaining_ns
    return 0.0 < work_ns <= MOST_WORK * device.profiled_ns(high.batch_class) and sms <= 1.0


def _urgency(device: Device, body: Running) -> tuple[int, int, int]:
    """Of a batch that runs: as its most urgent request's would be in its queue."""
    known = body.batch_class
    spec = device.models.get((known.model, known.version)) or ModelSpec(known.model, known.version)
    queue = Queue((known.model, known.version, known.shape_bucket), spec)
    return min(queue.urgency_of(request) for request in body.batch.requests)


def _kind(device: Device, batch_class: BatchClass) -> int:
    compute, memory = _share(device, batch_class, "sm"), _share(device, batch_class, "dram")
    return (COMPUTE if compute > memory else MEMORY) if compute or memory else UNKNOWN


def _share(device: Device, batch_class: BatchClass, resource: str) -> float:
    """Share of a resource that a class keeps busy alone; 0 if that was not measured."""
    shares = dict(zip(device.spec.resources, device.profiled_demand(batch_class), strict=False))
    return shares.get(resource, 0.0)
