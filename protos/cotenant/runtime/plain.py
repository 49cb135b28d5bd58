"""Messages as JSON has them in Triton: fields in their order, those that were not given with their default."""

from typing import Any

from google.protobuf.message import Message


def plain(message: Message) -> dict[str, Any]:
    """A message as an object. Messages and members of a oneof that were not given are left out."""
    shown: dict[str, Any] = {}
    for field in message.DESCRIPTOR.fields:
        if field.has_presence and not message.HasField(field.name):
            continue
        value = getattr(message, field.name)
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            inner = field.message_type.fields_by_name["value"]
            shown[field.name] = {str(key): _shown(one, inner) for key, one in value.items()}
        elif field.is_repeated:
            shown[field.name] = [_shown(one, field) for one in value]
        else:
            shown[field.name] = _shown(value, field)
    return shown


def _shown(value: Any, field: Any) -> Any:
    if field.message_type is not None:
        return plain(value)
    if field.enum_type is not None:
        return field.enum_type.values_by_number[value].name
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value
