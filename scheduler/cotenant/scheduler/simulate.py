"""The simulated shell: see `cotenant.scheduler.simulation`, of which this is the front door."""

from cotenant.scheduler.simulation.beliefs import as_learned
from cotenant.scheduler.simulation.engine import Simulation
from cotenant.scheduler.simulation.models import SimulatedModel
from cotenant.scheduler.simulation.outcome import ModelOutcome, SimulationOutcome
from cotenant.scheduler.simulation.timing import START_NS, Delays

__all__ = ["START_NS", "Delays", "ModelOutcome", "SimulatedModel", "Simulation", "SimulationOutcome", "as_learned"]
