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
    """The OpenAPI document as HTML: each endpoint with its examples, each body with its fields."""
    parts = [
        f"<h1>{escape(api['info']['title'])} {api['info']['version']}</h1>",
        f"<p>{api['info']['description']}</p>",
    ]
    parts.append('<p>The same for programs: <a href="/openapi.json">/openapi.json</a></p><h2>Endpoints</h2>')
    for path, methods in api["paths"].items():
        for method, operation in methods.items():
            parts += endpoint(path, method, operation)
    parts.append("<h2>Bodies and replies</h2>")
    for name, schema in api["components"]["schemas"].items():
        parts.append(f'<h3 id="{name}">{name}</h3><p>{escape(schema.get("description", ""))}</p>')
        required = schema.get("required", ())
        rows = [
            f"<tr><td><code>{escape(field)}</code>{' (required)' if field in required else ''}</td>"
            f"<td>{kind(each)}</td><td>{escape(each.get('description', ''))}</td></tr>"
            for field, each in schema.get("properties", {}).items()
        ]
        parts.append("<table><tr><th>field</th><th>value</th><th>meaning</th></tr>" + "".join(rows) + "</table>")
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>API</title>'
    style = '<link rel="stylesheet" href="/static/docs.css">'
    return f'<!doctype html><html lang="en"><head>{head}{style}</head><body><main>{"".join(parts)}</main></body></html>'


def endpoint(path: str, method: str, operation: Mapping[str, Any]) -> Iterator[str]:
    """One operation: what it takes, an example that curl can send, what it answers."""
    yield f"<h3><code>{method.upper()} {escape(path)}</code></h3><p>{escape(operation['summary'])}</p><ul>"
    for each in operation.get("parameters", ()):
        yield f"<li><code>{each['name']}</code> ({each['in']}): {escape(each['description'])}</li>"
    body = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
    if body:
        yield f"<li>takes {kind(body['schema'])}</li>"
    for code, reply in operation["responses"].items():
        yield f"<li>{code}: {kind(reply['content']['application/json']['schema'])}, {escape(reply['description'])}</li>"
    yield "</ul>"
    for name, example in body.get("examples", {}).items():
        said = json.dumps(example["value"])
        yield f"<p>{escape(name)}</p><pre>curl -d '{escape(said)}' http://127.0.0.1:5000{escape(path)}</pre>"


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
