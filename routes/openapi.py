"""GET /openapi.json: the OpenAPI 3.1 document, made from the request and reply classes."""

from __future__ import annotations

from functools import cache
from typing import Any, Literal

from flask import Blueprint
from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue, models_json_schema
from pydantic_core import core_schema

from . import fit, memory, replies, sweep
from .version import VERSION

openapi = Blueprint("openapi", __name__)

REFERENCE = "#/components/schemas/{model}"

SEVEN_BILLION = {
    "model_size": 7,
    "precision": "float16",
    "batch_size": 1,
    "sequence_length": 2048,
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
}
EXAMPLES: dict[str, dict[str, Any]] = {
    "/api/memory/inference": {
        "A bundled model": {"model_name": "Qwen3-0.6B", "batch_size": 2, "sequence_length": 4096},
        "Explicit sizes": SEVEN_BILLION,
    },
    "/api/memory/training": {
        "Full training": {
            "model_name": "Qwen3-8B",
            "batch_size": 4,
            "sequence_length": 2048,
            "optimizer": "AdamW",
            "trainable_parameters": 100,
        },
        "Adapters": {"model_name": "Qwen3-8B", "method": "qlora", "lora": {"rank": 16}},
    },
    "/api/memory/compare": {
        "Two precisions": {
            "calculation_type": "inference",
            "configurations": [SEVEN_BILLION, SEVEN_BILLION | {"precision": "int8"}],
        }
    },
    "/api/memory/fit": {
        "Which GPUs": {"calculation_type": "inference", "model_name": "Qwen3-8B", "sequence_length": 8192},
        "How long": {
            "calculation_type": "inference",
            "model_name": "Qwen3-8B",
            "gpu": "RTX-4090",
            "solve_for": "sequence_length",
        },
    },
    "/api/memory/sweep": {
        "Context and concurrency": {
            "calculation_type": "inference",
            "model_name": "Qwen3-8B",
            "over": ["sequence_length", "batch_size"],
            "values": [[4096, 16384, 65536], [1, 8, 64]],
        }
    },
}


TABLES = ("/api/memory/compare", "/api/memory/sweep")
CSV: dict[str, Any] = {"text/csv": {"schema": {"type": "string"}}}


