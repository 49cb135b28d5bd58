"""Triton's trace and logging extensions: what the frontend logs and traces, read and changed while it runs.

Log settings are this process's; those of the other services are their flags.
"""

from typing import Any

import grpc

from cotenant.frontend.catalogue import Catalogue
from cotenant.frontend.errors import invalid, unsupported
from cotenant.frontend.trace_settings import TraceSettings
from cotenant.inference import inference_pb2 as pb
from cotenant.runtime import logs

Context = grpc.aio.ServicerContext[Any, Any]

_FORMAT = "ISO8601"  # how every line tells its time


class SettingsMethods:
    """See the module's text."""

    def __init__(self, catalogue: Catalogue, traces: TraceSettings) -> None:
        self._catalogue, self._traces = catalogue, traces

    async def TraceSetting(self, request: pb.TraceSettingRequest, context: Context) -> pb.TraceSettingResponse:  # noqa: N802
        """Changes what is named, of one model or of all; tells what holds."""
        del context
        if request.model_name and not self._catalogue.is_ready(request.model_name, ""):
            raise invalid(f"Request for unknown model : {request.model_name}")
        if request.settings:
            asked = {key: list(setting.value) for key, setting in request.settings.items()}
            self._traces.update(request.model_name, asked)
        result = pb.TraceSettingResponse()
        for key, values in self._traces.shown(request.model_name).items():
            result.settings[key].value.extend(values)
        return result

    async def LogSettings(self, request: pb.LogSettingsRequest, context: Context) -> pb.LogSettingsResponse:  # noqa: N802
        """Changes what is named; tells what holds. In Triton's order, what precedes an error has changed."""
        del context
        switches, asked = logs.switches, request.settings
        if "log_file" in asked:
            raise unsupported("log file location can not be updated through network protocol")
        for key, name in (("log_info", "info"), ("log_warning", "warning"), ("log_error", "error")):
            if key in asked:
                setattr(switches, name, _value(key, asked[key], "bool_param", "boolean"))
        if "log_verbose_level" in asked:
            switches.verbose = _value("log_verbose_level", asked["log_verbose_level"], "uint32_param", "int32")
        if "log_format" in asked:
            wanted = _value("log_format", asked["log_format"], "string_param", "string")
            if wanted != _FORMAT:
                raise invalid(f"invalid argument for log_format, got: {wanted}")
        result = pb.LogSettingsResponse()
        result.settings["log_file"].string_param = ""
        result.settings["log_info"].bool_param = switches.info
        result.settings["log_warning"].bool_param = switches.warning
        result.settings["log_error"].bool_param = switches.error
        result.settings["log_verbose_level"].uint32_param = switches.verbose
        result.settings["log_format"].string_param = _FORMAT
        return result


def _value(key: str, setting: Any, kind: str, told: str) -> Any:
    if setting.WhichOneof("parameter_choice") != kind:
        raise invalid(f"expect {told} for '{key}'")
    return getattr(setting, kind)
