"""What every operation does with its parameters: log lines name the job, and unknown ones are refused.

A misspelt `dry_run` must not create a job.
"""

from __future__ import annotations

import structlog
from fastapi import Request
from fastapi.routing import APIRoute

from app.pointers import FieldProblem, names_remedy
from app.problems import InvalidRequest

LONGEST_ID = 64


async def parameters_are_known(request: Request) -> None:
    """A dependency of every operation: what is logged from here on names the job of the path.

    Not a plain function: those run in a thread whose context ends with them.

    Raises:
        InvalidRequest: the query has a parameter that the operation does not know.
    """
    job_id = request.path_params.get("job_id")
    if job_id is not None:
        structlog.contextvars.bind_contextvars(job_id=job_id[:LONGEST_ID])
    if request.scope["query_string"]:
        _refuse_unknown(request)


def _refuse_unknown(request: Request) -> None:
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
