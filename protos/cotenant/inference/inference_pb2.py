"""The messages of the KServe v2 protocol, from a descriptor pool of their own (see pool.py).

Written by hand where protoc would generate it; the types in `inference_pb2.pyi` and the descriptors in
`inference.binpb` are generated, by `scripts/protos`.
"""

from google.protobuf import message_factory
from google.protobuf.internal import enum_type_wrapper

from cotenant.inference.pool import DESCRIPTOR

for _name, _message in DESCRIPTOR.message_types_by_name.items():
    globals()[_name] = message_factory.GetMessageClass(_message)
for _name, _enum in DESCRIPTOR.enum_types_by_name.items():
    globals()[_name] = enum_type_wrapper.EnumTypeWrapper(_enum)
    globals().update({value.name: value.number for value in _enum.values})
