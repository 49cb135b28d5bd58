"""A client whose stubs protoc made of open_inference.proto; prints what it was told as JSON."""

import json
import struct
import sys

import grpc
import open_inference_pb2 as pb  # type: ignore[import-not-found]
import open_inference_pb2_grpc as rpc  # type: ignore[import-not-found]

with grpc.insecure_channel(sys.argv[1]) as channel:
    stub = rpc.GRPCInferenceServiceStub(channel)
    live = stub.ServerLive(pb.ServerLiveRequest(), timeout=10).live
    versions = stub.ModelMetadata(pb.ModelMetadataRequest(name="optional"), timeout=10).versions
    request = pb.ModelInferRequest(model_name="optional")
    contents = pb.InferTensorContents(fp32_contents=[1.5, -2.0])
    request.inputs.add(name="IN0", datatype="FP32", shape=[1, 2], contents=contents)
    request.outputs.add(name="OUT0")
    request.parameters["cotenant_explain"].bool_param = True
    response = stub.ModelInfer(request, timeout=10)
    values = struct.unpack("<2f", response.raw_output_contents[0])
    steps = sum(f"cotenant_{step}_ns" in response.parameters for step in ("queue", "execution", "predicted_execution"))
    print(json.dumps({"live": live, "version": versions[0], "values": values, "steps": steps}))
