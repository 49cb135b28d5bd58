"""The loop of the seed paper: two at once, by a slowdown that is predicted at launch. A baseline, made of two parts.

Source: Zhao and Georgantas, "ML Inference Scheduling with Predictable Latency" (MAIoT 2025), sections 3 to 5. The paper
predicts, and names no scheduling policy; this is the plainest loop round its prediction. From the paper:
- at most two batches run at once (4.1);
- a batch's slowdown is told when it is scheduled, from what runs at that moment, and stays (4.2);
- that of one that runs is told anew when another arrives or departs, from what it was co-located with, smoothed:
  R <- alpha X + (1 - alpha) R (4.2). The slowdown is linear in R, so it is smoothed in its place, from 1 alone;
- a launch must spare its own deadline and those of what runs (1); there is no uncertainty.
The rest, which the paper leaves open, is as in `pairs.py`.

The weights are learned online, by recursive least squares (4.3), where all learning is: in the predictor. So the paper
is this policy *with* the learner `ewma12-rls` (alpha 1/2), which an experiment names both:
`--policy seed-paper` and the predictor's `--learner ewma12-rls`. With another learner it decides by that one's pairs.
Solo times are those the predictor tells, at the median; the paper's were 95th percentiles. Whom a running batch met
between its launch and now is not in the books: it is taken to have run alone since those at its launch left.
"""

from cotenant.runtime.estimates import BatchClass
from cotenant.scheduler.books import Device, Running
from cotenant.scheduler.pairs import PairPolicy

ALPHA = 0.5  # of 1/3, 1/2 and 2/3 that the paper tries


class SeedPaper(PairPolicy):
    """See the module's text."""

    name = "seed-paper"

    def work_ns(self, device: Device, batch_class: BatchClass) -> int:
        """As the predictor tells it, or as it was measured."""
        return device.work_ns(batch_class)

    def slowdown(self, device: Device, victim: BatchClass, other: BatchClass) -> float:
        """As the predictor tells it for the pair."""
        return 1.0 / device.table.progress_rate(victim, (other,))

    def slowdown_of_running(self, device: Device, body: Running, joining: BatchClass) -> float:
        """What it was launched with, smoothed by the departure of those it had beside it, and by who joins."""
        told = body.batch.forecast
        so_far = told.duration_ns / told.work_ns if told.work_ns else 1.0
        if told.co_runner_count:
            so_far = ALPHA + (1.0 - ALPHA) * so_far
        return ALPHA * self.slowdown(device, body.batch_class, joining) + (1.0 - ALPHA) * so_far
