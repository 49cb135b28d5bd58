"""Our messages and tritonclient's in one process, imported in either order, and both used."""
# ruff: noqa: I001 (the order of the imports is what this is about)

import sys

import grpc
import numpy as np

URL, ORDER = sys.argv[1:3]

if ORDER == "ours_first":
    from cotenant.inference import inference_pb2 as pb

    import tritonclient.grpc as triton
else:
    import tritonclient.grpc as triton

    from cotenant.inference import inference_pb2 as pb

with grpc.insecure_channel(URL) as channel:
    call = channel.unary_unary(
        "/inference.GRPCInferenceService/ModelReady",
        request_serializer=pb.ModelReadyRequest.SerializeToString,
        response_deserializer=pb.ModelReadyResponse.FromString,
    )
    assert call(pb.ModelReadyRequest(name="identity"), timeout=10).ready
print("ours")

with triton.InferenceServerClient(URL) as client:
    tensor = triton.InferInput("INPUT0", [1, 16], "FP32")
    tensor.set_data_from_numpy(np.ones((1, 16), np.float32))
    assert client.infer("identity", [tensor]).as_numpy("OUTPUT0").sum() == 16
print("theirs")
