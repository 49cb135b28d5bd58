"""Files that others wrote: a model's `config.pbtxt`, and recorded logs."""

import contextlib
import io
import shutil
import tempfile
from pathlib import Path
from random import Random
from typing import Any, ClassVar

from fuzz import corpus, mutators
from fuzz.services import CANARY, FindingError
from fuzz.target import Target
from google.protobuf import text_format

from cotenant.cli import evaluate_protocol, explain, explain_text, report, report_log
from cotenant.cli.evaluate_protocol import Plan
from cotenant.executor import completion, repository
from cotenant.executor.backend import Placement, find_backend
from cotenant.frontend.catalogue import Catalogue
from cotenant.inference import inference_pb2 as pb
from cotenant.runtime import sequences
from cotenant.scheduler import codec
from cotenant.scheduler.replay import replay
from cotenant.scheduler.simulate import SimulatedModel, Simulation
from cotenant.v1 import scheduler_pb2

MS = 1_000_000
MORE = """
name: "m" platform: "onnxruntime_onnx" max_batch_size: 8 version_policy { specific { versions: [ 1, 2 ] } }
input [ { name: "A" data_type: TYPE_FP32 dims: [ 3, -1 ] format: FORMAT_NCHW reshape { shape: [ 1 ] } } ]
output [ { name: "B" data_type: TYPE_FP32 dims: [ 10 ] label_filename: "labels.txt" } ]
instance_group [ { count: 2 kind: KIND_GPU gpus: [ 0 ] } ] default_model_filename: "model.onnx"
sequence_batching { max_sequence_idle_microseconds: 5000000 direct { }
  control_input [ { name: "S" control [ { kind: CONTROL_SEQUENCE_START int32_false_true: [ 0, 1 ] } ] } ]
  state [ { input_name: "I" output_name: "O" data_type: TYPE_FP32 dims: [ 1 ] initial_state: { data_type: TYPE_FP32 dims: [ 1 ] zero_data: true name: "z" } } ] }
parameters { key: "slo_ms" value { string_value: "50" } } parameters { key: "shape_buckets" value { string_value: "8,16" } }
parameters { key: "pad_values" value { string_value: "A=1" } } parameters { key: "profile_batch_sizes" value { string_value: "1,2" } }
model_transaction_policy { decoupled: false } model_warmup [ { name: "w" batch_size: 1 } ]
optimization { priority: PRIORITY_MAX cuda { graphs: true } } response_cache { enable: true }
"""  # noqa: E501


class Configs(Target):
    """A model's configuration from its file, through executor, scheduler and frontend."""

    name = "configs"
    canary_every: ClassVar[int] = 100
    GOOD = (*corpus.MODELS.values(), MORE)

    async def open(self) -> None:
        self._folder = tempfile.TemporaryDirectory(dir="/dev/shm", prefix="cotenant-fuzz-")
        self.model = Path(self._folder.name) / "m"
        (self.model / "1").mkdir(parents=True)
        (self.model / "labels.txt").write_text("one\ntwo\n")
        self.catalogue = Catalogue()

    async def close(self) -> None:
        self._folder.cleanup()

    def make(self, rng: Random) -> str:
        """Of two, one by its words, and one by its fields, which is text of a configuration all the same."""
        good = rng.choice(self.GOOD)
        if rng.random() < 0.5:
            return mutators.text(good, rng)
        bad = text_format.Parse(good, pb.ModelConfig())
        for _ in range(rng.choice((0, 1, 1, 1, 2, 3))):
            mutators.change(bad, rng)
        return str(text_format.MessageToString(bad))

    async def take(self, made: str) -> str:
        (self.model / "config.pbtxt").write_bytes(made.encode("utf-8", "surrogatepass"))
        try:
            read = self._loaded()
        except ValueError as error:
            if "'m'" not in str(error):
                raise FindingError(f"an error that does not name the model: {error}") from error
            return "refused"
        told = read.SerializeToString()
        codec.model_spec(told, "1")
        state = scheduler_pb2.ModelState(model="m", version="1", availability=3, model_config=told)
        self.catalogue.apply(state)
        self.catalogue.find("m", "1")  # raises where the frontend does not take what the executor did
        return "taken"

    def _loaded(self) -> pb.ModelConfig:
        """As an executor reads it, but for files of models and solo measurements."""
        found = repository.read_config(self.model)
        repository.wanted_versions(found, repository.versions(self.model))
        name = repository.backend_name(found, self.model / "1")
        model = None
        if name in ("identity", "emulated"):
            placement = Placement(kind="emulated" if name == "emulated" else "cpu", index=0, threads=1, seed=0)
            model = find_backend(name).load(self.model / "1", found, placement)
        completion.complete(found, model.signature if model else None, 8)
        sequences.complete(found)
        repository.labels(self.model, found)
        return sequences.shown(found, {tensor.name for tensor in found.output})

    async def canary(self) -> None:
        (self.model / "config.pbtxt").write_text(CANARY)
        if self._loaded().max_batch_size != 8:
            raise FindingError("a good configuration is not read as it was")


