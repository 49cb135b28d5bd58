"""The four services as processes, and real clients."""

import numpy as np
import tritonclient.grpc as triton

from stacks import StackThread


def test_tritonclient_gets_its_tensor_back(identity_stack: StackThread) -> None:
    with triton.InferenceServerClient(identity_stack.url) as client:
        assert client.is_server_ready()
        x = np.arange(16, dtype=np.float32)[None]
        tensor = triton.InferInput("INPUT0", [1, 16], "FP32")
        tensor.set_data_from_numpy(x)
        result = client.infer("identity", [tensor])
        np.testing.assert_array_equal(result.as_numpy("OUTPUT0"), x)
