"""The service: `python server.py` serves it on http://127.0.0.1:5000."""

from __future__ import annotations

import os

from flask import Flask
from flask_cors import CORS

from routes import errors, json_provider
from routes.memory import memory

MAX_BODY = 2**20  # bytes


def create_app() -> Flask:
    """Blueprints and error handlers, nothing else."""
    app = Flask(__name__, static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY
    app.url_map.merge_slashes = False
    json_provider.install(app)
    origins = os.environ.get("LLM_MEMORY_CORS_ORIGINS", "*").split(",")
    CORS(app, resources={r"/api/*": {"origins": [origin.strip() for origin in origins]}})
    for blueprint in (memory,):
        app.register_blueprint(blueprint)
    errors.register(app)
    return app
