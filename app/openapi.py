"""The API's description. `python -m app.openapi --write | --check` keeps the snapshot `docs/openapi.json`."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from app.keys.schemas import NewApiKey
from app.problems import MEDIA_TYPE, ProblemDocument
from app.webhooks.schemas import NewWebhook, WebhookChange
from models.spec import CandidateMeasurements, JobSpec, Recipe

SNAPSHOT = Path(__file__).resolve().parent.parent / "docs" / "openapi.json"
REFERENCE = "#/components/schemas/{model}"
DESCRIPTION = """\
Give a transformer, a data set and your constraints; get a smaller, faster model, and a certificate \
measured on the very files that you download.

Send your API key as `Authorization: Bearer axf_...`; an operation's `security` names the scope that it \
needs. Other tenants' things are answered with 404.

Every error is an RFC 9457 problem with a stable `code`; `errors` points at the fields that are wrong.
"""
TAGS = [
    {"name": "jobs", "description": "Create, read, list and cancel jobs."},
    {"name": "events", "description": "What happened to a job, as a list or as a stream."},
    {"name": "candidates", "description": "What a job's search has measured."},
    {"name": "artifacts", "description": "The files that a job delivers."},
    {"name": "uploads", "description": "Models and data sets that you send."},
    {"name": "webhooks", "description": "Your addresses that are told when a job ends."},
    {"name": "quota", "description": "What you may have, and have."},
    {"name": "keys", "description": "The API keys of your tenant."},
    {"name": "audit", "description": "What was done in your tenant's name."},
    {"name": "capabilities", "description": "What this service can do."},
    {"name": "health", "description": "For those who run the service."},
]
# Bodies that the operations read by themselves.
SENT_DOCUMENTS = (JobSpec, NewApiKey, NewWebhook, WebhookChange)
# Documents that are stored as JSON and shown as they are: their schema is that of the language.
STORED_DOCUMENTS = {
    ("Job", "spec"): "JobSpec",
    ("Plan", "spec"): "JobSpec",
    ("Candidate", "recipe"): "Recipe",
    ("Candidate", "measurements"): "CandidateMeasurements",
}


def describe(app: FastAPI) -> None:
    """Make `app` serve its description at /openapi.json."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = build(app)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def build(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document of `app`."""
    document = get_openapi(
        title=app.title,
        version=app.version,
        summary="Approximates transformers under constraints, and certifies what it delivers.",
        description=DESCRIPTION,
        tags=TAGS,
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
        routes=app.routes,
        separate_input_output_schemas=app.separate_input_output_schemas,
    )
    schemas = document["components"]["schemas"]
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    for name, schema in _schemas_of(*SENT_DOCUMENTS, Recipe, CandidateMeasurements, ProblemDocument).items():
        schemas.setdefault(name, schema)
    for (owner, field), name in STORED_DOCUMENTS.items():
        described = schemas[owner]["properties"][field]
        schemas[owner]["properties"][field] = {
            key: text for key, text in described.items() if key == "description"
        } | {"$ref": REFERENCE.format(model=name)}
    _answer_with_problems(document)
    return document


def main(arguments: list[str] | None = None) -> int:
    """Write the snapshot, or compare it with the code; 1 if they differ."""
    parser = argparse.ArgumentParser(prog="python -m app.openapi", description=main.__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--write", action="store_true")
    what.add_argument("--check", action="store_true")
    text = snapshot()
    if parser.parse_args(arguments).write:
        SNAPSHOT.write_text(text, encoding="utf-8")
        return 0
    if SNAPSHOT.read_text(encoding="utf-8") == text:
        return 0
    print(
        "docs/openapi.json is not what the code serves: run `python -m app.openapi --write`", file=sys.stderr
    )
    return 1


def snapshot() -> str:
    """The description as a text that is the same for the same code."""
    from app.main import create_app
    from app.settings import ApiSettings
    from models.settings import Settings

    app = create_app(Settings(), ApiSettings())
    return json.dumps(build(app), indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def _schemas_of(*models: type[BaseModel]) -> dict[str, Any]:
    _, found = models_json_schema([(model, "validation") for model in models], ref_template=REFERENCE)
    schemas: dict[str, Any] = found["$defs"]
    schemas["Problem"] = schemas.pop("ProblemDocument")
    return schemas


def _answer_with_problems(document: dict[str, Any]) -> None:
    content = {MEDIA_TYPE: {"schema": {"$ref": REFERENCE.format(model="Problem")}}}
    for path in document["paths"].values():
        for operation in path.values():
            responses = operation["responses"]
            responses.pop("422", None)
            for status in ("4XX", "5XX"):
                responses[status]["content"] = content


if __name__ == "__main__":
    sys.exit(main())
