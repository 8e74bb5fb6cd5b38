"""Readers of configurations are found by their type, each in one module, which is imported when it is needed."""

import subprocess
import sys
from importlib import import_module
from pathlib import Path

from calculator import architectures
from calculator.architectures.families import MODULES, TEXTS, WHOLES

ROOT = Path(__file__).resolve().parent.parent


def test_every_module_of_readers_is_listed_with_its_types() -> None:
    found = {}
    for file in Path(architectures.__file__).parent.glob("*.py"):
        readers = getattr(import_module(f"{architectures.__name__}.{file.stem}"), "READERS", None)
        if isinstance(readers, dict):
            found[file.stem] = set(readers)
    assert found == {name: set(types.split()) for name, types in MODULES.items()}


def test_no_type_is_read_by_two_modules() -> None:
    types = [name for names in MODULES.values() for name in names.split()]
    assert len(types) == len(set(types)) == len(architectures.READERS)


def test_a_text_part_is_none_of_those_that_have_one() -> None:
    assert set(WHOLES) < set(MODULES)
    assert "llama" in TEXTS and not any(name in TEXTS for module in WHOLES for name in MODULES[module].split())


def test_a_service_that_starts_imports_no_family() -> None:
    code = "import sys, server; print(*[m for m in sys.modules if m.startswith('calculator.architectures.')])"
    said = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert not {name.rsplit(".", 1)[1] for name in said.split()} & set(MODULES)
