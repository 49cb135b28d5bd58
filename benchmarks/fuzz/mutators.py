"""Makes bad inputs of good ones: messages by their fields, bytes, text and JSON. All chance comes from one `Random`."""

import json
from random import Random
from typing import Any

from google.protobuf.descriptor import FieldDescriptor as Field
from google.protobuf.message import DecodeError

INTEGERS = (
    0, 1, 2, 3, 7, 8, 63, 64, 255, 256, 4096, 65535, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**53, 2**63 - 1, 2**64 - 1,
)  # fmt: skip
NUMBERS = (0.0, -0.0, 1.0, -1.0, 0.5, 1e-300, 1e18, 1e300, -1e300, float("inf"), float("-inf"), float("nan"))
TEXTS = (
    "", "0", "1", "-1", "01", "999999999999999999999", "²", "٣", "a", "canary", "../../etc/passwd", "a" * 300,
    "a" * 5000, "\0", "\n", "é", "\U0001f600", "%s%n", "{", "'", '"', "NaN", "1e309", "16-", "8-IN1", "1,2,3", "2x2",
    "9" * 5000,
)  # fmt: skip
_INTEGER_TYPES = {
    Field.TYPE_INT32, Field.TYPE_INT64, Field.TYPE_UINT32, Field.TYPE_UINT64, Field.TYPE_SINT32, Field.TYPE_SINT64,
    Field.TYPE_FIXED32, Field.TYPE_FIXED64, Field.TYPE_SFIXED32, Field.TYPE_SFIXED64,
}  # fmt: skip
_BITS = {Field.CPPTYPE_INT32: (-(2**31), 2**31 - 1), Field.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
         Field.CPPTYPE_UINT32: (0, 2**32 - 1), Field.CPPTYPE_UINT64: (0, 2**64 - 1)}  # fmt: skip


def repeated(field: Any) -> bool:
    return bool(field.is_repeated)


def is_map(field: Any) -> bool:
    return field.type == Field.TYPE_MESSAGE and field.message_type.GetOptions().map_entry


# ---- messages


def message(good: Any, rng: Random) -> bytes:
    """A message with some of its fields changed, as bytes; of some, the bytes are changed, too."""
    bad = type(good)()
    bad.CopyFrom(good)
    for _ in range(rng.choice((0, 1, 1, 1, 2, 3, 6))):
        change(bad, rng)
    data = bad.SerializeToString()
    if rng.random() < 0.1:
        data += unknown_fields(rng)
    if rng.random() < 0.12:
        data = raw(data, rng)
    return data


def change(bad: Any, rng: Random) -> None:
    """Changes one field of a message, at any depth."""
    told = [field for field, _ in bad.ListFields()]
    inner = [field for field in told if field.type == Field.TYPE_MESSAGE and not is_map(field)]
    if inner and rng.random() < 0.65:
        field = rng.choice(inner)
        value = getattr(bad, field.name)
        if not repeated(field):
            change(value, rng)
            return
        if rng.random() < 0.75:
            change(rng.choice(value), rng)
            return
    field = rng.choice(told) if told and rng.random() < 0.7 else rng.choice(bad.DESCRIPTOR.fields or [None])
    if field is None:
        return
    if is_map(field):
        _map(bad, field, rng)
    elif repeated(field):
        _several(getattr(bad, field.name), field, rng)
    elif rng.random() < 0.25:
        bad.ClearField(field.name)
    elif field.type == Field.TYPE_MESSAGE:
        getattr(bad, field.name).SetInParent()
    else:
        setattr(bad, field.name, scalar(field, rng, getattr(bad, field.name)))


def _map(bad: Any, field: Any, rng: Random) -> None:
    value, of = getattr(bad, field.name), field.message_type.fields_by_name["value"]
    key = rng.choice([*value, *TEXTS[:8]]) if field.message_type.fields_by_name["key"].type == Field.TYPE_STRING else 1
    if rng.random() < 0.3 and key in value:
        del value[key]
    elif of.type == Field.TYPE_MESSAGE:
        change(value[key], rng)
    else:
        value[key] = scalar(of, rng, None)


def _several(values: Any, field: Any, rng: Random) -> None:
    """Drops, doubles, adds or reorders what a repeated field holds."""
    act = rng.randrange(5)
    if act == 0 and values:
        del values[rng.randrange(len(values))]
    elif act == 1 and values:
        times = rng.choice((1, 1, 1, 3, 40))
        copied = values[rng.randrange(len(values))]
        values.extend([copied] * times)
    elif act == 2 and len(values) > 1:
        kept = list(values)
        rng.shuffle(kept)
        kept = [type(k).FromString(k.SerializeToString()) for k in kept] if field.type == Field.TYPE_MESSAGE else kept
        del values[:]
        values.extend(kept)
    elif field.type == Field.TYPE_MESSAGE:
        values.add()
    elif values and act == 3:
        place = rng.randrange(len(values))
        values[place] = scalar(field, rng, values[place])
    else:
        values.append(scalar(field, rng, None))


