"""A client without stubs and without a .proto: the server's reflection tells what there is to call.

python raw_stub_example.py [URL] [MODEL]      defaults: localhost:8001, identity; the model takes FP32
"""

import struct
import sys
from typing import Any

import grpc
from google.protobuf import descriptor_pool, message_factory
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

SERVICE = "inference.GRPCInferenceService"


class Service:
    """The service's methods, by name: `service.call("ModelReady", name="identity")`."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._channel = channel
        pool = descriptor_pool.DescriptorPool(ProtoReflectionDescriptorDatabase(channel))
        self._methods = pool.FindServiceByName(SERVICE).methods_by_name

    def message(self, method: str) -> Any:
        """An empty request of a method."""
        return message_factory.GetMessageClass(self._methods[method].input_type)()

    def send(self, method: str, request: Any, timeout_s: float = 5.0) -> Any:
        """Calls a method."""
        reply = message_factory.GetMessageClass(self._methods[method].output_type)
        call = self._channel.unary_unary(
            f"/{SERVICE}/{method}",
            request_serializer=type(request).SerializeToString,
            response_deserializer=reply.FromString,
        )
        return call(request, timeout=timeout_s)

    def call(self, method: str, **fields: Any) -> Any:
        """Calls a method with a request of these fields."""
        return self.send(method, type(self.message(method))(**fields))


def main(url: str = "localhost:8001", model: str = "identity") -> int:
    """Prints what the server says of the model, and of one request."""
    with grpc.insecure_channel(url) as channel:
        service = Service(channel)
        print(f"live {service.call('ServerLive').live}, ready {service.call('ServerReady').ready}")
        request = service.message("ModelInfer")
        request.model_name = model
        for tensor in service.call("ModelMetadata", name=model).inputs:
            shape = [max(1, size) for size in tensor.shape]
            count = 1
            for size in shape:
                count *= size
            request.inputs.add(name=tensor.name, datatype=tensor.datatype, shape=shape)
            request.raw_input_contents.append(struct.pack(f"<{count}f", *range(count)))
        response = service.send("ModelInfer", request)
        for output, raw in zip(response.outputs, response.raw_output_contents, strict=True):
            values = struct.unpack(f"<{len(raw) // 4}f", raw)
            print(f"{output.name} {output.datatype}{list(output.shape)}: {values[:8]}")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:3]))