class Logs(Target):
    """Recorded logs, at all that read them."""

    name = "logs"
    canary_every: ClassVar[int] = 200

    async def open(self) -> None:
        self._folder = tempfile.TemporaryDirectory(dir="/dev/shm", prefix="cotenant-fuzz-")
        self.log = Path(self._folder.name) / "log"
        good = Path(self._folder.name) / "good"
        models = [SimulatedModel("vision", "resnet50", 120.0, 50 * MS), SimulatedModel("text", "bert", 25.0, 20 * MS)]
        Simulation(models, seed=3, record=good).run(4 * 10**8)
        self.lines = good.read_text().splitlines()[:60]
        self.request = next(iter(report_log.read(good).requests))
        self.turn = 0

    async def close(self) -> None:
        self._folder.cleanup()

    def make(self, rng: Random) -> Any:
        """Some lines are changed, dropped, doubled or moved; which follows from a number, for lines are there later."""
        return rng.random()

    def _bad(self, made: float) -> list[str]:
        rng = Random(made)
        lines = list(self.lines)
        for _ in range(rng.choice((1, 1, 2, 4))):
            place, act = rng.randrange(len(lines)), rng.random()
            if act < 0.8:
                with contextlib.suppress(ValueError, RecursionError):
                    lines[place] = mutators.json_line(lines[place], rng)
            elif act < 0.9:
                del lines[place]
            elif act < 0.95:
                lines[place:place] = lines[place : place + 1]
            else:
                other = rng.randrange(len(lines))
                lines[place], lines[other] = lines[other], lines[place]
            lines = lines or [""]
        return lines

    async def take(self, made: float) -> str:
        text = "\n".join(self._bad(made)) + "\n" * (made < 0.9)
        self.log.write_bytes(text.encode("utf-8", "surrogateescape"))
        self.turn += 1
        reader = (self._report, self._replay, self._explain, self._evaluate)[int(made * 1e6) % 4]
        name = reader.__name__.strip("_")
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                reader(self.log)
        except ValueError as error:
            if type(error) is not ValueError or not str(error):
                raise
            return f"{name}: refused"
        return f"{name}: read"

    def _report(self, log: Path) -> None:
        report.document(report_log.read(log), None, None)

    def _replay(self, log: Path) -> None:
        replay(log)

    def _explain(self, log: Path) -> None:
        explain_text.text(explain.explain(log, str(self.request)))

    def _evaluate(self, log: Path) -> None:
        evaluate_protocol.evaluate(Plan((log,), ("ignore", "recorded")))

    async def canary(self) -> None:
        good = self.log.with_name("good")
        shutil.copy(good, self.log)
        if report_log.read(self.log).groups < 10:
            raise FindingError("a good log is not read as it was")