class Schemas(GenerateJsonSchema):
    """Schemas without titles nobody needs, and without null for what is simply absent."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        if schema.get("default", ...) is None:
            inner = schema["schema"]
            return self.generate_inner(inner["schema"] if inner["type"] == "nullable" else inner)
        return super().default_schema(schema)


def reference(kind: type[BaseModel]) -> dict[str, Any]:
    """Where a class stands in the document."""
    return {"$ref": REFERENCE.format(model=kind.__name__)}


def content(schema: dict[str, Any], examples: dict[str, Any] | None = None) -> dict[str, Any]:
    """A JSON body."""
    body: dict[str, Any] = {"schema": schema}
    if examples:
        body["examples"] = {name: {"value": value} for name, value in examples.items()}
    return {"application/json": body}


def failures(*codes: int) -> dict[str, Any]:
    """Replies of the one error shape."""
    said = {
        400: "Malformed or invalid: every fault with its field",
        404: "No such model, with suggestions",
        413: "The body is over 1 MiB",
    }
    return {str(code): {"description": said[code], "content": content(reference(replies.ErrorReply))} for code in codes}


def reading(summary: str, reply: type[BaseModel], tag: str, parameters: list[dict[str, Any]]) -> dict[str, Any]:
    """A GET."""
    codes = (404,) if any(each["in"] == "path" for each in parameters) else (400,) if parameters else ()
    operation: dict[str, Any] = {
        "summary": summary,
        "tags": [tag],
        "responses": {"200": {"description": summary, "content": content(reference(reply))}, **failures(*codes)},
    }
    return {"get": operation | ({"parameters": parameters} if parameters else {})}


def asking(path: str, summary: str, request: dict[str, Any], reply: dict[str, Any]) -> dict[str, Any]:
    """A POST."""
    return {
        "post": {
            "summary": summary,
            "tags": ["memory"],
            "requestBody": {"required": True, "content": content(request, EXAMPLES.get(path))},
            "responses": {
                "200": {"description": summary, "content": content(reply) | (CSV if path in TABLES else {})},
                **failures(400, 404, 413),
            },
        }
    }


def either(inference: type[BaseModel], training: type[BaseModel]) -> dict[str, Any]:
    """One of two classes, told apart by calculation_type."""
    pair = {"inference": reference(inference), "training": reference(training)}
    mapping = {name: each["$ref"] for name, each in pair.items()}
    return {"oneOf": [*pair.values()], "discriminator": {"propertyName": "calculation_type", "mapping": mapping}}


def query(name: str, description: str) -> dict[str, Any]:
    """A filter."""
    return {"name": name, "in": "query", "description": description, "schema": {"type": "string"}}


def schemas() -> dict[str, Any]:
    """Every request class and every reply class, by name."""
    requests: tuple[type[BaseModel], ...] = (
        memory.InferenceRequest,
        memory.TrainingRequest,
        memory.InferenceComparison,
        memory.TrainingComparison,
        fit.InferenceFit,
        fit.TrainingFit,
        sweep.InferenceSweep,
        sweep.TrainingSweep,
    )
    answers: tuple[type[BaseModel], ...] = (
        replies.InferenceReply,
        replies.TrainingReply,
        replies.CompareReply,
        replies.GpusFound,
        replies.ModelsFound,
        replies.Solution,
        replies.SweepReply,
        replies.HealthReply,
        replies.ModelsReply,
        replies.ModelDetailReply,
        replies.OptionsReply,
        replies.ErrorReply,
    )
    modes: list[tuple[type[BaseModel], Literal["validation", "serialization"]]] = []
    modes += [(each, "validation") for each in requests]
    modes += [(each, "serialization") for each in answers]
    _, document = models_json_schema(modes, ref_template=REFERENCE, schema_generator=Schemas)
    found: dict[str, Any] = document["$defs"]
    return found


@cache
def document() -> dict[str, Any]:
    """The whole document, made once."""
    name = {"name": "name", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
    name["description"] = "A name or a hub id, in any case."
    compared = either(memory.InferenceComparison, memory.TrainingComparison)
    found = {"anyOf": [reference(each) for each in (replies.GpusFound, replies.ModelsFound, replies.Solution)]}
    swept = either(sweep.InferenceSweep, sweep.TrainingSweep)
    asks: list[tuple[str, str, dict[str, Any], dict[str, Any]]] = [
        ("inference", "Memory of inference", reference(memory.InferenceRequest), reference(replies.InferenceReply)),
        ("training", "Memory of a training step", reference(memory.TrainingRequest), reference(replies.TrainingReply)),
        ("compare", "Several configurations side by side", compared, reference(replies.CompareReply)),
        ("fit", "Which GPUs, which models, how much fits", either(fit.InferenceFit, fit.TrainingFit), found),
        ("sweep", "The same question over many values", swept, reference(replies.SweepReply)),
    ]
    paths: dict[str, Any] = {
        "/health": reading("Whether the service answers", replies.HealthReply, "service", []),
        "/api/models": reading(
            "The bundled models",
            replies.ModelsReply,
            "models",
            [query("family", "Of one family."), query("q", "Whose name, hub id or family holds these words.")],
        ),
        "/api/models/{name}": reading("One model in detail", replies.ModelDetailReply, "models", [name]),
        "/api/config/options": reading("Every choice, limit and default", replies.OptionsReply, "service", []),
    }
    for path, summary, request, reply in asks:
        whole = f"/api/memory/{path}"
        paths[whole] = asking(whole, summary, request, reply)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "LLM memory calculator",
            "version": VERSION,
            "description": "How much GPU memory a large language model takes, in inference and in training.",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "paths": paths,
        "components": {"schemas": schemas()},
    }


@openapi.get("/openapi.json")
def described() -> dict[str, Any]:
    """The document."""
    return document()
