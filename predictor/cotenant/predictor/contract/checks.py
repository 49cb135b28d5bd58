"""The checks, in the order in which whoever writes a predictor meets them. Each has a name and raises ContractError."""

from collections.abc import Awaitable, Callable

from cotenant.predictor.contract import checks_estimates as estimates
from cotenant.predictor.contract import checks_events as events
from cotenant.predictor.contract import checks_questions as questions
from cotenant.predictor.contract.peer import Peer

Check = Callable[[Peer], Awaitable[None]]
CHECKS: tuple[Check, ...] = (
    events.acknowledges_what_it_was_sent,
    events.goes_on_after_a_reconnect,
    events.survives_a_gap,
    events.takes_a_new_incarnation,
    estimates.the_first_push_is_complete,
    estimates.versions_increase,
    estimates.a_late_subscriber_is_told_everything,
    estimates.says_how_far_it_has_learned,
    events.learns_nothing_twice,
    estimates.tells_what_it_observed,
    estimates.numbers_are_finite_and_bounds_are_ordered,
    estimates.levels_are_honoured,
    estimates.interests_are_told_explicitly,
    events.broken_events_harm_nothing,
    estimates.several_executors_and_subscribers_at_once,
    questions.answers_about_a_set,
    questions.names_what_it_does_not_know,
    questions.refuses_what_makes_no_sense,
)
