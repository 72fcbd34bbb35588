"""docs/operations.md and the alerts say what the code does."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from fastapi.testclient import TestClient
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import select

from app import configuration
from app.main import create_app
from app.metrics.repository import Queue
from app.metrics.stored import Snapshot, StoredMetrics
from app.settings import ApiSettings
from models import journal, lifecycle
from models.base import utc_now
from models.database import Database
from models.job import Job
from models.lifecycle import JobError
from models.settings import Settings
from models.spec import JobSpec
from tests.models.databases import create_tables

ROOT = Path(__file__).parent.parent
ALERTS_FILE = ROOT / "deploy" / "prometheus" / "alerts.yml"
ALERTS = yaml.safe_load(ALERTS_FILE.read_text())
RULES = [rule for group in ALERTS["groups"] for rule in group["rules"]]
PAGE = (ROOT / "docs" / "operations.md").read_text()
ERRORS = (ROOT / "docs" / "errors.md").read_text()
SPEC = JobSpec.model_validate({"base_model": {"hub": "a/b"}, "dataset": {"hub": "c/d"}})
# What PromQL itself brings: functions, operators, and the labels that Prometheus adds or `by` names.
WORDS = {"and", "by", "histogram_quantile", "increase", "le", "instance", "max", "min", "rate", "sum"}
TARGET_LABELS = {"job", "instance"}  # which Prometheus adds
SELECTOR = re.compile(r"([a-z_][a-z0-9_]*)\{([^}]*)\}")
MATCHER = re.compile(r'([a-z_]+)\s*(=~|!~|!=|=)\s*"([^"]*)"')

Served = dict[str, dict[str, set[str]]]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Served:
    """What a running API serves at /metrics after a day's work: names, labels and their values."""
    settings = Settings(data_dir=tmp_path_factory.mktemp("served"))
    database = Database(settings.database)
    create_tables(database)
    work(database)
    with TestClient(create_app(settings, ApiSettings()), client=("127.0.0.1", 50000)) as client:
        client.get("/v1/jobs")
        page = client.get("/metrics").text
    database.close()
    found: Served = {}
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            labels = found.setdefault(sample.name, {})
            for name, value in sample.labels.items():
                labels.setdefault(name, set()).add(value)
    return found


def work(database: Database) -> None:
    """A job that failed, and one that runs on a GPU."""
    with database.transaction() as session:
        for _ in range(2):
            lifecycle.claim_one(session, lifecycle.create(session, SPEC).id, "w", 60)
        failed, running = session.scalars(select(Job.id).order_by(Job.id))
        lifecycle.fail(session, failed, 1, JobError("disk_full", "The disk is full.", "Make room."))
        journal.finish_stage(session, running, 1, "search", 20.0)
        journal.write_progress(session, running, 1, {"memory_bytes": 5, "device_memory_bytes": 7})


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_alerts_are_on_metrics_that_exist(rule: dict[str, object], served: Served) -> None:
    expression = str(rule["expr"])
    assert expression.count("(") == expression.count(")")
    assert names_in(expression)
    assert names_in(expression) <= served.keys(), names_in(expression) - served.keys()


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_alerts_select_what_is_there(rule: dict[str, object], served: Served) -> None:
    """Labels that the metric has, values that it shows from the start, and codes that errors have."""
    for name, selectors in SELECTOR.findall(str(rule["expr"])):
        for label, operator, value in MATCHER.findall(selectors):
            if label in TARGET_LABELS:
                continue
            assert label in served[name], (name, label)
            if operator == "=":
                assert value in served[name][label], (name, label, value)
            elif label == "code":
                assert all(f"`{code}`" in ERRORS for code in value.split("|")), value


def test_a_wrong_alert_would_be_noticed(served: Served) -> None:
    assert names_in('max(axforge_no_such{a="b"}[5m]) > 1 and rate(axforge_jobs[1h])') - served.keys() == {
        "axforge_no_such"
    }


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_promtool_accepts_the_alerts() -> None:
    checked = subprocess.run(["promtool", "check", "rules", ALERTS_FILE], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def names_in(expression: str) -> set[str]:
    """The metrics that a PromQL expression reads."""
    bare = re.sub(r"\{[^}]*\}|\[\w+\]|\bby\s*\([^)]*\)", " ", expression)
    return set(re.findall(r"[a-z_][a-z0-9_]*", bare)) - WORDS


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_alerts_tell_what_to_do(rule: dict[str, dict[str, str]]) -> None:
    assert rule["labels"]["severity"] in ("page", "ticket")
    page, _, anchor = rule["annotations"]["runbook"].partition("#")
    assert (ROOT / page).is_file()
    anchors = [heading.lower().replace(" ", "-") for heading in re.findall(r"^#+ (.+)$", PAGE, re.MULTILINE)]
    assert anchor in anchors
    assert f"`{rule['alert']}`" in PAGE


def test_every_metric_is_documented(served: Served) -> None:
    documented = set(re.findall(r"`((?:axforge|process)_\w+)", PAGE))
    ours = {re.sub(r"_(bucket|sum|count)$", "", name) for name in served if name.startswith("axforge_")}
    assert ours <= documented, ours - documented
    assert documented <= served.keys() | ours, documented - served.keys()


def test_every_setting_is_documented() -> None:
    assert configuration.main(["--check"]) == 0
    assert "`AXFORGE_API_METRICS_FROM`" in configuration.table()


def test_a_missing_setting_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "operations.md"
    page.write_text(PAGE.replace("| `AXFORGE_LEASE_SECONDS`", "| `AXFORGE_OTHER`"))
    monkeypatch.setattr(configuration, "PAGE", page)
    assert configuration.main(["--check"]) == 1
    assert configuration.main(["--write"]) == 0
    assert page.read_text() == PAGE


def test_buckets_of_the_histogram_rise() -> None:
    metrics = StoredMetrics(Database("sqlite://"), Settings(), clock=lambda: 0.0)
    totals = {("stage_seconds", "search", part): 2.0 for part in ("1", "60", "+Inf", "sum")}
    metrics._snapshot = Snapshot(0.0, Queue(0, 0, 0, None, utc_now()), [], totals)
    family = next(each for each in metrics.collect() if isinstance(each, HistogramMetricFamily))
    values = [sample.value for sample in family.samples if sample.name.endswith("_bucket")]
    assert values == sorted(values)
    assert values[-1] == 6
