"""Our messages and KServe's in one process, imported in either order, and both used."""
# ruff: noqa: I001 (the order of the imports is what this is about)

import asyncio
import sys

import grpc

URL, ORDER = sys.argv[1:3]

if ORDER == "ours_first":
    from cotenant.inference import inference_pb2 as pb

    import kserve
else:
    import kserve

    from cotenant.inference import inference_pb2 as pb

with grpc.insecure_channel(URL) as channel:
    call = channel.unary_unary(
        "/inference.GRPCInferenceService/ModelReady",
        request_serializer=pb.ModelReadyRequest.SerializeToString,
        response_deserializer=pb.ModelReadyResponse.FromString,
    )
    assert call(pb.ModelReadyRequest(name="identity"), timeout=10).ready
print("ours")


async def theirs() -> None:
    async with kserve.InferenceGRPCClient(URL, timeout=10, retries=0) as client:
        tensor = kserve.InferInput("INPUT0", [1, 16], "FP32", data=[1.0] * 16)
        answer = await client.infer(kserve.InferRequest(model_name="identity", infer_inputs=[tensor]))
        assert answer.outputs[0].as_numpy().sum() == 16


asyncio.run(theirs())
print("theirs")
