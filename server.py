"""The service: `python server.py` serves it on http://127.0.0.1:5000."""

from __future__ import annotations

import argparse
import errno
import logging
import os
import sys

from flask import Flask

from calculator.library import library
from routes import errors
from routes.application import Application
from routes.bodies import LIMITS
from routes.config import config
from routes.fit import fit
from routes.health import health
from routes.memory import memory
from routes.metrics import metrics
from routes.models import models
from routes.openapi import openapi
from routes.page import page
from routes.sweep import sweep
from serving import Service

log = logging.getLogger(__name__)


def create_app() -> Flask:
    """Blueprints and error handlers; what is wrong with the files of `models/` is said once, the rest is served."""
    origins = [origin.strip() for origin in os.environ.get("LLM_MEMORY_CORS_ORIGINS", "*").split(",")]
    app = Application(__name__, origins, LIMITS["body_bytes"], os.environ)
    for blueprint in (health, metrics, models, memory, fit, sweep, config, openapi, page):
        app.register_blueprint(blueprint)
    errors.register(app)
    for problem in library().problems:
        log.warning("models: %s", problem)
    return app


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="Serve the memory calculator.")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", default=5000, type=int, help="port to listen on (default: %(default)s)")
    options = parser.parse_args(arguments)
    if not 0 <= options.port <= 65535:
        parser.error(f"--port must be from 0 (any free one) to 65535, not {options.port}")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        service = Service(create_app(), options.host, options.port)
    except (OSError, ValueError) as fault:
        print(unable(fault, options.host, options.port), file=sys.stderr)
        return 1
    print(f"Serving on {service.address} (API at /docs); stop with Ctrl+C", flush=True)
    service.run()
    return 0


def unable(fault: Exception, host: str, port: int) -> str:
    """Why it cannot listen, in a sentence that names the way out."""
    if isinstance(fault, OSError) and fault.errno == errno.EADDRINUSE:
        return f"Port {port} on {host} is taken; choose another: python server.py --port {min(port + 1, 65535)}"
    if isinstance(fault, OSError) and fault.errno == errno.EACCES:
        return f"Port {port} on {host} is not ours to take; choose one above 1023: python server.py --port 5000"
    return f"Cannot listen on {host}:{port} ({fault}); choose an address of this machine, such as --host 127.0.0.1"


if __name__ == "__main__":
    sys.exit(main())
