"""The REST form of the protocol: HTTP in front of the methods that gRPC calls, with Triton's paths, bodies and texts.

Rule: nothing is checked, run or counted here. A body becomes the message that a gRPC client would have sent, the same
method answers it, and its answer or error becomes a body again.
"""
