"""Fields that are said never to contradict each other do not, whatever they hold."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from routes.memory import InferenceRequest, TrainingRequest


def values_of(schema):
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    if schema["type"] == "integer":
        return st.integers(schema["minimum"], schema["maximum"])
    if schema["type"] == "number":
        return st.floats(schema.get("minimum", 0.1), schema["maximum"])
    return {"boolean": st.booleans(), "string": st.just("x"), "object": st.just({})}[schema["type"]]


@pytest.mark.parametrize("kind", [InferenceRequest, TrainingRequest])
@pytest.mark.parametrize("model", ["model_name", "config"])
def test_agreeing_fields_agree(kind, model):
    properties = TypeAdapter(kind).json_schema()["properties"]
    fields = {name: values_of(properties[name]) for name in kind.agreeing[model] - {model}}

    @settings(max_examples=200, deadline=None)
    @given(st.fixed_dictionaries({model: values_of(properties[model])}, optional=fields))
    def agree(sent):
        assert list(kind.conflicts(sent)) == []

    agree()
