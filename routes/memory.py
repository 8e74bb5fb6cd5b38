"""POST /api/memory/inference, /training and /compare."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from operator import itemgetter
from typing import Annotated, Any, ClassVar, Generic, Literal, TypeVar

from flask import Blueprint, Response
from flask.blueprints import BlueprintSetupState
from pydantic import Field
from pydantic_core import CoreSchema, core_schema

from calculator.errors import CalculatorError, UnknownModel
from calculator.estimate import Estimate
from calculator.inference import brief as inference_in_brief
from calculator.inference import inference
from calculator.model import Model
from calculator.setup import InferenceSetup, Lora, TrainingSetup
from calculator.solve import Calculation, fit_report
from calculator.training import brief as training_in_brief
from calculator.training import training

from .alike import Line, line_of
from .application import Application, raw_body
from .bodies import (
    ATTENTION,
    ENGINES,
    FRAMEWORKS,
    GRADIENT_CHECKPOINTING,
    KERNELS,
    KV_CACHE_PRECISIONS,
    LIMITS,
    LOGITS,
    LOSSES,
    METHODS,
    MIXED_PRECISIONS,
    OPTIMIZER_IMPLEMENTATIONS,
    OPTIMIZERS,
    PIPELINE_SCHEDULES,
    PRECISIONS,
    QUANTIZATIONS,
    Compute,
    Device,
    Maybe,
    ModelChoice,
    Name,
    Ways,
    agreeing_with,
    defaults,
    engine_faults,
    options,
    quantization_faults,
    too_many_gpus,
)
from .errors import Fault, Refused
from .reading import Body, OneOf, Path, Paths, Reader, TaggedReader, number
from .replies import inference_reply, summary, training_reply
from .tables import comparison_table, wanted

memory = Blueprint("memory", __name__, url_prefix="/api/memory")

INFERENCE = defaults(InferenceSetup)
TRAINING = defaults(TrainingSetup)
LORA = defaults(Lora)
INFER = Calculation(inference, inference_in_brief)
TRAIN = Calculation(training, training_in_brief)

Tokens = Annotated[int, Field(ge=1, le=LIMITS["sequence_length"])]
Sequences = Annotated[int, Field(ge=1, le=LIMITS["batch_size"])]


Setup = TypeVar("Setup", InferenceSetup, TrainingSetup)

GETTERS: dict[type, Callable[[Mapping[str, Any]], tuple[Any, ...]]] = {
    InferenceSetup: itemgetter(*INFERENCE),
    TrainingSetup: itemgetter(*TRAINING),
}
PLACES = {
    InferenceSetup: {name: place for place, name in enumerate(INFERENCE)},
    TrainingSetup: {name: place for place, name in enumerate(TRAINING)},
}
NUMBERS = frozenset({"model_size", "gpu_memory_gib", "trainable_parameters"})
OPTIONS = ("quantization_options", "engine_options")


def setup_of(kind: type[Setup], values: Mapping[str, Any], **inside: Any) -> Setup:
    """A setup of the values of a request, which have its names; `inside` are those that look different there."""
    said, places = [*GETTERS[kind](values)], PLACES[kind]
    for name in OPTIONS:
        if name in values:
            said[places[name]] = options(values[name])
    for name, value in inside.items():
        said[places[name]] = value
    return kind(*said)


class MemoryRequest(Device, ModelChoice):
    """What inference and training are asked with alike."""

    batch_size: Sequences = Field(INFERENCE["batch_size"], description="Sequences held at once, by one replica.")
    sequence_length: Tokens = Field(INFERENCE["sequence_length"], description="Tokens each of them holds at the end.")
    attention: Annotated[str, OneOf(*ATTENTION)] = Field(
        INFERENCE["attention"], description="The kernel; `sdpa` is what torch picks for this precision and shape."
    )

    def unused(self) -> tuple[str, ...]:
        """Fields whose defaults mean nothing here."""
        return ()

    def echo(self, assumed: Mapping[str, Any]) -> dict[str, Any]:
        """What was used: every value sent, every default that applies, under the names a request takes."""
        sent = self.model_fields_set
        said = {name: value for name, value in self.__dict__.items() if value is not None}
        for name in self.unused():
            if name not in sent:
                del said[name]
        for name in NUMBERS:
            if name in said and said[name].is_integer():
                said[name] = int(said[name])
        for name, value in assumed.items():
            if name not in sent:
                said[name] = value
            elif isinstance(value, dict):
                said[name] = value | said[name]
        return said

    run: ClassVar[Calculation]

    def setup(self) -> Any:
        """The question as the calculator takes it."""
        raise NotImplementedError

    def reply(self) -> dict[str, Any]:
        """The whole answer; raises CalculatorError."""
        raise NotImplementedError


def fitted(run: Calculation, model: Model, setup: Any) -> Estimate:
    """The answer, and with a GPU how far it could go there."""
    estimate = run.whole(model, setup)
    if estimate.fit is None:
        return estimate
    return estimate._replace(fit=fit_report(run, model, setup, estimate))


class InferenceRequest(MemoryRequest):
    """A question about inference: a model, a workload, how it is stored, what runs it, on what."""

    run = INFER
    agreeing = agreeing_with(
        "batch_size", "sequence_length", "attention", "logits", "precision", "kv_cache_precision", "gpu", "gpu_count"
    )

    prompt_length: Maybe[Tokens] = Field(
        None, description="Tokens that go through in one prefill; sequence_length if absent."
    )
    logits: Annotated[str, OneOf(*LOGITS)] = Field(
        INFERENCE["logits"], description="`all`: for every prompt position, not only the last."
    )
    precision: Maybe[Annotated[str, OneOf(*PRECISIONS)]] = Field(
        None, description="Of every parameter alike; the checkpoint's own if absent, else float16."
    )
    quantization: Maybe[Annotated[str, OneOf(*QUANTIZATIONS)]] = Field(
        None, description="A real checkpoint's format, with what it leaves in 16 bit; not beside precision."
    )
    quantization_options: Maybe[dict[str, Any]] = Field(None, description="Such as group_size.")
    kv_cache_precision: Maybe[Annotated[str, OneOf(*KV_CACHE_PRECISIONS)]] = Field(
        None, description="precision if that is 16 or 32 bit, else 16 bit."
    )
    engine: Maybe[Annotated[str, OneOf(*ENGINES)]] = Field(None, description="What runs it; bare arithmetic if absent.")
    engine_version: Maybe[Name] = Field(None, description="The newest known if absent.")
    engine_options: Maybe[dict[str, Any]] = Field(None, description="By the engine's own names.")
    tensor_parallel: Ways = Field(INFERENCE["tensor_parallel"], description="GPUs that share each layer.")
    pipeline_parallel: Ways = Field(INFERENCE["pipeline_parallel"], description="Groups of layers, one after another.")
    expert_parallel: Ways = Field(INFERENCE["expert_parallel"], description="GPUs that experts are dealt out over.")
    data_parallel: Ways = Field(INFERENCE["data_parallel"], description="Replicas.")
    data_parallel_attention: bool = Field(
        INFERENCE["data_parallel_attention"], description="Replicas of attention that share their experts."
    )

    @classmethod
    def conflicts(cls, sent: Mapping[str, Any], wrong: Paths = frozenset()) -> Iterator[Fault]:
        yield from super().conflicts(sent, wrong)
        if "precision" in sent and "quantization" in sent:
            yield Fault("precision", "stands beside quantization: give one of them")
        yield from quantization_faults(sent, wrong)
        yield from engine_faults(sent, wrong)
        if "prompt_length" in sent and not wrong & {("prompt_length",), ("sequence_length",)}:
            whole = sent.get("sequence_length", INFERENCE["sequence_length"])
            if sent["prompt_length"] > whole:
                yield Fault("prompt_length", f"must be at most sequence_length, {number(whole)}: it is part of it")
        yield from too_many_gpus(sent, wrong, ("tensor_parallel", "pipeline_parallel", "data_parallel"))

    def setup(self) -> InferenceSetup:
        """The question as the calculator takes it."""
        return setup_of(InferenceSetup, self.__dict__, gpu=self.device())

    def unused(self) -> tuple[str, ...]:
        return ("data_parallel_attention",) if self.data_parallel == 1 else ()

    def reply(self) -> dict[str, Any]:
        model, warnings, sizes = self.chosen()
        estimate = fitted(INFER, model, self.setup())
        return inference_reply(self.echo({**sizes, **estimate.assumed}), model, estimate, warnings)


class _TargetModules:
    """The one word, or a list of names."""

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> CoreSchema:
        name = core_schema.str_schema(strict=True, min_length=1, max_length=200)
        names = core_schema.list_schema(name, strict=True, min_length=1, max_length=1000)
        return core_schema.union_schema(
            [core_schema.literal_schema(["all-linear"]), names],
            custom_error_type="target_modules",
            custom_error_message="neither the word nor a list of names",
        )


TargetModules = Annotated[str | list[str], _TargetModules()]


class LoraRequest(Body):
    """Adapters of low rank beside frozen layers."""

    rank: Annotated[int, Field(ge=1, le=LIMITS["lora_rank"])] = LORA["rank"]
    target_modules: TargetModules = "all-linear"
    precision: Compute = LORA["precision"]
    dora: bool = LORA["dora"]

    def setup(self) -> Lora:
        """Adapters as the calculator takes them."""
        names = (self.target_modules,) if isinstance(self.target_modules, str) else tuple(self.target_modules)
        return Lora(self.rank, names, self.precision, self.dora)


class TrainingRequest(MemoryRequest):
    """A question about one training step: a model, a micro batch, a recipe, how it is spread, on what."""

    run = TRAIN
    agreeing = agreeing_with(
        *("batch_size", "sequence_length", "attention", "framework", "compile", "kernels", "precision", "optimizer"),
        *("mixed_precision", "gradient_checkpointing", "loss", "gradient_accumulation", "trainable_parameters"),
    )

    framework: Annotated[str, OneOf(*FRAMEWORKS)] = Field(
        TRAINING["framework"], description="Whose layers keep what for the backward pass."
    )
    compile: bool = Field(TRAINING["compile"], description="torch.compile.")
    kernels: Annotated[str, OneOf(*KERNELS)] = Field(
        TRAINING["kernels"], description="`liger`: fused norm, rotary and feed-forward."
    )
    precision: Maybe[Compute] = Field(
        None, description="Of the weights as the model holds them; float32 with autocast, else bfloat16."
    )
    mixed_precision: Maybe[Annotated[str, OneOf(*MIXED_PRECISIONS)]] = Field(
        None, description="master_weights for 16 bit, none for float32 if absent."
    )
    gradient_precision: Maybe[Compute] = Field(None, description="Follows mixed_precision if absent.")
    optimizer_state_precision: Maybe[Compute] = Field(None, description="Follows mixed_precision if absent.")
    optimizer: Annotated[str, OneOf(*OPTIMIZERS)] = Field(
        TRAINING["optimizer"], description="What the optimizer keeps of each trained parameter."
    )
    optimizer_implementation: Annotated[str, OneOf(*OPTIMIZER_IMPLEMENTATIONS)] = Field(
        TRAINING["optimizer_implementation"], description="Whether the step needs a temporary copy."
    )
    optimizer_in_backward: bool = Field(
        TRAINING["optimizer_in_backward"], description="Each parameter is stepped as soon as its gradient is there."
    )
    trainable_parameters: Annotated[float, Field(gt=0, le=100)] = Field(
        TRAINING["trainable_parameters"], description="Percent of the parameters that are trained."
    )
    method: Annotated[str, OneOf(*METHODS)] = TRAINING["method"]
    lora: Maybe[LoraRequest] = Field(None, description="Adapters of the methods lora and qlora.")
    quantization: Maybe[Annotated[str, OneOf(*QUANTIZATIONS)]] = Field(
        None, description="Of the frozen base of qlora; bnb-nf4-dq if absent."
    )
    quantization_options: Maybe[dict[str, Any]] = Field(None, description="Such as group_size.")
    gradient_checkpointing: Annotated[str, OneOf(*GRADIENT_CHECKPOINTING)] = TRAINING["gradient_checkpointing"]
    activation_offload: bool = Field(
        TRAINING["activation_offload"], description="Checkpoints wait in the host's memory."
    )
    loss: Annotated[str, OneOf(*LOSSES)] = Field(TRAINING["loss"], description="Whether the whole logits exist.")
    keep_logits: bool = Field(TRAINING["keep_logits"], description="Outputs are held through the backward pass.")
    gradient_accumulation: Annotated[int, Field(ge=1, le=LIMITS["batch_size"])] = TRAINING["gradient_accumulation"]
    data_parallel: Ways = Field(TRAINING["data_parallel"], description="Replicas.")
    zero_stage: Annotated[int, Field(ge=0, le=3)] = Field(
        TRAINING["zero_stage"], description="What replicas share: FSDP full shard is 3, a distributed optimizer 1."
    )
    tensor_parallel: Ways = Field(TRAINING["tensor_parallel"], description="GPUs that share each layer.")
    sequence_parallel: bool = Field(
        TRAINING["sequence_parallel"], description="What lies between those layers is shared over them too."
    )
    context_parallel: Ways = Field(TRAINING["context_parallel"], description="GPUs that share each sequence.")
    expert_parallel: Ways = Field(TRAINING["expert_parallel"], description="GPUs that experts are dealt out over.")
    pipeline_parallel: Ways = Field(TRAINING["pipeline_parallel"], description="Groups of layers, one after another.")
    pipeline_schedule: Annotated[str, OneOf(*PIPELINE_SCHEDULES)] = TRAINING["pipeline_schedule"]
    virtual_stages: Annotated[int, Field(ge=1, le=LIMITS["num_hidden_layers"])] = TRAINING["virtual_stages"]
    micro_batches: Annotated[int, Field(ge=1, le=LIMITS["batch_size"])] = TRAINING["micro_batches"]

    @classmethod
    def conflicts(cls, sent: Mapping[str, Any], wrong: Paths = frozenset()) -> Iterator[Fault]:
        yield from super().conflicts(sent, wrong)
        if ("method",) not in wrong:
            method = sent.get("method", TRAINING["method"])
            if method == "full" and "lora" in sent:
                yield Fault("lora", "only goes beside method lora or qlora")
            if method != "full" and "trainable_parameters" in sent:
                yield Fault("trainable_parameters", f"follows from the adapters of method {method}: leave it out")
            if method != "qlora" and "quantization" in sent:
                yield Fault("quantization", "only goes beside method qlora, whose frozen base it is")
        yield from quantization_faults(sent, wrong)
        ways = ("data_parallel", "tensor_parallel", "context_parallel", "pipeline_parallel")
        yield from too_many_gpus(sent, wrong, ways)

    def setup(self) -> TrainingSetup:
        """The question as the calculator takes it."""
        lora = self.lora.setup() if self.lora else Lora() if self.method != "full" else None
        return setup_of(TrainingSetup, self.__dict__, gpu=self.device(), lora=lora)

    def unused(self) -> tuple[str, ...]:
        return (
            *(("trainable_parameters",) if self.method != "full" else ()),
            *(("zero_stage",) if self.data_parallel == 1 else ()),
            *(("sequence_parallel",) if self.tensor_parallel == 1 else ()),
            *(("pipeline_schedule", "virtual_stages", "micro_batches") if self.pipeline_parallel == 1 else ()),
        )

    def reply(self) -> dict[str, Any]:
        model, warnings, sizes = self.chosen()
        estimate = fitted(TRAIN, model, self.setup())
        said = self.echo({**sizes, **estimate.assumed})
        if self.method != "full":
            said["lora"] = dict((self.lora or LoraRequest()).__dict__)
        return training_reply(said, model, estimate, warnings)


Question = TypeVar("Question", bound=MemoryRequest)


class Comparison(Body, Generic[Question]):
    """Several configurations at once."""

    kind: ClassVar[type[MemoryRequest]]

    calculation_type: str
    configurations: Annotated[list[Question], Field(min_length=1, max_length=LIMITS["configurations"])]

    @classmethod
    def conflicts(cls, sent: Mapping[str, Any], wrong: Paths = frozenset()) -> Iterator[Fault]:
        """Those of each configuration, under its path."""
        inside: dict[Any, set[Path]] = {}
        for path in wrong:
            if len(path) > 1 and path[0] == "configurations":
                inside.setdefault(path[1], set()).add(path[2:])
        configurations = sent.get("configurations")
        for index, each in enumerate(configurations if isinstance(configurations, list) else ()):
            if isinstance(each, MemoryRequest) and each.agrees():
                continue
            said = each.sent() if isinstance(each, MemoryRequest) else each
            if isinstance(said, dict):
                for fault in cls.kind.conflicts(said, frozenset(inside.get(index, ()))):
                    yield Fault(f"configurations[{index}].{fault.field}", fault.message)

    def reply(self) -> dict[str, Any]:
        """Each configuration's own answer, and how they compare."""
        results, faults = [], []
        line: Line | None = None
        for index, each in enumerate(self.configurations):
            try:
                reply = line.again(each) if line is not None and line.answers(each) else None
                if reply is None:
                    reply = each.reply()
                    line = line_of(each, reply)
                results.append(reply)
            except UnknownModel:
                raise
            except CalculatorError as fault:
                path = f"configurations[{index}]"
                faults.append(Fault(f"{path}.{fault.field}" if fault.field else path, fault.message))
        if faults:
            raise Refused(faults)
        total = f"{self.calculation_type}_memory"
        return {
            "calculation_type": self.calculation_type,
            "results": results,
            "summary": summary([each["memory_bytes"][total] for each in results]),
        }


