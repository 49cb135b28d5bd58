"""What the responses of decoupled models took, by which response it was: Triton's `response_stats`."""

from dataclasses import dataclass, field

from cotenant.inference import inference_pb2 as pb

# A model may give any number of responses; those beyond are counted as one.
MOST = 1024


@dataclass(slots=True)
class Duration:
    """A count and a sum of nanoseconds."""

    count: int = 0
    ns: int = 0

    def add(self, ns: int) -> None:
        """One more."""
        self.count += 1
        self.ns += ns

    def put(self, message: pb.StatisticDuration) -> None:
        """Writes it."""
        message.count, message.ns = self.count, self.ns


@dataclass(slots=True)
class OneResponse:
    """The first responses, or the second ones, ...: how they ended, and what making and copying them took."""

    infer: Duration = field(default_factory=Duration)
    output: Duration = field(default_factory=Duration)
    success: Duration = field(default_factory=Duration)
    fail: Duration = field(default_factory=Duration)
    empty: Duration = field(default_factory=Duration)  # the request ended without a response more
    cancel: Duration = field(default_factory=Duration)


@dataclass(slots=True)
class Responses:
    """Of one version of a model."""

    by_index: dict[int, OneResponse] = field(default_factory=dict)

    def of(self, index: int) -> OneResponse:
        """The counts of the `index`-th response."""
        return self.by_index.setdefault(min(index, MOST), OneResponse())

    def put(self, message: pb.ModelStatistics) -> None:
        """Writes them."""
        for index in sorted(self.by_index):
            row, shown = self.by_index[index], message.response_stats[str(index)]
            row.infer.put(shown.compute_infer)
            row.output.put(shown.compute_output)
            row.success.put(shown.success)
            row.fail.put(shown.fail)
            row.empty.put(shown.empty_response)
            row.cancel.put(shown.cancel)
