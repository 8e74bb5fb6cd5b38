"""orjson as Flask's JSON provider: a reply is written once, as bytes."""

from __future__ import annotations

from typing import Any

import orjson
from flask import Flask, Response
from flask.json.provider import JSONProvider

HEADERS = {"X-Content-Type-Options": "nosniff"}


class OrjsonProvider(JSONProvider):
    """Dictionaries straight to UTF-8 bytes."""

    def dumps(self, obj: Any, **kwargs: Any) -> str:
        return orjson.dumps(obj).decode()

    def loads(self, s: str | bytes, **kwargs: Any) -> Any:
        return orjson.loads(s)

    def response(self, *args: Any, **kwargs: Any) -> Response:
        written = orjson.dumps(self._prepare_response_obj(args, kwargs))
        return Response(written, mimetype="application/json", headers=HEADERS)


def install(app: Flask) -> None:
    """Make `app` write JSON with orjson."""
    app.json = OrjsonProvider(app)
