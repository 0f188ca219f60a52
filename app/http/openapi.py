"""Adds to FastAPI's /openapi.json what the settings and the checkpoint of this server decide.

It adds the time limit of requests and the values that fields have if they are left out. If API keys are needed, it adds
their scheme and the status 401. If none are needed, it adds the status 403 of requests that browsers send from foreign
pages.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

from fastapi import FastAPI

from app.http.errors import OPENAI
from app.http.headers import TIMEOUT
from app.http.keys import is_open
from app.settings import Settings
from model.config import CheckpointConfig

SCHEME = {
    "type": "http",
    "scheme": "bearer",
    "description": "An API key that the operator of this server gave you.",
}
FOREIGN = "A browser sent the request from a page of another origin, or to a name that is not this server's."
ASKED = {"WWW-Authenticate": {"description": "Bearer, the scheme of RFC 6750.", "schema": {"type": "string"}}}


# Values of fields that are left out, if neither a setting nor the checkpoint decides them.
LEFT_OUT = {
    "n": 1, "index": 0, "style": "auto", "complete": False, "embed_prompt": False, "size": "auto", "stream": False,
    "output_format": "png", "output_compression": 100, "response_format": "b64_json", "background": "auto",
    "partial_images": 0,
}  # fmt: skip


def left_out(settings: Settings, model: str, config: CheckpointConfig) -> dict[str, Any]:
    """The values that fields of a request have if they are left out, by name. model, config: of the default model."""
    return {
        **LEFT_OUT,
        **dataclasses.asdict(config.sampling),
        "model": model,
        "revise": settings.revise and config.reviser is not None,
        "on_unknown": settings.on_unknown,
        "truncate": settings.truncate,
    }


class Application(FastAPI):
    """FastAPI with a document that tells of API keys, of the time limit and of defaults.

    keyed: whether keys are needed. defaults: what `left_out` gives.
    """

    keyed: bool = False
    defaults: Mapping[str, Any] = MappingProxyType({})
    deadline: float = 0.0  # seconds that a request may ask for at most

    def openapi(self) -> dict[str, Any]:
        """The document. It is made once."""
        if self.openapi_schema is None:
            document = self.openapi_schema = copy.deepcopy(super().openapi())  # its parts are those of the routes
            for path, operation in _operations(document):
                if "HTTPValidationError" in str(operation["responses"].get("422")):  # FastAPI's, which is not answered
                    del operation["responses"]["422"]
                    if any(one["in"] == "query" for one in operation.get("parameters", ())):
                        wrong = _refusal(path, "A parameter in the address cannot be honoured. The message names it.")
                        operation["responses"].setdefault("400" if path.startswith(OPENAI) else "422", wrong)
                for content in operation.get("requestBody", {}).get("content", {}).values():
                    for name, field in content["schema"].get("properties", {}).items():
                        if field.get("default") is None and self.defaults.get(name) is not None:
                            field["default"] = self.defaults[name]
                for parameter in operation.get("parameters", []):
                    if parameter["name"] == TIMEOUT:
                        parameter["schema"] = {**parameter["schema"], "maximum": self.deadline}
            for schema in ("HTTPValidationError", "ValidationError"):
                document["components"]["schemas"].pop(schema, None)
            if self.keyed:
                _close(document)
            else:
                for path, operation in _operations(document):
                    operation["responses"]["403"] = _refusal(path, FOREIGN)
        return super().openapi()


def _close(document: dict[str, Any]) -> None:
    document["components"]["securitySchemes"] = {"key": SCHEME}
    for path, operation in _operations(document):
        operation["security"] = [] if is_open(path) else [{"key": []}]
        if not is_open(path):
            operation["responses"]["401"] = {**_refusal(path, "The API key is missing or unknown."), "headers": ASKED}


def _operations(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for operation in methods.values():
            yield path, operation


def _refusal(path: str, why: str) -> dict[str, Any]:
    schema = "OpenAIError" if path.startswith(OPENAI) else "ErrorBody"
    content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}
    return {"description": why, "content": content}
