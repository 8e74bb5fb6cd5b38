"""POST /api/memory/sweep: the same question over every value of one field, or over a grid of two."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from itertools import product
from math import prod
from typing import Annotated, Any, Literal

from flask import Blueprint, Response
from pydantic import Field, TypeAdapter, ValidationError, create_model
from pydantic_core import CoreSchema, core_schema

from calculator.errors import CalculatorError, UnknownModel
from calculator.setup import InferenceSetup, TrainingSetup

from .application import raw_body
from .bodies import LIMITS
from .errors import Fault
from .memory import InferenceRequest, MemoryRequest, TrainingRequest
from .reading import Body, Paths, Schema, TaggedReader, allowed, did_you_mean, shown
from .replies import INFERENCE_PARTS, TRAINING_PARTS, figures_of
from .tables import sweep_table, wanted

sweep = Blueprint("sweep", __name__, url_prefix="/api/memory")


class _Over:
    """The name of a field, or of two."""

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> CoreSchema:
        name = core_schema.str_schema(strict=True, min_length=1, max_length=100)
        return core_schema.union_schema(
            [name, core_schema.list_schema(name, strict=True, min_length=1, max_length=2)],
            custom_error_type="over",
            custom_error_message="neither a field nor a list of one or two",
        )


Over = Annotated[str | list[str], _Over()]
PLAIN = {*InferenceSetup._fields, *TrainingSetup._fields} - {"gpu", "optimizer"}
"""Fields that a setup holds as a request says them."""

Values = Annotated[list[Any], Field(min_length=1, max_length=LIMITS["sweep_values"])]


@cache
def sweepable(kind: type[MemoryRequest]) -> dict[str, tuple[TypeAdapter[Any], str]]:
    """The fields of a request that hold one number, word or flag: how a value is checked, and what is allowed."""
    schema = Schema(TypeAdapter(kind).json_schema())
    found: dict[str, tuple[TypeAdapter[Any], str]] = {}
    for name, field in kind.model_fields.items():
        node = schema.at((name,))
        if node.get("type") in ("integer", "number", "string", "boolean"):
            takes: Any = (Annotated[field.annotation, Field(), *field.metadata], ...)
            found[name] = (TypeAdapter(create_model(f"Value_{name}", __base__=Body, **{name: takes})), allowed(node))
    return found


def sweep_faults(kind: type[MemoryRequest], sent: Mapping[str, Any], wrong: Paths) -> Iterator[Fault]:
    """The fields are of the request and not already said; every value is one the field takes."""
    if any(path[0] in ("over", "values") for path in wrong) or not {"over", "values"} <= sent.keys():
        return
    over, values = sent["over"], sent["values"]
    names, lists = columns(over, values)
    if len(names) != len(lists):
        yield Fault("values", f"must hold one list for each field of over: {len(names)}, not {len(lists)}")
        return
    if len(set(names)) < len(names):
        yield Fault("over", "names the same field twice")
    table = sweepable(kind)
    for place, (name, column) in enumerate(zip(names, lists, strict=True)):
        path = "values" if column is values else f"values[{place}]"
        if name not in table:
            yield Fault("over", f"{name!r} is no field to sweep over{did_you_mean(name, list(table))}")
        elif name in sent:
            yield Fault(name, "is swept over: leave it out")
        elif not isinstance(column, list) or not 1 <= len(column) <= LIMITS["sweep_values"]:
            yield Fault(path, f"must be a list of 1 to {LIMITS['sweep_values']:,} items, not {shown(column)}")
        else:
            adapter, takes = table[name]
            for index, value in enumerate(column):
                try:
                    adapter.validate_python({name: whole(value)})
                except ValidationError:
                    yield Fault(f"{path}[{index}]", f"must be {takes}, not {shown(value)}")
    cells = prod(len(column) for column in lists if isinstance(column, list))
    if cells > LIMITS["sweep_cells"]:
        yield Fault("values", f"makes {cells:,} cells; the limit is {LIMITS['sweep_cells']:,}")


def whole(value: Any) -> Any:
    """200.0 is an integer."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


class InferenceSweep(InferenceRequest):
    """A question about inference over many values."""

    calculation_type: Literal["inference"]
    over: Over = Field(description="The field that changes, or a list of two.")
    values: Values = Field(description="Its values, or a list of two lists.")

    @classmethod
    def conflicts(cls, sent: Mapping[str, Any], wrong: Paths = frozenset()) -> Iterator[Fault]:
        yield from swept_conflicts(InferenceRequest, sent, wrong)


