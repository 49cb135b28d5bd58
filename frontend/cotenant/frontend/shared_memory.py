"""Triton's shared memory extensions: regions of system memory where the operator allows them, none of CUDA.

Clients that only clean up or look (many do so before anything else) get the answer of a server without regions.
"""

from typing import Any

import grpc

from cotenant.frontend import errors
from cotenant.frontend.regions import Regions
from cotenant.inference import inference_pb2 as pb

Context = grpc.aio.ServicerContext[Any, Any]


class SharedMemoryMethods:
    """See the module's text."""

    def __init__(self, regions: Regions) -> None:
        self._regions = regions

    async def SystemSharedMemoryStatus(  # noqa: N802
        self, request: pb.SystemSharedMemoryStatusRequest, context: Context
    ) -> pb.SystemSharedMemoryStatusResponse:
        """One region, or all; NOT_FOUND for one by name that is not there."""
        del context
        regions = self._regions.by_name
        if request.name and request.name not in regions:
            raise errors.unknown_region(request.name, "system ")
        result = pb.SystemSharedMemoryStatusResponse()
        for name in [request.name] if request.name else regions:
            row, region = result.regions[name], regions[name]
            row.name, row.key, row.offset, row.byte_size = name, region.key, region.offset, region.byte_size
        return result

    async def SystemSharedMemoryRegister(  # noqa: N802
        self, request: pb.SystemSharedMemoryRegisterRequest, context: Context
    ) -> pb.SystemSharedMemoryRegisterResponse:
        """Opens a region of POSIX shared memory."""
        del context
        self._regions.register(request.name, request.key, request.offset, request.byte_size)
        return pb.SystemSharedMemoryRegisterResponse()

    async def SystemSharedMemoryUnregister(  # noqa: N802
        self, request: pb.SystemSharedMemoryUnregisterRequest, context: Context
    ) -> pb.SystemSharedMemoryUnregisterResponse:
        """Closes one region, or all; well where there is none of that name."""
        del context
        if request.name:
            self._regions.unregister(request.name)
        else:
            self._regions.unregister_all()
        return pb.SystemSharedMemoryUnregisterResponse()

    async def CudaSharedMemoryStatus(  # noqa: N802
        self, request: pb.CudaSharedMemoryStatusRequest, context: Context
    ) -> pb.CudaSharedMemoryStatusResponse:
        """No region; NOT_FOUND for one by name."""
        del context
        if request.name:
            raise errors.unknown_region(request.name, "cuda ")
        return pb.CudaSharedMemoryStatusResponse()

    async def CudaSharedMemoryRegister(  # noqa: N802
        self, request: pb.CudaSharedMemoryRegisterRequest, context: Context
    ) -> pb.CudaSharedMemoryRegisterResponse:
        """Refused: this process, which would copy the tensors, opens no GPU."""
        del context
        raise errors.unsupported(
            f"failed to register CUDA shared memory region: '{request.name}', GPUs not supported by the frontend; "
            "use system shared memory"
        )

    async def CudaSharedMemoryUnregister(  # noqa: N802
        self, request: pb.CudaSharedMemoryUnregisterRequest, context: Context
    ) -> pb.CudaSharedMemoryUnregisterResponse:
        """Well, whatever the name, as in Triton."""
        del request, context
        return pb.CudaSharedMemoryUnregisterResponse()
