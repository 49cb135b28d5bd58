"""Streams whose peer must speak again and again, as one that stands still or is cut off looks like an idle one.

TCP alone notices a cut that loses packets without a word after many seconds, and takes as long again once it is over.
Our long-lived streams to the scheduler carry pings, so silence tells; whoever sees it opens another connection.
"""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator
from typing import TypeVar

Frame = TypeVar("Frame")

SILENT_S = 3.0  # twelve pings without an answer


async def until_silent(frames: AsyncIterable[Frame], *, silent_s: float = SILENT_S) -> AsyncIterator[Frame]:
    """The frames, until there are no more. Raises TimeoutError when none came for so long."""
    coming = aiter(frames)
    while True:
        async with asyncio.timeout(silent_s):
            try:
                frame = await anext(coming)
            except StopAsyncIteration:
                return
        yield frame