def scalar(field: Any, rng: Random, now: Any) -> Any:
    """A value of a field's type: the edges of its range, or near what it is."""
    if field.type in _INTEGER_TYPES:
        least, most = _BITS[field.cpp_type]
        value = rng.choice(INTEGERS) * rng.choice((1, 1, -1))
        if now and rng.random() < 0.4:
            value = rng.choice((now + 1, now - 1, now * 2, -now, now // 2, now * 1000))
        return max(least, min(most, value))
    if field.type in (Field.TYPE_DOUBLE, Field.TYPE_FLOAT):
        if field.type == Field.TYPE_FLOAT:
            return rng.choice(NUMBERS[:7] + NUMBERS[-3:])
        return rng.choice(NUMBERS) if rng.random() < 0.7 else rng.uniform(-2, 4)
    if field.type == Field.TYPE_BOOL:
        return rng.random() < 0.5
    if field.type == Field.TYPE_ENUM:
        return rng.choice((0, 1, 2, 3, 5, 13, 14, 99, 2**31 - 1, -1))
    if field.type == Field.TYPE_BYTES:
        return raw(now or b"", rng)
    return text_value(now or "", rng)


def text_value(now: str, rng: Random) -> str:
    if now and rng.random() < 0.5:
        place = rng.randrange(len(now) + 1)
        return now[:place] + rng.choice(TEXTS) + now[place + rng.randrange(2) :]
    return rng.choice(TEXTS)


def unknown_fields(rng: Random) -> bytes:
    """Fields of a later version: well formed, and of every kind."""
    made = bytearray()
    for _ in range(rng.randrange(1, 4)):
        number, kind = rng.choice((19, 40, 99, 1000, 536870911)), rng.choice((0, 1, 2, 5))
        made += varint(number << 3 | kind)
        if kind == 0:
            made += varint(rng.choice(INTEGERS))
        elif kind == 2:
            content = rng.randbytes(rng.choice((0, 1, 8, 100)))
            made += varint(len(content)) + content
        else:
            made += rng.randbytes(8 if kind == 1 else 4)
    return bytes(made)


def varint(value: int) -> bytes:
    made = bytearray()
    while value > 127:
        made.append(value & 127 | 128)
        value >>= 7
    made.append(value)
    return bytes(made)


# ---- bytes


def raw(data: bytes, rng: Random) -> bytes:
    """Bytes that are cut, turned, doubled, inserted or invented."""
    bad = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        place = rng.randrange(len(bad) + 1)
        match rng.randrange(6):
            case 0:
                del bad[place:]
            case 1:
                bad[place:place] = rng.randbytes(rng.choice((1, 2, 4, 8, 32)))
            case 2 if place < len(bad):
                bad[place] ^= 1 << rng.randrange(8)
            case 3 if place < len(bad):
                bad[place] = rng.choice((0, 1, 127, 128, 255))
            case 4:
                del bad[place : place + rng.choice((1, 2, 4, 8))]
            case _:
                piece = bad[place : place + rng.choice((1, 4, 16, 64))]
                bad[place:place] = piece
    return bytes(bad[:65536])


def parsed(kind: Any, data: bytes) -> Any:
    """The message that bytes are, or None."""
    try:
        return kind.FromString(data)
    except DecodeError:
        return None


# ---- text


def text(good: str, rng: Random) -> str:
    """Text whose words and lines are changed, moved, doubled, or cut off."""
    words = good.split(" ")
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        place = rng.randrange(len(words))
        match rng.randrange(7):
            case 0:
                words[place : place + 1] = []
            case 1:
                words[place:place] = words[place : place + rng.choice((1, 2, 8))] * rng.choice((1, 1, 2, 30))
            case 2:
                words[place] = rng.choice(TEXTS)
            case 3:
                words[place] = str(rng.choice(INTEGERS) * rng.choice((1, -1)))
            case 4:
                words[place] = text_value(words[place], rng)
            case 5:
                other = rng.randrange(len(words))
                words[place], words[other] = words[other], words[place]
            case _:
                words[place] = rng.choice(
                    ("{", "}", "[", "]", '"', ":", "#", "<", "nan", "inf", "-1", "true", "TYPE_FP32")
                )
        words = words or [""]
    bad = " ".join(words)[:20000]
    return bad[: rng.randrange(len(bad) + 1)] if rng.random() < 0.05 else bad


def json_line(good: str, rng: Random) -> str:
    """A line of JSON with some values changed, or some of its characters."""
    if rng.random() < 0.15:
        return raw(good.encode(), rng).decode("utf-8", "surrogateescape")
    value = json.loads(good)
    for _ in range(rng.choice((1, 1, 2, 4))):
        value = _json(value, rng)
    return json.dumps(value)


def _json(value: Any, rng: Random) -> Any:
    """The value with one thing in it changed."""
    if isinstance(value, dict) and value and rng.random() < 0.85:
        key = rng.choice(list(value))
        act = rng.random()
        if act < 0.1:
            return {k: v for k, v in value.items() if k != key}
        if act < 0.15:
            return value | {rng.choice(TEXTS): value[key]}
        return value | {key: _json(value[key], rng)}
    if isinstance(value, list) and value and rng.random() < 0.85:
        place, act = rng.randrange(len(value)), rng.random()
        if act < 0.15:
            return value[:place] + value[place + 1 :]
        if act < 0.3:
            return value[:place] + [value[place]] * rng.choice((2, 5)) + value[place:]
        return [*value[:place], _json(value[place], rng), *value[place + 1 :]]
    if isinstance(value, bool) or value is None:
        return rng.choice((True, False, None, 0, "x"))
    if isinstance(value, int) and rng.random() < 0.7:
        return rng.choice((value + 1, value - 1, -value, value * 1000, *INTEGERS, -(2**63), 2**70))
    if isinstance(value, float) and rng.random() < 0.7:
        return rng.choice((value * 2, -value, 0.0, 1e300, 1e-300, 5))
    if isinstance(value, str) and rng.random() < 0.7:
        return text_value(value, rng)
    return rng.choice((0, -1, 1.5, "", "x", [], {}, None, True, [[]], {"type": "Group"}, 10**30))
