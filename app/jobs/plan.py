"""Checks and estimates that need no run: is the spec served here, and what would be done."""

from __future__ import annotations

from sqlalchemy.orm import Session

from app.caller import Caller
from app.capabilities.catalogue import APPROXIMATIONS, STAGES
from app.jobs.schemas import Plan
from app.pointers import FieldProblem
from app.problems import InvalidRequest
from app.uploads import repository as uploads
from models.locations import locate
from models.settings import Settings
from models.spec import ApproximationName, JobSpec, Source
from models.upload import UploadKind


def may_name_paths(caller: Caller, settings: Settings) -> bool:
    """Whether the caller's jobs may read files of the workers' machines.

    Who needs no key is on the same machine as an embedded server; who has one may be anybody.
    """
    return settings.allow_paths and (caller.key_id is None or settings.allow_paths_with_keys)


def check_sources(session: Session, caller: Caller, spec: JobSpec, *, settings: Settings) -> None:
    """Refuse sources that this service does not read for the caller.

    Raises:
        InvalidRequest: with a pointer to every such source.
    """
    problems = [
        problem
        for field, source, kind in (
            ("base_model", spec.base_model, UploadKind.MODEL),
            ("dataset", spec.dataset, UploadKind.DATASET),
        )
        if (problem := _source_problem(session, caller, field, source, kind, settings))
    ]
    if problems:
        raise InvalidRequest(problems[0].detail, remedy=problems[0].remedy, errors=problems)


def plan_of(spec: JobSpec) -> Plan:
    """What the run would do. Times are not guessed: they depend on the machine and the data."""
    used = [name for name in spec.approximations if _is_effective(name, spec)]
    return Plan(
        object="plan",
        spec=spec.model_dump(mode="json"),
        spec_digest=spec.digest(),
        stages=[stage for stage in STAGES if stage != "recover" or spec.recovery != "off"],
        strategy=spec.strategy,
        approximations=used,
        max_minutes=spec.budget.max_minutes,
        warnings=_warnings(spec),
    )


def _source_problem(
    session: Session, caller: Caller, field: str, source: Source, kind: UploadKind, settings: Settings
) -> FieldProblem | None:
    if source.path is not None and not may_name_paths(caller, settings):
        return FieldProblem(
            pointer=f"/{field}/path",
            detail="This service reads no files of its own machine.",
            remedy=f"Send the file to POST /v1/uploads?kind={kind.value} and give its id as `upload`, "
            "or name a `hub` repository or a `uri`.",
        )
    if source.uri is not None and locate(source.uri, settings.uri_prefixes) is None:
        return FieldProblem(
            pointer=f"/{field}/uri",
            detail="This service does not read from there.",
            remedy=f"Send the file to POST /v1/uploads?kind={kind.value} and give its id as `upload`, "
            "or ask the operator to allow the prefix.",
        )
    return _upload_problem(session, caller.tenant, field, source.upload, kind) if source.upload else None


def _upload_problem(
    session: Session, tenant: str, field: str, upload_id: str, kind: UploadKind
) -> FieldProblem | None:
    upload = uploads.find(session, tenant, upload_id, keep=True)
    if upload is None:
        return FieldProblem(
            pointer=f"/{field}/upload",
            detail="There is no upload of this id; it may have expired.",
            remedy=f"Send the file to POST /v1/uploads?kind={kind.value} and give the id that it answers.",
        )
    if upload.kind != kind:
        return FieldProblem(
            pointer=f"/{field}/upload",
            detail=f"This upload is a {upload.kind.value}, not a {kind.value}.",
            remedy=f"Give an upload of kind {kind.value}.",
        )
    return None


def _is_effective(name: ApproximationName, spec: JobSpec) -> bool:
    worth = name != "quantize" or spec.wants_int8
    return worth and spec.target.runtime in APPROXIMATIONS[name].runtimes


def _warnings(spec: JobSpec) -> list[str]:
    ignored = [name for name in spec.approximations if not _is_effective(name, spec)]
    return [
        f"`{name}` gains nothing on the runtime {spec.target.runtime}; it is left out." for name in ignored
    ]
