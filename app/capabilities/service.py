"""Reads what can be done out of the job's language."""

from __future__ import annotations

import inspect
from typing import Any, cast, get_args

from annotated_types import Le

from app.caller import Caller
from app.capabilities.catalogue import APPROXIMATIONS, STAGES, STRATEGIES, Approximation
from app.capabilities.schemas import ApproximationInfo, Capabilities, Limits, StrategyInfo, UploadKinds
from app.context import Context
from app.jobs.plan import may_name_paths
from app.uploads.kinds import ENDINGS
from app.version import VERSION
from models.spec import TASK_METRICS, Budget, ExportName, Focus, JobSpec, MetricName, Target, TaskName
from models.spec.capabilities import ARCHITECTURES, architectures_of
from models.spec.sources import ORIGINS
from models.upload import UploadKind


def capabilities(context: Context, caller: Caller) -> Capabilities:
    """What the caller can ask of this service as it is set up."""
    return Capabilities(
        object="capabilities",
        version=VERSION,
        tasks=list(get_args(TaskName)),
        metrics=list(get_args(MetricName)),
        task_metrics={task: list(metrics) for task, metrics in TASK_METRICS.items()},
        architectures=list(ARCHITECTURES),
        task_architectures={task: list(architectures_of(task)) for task in get_args(TaskName)},
        approximations=[_approximation(name, known) for name, known in APPROXIMATIONS.items()],
        strategies=[
            StrategyInfo(name=name, description=text, focuses=list(get_args(Focus)))
            for name, text in STRATEGIES.items()
        ],
        stages=list(STAGES),
        exports=list(get_args(ExportName)),
        runtimes=_choices(Target, "runtime"),
        devices=_choices(Target, "device"),
        sources=[
            origin for origin in ORIGINS if origin != "path" or may_name_paths(caller, context.settings)
        ],
        uploads=UploadKinds(model=list(ENDINGS[UploadKind.MODEL]), dataset=list(ENDINGS[UploadKind.DATASET])),
        limits=Limits(
            spec_max_bytes=context.api.spec_max_bytes,
            upload_max_bytes=context.settings.upload_max_bytes,
            max_wait_seconds=context.api.max_wait_seconds,
            max_minutes=_most(Budget, "max_minutes"),
            max_candidates=int(_most(Budget, "max_candidates")),
        ),
        job_spec_schema=JobSpec.model_json_schema(),
    )


def _approximation(name: str, known: Approximation) -> ApproximationInfo:
    return ApproximationInfo(
        name=name,
        description=inspect.getdoc(known.step) or "",
        element=known.element,
        gains=list(known.gains),
        runtimes=list(known.runtimes),
        json_schema=known.step.model_json_schema(),
    )


def _choices(model: Any, field: str) -> list[str]:
    return list(get_args(model.model_fields[field].annotation))


def _most(model: Any, field: str) -> float:
    bounds = [mark.le for mark in model.model_fields[field].metadata if isinstance(mark, Le)]
    return cast("float", bounds[0])
