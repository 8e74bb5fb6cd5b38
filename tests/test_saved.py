"""What a layer keeps, tensor by tensor, adds up to what its trace says it keeps."""

from typing import Any

import pytest

from calculator.errors import CalculatorError
from calculator.library import library
from calculator.profile import shared_tables
from calculator.saved import kept
from calculator.tape import Mode
from calculator.trace import trace

BYTES = {"compute": 2, "float32": 4, "mask": 1, "int64": 8, "int32": 4}


def one_of_each_family() -> dict[str, Any]:
    found: dict[str, Any] = {}
    for entry in library().entries:
        try:
            found[entry.model_type] = entry.model
        except CalculatorError:
            continue
    return found


@pytest.mark.parametrize("model", [pytest.param(model, id=name) for name, model in one_of_each_family().items()])
def test_the_tensors_add_up_to_what_the_layer_keeps(model: Any) -> None:
    for layer in model.distinct:
        tensors = kept(layer, model)
        width = model.hidden * model.streams
        saved = trace(layer, Mode(), width, Mode().hidden, shared_tables(model, Mode())).saved
        assert sum(each.token * BYTES[each.precision] for each in tensors) == saved[3]
        assert sum(each.pair * BYTES[each.precision] for each in tensors) == saved[5]
        assert all(each.name for each in tensors)


def test_linear_layers_are_named_by_their_modules() -> None:
    model = library().get("Qwen3-8B")[0].model
    (layer,) = model.distinct
    names = [each.name for each in kept(layer, model)]
    assert "q_proj, k_proj, v_proj" in names and "down_proj" in names
