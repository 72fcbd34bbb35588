"""Health as the API shows it."""

from __future__ import annotations

from typing import Literal

from app.schemas import Resource


class Health(Resource):
    """The process is alive."""

    status: Literal["ok"]
    version: str


class Part(Resource):
    """A part that the service stands on."""

    name: Literal["database", "store", "broker"]
    status: Literal["ok", "degraded", "down"]
    detail: str


class Readiness(Resource):
    """Whether requests can be served; `degraded` serves all of them, only later."""

    status: Literal["ok", "degraded"]
    parts: list[Part]
