"""KServe's own REST client, in a process of its own as its gRPC client. Prints JSON."""

import asyncio
import json
import logging
import sys

import httpx
import numpy as np
from kserve import InferenceRESTClient, InferInput, InferRequest
from kserve.inference_client import RESTConfig

logging.disable(logging.ERROR)


async def main(url: str) -> dict[str, object]:
    """Asks everything this client can ask."""
    x = np.arange(16, dtype=np.float32)[None]
    client = InferenceRESTClient(RESTConfig(protocol="v2", retries=0, timeout=10))
    told: dict[str, object] = {
        "live": await client.is_server_live(url),
        "ready": await client.is_server_ready(url),
        "model_ready": await client.is_model_ready(url, "identity"),
    }
    for name, binary in (("json", False), ("binary", True)):
        tensor = InferInput("INPUT0", [1, 16], "FP32")
        tensor.set_data_from_numpy(x, binary_data=binary)
        request = InferRequest(model_name="identity", infer_inputs=[tensor], request_id="k-1")
        answer = await client.infer(url, request, model_name="identity")
        told[name] = [answer.id, answer.outputs[0].as_numpy().tolist()]
    try:
        await client.infer(url, {"inputs": []}, model_name="nope")
    except httpx.HTTPStatusError as error:
        told["unknown"] = [error.response.status_code, str(error)]
    await client.close()
    return told


print(json.dumps(asyncio.run(main(sys.argv[1]))))
