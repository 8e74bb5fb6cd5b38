"""GET / and /static/…: the calculator's own page, which computes nothing and asks nobody but this server."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from html import escape
from pathlib import Path
from typing import Any

from flask import Blueprint, Response, send_from_directory

from .openapi import document
from .reading import allowed

page = Blueprint("page", __name__)

STATIC = Path(__file__).resolve().parent.parent / "static"

POLICY = {
    "Content-Security-Policy": "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
}


@page.after_request
def guard(response: Response) -> Response:
    """No script, style or frame from elsewhere."""
    response.headers.extend(POLICY)
    return response


@page.get("/")
def index() -> Response:
    """The calculator."""
    return send_from_directory(STATIC, "index.html", max_age=0)


@page.get("/docs")
def docs() -> Response:
    """The API as a page."""
    return Response(written(document()), mimetype="text/html")


@page.get("/static/<path:name>")
def static(name: str) -> Response:
    """A file of the page."""
    return send_from_directory(STATIC, name, max_age=0)


def written(api: Mapping[str, Any]) -> str:
    """The OpenAPI document as HTML: each endpoint with a form that sends it, each body with its fields."""
    operations = [
        (method, path, operation) for path, methods in api["paths"].items() for method, operation in methods.items()
    ]
    links = "".join(
        f'<li><a href="#{anchor(method, path)}">{badge(method)}<code>{escape(path)}</code></a> '
        f'<span class="hint">{escape(operation["summary"])}</span></li>'
        for method, path, operation in operations
    )
    parts = [
        f"<section><h2>{escape(api['info']['title'])} {escape(api['info']['version'])}</h2>",
        f'<p class="lead">{escape(api["info"]["description"])} JSON in, JSON out; memory in exact bytes.</p>',
        '<p class="hint">The same for programs: <a href="/openapi.json">/openapi.json</a></p>',
        f'<nav aria-label="Endpoints"><ul>{links}</ul></nav></section>',
    ]
    for method, path, operation in operations:
        parts += endpoint(method, path, operation)
    parts.append('<section id="bodies"><h2>Bodies and replies</h2>')
    for name, schema in api["components"]["schemas"].items():
        parts += body(name, schema)
    parts.append("</section>")
    return DOCUMENT.replace("<!-- endpoints and bodies -->", "\n".join(parts))


DOCUMENT = """<!doctype html>
<html lang="en">
<head>
  <meta charset="utf-8">
  <meta name="viewport" content="width=device-width, initial-scale=1">
  <meta name="color-scheme" content="light dark">
  <title>API of the LLM Memory Calculator</title>
  <link rel="icon" href="/static/icon.svg" type="image/svg+xml">
  <link rel="stylesheet" href="/static/style.css">
  <script type="module" src="/static/docs.js"></script>
</head>
<body>
  <header class="top">
    <div class="brand">
      <img src="/static/icon.svg" alt="" width="36" height="36">
      <div><h1>LLM Memory Calculator</h1><p>The API, to read and to try</p></div>
    </div>
    <div class="tools"><a class="button" href="/">Calculator</a></div>
  </header>
  <main class="docs">
<!-- endpoints and bodies -->
  </main>
</body>
</html>
"""


def anchor(method: str, path: str) -> str:
    """Where an endpoint stands on the page.

    >>> anchor("get", "/api/models/{name}")
    'get-api-models-name'
    """
    return "-".join([method, *path.replace("{", "").replace("}", "").strip("/").split("/")])


def badge(method: str) -> str:
    """The method as a coloured word."""
    return f'<span class="method {method}">{method.upper()}</span>'


def endpoint(method: str, path: str, operation: Mapping[str, Any]) -> Iterator[str]:
    """One operation: what it takes, what it answers, and a form that sends it."""
    place = anchor(method, path)
    yield f'<section id="{place}"><h2>{badge(method)}<code>{escape(path)}</code></h2>'
    yield f"<p>{escape(operation['summary'])}.</p>"
    taken = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
    if taken:
        yield f"<p>Takes {kind(taken['schema'])}.</p>"
    yield '<ul class="answers">'
    for code, reply in operation["responses"].items():
        schema = reply["content"]["application/json"]["schema"]
        yield f"<li><code>{code}</code> {kind(schema)} <span class='hint'>{escape(reply['description'])}</span></li>"
    yield f'</ul><form class="try" data-method="{method.upper()}" data-path="{escape(path)}">'
    for each in operation.get("parameters", ()):
        required = " required" if each["in"] == "path" else ""
        example = ' value="Qwen3-8B"' if each["in"] == "path" else ""
        yield f"<label>{escape(each['name'])}: {escape(each['description'])}"
        yield f'<input type="text" name="{escape(each["name"])}" data-in="{each["in"]}"{example}{required}></label>'
    if taken:
        examples = {name: each["value"] for name, each in taken.get("examples", {}).items()} or {"An empty body": {}}
        yield '<div class="actions">'
        for name, value in examples.items():
            yield f'<button type="button" data-example="{escape(json.dumps(value))}">{escape(name)}</button>'
        first = json.dumps(next(iter(examples.values())), indent=2)
        yield f'</div><label>Body<textarea name="body" rows="8" spellcheck="false">{escape(first)}</textarea></label>'
    yield '<div class="actions"><button class="primary">Send</button>'
    yield '<button type="button" data-copy>Copy as curl</button></div>'
    yield "<div class='reply' role='status' aria-live='polite'></div></form></section>"


def body(name: str, schema: Mapping[str, Any]) -> Iterator[str]:
    """One class: its fields, what each takes and means."""
    yield f'<details id="{name}"><summary>{name}</summary><div><p>{escape(schema.get("description", ""))}</p>'
    required = schema.get("required", ())
    yield f'<div class="scroll" tabindex="0" role="region" aria-label="Fields of {name}"><table><thead><tr>'
    yield '<th scope="col">Field</th><th scope="col">Value</th><th scope="col">Meaning</th></tr></thead><tbody>'
    for field, each in schema.get("properties", {}).items():
        must = ' <span class="tag">required</span>' if field in required else ""
        yield f'<tr><th scope="row"><code>{escape(field)}</code>{must}</th><td>{kind(each)}</td>'
        yield f"<td>{escape(each.get('description', ''))}</td></tr>"
    yield "</tbody></table></div></div></details>"


def kind(schema: Mapping[str, Any]) -> str:
    """A schema in a few words, with links to what it refers to."""
    if "$ref" in schema:
        name = schema["$ref"].rsplit("/", 1)[-1]
        return f'<a href="#{name}">{name}</a>'
    either = schema.get("anyOf") or schema.get("oneOf")
    if either:
        return " or ".join(map(kind, either))
    if schema.get("type") == "array" and schema.get("items"):
        return f"list of {kind(schema['items'])}"
    default = f", {escape(json.dumps(schema['default']))} if absent" if "default" in schema else ""
    return escape(allowed(schema) if schema.get("type") != "null" else "null") + default
