"""Checks of `EstimateColocation`, and of what must be refused."""

import math
from collections.abc import Awaitable

import grpc

from cotenant.predictor.contract.lessons import beside_each_other
from cotenant.predictor.contract.peer import (
    RESOURCES,
    ContractError,
    Peer,
    batch_class,
    profiled,
    require,
)
from cotenant.v1 import predictor_pb2, types_pb2


async def answers_about_a_set(peer: Peer) -> None:
    """Members come in the order asked, with 1 <= slowdown <= bound, and the answer says why."""
    device = peer.device("question")
    await peer.teach(device, profiled(1), profiled(2, "b"), *beside_each_other(3, 2.0))
    question = predictor_pb2.EstimateColocationRequest(level=0.95)
    question.colocation.device_id = device.device_id
    question.colocation.batches.extend(map(batch_class, ("b", "a", "a")))
    answer = await peer.stub.EstimateColocation(question, timeout=peer.patience_s)
    names = [member.batch_class.model for member in answer.members]
    require(names == ["b", "a", "a"], f"members must come in the order asked (b, a, a), got {names}")
    for member in answer.members:
        require(
            math.isfinite(member.slowdown_bound) and 1.0 <= member.slowdown <= member.slowdown_bound,
            f"1 <= slowdown <= slowdown_bound must hold, got {member.slowdown} and {member.slowdown_bound}",
        )
    require(math.isfinite(answer.throughput_gain), "`throughput_gain` must be a number")
    require(answer.explanation, "`explanation` must say in words what is short")


async def names_what_it_does_not_know(peer: Peer) -> None:
    """An unknown device or class is NOT_FOUND, and the message names it."""
    device = peer.device("unknown")
    await peer.teach(device, profiled(1))
    for device_id, model in (("no-such-device", "a"), (device.device_id, "no-such-model")):
        question = predictor_pb2.EstimateColocationRequest()
        question.colocation.device_id = device_id
        question.colocation.batches.append(batch_class(model))
        name = device_id if device_id == "no-such-device" else model
        await _refused(peer.stub.EstimateColocation(question, timeout=peer.patience_s), "NOT_FOUND", name)


async def refuses_what_makes_no_sense(peer: Peer) -> None:
    """Levels outside (0, 1) and a stream without a hello are INVALID_ARGUMENT."""
    for level in (1.5, 0.0, math.nan):
        request = predictor_pb2.WatchEstimatesRequest(levels=[level])
        await _refused(peer.stub.WatchEstimates(request, timeout=peer.patience_s).read(), "INVALID_ARGUMENT", "level")
    for attempts_left in (2, 1, 0):
        source = peer.source(types_pb2.Device(resources=RESOURCES))
        source.send(profiled(1))
        try:
            await _refused(source.acknowledged(1, peer.patience_s), "INVALID_ARGUMENT", "hello")
        except ContractError as error:
            # Our own gRPC says this of a stream that ends while it writes, whatever the server's status was.
            if not attempts_left or "Internal error from Core" not in str(error):
                raise
        else:
            return
        finally:
            await source.close()


async def _refused(call: Awaitable[object], code: str, named: str) -> None:
    try:
        await call
    except grpc.aio.AioRpcError as error:
        require(error.code().name == code, f"expected {code}, got {error.code().name}: {error.details()}")
        require(named in (error.details() or ""), f"the message must name '{named}', it says: {error.details()}")
    else:
        raise ContractError(f"expected {code}, but it was accepted")
