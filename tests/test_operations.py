"""docs/operations.md and the alerts say what the code does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from prometheus_client.core import HistogramMetricFamily

from app import configuration
from app.metrics.repository import Queue
from app.metrics.service import Metrics
from app.metrics.stored import Snapshot, StoredMetrics
from models.base import utc_now
from models.database import Database

ROOT = Path(__file__).parent.parent
ALERTS = yaml.safe_load((ROOT / "deploy" / "prometheus" / "alerts.yml").read_text())
RULES = [rule for group in ALERTS["groups"] for rule in group["rules"]]
PAGE = (ROOT / "docs" / "operations.md").read_text()
# What PromQL itself brings, and label names.
WORDS = {"and", "by", "histogram_quantile", "increase", "instance", "le", "max", "min", "rate", "sum"}
LABELS = {"code", "job", "method", "reason", "status", "outcome"}


@pytest.fixture(scope="module")
def served() -> dict[str, set[str]]:
    """Every name that /metrics serves, with the labels it has."""
    metrics = Metrics()
    stored = StoredMetrics(Database("sqlite://"), 60.0, clock=lambda: 0.0)
    totals = {("stage_seconds", "search", "1"): 1.0, ("job_failures", "disk_full", ""): 1.0}
    stored._snapshot = Snapshot(0.0, Queue(0, 0, None, utc_now()), [], totals)
    metrics.registry.register(stored)
    request = metrics.http.request({"type": "http", "method": "GET"})
    request.ended(200)
    metrics.http.seconds.labels("/", "GET").observe(1)
    found: dict[str, set[str]] = {}
    for family in metrics.registry.collect():
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_alerts_are_on_metrics_that_exist(rule: dict[str, object], served: dict[str, set[str]]) -> None:
    expression = re.sub(r'"[^"]*"', '""', str(rule["expr"]))
    assert expression.count("(") == expression.count(")")
    names = set(re.findall(r"[a-z_][a-z0-9_]*", re.sub(r"\[\w+\]", "", expression))) - WORDS - LABELS
    assert names
    assert names <= served.keys(), names - served.keys()
    for name, selectors in re.findall(r"([a-z_]+)\{([^}]*)\}", expression):
        labels = set(re.findall(r"([a-z_]+)\s*(?:=~|!~|!=|=)", selectors)) - {"job", "instance"}
        assert labels <= served[name], (name, labels)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_alerts_tell_what_to_do(rule: dict[str, dict[str, str]]) -> None:
    assert rule["labels"]["severity"] in ("page", "ticket")
    page, _, anchor = rule["annotations"]["runbook"].partition("#")
    assert (ROOT / page).is_file()
    anchors = [heading.lower().replace(" ", "-") for heading in re.findall(r"^#+ (.+)$", PAGE, re.MULTILINE)]
    assert anchor in anchors
    assert f"`{rule['alert']}`" in PAGE


def test_every_metric_is_documented(served: dict[str, set[str]]) -> None:
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
    metrics = StoredMetrics(Database("sqlite://"), 60.0, clock=lambda: 0.0)
    totals = {("stage_seconds", "search", part): 2.0 for part in ("1", "60", "+Inf", "sum")}
    metrics._snapshot = Snapshot(0.0, Queue(0, 0, None, utc_now()), [], totals)
    family = next(each for each in metrics.collect() if isinstance(each, HistogramMetricFamily))
    values = [sample.value for sample in family.samples if sample.name.endswith("_bucket")]
    assert values == sorted(values)
    assert values[-1] == 6
