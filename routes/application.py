"""Flask without what this service never uses, which is half of what a request costs: cookies, host names, streams.

JSON is written by orjson, once, as bytes. Who may call the API from a page elsewhere is flask-cors' to say; where
everybody may, its answer is a constant, and stands among the headers from the start.

A question that is asked thousands of times goes straight from its bytes to its answer (`Application.direct`); whatever
else happens to it, a fault above all, is Flask's to answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from io import BytesIO
from types import MappingProxyType
from typing import Any

import orjson
from flask import Flask, Request, Response, request
from flask.json.provider import JSONProvider
from flask.sessions import NullSession, SessionInterface
from flask_cors.core import get_cors_options, set_cors_headers
from werkzeug.routing import MapAdapter

from .watching import ROUTE, UNKNOWN, Watch

API = "/api/"
PLAIN = (("Content-Type", "application/json"), ("X-Content-Type-Options", "nosniff"))
OPEN = (*PLAIN, ("Access-Control-Allow-Origin", "*"))


class JsonResponse(Response):
    """A body that is there as bytes, and headers that are complete."""

    def __init__(self, body: bytes, headers: Iterable[tuple[str, str]]) -> None:
        super().__init__([body], headers=[*headers, ("Content-Length", str(len(body)))])

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        """As WSGI has it. A HEAD goes the long way, to lose its body."""
        if environ["REQUEST_METHOD"] == "HEAD":
            return super().__call__(environ, start_response)
        start_response(self.status, self.headers.to_wsgi_list())
        return self.response  # type: ignore[return-value]


class OrjsonProvider(JSONProvider):
    """Dictionaries straight to UTF-8 bytes."""

    api_headers: tuple[tuple[str, str], ...] = PLAIN

    def dumps(self, obj: Any, **kwargs: Any) -> str:
        return orjson.dumps(obj).decode()

    def loads(self, s: str | bytes, **kwargs: Any) -> Any:
        return orjson.loads(s)

    def response(self, *args: Any, **kwargs: Any) -> Response:
        headers = self.api_headers if request.path.startswith(API) else PLAIN
        return JsonResponse(orjson.dumps(self._prepare_response_obj(args, kwargs)), headers)


class NoSessions(SessionInterface):
    """Nothing is remembered between requests."""

    nothing = NullSession()

    def open_session(self, app: Flask, request: Request) -> NullSession:
        return self.nothing


class Application(Flask):
    """The application; `origins` are those whose pages may call the API, "*" for all."""

    session_interface = NoSessions()

    def __init__(
        self, name: str, origins: list[str], most: int, settings: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        super().__init__(name, static_folder=None)
        self.watch = Watch(self.wsgi_app, settings)
        self.direct: dict[str, Callable[[bytes], Any]] = {}
        self.config["MAX_CONTENT_LENGTH"] = most
        self.url_map.merge_slashes = False
        self.json = OrjsonProvider(self)
        options = get_cors_options(self, {"origins": origins})
        self.everybody = everybody = origins == ["*"]
        if everybody:
            self.json.api_headers = OPEN

        @self.after_request
        def allow(response: Response) -> Response:
            request.environ[ROUTE] = request.url_rule.rule if request.url_rule else UNKNOWN
            if (everybody and type(response) is JsonResponse) or not request.path.startswith(API):
                return response
            return set_cors_headers(response, options)

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        return self.watch(environ, start_response)

    def wsgi_app(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        """A POST whose answer is a function of its bytes is given it; any other request is Flask's, and so is one that
        cannot be answered, as if it had just come."""
        answer = self.direct.get(environ["PATH_INFO"]) if environ["REQUEST_METHOD"] == "POST" else None
        size = said_size(environ)
        if answer is None or not self.everybody or size is None or size > self.config["MAX_CONTENT_LENGTH"]:
            return super().wsgi_app(environ, start_response)
        raw = environ["wsgi.input"].read(size)
        try:
            body = orjson.dumps(answer(raw))
        except Exception:  # whatever it is, an error handler says it
            environ["wsgi.input"] = BytesIO(raw)
            return super().wsgi_app(environ, start_response)
        environ[ROUTE] = environ["PATH_INFO"]
        start_response("200 OK", [*OPEN, ("Content-Length", str(len(body)))])
        return [body]

    def create_url_adapter(self, request: Request | None) -> MapAdapter | None:
        """Every host is the same host: no URL is ever built, no route redirects."""
        if request is None:
            return super().create_url_adapter(request)
        return MapAdapter(self.url_map, "localhost", "/", "", "http", request.path, request.method)

    def ensure_sync(self, func: Callable[..., Any]) -> Callable[..., Any]:
        """No view is a coroutine."""
        return func


def said_size(environ: Mapping[str, Any]) -> int | None:
    """Bytes of the body, where the request says how many there are."""
    length: str = environ.get("CONTENT_LENGTH", "")
    return int(length) if length.isdecimal() and len(length) < 8 and "HTTP_TRANSFER_ENCODING" not in environ else None


def raw_body() -> bytes:
    """The body of the request as it came, whatever its Content-Type: in one read, where its length is said."""
    size = said_size(request.environ)
    if size is not None and size <= (request.max_content_length or 0):
        body: bytes = request.environ["wsgi.input"].read(size)
        return body
    return request.get_data(cache=False, parse_form_data=False)
