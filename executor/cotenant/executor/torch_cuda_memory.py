"""Memory of a device: what a load took of it, and whether more would fit."""

from cotenant.executor.torch_cuda_device import GraphDevice

HEADROOM_BYTES = 256 * 2**20  # of the device, kept free for what libraries and the driver take by themselves


class Memory:
    """What a load takes of a device, and whether more would fit."""

    def __init__(self, device: GraphDevice, model: str) -> None:
        self._device, self._model = device, model
        self._began = self._figures(release=True)

    def _figures(self, *, release: bool) -> tuple[int, int]:
        if release:
            self._device.release()
        return self._device.reserved_bytes(), self._device.free_bytes()

    def taken(self, *, release: bool = True) -> int:
        """Bytes since the beginning, or since this was asked last.

        The allocator does not know of graphs and of libraries' memory, the driver not of other processes that came or
        went meanwhile: the larger figure errs on the safe side.
        """
        (reserved, free), self._began = self._began, self._figures(release=release)
        return max(0, self._began[0] - reserved, free - self._began[1])

    def require(self, nbytes: int, what: str) -> None:
        """Raises ValueError, with the figures, if that much more does not fit."""
        free = self._device.free_bytes()
        if nbytes + HEADROOM_BYTES > free:
            raise ValueError(
                f"model '{self._model}': {what} need {nbytes / 2**20:.1f} MiB, and {HEADROOM_BYTES >> 20} MiB must "
                f"stay free, but {free / 2**20:.1f} MiB are free on {self._device.name}"
            )
