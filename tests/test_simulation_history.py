"""A simulation is what its seed says, whatever else was simulated in the same process before."""

from cotenant.runtime.estimates import BatchClass
from cotenant.scheduler.simulation import emulated_law
from cotenant.scheduler.simulation.emulated_law import EmulatedLaw, Recipe

CLASSES = [BatchClass("bert", "1", 3), BatchClass("resnet50", "1", 5)]


def rates(met: list[BatchClass]) -> list[float]:
    """Of the first phases of CLASSES beside each other, in a process that met them in this order."""
    emulated_law._stages.cache_clear()
    law = EmulatedLaw({known.model: Recipe(known.model) for known in met}, 4)
    for known in met:
        law.parts(known)
    numbers = [law.parts(known)[0].number for known in CLASSES]
    found = dict(zip(sorted(numbers), law.rates(tuple(sorted(numbers))), strict=True))
    return [found[number] for number in numbers]


def test_rates_do_not_depend_on_what_was_met_before() -> None:
    assert rates(CLASSES) == rates(CLASSES[::-1])
