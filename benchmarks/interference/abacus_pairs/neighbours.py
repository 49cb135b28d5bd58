"""A second stage without a law: how far off the forecast was for similar groups.

Similar are rows of the same campaign and classes whose segments begin and end at nearby blocks; their residuals vote,
nearer ones with more weight, against a prior vote for no correction. A configuration that was measured before is its
own nearest neighbour, so this contains the look-up of repeated configurations.
"""

from collections import defaultdict

import numpy as np

from .dataset import CLASS_MODEL, CLASSES, MODELS, STAGES, Floats, Groups, Ints

REACH = 0.2  # of a model's length: the distance at which a vote has lost two thirds of its weight
PRIOR_VOTES = 1.0
LENGTH = np.array([STAGES[name][-1] for name in MODELS], dtype=float)


def corrections(groups: Groups, known: Ints, residuals: Floats, asked: Ints) -> Floats:
    """What to add to the logarithm of the forecasts of the rows `asked`.

    Args:
        groups: all rows.
        known: rows that were learned from.
        residuals: log(measured / forecast) of these.
        asked: rows to correct.
    """
    kind = (groups.campaign * len(CLASSES) + groups.batch_class[0]) * len(CLASSES) + groups.batch_class[1]
    length = LENGTH[CLASS_MODEL[groups.batch_class]]
    place = np.concatenate([groups.start / length, groups.end / length]).T
    members: dict[int, list[int]] = defaultdict(list)
    for i, key in enumerate(kind[known]):
        members[key].append(i)
    correction = np.zeros(len(asked))
    for key in np.unique(kind[asked]):
        if mine := members.get(key):
            target = np.flatnonzero(kind[asked] == key)
            away = np.abs(place[asked[target], None] - place[known[mine]][None]).sum(2)
            correction[target] = _vote(residuals[mine], np.exp(-away / REACH))
    return correction


def _vote(residuals: Floats, weights: Floats) -> Floats:
    """Weighted medians, [asked], of residuals [known] with weights [asked, known], and the prior's votes for zero."""
    values = np.append(residuals, 0.0)
    votes = np.concatenate([weights, np.full((len(weights), 1), PRIOR_VOTES)], axis=1)
    order = np.argsort(values)
    passed = np.cumsum(votes[:, order], axis=1)
    middle = (passed >= passed[:, -1:] / 2).argmax(axis=1)
    return np.asarray(values[order][middle])
