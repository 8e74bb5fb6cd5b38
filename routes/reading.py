"""From the raw bytes of a body to a request class: validated once, and where something is wrong, all of it said.

The fast road is one pass of pydantic over the bytes. What that pass cannot see is caught by a count: a body without
repeated keys has as many members as colons outside strings, so more colons than members, or a number that no
double holds, sends the body down the slow road, which parses it again and explains.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Set
from functools import cached_property
from math import inf, isfinite
from typing import Annotated, Any, ClassVar, Generic, TypeVar, Union

from pydantic import BaseModel, ConfigDict, Discriminator, TypeAdapter, ValidationError
from pydantic_core import CoreSchema, core_schema

from calculator.errors import nearest

from .errors import Fault, Malformed, Refused

MAX_INTEGER = 2**63 - 1
MAX_SUGGESTED = 100  # looking for near misses is slow, and nobody reads a hundred of them

Path = tuple[str | int, ...]
Paths = frozenset[Path]


class OneOf:
    """A string of a closed set: `Annotated[str, OneOf(table)]`."""

    def __init__(self, *options: str) -> None:
        self.options = options

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> CoreSchema:
        return core_schema.literal_schema(list(self.options))


class Body(BaseModel):
    """A JSON object that takes these fields and no other, each of exactly its type."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)

    def sent(self) -> dict[str, Any]:
        """The fields that the body said."""
        values = self.__dict__
        return {name: values[name] for name in self.model_fields_set}

    def members(self) -> int:
        """Members of the object and of all inside it; far below zero where there is a number beyond 64 bits."""
        values = self.__dict__
        return len(self.model_fields_set) + sum(tally(values[name]) for name in self.model_fields_set)

    agreeing: ClassVar[Mapping[str, frozenset[str]]] = {}
    """A field, and those beside which nothing can be wrong: `conflicts` is not asked then."""

    def agrees(self) -> bool:
        """Whether nothing can be wrong between the fields it has."""
        return self.agree(self.model_fields_set)

    @classmethod
    def agree(cls, sent: Set[str]) -> bool:
        """Whether nothing can be wrong between these fields, whatever they say."""
        return any([name in sent and sent <= agreeing for name, agreeing in cls.agreeing.items()])

    @classmethod
    def conflicts(cls, sent: Mapping[str, Any], wrong: Paths = frozenset()) -> Iterator[Fault]:
        """What is wrong between fields of `sent`, what the body says; values at the paths `wrong` mean nothing."""
        return iter(())


def tally(value: Any) -> int:
    """Members of all objects inside `value`; far below zero where there is a number beyond 64 bits.

    >>> tally({"a": [{"b": 1}, {}], "c": 2})
    3
    """
    kind = type(value)
    if kind is str or kind is bool:
        return 0
    if kind is int:
        return 0 if -MAX_INTEGER <= value <= MAX_INTEGER else -(10**9)
    if kind is float:
        return 0 if -inf < value < inf else -(10**9)
    if kind is dict:
        return len(value) + sum(map(tally, value.values()))
    if kind is list:
        return sum(map(tally, value))
    return value.members() if isinstance(value, Body) else 0


def path_of(path: Path) -> str:
    """A path as people write it.

    >>> path_of(("configurations", 1, "precision"))
    'configurations[1].precision'
    """
    text = ""
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else f".{step[:100]}" if text else step[:100]
    return text


