"""gRPC over HTTP/2 on the event loop itself: what `grpc.aio` offers and our services use, at a third of its CPU time.

`grpc.aio` hands every event from a thread of its own to the loop, through a socket; a message costs some 100 us on each
side. Here frames are read and written where the loop reads and writes. It is gRPC on the wire: every client and every
server in any language can be the peer.
"""

from cotenant.runtime.http2.channel import Channel
from cotenant.runtime.http2.server import Server

__all__ = ["Channel", "Server"]
