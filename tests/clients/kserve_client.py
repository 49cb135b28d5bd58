"""KServe's own client, in a process of its own: its stubs and tritonclient's exclude each other. Prints JSON."""

import asyncio
import json
import logging
import sys

import grpc
import numpy as np
from kserve import InferenceGRPCClient, InferInput, InferRequest

logging.disable(logging.ERROR)  # it logs what it raises


def request(model: str, tensor: InferInput, **more: object) -> InferRequest:
    """A request with one input."""
    return InferRequest(model_name=model, infer_inputs=[tensor], **more)


async def main(url: str) -> dict[str, object]:
    """Asks everything this client can ask."""
    x = np.arange(16, dtype=np.float32)[None]
    async with InferenceGRPCClient(url, timeout=10, retries=0) as client:
        told: dict[str, object] = {
            "live": await client.is_server_live(),
            "ready": await client.is_server_ready(),
            "model_ready": await client.is_model_ready("identity"),
            "unknown_ready": await client.is_model_ready("nope"),
        }
        raw = InferInput("INPUT0", [1, 16], "FP32")
        raw.set_data_from_numpy(x, binary_data=True)
        answer = await client.infer(request("identity", raw, request_id="k-1", parameters={"cotenant_explain": True}))
        told["raw"], told["id"] = answer.outputs[0].as_numpy().tolist(), answer.id
        typed = InferInput("INPUT0", [1, 16], "FP32", data=x.ravel().tolist())
        told["typed"] = (await client.infer(request("identity", typed))).outputs[0].as_numpy().tolist()
        words = InferInput("IN0", [2], "BYTES")
        words.set_data_from_numpy(np.array(["a", "grüß"], dtype=object), binary_data=True)
        answer = await client.infer(request("text", words))
        told["words"] = [word.decode() for word in answer.outputs[0].as_numpy().tolist()]
        try:
            await client.infer(request("nope", raw))
        except grpc.RpcError as error:
            told["unknown"] = [error.code().name, error.details()]
        try:
            await client.infer(request("slow", raw, parameters={"timeout": 1000}))
        except grpc.RpcError as error:
            told["late"] = error.code().name
    return told


print(json.dumps(asyncio.run(main(sys.argv[1]))))