class _Object(dict[str, Any]):
    """A parsed object that remembers which of its keys came twice."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        self.repeated: list[str] = []
        if len(self) < len(pairs):
            seen: set[str] = set()
            for key, _ in pairs:
                if key in seen and key not in self.repeated:
                    self.repeated.append(key)
                seen.add(key)


def _float(text: str) -> float | int:
    """200.0 is an integer, as JSON Schema says."""
    value = float(text)
    return int(value) if abs(value) < MAX_INTEGER and value.is_integer() else value


def _int(text: str) -> float | int:
    """An integer of more digits than anything we take is a float: too large stays too large, and cheap."""
    return int(text) if len(text) < 20 else float(text)


def _walk(value: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Every value of a parsed body with its path."""
    yield path, value
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _walk(inner, (*path, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _walk(inner, (*path, index))


def _at(tree: Any, path: Path) -> Any:
    """The value at a path, None where there is none."""
    for step in path:
        try:
            tree = tree[step]
        except (KeyError, IndexError, TypeError):
            return None
    return tree


def shown(value: Any) -> str:
    """A value as its sender wrote it, cut short.

    >>> shown(True), shown([1, 2]), shown("float17")
    ('true', 'a list of 2', "'float17'")
    """
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return f"a list of {len(value):,}"
    if isinstance(value, str):
        return repr(value) if len(value) <= 60 else repr(value[:60]) + "…"
    if isinstance(value, float) and not isfinite(value):
        return "NaN" if value != value else "a number too large to hold"
    return json.dumps(value)


def number(value: float) -> str:
    """A limit for people.

    >>> number(1000000), number(0.5)
    ('1,000,000', '0.5')
    """
    return f"{int(value):,}" if float(value).is_integer() else str(value)


def allowed(schema: Mapping[str, Any]) -> str:
    """What a JSON schema takes, in words.

    >>> allowed({"type": "integer", "minimum": 1, "maximum": 4096})
    'an integer from 1 to 4,096'
    """
    if "enum" in schema and len(schema["enum"]) == 1:
        return repr(schema["enum"][0])
    if "enum" in schema:
        return "one of " + ", ".join(schema["enum"])
    if "const" in schema:
        return repr(schema["const"])
    if "anyOf" in schema:
        return " or ".join(allowed(each) for each in schema["anyOf"])
    kind = schema.get("type")
    if kind in ("integer", "number"):
        noun = "an integer" if kind == "integer" else "a number"
        least, above, most = (schema.get(key) for key in ("minimum", "exclusiveMinimum", "maximum"))
        if above is not None and most is not None:
            return f"{noun} above {number(above)} and at most {number(most)}"
        if least is not None and most is not None:
            return f"{noun} from {number(least)} to {number(most)}"
        return noun
    if kind == "array":
        least, most = schema.get("minItems"), schema.get("maxItems")
        return "a list" + (f" of {least:,} to {most:,} items" if least is not None and most is not None else "")
    if kind == "string":
        most = schema.get("maxLength")
        return "a string" + (f" of at most {most:,} characters" if most is not None else "")
    return {"boolean": "true or false", "object": "an object"}.get(str(kind), "something else")


class Schema:
    """The JSON schema of a request class, to say what is allowed at a path."""

    def __init__(self, root: dict[str, Any]) -> None:
        self.root = root

    def resolve(self, node: Mapping[str, Any]) -> Mapping[str, Any]:
        """A node, references followed."""
        while "$ref" in node:
            node = self.root["$defs"][node["$ref"].rsplit("/", 1)[-1]]
        return node

    def at(self, path: Path) -> Mapping[str, Any]:
        """The node that a path of a body falls on; an empty one where the schema ends."""
        node = self.resolve(self.root)
        for step in path:
            inner = node.get("items") if isinstance(step, int) else node.get("properties", {}).get(step)
            node = self.resolve(inner or {})
        return node


def did_you_mean(name: str, known: list[str]) -> str:
    """The nearest known name as a question, or nothing.

    >>> did_you_mean("float61", ["float16", "int8"])
    '; did you mean float16?'
    """
    near = nearest(name[:100], known, most=1)
    return f"; did you mean {near[0]}?" if near else ""


Ask = TypeVar("Ask", bound=Body)


class Reader(Generic[Ask]):
    """Reads bodies of one request class."""

    def __init__(self, kind: type[Ask]) -> None:
        self.kind = kind
        self._validate: Callable[[str | bytes], Ask] = TypeAdapter(kind).validator.validate_json

    @cached_property
    def schema(self) -> Schema:
        """Made at the first fault."""
        return Schema(TypeAdapter(self.kind).json_schema())

    def __call__(self, raw: bytes) -> Ask:
        """The body as its class; raises Malformed or Refused, the latter with everything that is wrong."""
        try:
            ask = self._validate(raw)
        except ValidationError as fault:
            return self.again(raw, fault)
        return self.check(raw, ask)

    def check(self, raw: bytes, ask: Ask) -> Ask:
        """What pydantic took, looked at for what it cannot see."""
        colons = raw.count(b":")
        if colons != len(ask.model_fields_set) and colons != ask.members():
            return self.again(raw)
        if ask.agrees():
            return ask
        for _ in self.kind.conflicts(ask.sent()):
            return self.again(raw)
        return ask

    def again(self, raw: bytes, fault: ValidationError | None = None) -> Ask:
        """The slow road: parse, accept what only looked wrong (200.0), explain the rest."""
        tree = parse(raw, fault)
        faults: dict[Path, Fault] = {}
        ask: Ask | None = None
        try:
            ask = self._validate(json.dumps(tree))
        except ValidationError as again:
            faults = self.explain(tree, again)
        for path, value in _walk(tree):
            if isinstance(value, _Object):
                for key in value.repeated:
                    faults[(*path, key)] = Fault(path_of((*path, key)), "stands more than once")
            elif isinstance(value, float) and not isfinite(value):
                faults.setdefault(path, Fault(path_of(path), f"must be a finite number, not {shown(value)}"))
        between = list(self.kind.conflicts(tree, frozenset(faults)))
        if ask is None or faults or between:
            raise Refused([*faults.values(), *between])
        return ask

    def explain(self, tree: Any, fault: ValidationError) -> dict[Path, Fault]:
        """Pydantic's errors in our words, by path."""
        faults: dict[Path, Fault] = {}
        for error in fault.errors(include_url=False, include_input=False, include_context=False):
            path = error["loc"]
            if path not in faults:
                faults[path] = Fault(path_of(path), self.message(error["type"], path, tree, len(faults)))
        return faults

    def message(self, kind: str, path: Path, tree: Any, sofar: int) -> str:
        """What is allowed at `path`, and what was probably meant."""
        if kind == "extra_forbidden":
            known = list(self.schema.at(path[:-1]).get("properties", ()))
            hint = did_you_mean(str(path[-1]), known) if sofar < MAX_SUGGESTED else ""
            return "unknown field" + (hint or ("; known: " + ", ".join(known) if len(known) < 10 else ""))
        schema = self.schema.at(path)
        if kind == "missing":
            return f"is required: {allowed(schema)}"
        value = _at(tree, path)
        said = f"must be {allowed(schema)}, not {shown(value)}"
        options = schema.get("enum") or [schema["const"]] if "const" in schema or "enum" in schema else []
        if isinstance(value, str) and sofar < MAX_SUGGESTED:
            said += did_you_mean(value, options)
        return said


class TaggedReader(Generic[Ask]):
    """Reads bodies of several request classes, told apart by a field that names them."""

    def __init__(self, tag: str, kinds: Mapping[str, type[Ask]]) -> None:
        self.tag = tag
        self.readers = {name: Reader(kind) for name, kind in kinds.items()}
        union: Any = Annotated[Union[tuple(kinds.values())], Discriminator(tag)]  # noqa: UP007
        self._validate: Callable[[bytes], Ask] = TypeAdapter(union).validator.validate_json

    def __call__(self, raw: bytes) -> Ask:
        """The body as the class its tag names; raises Malformed or Refused."""
        try:
            ask = self._validate(raw)
        except ValidationError as fault:
            tree = parse(raw, fault)
            name = tree.get(self.tag)
            if isinstance(name, str) and name in self.readers:
                return self.readers[name].again(raw, fault)
            raise Refused(self.untagged(raw, tree)) from None
        return self.readers[getattr(ask, self.tag)].check(raw, ask)

    def untagged(self, raw: bytes, tree: Mapping[str, Any]) -> list[Fault]:
        """What is wrong with a body that does not say which it is: that, and what no class would take."""
        known = list(self.readers)
        said = tree.get(self.tag)
        hint = did_you_mean(said, known) if isinstance(said, str) else ""
        if self.tag in tree:
            first = Fault(self.tag, f"must be one of {', '.join(known)}, not {shown(said)}{hint}")
        else:
            first = Fault(self.tag, f"is required: one of {', '.join(known)}")
        try:
            next(iter(self.readers.values())).again(raw)
        except Refused as others:
            return [first, *(each for each in others.faults if each.field.isidentifier() and each.field != self.tag)]
        return [first]


def parse(raw: bytes, fault: ValidationError | None = None) -> _Object:
    """A body as objects that know their repeated keys, 200.0 as 200; Malformed where it is no JSON object."""
    if fault is not None:
        first = fault.errors(include_url=False, include_input=False)[0]
        if first["type"] == "json_invalid":
            raise Malformed(unreadable(raw, str(first.get("ctx", {}).get("error", ""))))
    tree = json.loads(raw, object_pairs_hook=_Object, parse_float=_float, parse_int=_int)
    if not isinstance(tree, _Object):
        raise Malformed(f"The body must be a JSON object, not {shown(tree)}")
    return tree


def unreadable(raw: bytes, why: str) -> str:
    """Why a body is no JSON, in a sentence that names the way out."""
    if not raw.strip():
        return "The body is empty; send a JSON object (/docs shows one for each endpoint)"
    if raw.startswith(b"\xef\xbb\xbf"):
        return "The body starts with a byte order mark; send UTF-8 without one"
    if b"\x00" in raw[:4]:
        return "The body is not UTF-8 (it looks like UTF-16 or UTF-32); send JSON in UTF-8"
    return f"The body is not valid JSON: {why}"
