"""Ensembles as their configuration tells them: steps that hand each other tensors by name, without a cycle."""

from collections.abc import Collection

from cotenant.inference import inference_pb2 as pb

Step = pb.ModelEnsembling.Step


def check(config: pb.ModelConfig) -> None:
    """Raises ValueError, naming model, step and tensor, where the steps are no graph that makes every output."""
    steps = config.ensemble_scheduling.step
    if not steps:
        raise ValueError(f"model '{config.name}': ensemble_scheduling has no step")
    makers: dict[str, int] = {tensor.name: -1 for tensor in config.input}
    for index, step in enumerate(steps):
        what = f"model '{config.name}': step {index} ('{step.model_name}')"
        if not step.model_name or not step.input_map or not step.output_map:
            raise ValueError(f"{what} needs model_name, input_map and output_map")
        if step.model_name == config.name:
            raise ValueError(f"{what} is the ensemble itself")
        for tensor in step.output_map.values():
            if tensor in makers:
                raise ValueError(f"{what} makes tensor '{tensor}', which is made already")
            makers[tensor] = index
    for index, step in enumerate(steps):
        for tensor in step.input_map.values():
            if tensor not in makers:
                raise ValueError(f"model '{config.name}': nothing makes tensor '{tensor}', an input of step {index}")
    for output in config.output:
        if makers.get(output.name, -1) < 0:
            raise ValueError(f"model '{config.name}': no step makes output '{output.name}'")
    if len(_runnable(config, makers)) < len(steps):
        raise ValueError(f"model '{config.name}': steps wait for each other in a circle")


def _runnable(config: pb.ModelConfig, makers: dict[str, int]) -> set[int]:
    """The steps that could run one after another."""
    done: set[int] = set()
    while True:
        known = {tensor for tensor, index in makers.items() if index < 0 or index in done}
        ready = {
            index
            for index, step in enumerate(config.ensemble_scheduling.step)
            if index not in done and known.issuperset(step.input_map.values())
        }
        if not ready:
            return done
        done |= ready


def needed(config: pb.ModelConfig, outputs: Collection[str]) -> list[int]:
    """The steps that some outputs need, in the configuration's order; all outputs where none is named."""
    wanted = set(outputs or (output.name for output in config.output))
    steps = list(config.ensemble_scheduling.step)
    chosen: set[int] = set()
    while True:
        more = {
            i for i, step in enumerate(steps) if i not in chosen and not wanted.isdisjoint(step.output_map.values())
        }
        if not more:
            return sorted(chosen)
        chosen |= more
        wanted |= {tensor for i in more for tensor in steps[i].input_map.values()}