class InferenceComparison(Comparison[InferenceRequest]):
    """Several questions about inference."""

    kind = InferenceRequest

    calculation_type: Literal["inference"]


class TrainingComparison(Comparison[TrainingRequest]):
    """Several questions about training."""

    kind = TrainingRequest

    calculation_type: Literal["training"]


read_inference = Reader(InferenceRequest)
read_training = Reader(TrainingRequest)
read_comparison: TaggedReader[Comparison[Any]] = TaggedReader(
    "calculation_type", {"inference": InferenceComparison, "training": TrainingComparison}
)


def inferred(raw: bytes) -> dict[str, Any]:
    """The memory of inference, from a body to its answer."""
    return read_inference(raw).reply()


def trained(raw: bytes) -> dict[str, Any]:
    """The memory of a training step, from a body to its answer."""
    return read_training(raw).reply()


@memory.record
def straight(state: BlueprintSetupState) -> None:
    """What is asked most goes the shortest way."""
    if isinstance(state.app, Application):
        state.app.direct |= {"/api/memory/inference": inferred, "/api/memory/training": trained}


@memory.post("/inference")
def infer() -> dict[str, Any]:
    """The memory of inference."""
    return inferred(raw_body())


@memory.post("/training")
def train() -> dict[str, Any]:
    """The memory of a training step."""
    return trained(raw_body())


@memory.post("/compare")
def compare() -> dict[str, Any] | Response:
    """Several configurations side by side, as JSON or as CSV."""
    answer = read_comparison(raw_body()).reply()
    return comparison_table(answer) if wanted() else answer
