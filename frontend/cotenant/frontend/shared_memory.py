"""Triton's shared memory extensions, of which none is served: no region can be registered, so none is there.

Clients that only clean up or look (many do so before anything else) get the answer of a server without regions.
"""

from typing import Any

import grpc

from cotenant.frontend.errors import unknown_region
from cotenant.inference import inference_pb2 as pb

Context = grpc.aio.ServicerContext[Any, Any]


class SharedMemoryMethods:
    """See the module's text."""

    async def SystemSharedMemoryStatus(  # noqa: N802
        self, request: pb.SystemSharedMemoryStatusRequest, context: Context
    ) -> pb.SystemSharedMemoryStatusResponse:
        """No region; NOT_FOUND for one by name."""
        del context
        if request.name:
            raise unknown_region(request.name, "system ")
        return pb.SystemSharedMemoryStatusResponse()

    async def CudaSharedMemoryStatus(  # noqa: N802
        self, request: pb.CudaSharedMemoryStatusRequest, context: Context
    ) -> pb.CudaSharedMemoryStatusResponse:
        """No region; NOT_FOUND for one by name."""
        del context
        if request.name:
            raise unknown_region(request.name, "cuda ")
        return pb.CudaSharedMemoryStatusResponse()

    async def SystemSharedMemoryUnregister(  # noqa: N802
        self, request: pb.SystemSharedMemoryUnregisterRequest, context: Context
    ) -> pb.SystemSharedMemoryUnregisterResponse:
        """Well, whatever the name, as in Triton."""
        del request, context
        return pb.SystemSharedMemoryUnregisterResponse()

    async def CudaSharedMemoryUnregister(  # noqa: N802
        self, request: pb.CudaSharedMemoryUnregisterRequest, context: Context
    ) -> pb.CudaSharedMemoryUnregisterResponse:
        """Well, whatever the name, as in Triton."""
        del request, context
        return pb.CudaSharedMemoryUnregisterResponse()