class TrainingSweep(TrainingRequest):
    """A question about training over many values."""

    calculation_type: Literal["training"]
    over: Over = Field(description="The field that changes, or a list of two.")
    values: Values = Field(description="Its values, or a list of two lists.")

    @classmethod
    def conflicts(cls, sent: Mapping[str, Any], wrong: Paths = frozenset()) -> Iterator[Fault]:
        yield from swept_conflicts(TrainingRequest, sent, wrong)


def swept_conflicts(kind: type[MemoryRequest], sent: Mapping[str, Any], wrong: Paths) -> Iterator[Fault]:
    """What is wrong with the sweep; if nothing, what is wrong with its first cell."""
    faults = list(sweep_faults(kind, sent, wrong))
    yield from faults
    first = {} if faults or wrong else next(cells(sent["over"], sent["values"]))
    yield from kind.conflicts({**sent, **first}, wrong)


def columns(over: str | list[str], values: list[Any]) -> tuple[list[str], list[Any]]:
    """The fields and a list of values for each; one field may have its list bare.

    >>> columns("a", [1, 2]), columns(["a"], [1, 2]), columns(["a"], [[1, 2]])
    ((['a'], [[1, 2]]), (['a'], [[1, 2]]), (['a'], [[1, 2]]))
    """
    if isinstance(over, str):
        return [over], [values]
    bare = len(over) == 1 and not any(isinstance(each, list) for each in values)
    return over, [values] if bare else values


def cells(over: str | list[str], values: list[Any]) -> Iterator[dict[str, Any]]:
    """Each cell as the fields it changes."""
    names, lists = columns(over, values)
    for row in product(*lists):
        yield {name: whole(value) for name, value in zip(names, row, strict=True)}


def answered(ask: Any) -> dict[str, Any]:
    """A row for each cell: what it takes and whether it fits, or why it cannot be."""
    kind = "inference" if isinstance(ask, InferenceRequest) else "training"
    request: Any = InferenceRequest if kind == "inference" else TrainingRequest
    always, total = (INFERENCE_PARTS if kind == "inference" else TRAINING_PARTS), f"{kind}_memory"
    rows: list[dict[str, Any]] = []
    for cell, (parts, room) in figures(ask, request):
        row: dict[str, Any] = {"values": [*cell.values()]}
        if isinstance(parts, Fault):
            row |= {"memory_bytes": None, "fits": None}
            row["error"] = f"{parts.field}: {parts.message}" if parts.field else parts.message
        else:
            row["memory_bytes"] = figures_of(parts, always, total)
            row["fits"] = None if room is None else room >= 0
        rows.append(row)
    return {"over": ask.over, "rows": rows}


Figures = tuple[dict[str, int] | Fault, int | None]  # bytes by part, or what is wrong, and the room on a GPU


def figures(ask: Any, request: Any) -> Iterator[tuple[dict[str, Any], Figures]]:
    """Each cell with its answer. What no cell changes is settled once."""
    sent = {name: value for name, value in ask.sent().items() if name not in ("calculation_type", "over", "values")}
    names = columns(ask.over, ask.values)[0]
    agrees, plain, brief = request.agree(sent.keys() | names), PLAIN.issuperset(names), request.run.brief
    fixed: tuple[Any, Any] | None = None
    for cell in cells(ask.over, ask.values):
        fault = None if agrees else next(request.conflicts(sent | cell), None)
        if fault is not None:
            yield cell, (fault, None)
            continue
        try:
            if fixed is None or not plain:
                fixed = settled(request, sent | cell)
            model, setup = fixed
            answer = brief(model, setup._replace(**cell) if plain else setup)
            yield cell, (answer.parts, answer.room)
        except UnknownModel:
            raise
        except CalculatorError as error:
            yield cell, (Fault(error.field or "", error.message), None)


def settled(request: Any, said: dict[str, Any]) -> tuple[Any, Any]:
    """Model and setup of one cell."""
    ask = request.model_construct(_fields_set=set(said), **said)
    return ask.chosen()[0], ask.setup()


read_sweep: TaggedReader[Any] = TaggedReader(
    "calculation_type", {"inference": InferenceSweep, "training": TrainingSweep}
)


@sweep.post("/sweep")
def sweeping() -> dict[str, Any] | Response:
    """A table, as JSON or as CSV."""
    answer = answered(read_sweep(raw_body()))
    return sweep_table(answer["over"], answer["rows"]) if wanted() else answer
