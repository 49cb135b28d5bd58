"""The measured groups as arrays, their classes and configurations, and the four ways to split them.

A row is a group of two segments launched together; sides are stacked: arrays of shape [2, rows]. A segment is the
range [start, end) of a model's operator blocks; start == end: nothing runs on that side, the row is a solo measurement.
"""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

# Where a model's stages begin, in operator blocks: where the resolution halves, and the classifier. The last entry is
# the number of blocks. All encoder layers of BERT are alike: its six phases only let times differ.
STAGES = {
    "resnet50": (0, 1, 4, 8, 14, 17, 18),
    "resnet101": (0, 1, 4, 8, 31, 34, 35),
    "resnet152": (0, 1, 4, 12, 48, 51, 52),
    "inception_v3": (0, 2, 4, 7, 9, 12, 14),
    "vgg16": (0, 3, 6, 10, 14, 18, 19),
    "vgg19": (0, 3, 6, 11, 16, 21, 22),
    "bert": (0, 2, 4, 6, 8, 10, 12),
}
MODELS = tuple(STAGES)
PHASES = 6
BLOCKS = max(stages[-1] for stages in STAGES.values())
BATCHES = (1, 2, 4, 8, 16, 32)
LENGTHS = (8, 16, 32, 64)  # BERT's
CLASSES = tuple((model, b, s) for model in MODELS for b in BATCHES for s in (LENGTHS if model == "bert" else (0,)))
CLASS_MODEL = np.array([MODELS.index(model) for model, _, _ in CLASSES])
# Log2 of the items of a batch; 16 tokens of BERT count as one.
CLASS_SIZE = np.array([np.log2(b * (s / 16 if s else 1.0)) for _, b, s in CLASSES])


@dataclass(frozen=True)
class Groups:
    """Measured groups; times in us."""

    batch_class: Ints  # [2, rows] into CLASSES
    start: Ints  # [2, rows]
    end: Ints  # [2, rows]
    campaign: Ints  # [rows] into pairs: each file was measured in its own campaign
    configuration: Ints  # [rows]: equal for rows that measure the same thing in the same campaign
    makespan_us: Floats  # [rows] median over about 50 repeats
    noise: Floats  # [rows] standard deviation over those repeats / median
    pairs: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.makespan_us)

    @property
    def model(self) -> Ints:
        """[2, rows] into MODELS."""
        return CLASS_MODEL[self.batch_class]

    @property
    def solo(self) -> Mask:
        """[rows]: only one side runs anything."""
        alone: Mask = (self.start[0] == self.end[0]) | (self.start[1] == self.end[1])
        return alone


def read(folder: Path) -> Groups:
    """All files of a folder, in order of their names. Raises ValueError for a row that is not of the known models."""
    rows: list[list[int]] = []
    times: list[tuple[float, float]] = []
    files = sorted(folder.glob("*.csv"))
    if not files:
        raise ValueError(f"{folder}: expected the measured pairs as *.csv, found none")
    index = {batch_class: i for i, batch_class in enumerate(CLASSES)}
    for campaign, path in enumerate(files):
        with path.open(newline="", encoding="utf-8") as lines:
            reader = csv.reader(lines)
            next(reader)
            for line in reader:
                a, b = (index.get((line[k], int(line[k + 3]), int(line[k + 4]))) for k in (0, 5))
                if a is None or b is None:
                    raise ValueError(f"{path.name} line {reader.line_num}: model, batch or length not known: {line}")
                rows.append([a, b, *(int(line[k]) for k in (1, 6, 2, 7)), campaign])
                times.append((float(line[10]), float(line[12])))
    table = np.array(rows, dtype=np.int64).T
    measured = np.array(times).T
    configuration = np.unique(table, axis=1, return_inverse=True)[1].reshape(-1)
    return Groups(
        batch_class=table[0:2],
        start=table[2:4],
        end=table[4:6],
        campaign=table[6],
        configuration=configuration,
        makespan_us=measured[0],
        noise=measured[1] / measured[0],
        pairs=tuple(path.stem for path in files),
    )


def choose(share: float, keys: Ints, seed: int) -> Mask:
    """A random share of the distinct keys, as a mask over the rows: rows of one key stay together."""
    chosen = np.flatnonzero(np.random.default_rng(seed).random(int(keys.max()) + 1) < share)
    return np.isin(keys, chosen)


@dataclass(frozen=True)
class Split:
    """Which rows are learned from, which calibrate the bounds, and which are scored; nobody is in two of them."""

    kind: str
    name: str
    train: Mask
    calibration: Mask
    test: Mask


def splits(groups: Groups, kind: str, seeds: int) -> Iterator[Split]:
    """The cases of one protocol: `row`, `configuration`, `pair` or `model`."""
    rows = np.arange(len(groups))
    if kind in {"row", "configuration"}:
        keys = rows if kind == "row" else groups.configuration
        for seed in range(seeds):
            test = choose(0.2, keys, seed)
            calibration = ~test & choose(0.06, keys, 1000 + seed)
            yield Split(kind, f"seed {seed}", ~test & ~calibration, calibration, test)
        return
    calibration = choose(0.06, groups.configuration, 1000) & ~groups.solo
    held_out: dict[str, Mask] = {}
    if kind == "pair":
        held_out = {pair: groups.campaign == i for i, pair in enumerate(groups.pairs)}
    elif kind == "model":
        held_out = {model: (groups.model == i).any(axis=0) for i, model in enumerate(MODELS)}
    else:
        raise ValueError(f"split {kind!r}: expected row, configuration, pair or model")
    for name, concerned in held_out.items():
        test = concerned & ~groups.solo
        yield Split(kind, name, ~test & ~calibration, ~test & calibration, test)
