"""A predictor of one's own: a river model behind two verbs, served as a cotenant predictor.

    python my_predictor.py --listen 127.0.0.1:8004

`learn_one` is told, for each batch that ran, numbers about it and what it met, and its slowdown; `predict_one` is asked
for the slowdown beside a set. Service, bounds, state and contract are the package's.
"""

import sys
from pathlib import Path

from river import compose, linear_model

from cotenant.predictor.__main__ import main


class Slowdown:
    """Linear in what a batch wants, in what others want, and in the products of the two."""

    def __init__(self) -> None:
        """Takes no arguments: one is made for each device."""
        self.model = compose.FuncTransformer(with_products) | linear_model.BayesianLinearRegression()

    def learn_one(self, x: dict[str, float], y: float) -> None:
        """A batch ran: numbers of size 1, and its slowdown."""
        self.model.learn_one(x, y)

    def predict_one(self, x: dict[str, float]) -> float:
        """The slowdown beside a set."""
        return float(self.model.predict_one(x))


def with_products(x: dict[str, float]) -> dict[str, float]:
    """What both want of each resource, beside the rest."""
    own = {name.removeprefix("own_"): value for name, value in x.items() if name.startswith("own_")}
    return x | {f"both_{name}": value * x[f"others_{name}"] for name, value in own.items()}


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    main(["--learner", "my_predictor.Slowdown", *sys.argv[1:]])
