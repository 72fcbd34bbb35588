"""Tasks in the job's language: their metrics, and the columns that mean something to them."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from models.spec import TASK_COLUMNS, TASK_METRICS, TASKS, Columns, JobSpec, TaskName

JOB: dict[str, Any] = {"base_model": {"path": "m"}, "dataset": {"path": "d"}}


@pytest.mark.parametrize("task", TASKS)
def test_the_first_metric_is_the_default_and_others_of_the_task_are_taken(task: TaskName) -> None:
    assert JobSpec.model_validate({**JOB, "task": task}).metric == TASK_METRICS[task][0]
    for metric in TASK_METRICS[task]:
        assert JobSpec.model_validate({**JOB, "task": task, "metric": metric}).metric == metric


def test_a_metric_of_another_task_is_refused_with_those_of_this() -> None:
    with pytest.raises(ValidationError) as raised:
        JobSpec.model_validate({**JOB, "task": "regression", "metric": "f1"})
    (error,) = raised.value.errors()
    assert error["loc"] == ("metric",)
    assert "pearson, spearman, r2" in error["msg"]


def test_columns_of_another_task_are_refused() -> None:
    data = {"path": "d", "columns": {"tokens": "words"}}
    JobSpec.model_validate({**JOB, "task": "token-classification", "dataset": data})
    with pytest.raises(ValidationError) as raised:
        JobSpec.model_validate({**JOB, "dataset": data})
    (error,) = raised.value.errors()
    assert error["loc"] == ("dataset",)
    assert "columns.tokens means nothing to task text-classification" in error["msg"]


def test_a_job_without_a_task_is_what_it_was() -> None:
    """The digest of a spec is in certificates: it does not change with tasks that it does not name."""
    spec = JobSpec.model_validate(JOB)
    assert spec.digest() == JobSpec.model_validate({**JOB, "task": "text-classification"}).digest()
    assert (spec.task, spec.metric) == ("text-classification", "accuracy")


def test_every_column_has_a_task() -> None:
    assert {part for parts in TASK_COLUMNS.values() for part in parts} == set(Columns.model_fields)


def test_recovery_in_a_word() -> None:
    for given, schedule in (("gradual", "gradual"), ("one_shot", "one_shot"), ({"epochs": 3}, "auto")):
        recovery = JobSpec.model_validate({**JOB, "recovery": given}).recovery
        assert recovery != "off"
        assert recovery.schedule == schedule
    assert JobSpec.model_validate({**JOB, "recovery": False}).recovery == "off"
    with pytest.raises(ValidationError):
        JobSpec.model_validate({**JOB, "recovery": "slow"})
