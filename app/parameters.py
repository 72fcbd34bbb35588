"""Unknown query parameters are refused: a misspelt `dry_run` must not create a job."""

from __future__ import annotations

from fastapi import Request
from fastapi.routing import APIRoute

from app.pointers import FieldProblem, names_remedy
from app.problems import InvalidRequest


def refuse_unknown(request: Request) -> None:
    """A dependency of every operation.

    Raises:
        InvalidRequest: the query has a parameter that the operation does not know.
    """
    if not request.query_params:
        return
    route = request.scope["route"]
    assert isinstance(route, APIRoute)
    allowed = [field.alias for field in route.dependant.query_params]
    problems = [
        FieldProblem(
            parameter=name[:100],
            detail="There is no such parameter here.",
            remedy=names_remedy(name, allowed),
        )
        for name in request.query_params
        if name not in allowed
    ]
    if problems:
        raise InvalidRequest(problems[0].detail, remedy=problems[0].remedy, errors=problems)
