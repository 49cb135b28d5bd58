"""The policies, by name. NEW POLICY: write a file here and add it to this table."""

from collections.abc import Callable, Mapping

from cotenant.scheduler.policies.clockwork import Clockwork
from cotenant.scheduler.policies.earliest_deadline import EarliestDeadline
from cotenant.scheduler.policies.edf_fixed import EdfFixed
from cotenant.scheduler.policies.exclusive import Exclusive
from cotenant.scheduler.policies.goodput import Goodput
from cotenant.scheduler.policies.gpulets import Gpulets
from cotenant.scheduler.policies.orion import Orion
from cotenant.scheduler.policies.seed_paper import SeedPaper
from cotenant.scheduler.policies.triton import Triton
from cotenant.scheduler.policy import Policy

# Each is made with the level of the bounds it should decide with.
POLICIES: Mapping[str, Callable[[float], Policy]] = {
    EarliestDeadline.name: EarliestDeadline,
    Goodput.name: Goodput,
    # Baselines.
    Exclusive.name: Exclusive,
    EdfFixed.name: EdfFixed,
    Triton.name: Triton,
    Clockwork.name: Clockwork,
    Gpulets.name: Gpulets,
    Orion.name: Orion,
    SeedPaper.name: SeedPaper,
}
