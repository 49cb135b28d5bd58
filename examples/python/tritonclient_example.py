"""A client with NVIDIA's tritonclient: health, metadata, one inference within a deadline.

python tritonclient_example.py [URL] [MODEL]      defaults: localhost:8001, identity; the model takes FP32
"""

import sys

import numpy as np
import tritonclient.grpc as triton

TIMEOUT_US = 500_000  # what cannot be answered within half a second is refused at once


def example(tensor: "triton.service_pb2.ModelMetadataResponse.TensorMetadata") -> triton.InferInput:
    """An input of the shape the model asks for, with 1 where it varies, filled with 0, 1, 2, ..."""
    shape = [max(1, size) for size in tensor.shape]
    values = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    made = triton.InferInput(tensor.name, shape, tensor.datatype)
    made.set_data_from_numpy(values)
    return made


def main(url: str = "localhost:8001", model: str = "identity") -> int:
    """Prints what the server says of itself, of the model, and of one request."""
    with triton.InferenceServerClient(url) as client:
        print(f"live {client.is_server_live()}, ready {client.is_server_ready()}")
        metadata = client.get_model_metadata(model)
        inputs = [example(tensor) for tensor in metadata.inputs]
        try:
            # `cotenant_explain` asks a Cotenant server how the request ran; others ignore it.
            result = client.infer(model, inputs, timeout=TIMEOUT_US, parameters={"cotenant_explain": True})
        except triton.InferenceServerException as error:
            print(f"{error.status()}: {error.message()}", file=sys.stderr)
            return 1
        response = result.get_response()
        for output in response.outputs:
            values = result.as_numpy(output.name)
            print(f"{output.name} {output.datatype}{list(output.shape)}: {values.ravel()[:8]}")
        for key in ("cotenant_queue_ns", "cotenant_execution_ns", "cotenant_predicted_execution_ns"):
            if key in response.parameters:
                print(f"{key.removeprefix('cotenant_')}: {response.parameters[key].int64_param}")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:3]))
