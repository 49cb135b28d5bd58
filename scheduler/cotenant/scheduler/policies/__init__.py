"""The policies, by name. NEW POLICY: write a file here and add it to this table."""

from collections.abc import Callable, Mapping

from cotenant.scheduler.policies.earliest_deadline import EarliestDeadline
from cotenant.scheduler.policies.exclusive import Exclusive
from cotenant.scheduler.policy import Policy

# Each is made with the level of the bounds it should decide with.
POLICIES: Mapping[str, Callable[[float], Policy]] = {
    EarliestDeadline.name: EarliestDeadline,
    Exclusive.name: Exclusive,
}
