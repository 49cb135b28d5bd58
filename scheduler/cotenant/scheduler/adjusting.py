"""Settings that change while the core runs. They come checked, hold from the event on, and lose no request.

What waits is decided anew under them: policy and level, weights, priority levels, a model's queue delay. What a request
was given when it arrived stays: its deadline, and that its quotas and queue sizes let it in.
"""

from cotenant.scheduler import events as ev
from cotenant.scheduler.lifecycle import READY
from cotenant.scheduler.margin import Margin
from cotenant.scheduler.policies import POLICIES
from cotenant.scheduler.settings import ModelSettings
from cotenant.scheduler.state import State


class Adjusting:
    """See the module's text."""

    def __init__(self, state: State, margin: Margin) -> None:
        self._state, self._margin = state, margin

    def changed(self, event: ev.SettingsChanged) -> None:
        """Takes new settings. Raises KeyError for a policy that is not known here."""
        state, settings, before = self._state, event.settings, self._state.config
        if (settings.policy, settings.level) != (before.policy, before.level):
            state.policy = POLICIES[settings.policy](settings.level)
        state.config = before.with_settings(settings)
        self._margin.configure(settings.answer_overhead_ns)
        state.tenancy.configure(settings)
        self._adjust_models(before.models, settings.models)
        state.touched.update(state.devices)
        if event.ticket:
            state.actions.append(ev.TicketDone(event.ticket))

    def _adjust_models(self, before: tuple[ModelSettings, ...], after: tuple[ModelSettings, ...]) -> None:
        """Has what waits for them follow, and tells frontends, who keep SLOs."""
        state = self._state
        state.model_settings.clear()
        state.model_settings.update((entry.model, entry) for entry in after)
        names = {entry.model for entry in set(before) ^ set(after)}
        for device in state.devices.values():
            for spec in [spec for spec in device.declared.values() if spec.model in names]:
                device.respecify(spec)
        for model in sorted(names & state.lifecycle.versions.keys()):
            for version, known in state.lifecycle.versions[model].items():
                if known.availability == READY:
                    told = ev.ModelChanged(model, version, READY, known.reason, tuple(known.device_ids))
                    state.actions.append(told)
