"""The learned law: what blocks take alone, what phases demand, and how two of them slow each other.

All of it is additive in logarithms and hierarchical: a shared value plus deviations, each with a prior spread. What was
never seen keeps the shared value; nothing is looked up. With s for the softplus function:

    host time of block k, class c   exp(u_k + v_c + dev_kc)                 times a campaign factor
    GPU time of block k, class c    exp(u_k + ratio + dev_k + dev_kc) (1 + exp(gain) items_c) exp(dev_c), likewise
    demand of phase p, class c      d = s(level + slope log2(items_c) + dev_model + dev_cp), one number per resource
    loss at saturation              sat = 1 - 1 / max(1, d_own + d_other), smoothed
    rate                            1 / (1 + sum of weight * sat * exp(sensitivity_own + aggression_other + correction))
    makespan                        roll-out of both + the larger of the sides' fixed costs of a launch

`Options` leaves parts out, for the baselines and to see what each part is worth.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.functional import pad, softplus

from .dataset import BLOCKS, CLASS_MODEL, CLASS_SIZE, CLASSES, MODELS, PHASES, STAGES, Groups, Ints
from .rollout import Segments, makespan

# What a prior spread is worth in the loss: NOISE / (2 rows) * (deviation / spread)^2, for errors of about NOISE.
NOISE = 0.02
FREE = 10.0  # spread of shared values: next to no prior
SHARPNESS = 8.0  # of the corner where saturation begins
TYPICAL_BLOCK_US = (450, 450, 450, 1100, 110, 105, 850)  # where the search begins, by model


@dataclass(frozen=True)
class Options:
    """Which parts of the law there are.

    `slowdown` is `saturation` (of summed demand), `linear` (in the demand beyond capacity), `rank-one` (sensitivity
    times aggression, whatever the demands), `pair` (a number per pair of classes) or `constant`.
    """

    launch: bool = True  # host and GPU apart; else all work waits on the GPU from the start
    phases: bool = True  # demands by phase; else one for the whole segment
    slowdown: str = "saturation"
    resources: int = 1
    corrections: bool = True  # per pair of classes, and per pair of models' phases
    campaigns: bool = True


@dataclass(frozen=True)
class Batch:
    """Rows as tensors; sides stacked: [2, rows], campaign [rows]."""

    batch_class: torch.Tensor
    start: torch.Tensor
    end: torch.Tensor
    campaign: torch.Tensor

    @classmethod
    def of(cls, groups: Groups, rows: Ints) -> "Batch":
        batch_class, start, end = (
            torch.from_numpy(side[:, rows]) for side in (groups.batch_class, groups.start, groups.end)
        )
        return cls(batch_class, start, end, torch.from_numpy(groups.campaign[rows]))


class Law:
    """The parameters (logarithms, times in us) with their prior spreads, and the forecast that follows from them."""

    def __init__(self, options: Options, campaigns: int, seed: int) -> None:
        self.options = options
        self.parameters: dict[str, torch.Tensor] = {}
        self.spreads: dict[str, float] = {}
        self._random = torch.Generator().manual_seed(seed)
        self._model = torch.from_numpy(CLASS_MODEL)
        self._size = torch.tensor(CLASS_SIZE, dtype=torch.float32)
        self._stages = torch.tensor(list(STAGES.values()))
        models, classes, k = len(MODELS), len(CLASSES), options.resources
        start = torch.tensor(np.log(TYPICAL_BLOCK_US), dtype=torch.float32)
        self._add("block", (models, BLOCKS), FREE, start[:, None])
        self._add("host_class", (classes, 1), 0.1)
        self._add("host_block", (classes, BLOCKS), 0.06)
        self._add("gpu_ratio", (), FREE, -1.0 if options.launch else 0.0)
        self._add("gpu_gain", (), FREE, -1.8)
        self._add("gpu_model", (models, BLOCKS), 0.5)
        self._add("gpu_class", (classes, 1), 0.5)
        self._add("gpu_block", (classes, BLOCKS), 0.1)
        self._add("fixed", (), FREE, float(np.log(300.0)))
        self._add("fixed_class", (classes,), 0.3)
        self._add("fixed_solo", (models,), 0.3)
        self._add("campaign", (2, campaigns, models), 0.01)
        self._add("level", (k,), FREE)
        self._add("slope", (k,), FREE, 0.2)
        self._add("demand_model", (models, 1, k), 0.5)
        self._add("demand_class", (classes, PHASES, k), 0.5, jitter=0.1)
        self._add("weight", (k,), FREE)
        self._add("sensitivity", (classes, PHASES, k), 0.2)
        self._add("aggression", (classes, PHASES, k), 0.2)
        self._add("pair", (classes, classes), 0.5 if options.slowdown == "pair" else 0.01)
        self._add("pair_phases", (models, PHASES, models, PHASES), 0.01)
        self._add("launch_loss", (), FREE, -4.0)

    def _add(
        self, name: str, shape: tuple[int, ...], spread: float, start: torch.Tensor | float = 0.0, jitter: float = 0.0
    ) -> None:
        value = torch.zeros(shape) + start
        value = value + jitter * torch.randn(shape, generator=self._random)
        self.parameters[name] = value.requires_grad_()
        self.spreads[name] = spread

    def penalty(self, rows: int) -> torch.Tensor:
        """The deviations' prior, on the scale of the mean absolute error of that many rows."""
        total = torch.zeros(())
        for name, spread in self.spreads.items():
            if spread < FREE:
                total = total + (self.parameters[name] ** 2).sum() / spread**2
        return NOISE / (2 * rows) * total

    # ---- solo times

    def block_times(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Host and GPU time of each block, us: [classes, blocks] each."""
        p, model = self.parameters, self._model
        host = p["block"][model] + p["host_class"] + p["host_block"]
        growth = torch.log1p(torch.exp(p["gpu_gain"] + self._size * float(np.log(2.0))))[:, None]
        gpu = p["block"][model] + p["gpu_ratio"] + p["gpu_model"][model] + growth + p["gpu_class"] + p["gpu_block"]
        return torch.exp(host), torch.exp(gpu)

    def segments(self, batch: Batch) -> Segments:
        """What each side has to do."""
        model = self._model[batch.batch_class]
        stages = self._stages[model]  # [2, rows, phases + 1]
        low = torch.maximum(batch.start.unsqueeze(2), stages[..., :-1])
        high = torch.maximum(low, torch.minimum(batch.end.unsqueeze(2), stages[..., 1:]))
        owner = batch.batch_class.unsqueeze(2)
        times = []
        for i, blocks in enumerate(self.block_times()):
            before = pad(torch.cumsum(blocks, 1), (1, 0))
            spent = before[owner, high] - before[owner, low]
            if self.options.campaigns:
                spent = spent * torch.exp(self.parameters["campaign"][i, batch.campaign, model]).unsqueeze(2)
            times.append(pad(spent, (0, 1)))
        runs = batch.end > batch.start
        first = (stages[..., 1:] <= batch.start.unsqueeze(2)).sum(2).where(runs, torch.tensor(PHASES))
        last = (stages[..., :-1] < batch.end.unsqueeze(2)).sum(2).where(runs, torch.tensor(PHASES))
        return Segments(times[0] if self.options.launch else None, times[1], first, last)

    # ---- slowdowns

    def demands(self) -> torch.Tensor:
        """[classes, phases, resources]."""
        p = self.parameters
        shared = p["level"] + p["slope"] * (self._size[:, None, None] - 2.5)
        return softplus(shared + p["demand_model"][self._model] + self._by_phase("demand_class"))

    def _by_phase(self, name: str) -> torch.Tensor:
        value = self.parameters[name]
        return value if self.options.phases else value[:, :1].expand_as(value)

    def rates(self, classes: torch.Tensor) -> torch.Tensor:
        """GPU progress of own phase beside the other's phase, [2, rows, phases, phases], for classes [2, rows]."""
        own, other = classes.unsqueeze(2), classes.flip(0).unsqueeze(2)
        excess = self._excess(classes)
        if self.options.corrections or self.options.slowdown == "pair":
            correction = self.parameters["pair"][own, other].unsqueeze(3)
            if self.options.phases:
                a, b = self._model[classes], self._model[classes.flip(0)]
                correction = correction + self.parameters["pair_phases"].permute(0, 2, 1, 3)[a, b]
            excess = excess * torch.exp(correction)
        return 1.0 / (1.0 + excess)

    def _excess(self, classes: torch.Tensor) -> torch.Tensor:
        p, flipped = self.parameters, classes.flip(0)
        if self.options.slowdown in {"constant", "pair"}:
            return softplus(p["weight"]).sum().expand(*classes.shape, PHASES, PHASES)
        sensitivity, aggression = self._by_phase("sensitivity"), self._by_phase("aggression")
        strength = torch.exp(sensitivity[classes].unsqueeze(3) + aggression[flipped].unsqueeze(2)) * softplus(
            p["weight"]
        )
        if self.options.slowdown == "rank-one":
            return strength.sum(4)
        demands = self.demands()
        total = demands[classes].unsqueeze(3) + demands[flipped].unsqueeze(2)
        over = softplus(SHARPNESS * (total - 1.0)) / SHARPNESS
        if self.options.slowdown == "saturation":
            over = over / (1.0 + over)
        return (over * strength).sum(4)

    def forecast(self, batch: Batch) -> torch.Tensor:
        """Makespan in us, [rows]."""
        classes, runs = batch.batch_class, batch.end > batch.start
        launch_rate = 1.0 / (1.0 + softplus(self.parameters["launch_loss"]))
        elapsed = makespan(self.segments(batch), self.rates(classes), launch_rate)
        return elapsed + self.fixed(classes, runs).amax(0)

    def fixed(self, classes: torch.Tensor, runs: torch.Tensor) -> torch.Tensor:
        """What starting and waiting for a segment costs, us, [2, rows]."""
        p = self.parameters
        cost = p["fixed"] + p["fixed_class"][classes]
        solo = ~runs.all(0)
        cost = cost + torch.where(solo, p["fixed_solo"][self._model[classes]], torch.zeros(()))
        return torch.where(runs, torch.exp(cost), torch.zeros(()))

    def solo(self, batch: Batch) -> torch.Tensor:
        """Time that each side would take alone, us, [2, rows]; 0 for a side with no work."""
        alone = []
        for side in (0, 1):
            mine = torch.zeros_like(batch.end)
            mine[side] = 1
            end = torch.where(mine > 0, batch.end, batch.start)
            alone.append(self.forecast(Batch(batch.batch_class, batch.start, end, batch.campaign)))
        return torch.stack(alone) * (batch.end > batch.start)
