"""Sends requests to a slow model and waits for ever; whoever started it kills it. Arguments: URL, model, how many."""

import sys
import time

import grpc
import numpy as np

from cotenant.inference import inference_pb2 as pb

URL, MODEL, COUNT = sys.argv[1], sys.argv[2], int(sys.argv[3])
request = pb.ModelInferRequest(model_name=MODEL, raw_input_contents=[np.ones((1, 16), np.float32).tobytes()])
request.inputs.add(name="IN0", datatype="FP32", shape=[1, 16])
channel = grpc.insecure_channel(URL)
call: "grpc.UnaryUnaryMultiCallable[pb.ModelInferRequest, bytes]" = channel.unary_unary(
    "/inference.GRPCInferenceService/ModelInfer", request_serializer=pb.ModelInferRequest.SerializeToString
)
sent = [call.future(request) for _ in range(COUNT)]
print("sent", flush=True)
time.sleep(600)
