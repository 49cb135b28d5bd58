"""A small load for tests: requests at a steady rate through a real channel, with every outcome kept."""

import asyncio
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import grpc
import numpy as np

from cotenant.inference import inference_pb2 as pb

OPTIONS = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


@dataclass
class Outcome:
    """One request: when it was sent and answered (s), its status, and what came back."""

    model: str
    sent_s: float
    answered_s: float
    status: str
    correct: bool = False
    parameters: dict[str, Any] = field(default_factory=dict)
    details: str = ""


class Client:
    """A raw client of the protocol."""

    def __init__(self, url: str) -> None:
        self.channel = grpc.aio.insecure_channel(url, options=OPTIONS)
        self._infer = self.channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer",
            request_serializer=pb.ModelInferRequest.SerializeToString,
            response_deserializer=pb.ModelInferResponse.FromString,
        )

    async def infer(self, model: str, value: float = 1.0, *, timeout_s: float = 20.0, explain: bool = False) -> Outcome:
        """One request for a model with INPUT0 FP32[16]; `correct` if OUTPUT0 is the identity, or a checksum of it."""
        x = np.full((1, 16), value, dtype=np.float32)
        request = pb.ModelInferRequest(model_name=model)
        request.inputs.add(name="INPUT0", datatype="FP32", shape=[1, 16])
        request.raw_input_contents.append(x.tobytes())
        if explain:
            request.parameters["cotenant_explain"].bool_param = True
        sent = time.monotonic()
        try:
            response = await self._infer(request, timeout=timeout_s)
        except grpc.aio.AioRpcError as error:
            return Outcome(model, sent, time.monotonic(), error.code().name, details=error.details() or "")
        output = np.frombuffer(response.raw_output_contents[0], dtype=np.float32)
        checksum = sum(x.tobytes()) % 251
        correct = bool((output == x).all()) if len(output) == 16 else bool((output == checksum).all())
        told = {k: getattr(v, v.WhichOneof("parameter_choice")) for k, v in response.parameters.items()}
        return Outcome(model, sent, time.monotonic(), "OK", correct, told)

    async def load(
        self, models: list[str], rate_per_s: float, duration_s: float, *, explain: bool = False
    ) -> list[Outcome]:
        """Open loop: requests leave when they are due, whatever became of the earlier ones."""
        tasks = []
        start = time.monotonic()
        for i in range(int(rate_per_s * duration_s)):
            await asyncio.sleep(max(0.0, start + i / rate_per_s - time.monotonic()))
            tasks.append(asyncio.create_task(self.infer(models[i % len(models)], float(i % 97), explain=explain)))
        return list(await asyncio.gather(*tasks))


def statuses(outcomes: list[Outcome]) -> Counter[str]:
    """How many outcomes of each status."""
    return Counter(outcome.status for outcome in outcomes)
