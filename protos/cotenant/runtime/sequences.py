"""Models that answer sequences: what of their inputs and outputs is control or state, and not the client's.

A stateful model here is a function: control inputs tell it where in a sequence a request stands, and its state goes in
as inputs and comes out as outputs (Triton's implicit state). So any device can run any request of a sequence, and any
requests of different sequences share a batch.
"""

from collections.abc import Iterator

from cotenant.inference import inference_pb2 as pb

Control = pb.ModelSequenceBatching.Control
State = pb.ModelSequenceBatching.State

_BY_FIELD = {
    "int32_false_true": pb.TYPE_INT32,
    "fp32_false_true": pb.TYPE_FP32,
    "bool_false_true": pb.TYPE_BOOL,
}
_CORRID_TYPES = (pb.TYPE_UINT64, pb.TYPE_INT64, pb.TYPE_UINT32, pb.TYPE_INT32, pb.TYPE_STRING)


def controls(config: pb.ModelConfig) -> Iterator[tuple[str, "Control"]]:
    """Control inputs by name."""
    for control_input in config.sequence_batching.control_input:
        for control in control_input.control:
            yield control_input.name, control


def data_type(control: "Control") -> "pb.DataType":
    """The type of a control input's tensor."""
    if control.kind == Control.CONTROL_SEQUENCE_CORRID:
        return control.data_type
    return next((kind for field, kind in _BY_FIELD.items() if getattr(control, field)), pb.TYPE_INVALID)


def false_true(control: "Control") -> list[int] | list[float] | list[bool]:
    """The two values that a control input has."""
    return next((list(getattr(control, field)) for field in _BY_FIELD if getattr(control, field)), [])


def check(config: pb.ModelConfig) -> None:
    """Raises ValueError, naming the model and what is wrong, where sequences cannot be served as configured."""
    batching, what = config.sequence_batching, f"model '{config.name}': sequence_batching"
    if batching.iterative_sequence:
        raise ValueError(f"{what} is iterative, which needs a backend that asks for itself again; none here does")
    if not batching.state and not batching.control_input:
        raise ValueError(f"{what} has neither state nor control_input: no backend here keeps state by itself")
    names: set[str] = set()
    for name, control in controls(config):
        kind = Control.Kind.Name(control.kind)
        if name in names:
            raise ValueError(f"{what} uses input '{name}' for more than one control")
        names.add(name)
        if control.kind == Control.CONTROL_SEQUENCE_CORRID:
            if control.data_type not in _CORRID_TYPES:
                raise ValueError(f"{what} {kind} has data_type {pb.DataType.Name(control.data_type)}")
        elif len(false_true(control)) != 2:
            raise ValueError(f"{what} {kind} needs two values, for false and true")
    for state in batching.state:
        if not state.input_name or not state.output_name or state.data_type == pb.TYPE_INVALID:
            raise ValueError(f"{what} state needs input_name, output_name and data_type")
        if any(initial.data_file for initial in state.initial_state):
            raise ValueError(f"{what} state '{state.input_name}' starts from a file; only zero_data is supported")


def hidden_inputs(config: pb.ModelConfig) -> list[pb.ModelInput]:
    """Inputs that clients neither see nor send."""
    states = config.sequence_batching.state
    found = [pb.ModelInput(name=name, data_type=data_type(control), dims=[1]) for name, control in controls(config)]
    return found + [pb.ModelInput(name=s.input_name, data_type=s.data_type, dims=s.dims) for s in states]


def complete(config: pb.ModelConfig) -> None:
    """Adds what is hidden to inputs and outputs, as a backend needs them."""
    inputs, outputs = {tensor.name for tensor in config.input}, {tensor.name for tensor in config.output}
    config.input.extend(tensor for tensor in hidden_inputs(config) if tensor.name not in inputs)
    for state in config.sequence_batching.state:
        if state.output_name not in outputs:
            config.output.add(name=state.output_name, data_type=state.data_type, dims=state.dims)


def shown(config: pb.ModelConfig, outputs: set[str]) -> pb.ModelConfig:
    """A configuration as clients see it: without what is hidden, but for states that are among its own `outputs`."""
    told = pb.ModelConfig()
    told.CopyFrom(config)
    inputs = {tensor.name for tensor in hidden_inputs(config)}
    states = {state.output_name for state in config.sequence_batching.state} - outputs
    del told.input[:], told.output[:]
    told.input.extend(tensor for tensor in config.input if tensor.name not in inputs)
    told.output.extend(tensor for tensor in config.output if tensor.name not in states)
    return told
