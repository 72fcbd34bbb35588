"""The report of a real run: what it says, that it is one safe file, and that a killed run goes on with it."""

from __future__ import annotations

import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.engine.report.documents import (
    HARM,
    METADATA,
    Finished,
    artifact,
    candidate,
    harmful,
    reported_spec,
)
from tests.engine.runs import Recorder
from worker.engine.errors import Stopped
from worker.engine.measure import grid
from worker.engine.pipeline import run
from worker.engine.recording import recorded_candidates, recorded_timeline
from worker.engine.report.page import report_page
from worker.engine.report.schema import Report
from worker.engine.reporting import FINISHED, STAGES, STARTED
from worker.engine.run import Run

MOST_BYTES = 6_000_000


def test_it_says_what_the_certificate_says(finished: Finished, report: Report) -> None:
    certificate = finished[0].certificate
    assert report.version == 1
    assert (report.dense, report.optimized, report.ratios) == (
        certificate.dense,
        certificate.optimized,
        certificate.ratios,
    )
    assert [(each.name, each.measured, each.met) for each in report.constraints] == [
        (each.name, each.measured, each.met) for each in certificate.constraints
    ]


def test_bytes_by_part_sum_up_to_the_files(report: Report) -> None:
    assert sum(each.dense for each in report.bytes) == report.dense.size_bytes
    assert sum(each.optimized for each in report.bytes) == report.optimized.size_bytes
    by_part = {part: sum(e.dense for e in report.bytes if e.part == part) for part in ("embeddings", "ffn")}
    # 500 rows of 32 values and positions; three layers of two matrices of 32 x 64.
    assert by_part["embeddings"] > 4 * 32 * 500
    assert 4 * 3 * 2 * 32 * 64 < by_part["ffn"] < 5 * 3 * 2 * 32 * 64


def test_milliseconds_by_part_sum_up_to_the_dense_model_in_the_delivered_precision(report: Report) -> None:
    times = report.milliseconds
    assert sum(each.whole for each in times.parts) == pytest.approx(times.whole, rel=1e-6)
    removed = {each.layer for each in report.architecture.after.layers if not each.present}
    assert all(each.optimized == 0.0 for each in times.parts if each.layer in removed)
    assert all(each.whole >= 0.0 for each in times.parts)


def test_the_outline_has_what_the_recipe_left(finished: Finished, report: Report) -> None:
    from worker.engine.anatomy import anatomy_of
    from worker.engine.export import load_folder

    delivered = anatomy_of(load_folder(finished[1] / "export" / "optimized" / "safetensors")).full_shape()
    left = [
        (each.heads_kept, each.channels_kept) for each in report.architecture.after.layers if each.present
    ]
    assert left == [(len(layer.heads), len(layer.channels)) for layer in delivered.layers if layer.present]
    assert report.architecture.before.precision.ffn == "fp32"
    assert {"int8", "int4"} & set(report.architecture.after.precision.ffn.split(", "))


def test_all_candidates_are_there_and_the_delivered_one_is_marked(finished: Finished, report: Report) -> None:
    assert [each.number for each in report.candidates] == list(range(len(report.candidates)))
    assert {each.stage for each in report.candidates} == {"baseline", "search", "recover"}
    assert any(each.delivered and each.stage == "recover" for each in report.candidates)
    assert any(each.on_front for each in report.candidates)


def test_latencies_are_measured_within_their_share(report: Report) -> None:
    assert len(report.latency.cells) + len(report.latency.not_measured) == len(grid.planned_cells(80, 1))
    assert all(cell.dense_ms > 0 and cell.optimized_ms > 0 for cell in report.latency.cells)
    assert len(report.latency.cells) >= 1


def test_the_timeline_has_every_stage(report: Report) -> None:
    assert [each.stage for each in report.timeline.stages] == list(STAGES)
    ended = [each.ended for each in report.timeline.stages]
    assert ended[-1] is None
    assert all(
        end is not None and end >= each.began
        for each, end in zip(report.timeline.stages, ended[:-1], strict=False)
    )


def test_nothing_of_the_machine_or_the_users_own_is_told(
    finished: Finished, report: Report, page: str
) -> None:
    folder = finished[1].parent
    text = report.model_dump_json()
    for secret in (str(folder), folder.name, METADATA, "hf_"):
        assert secret not in text
        assert secret not in page
    assert report.reproduction.spec["base_model"] == {"path": "model"}


def test_the_page_is_one_file_that_asks_for_nothing(page: str) -> None:
    assert len(page.encode()) < MOST_BYTES
    seen = _Seen(page)
    assert not {name for _, name, value in seen.attributes if name in ("src", "srcset", "data", "action")}
    links = [value for _, name, value in seen.attributes if name.endswith("href")]
    assert links
    assert all(link.startswith("#") for link in links)
    assert "default-src 'none'" in page
    assert "@import" not in page
    assert "url(" not in page
    assert {value for _, name, value in seen.attributes if name.startswith("on")} == set()


def test_every_section_has_a_heading_and_every_plot_a_table(page: str) -> None:
    seen = _Seen(page)
    ids = {value for tag, name, value in seen.attributes if name == "id"}
    titled = {value for tag, name, value in seen.attributes if (tag, name) == ("section", "aria-labelledby")}
    assert len(titled) == 10
    assert titled <= ids
    figures = [value for tag, name, value in seen.attributes if (tag, name) == ("figure", "aria-label")]
    assert len(figures) == 5
    assert all("table below has the same numbers" in label for label in figures)


def test_links_of_marks_lead_to_rows(page: str) -> None:
    seen = _Seen(page)
    ids = {value for _, name, value in seen.attributes if name == "id"}
    rows = {value[1:] for _, name, value in seen.attributes if name == "xlink:href"}
    assert any(row.startswith("candidate-") for row in rows)
    assert rows <= ids


def test_texts_of_the_user_are_only_ever_text(report: Report) -> None:
    clean, spoiled = _Seen(report_page(report)), _Seen(report_page(harmful(report)))
    assert "script" in {tag for tag, _ in clean.tags.items()}
    assert spoiled.tags["script"] == clean.tags["script"] == 1
    assert "img" not in spoiled.tags
    assert {name for _, name, _ in spoiled.attributes if name.startswith("on")} == set()
    assert spoiled.text.count("alert(1)") >= 15
    labels = [value for _, name, value in spoiled.attributes if name == "aria-label" and "alert(1)" in value]
    assert labels, "the marks of the plots tell the reason too"
    assert "{{7*7}}" in spoiled.text
    assert HARM.split("&")[0] not in report_page(harmful(report))


def test_a_run_killed_between_certificate_and_report_goes_on_with_the_report(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result, folder, sources = finished
    spec = reported_spec(sources)
    copy = tmp_path / "run"
    shutil.copytree(folder, copy)
    for name in ("done.json", "report.json", "report.html"):
        (copy / "certify" / name).unlink()

    def not_again(*_: object, **__: object) -> None:
        raise AssertionError("what was measured is not measured again")

    monkeypatch.setattr("worker.engine.measure.certificate.certify", not_again)
    monkeypatch.setattr("worker.engine.stages.report.latency_grid", not_again)
    again = run(spec, copy, Recorder())
    assert again.certificate == result.certificate
    before, after = (
        Report.model_validate_json(artifact(each, "report.json").read_text()) for each in (result, again)
    )
    kept = {"written_at", "timeline"}
    assert after.model_dump(exclude=kept) == before.model_dump(exclude=kept)
    attempts = [[each.attempts for each in told.timeline.stages] for told in (before, after)]
    assert attempts[1] == [*attempts[0][:-1], attempts[0][-1] + 1]


def test_the_grid_is_measured_anew_only_where_it_was_not_finished(finished: Finished, tmp_path: Path) -> None:
    _, folder, sources = finished
    spec = reported_spec(sources)
    copy = tmp_path / "run"
    shutil.copytree(folder, copy)
    for name in ("done.json", "report.json", "report.html", "latency_grid.json"):
        (copy / "certify" / name).unlink()

    class Stopper(Recorder):
        def progress(self, stage, step, total=None, message="", **metrics) -> None:  # type: ignore[no-untyped-def]
            if message == "latency by length and batch":
                raise Stopped

    with pytest.raises(Stopped):
        run(spec, copy, Stopper())
    assert not (copy / "certify" / "latency_grid.json").exists()
    assert (copy / "certify" / "certificate.json").read_bytes() == (
        folder / "certify" / "certificate.json"
    ).read_bytes()


def test_without_time_no_cell_is_measured(finished: Finished, report: Report) -> None:
    none = grid.latency_grid({}, {}, grid.planned_cells(64, 1), threads=1, seconds=0.0)
    assert none.cells == {}
    assert len(none.not_measured) == len(grid.planned_cells(64, 1))
    empty = report.model_copy(update={"latency": report.latency.model_copy(update={"cells": ()})})
    assert "the time did not suffice for the smallest" in report_page(empty)


def test_verdicts_and_missing_parts_have_words(report: Report) -> None:
    infeasible = report.model_copy(
        update={
            "verdict": "infeasible",
            "constraints_met": False,
            "holdout": {**report.holdout, "classes": []},
            "constraints": (),
        }
    )
    page = report_page(infeasible)
    assert "no allowed recipe meets these constraints" in page
    assert "No constraint was asked for" in page
    offered = infeasible.model_copy(update={"nearest_feasible": {"speed.min_speedup": 2.5}})
    assert "What could be met instead" in report_page(offered)


def test_a_candidate_that_is_told_again_replaces_the_one_of_its_number(
    tmp_path: Path, finished: Finished
) -> None:
    job = Run(reported_spec(finished[2]), tmp_path / "run", Recorder())
    for each in (candidate(0, 0.5, 10, 1.0), candidate(1, 0.5, 10, 1.0), candidate(0, 0.7, 10, 1.0)):
        job.reporter.candidate(each)
    told = recorded_candidates(job.workspace)
    assert {number: each.measurements.metric for number, each in told.items()} == {0: 0.7, 1: 0.5}


def test_a_stage_that_was_broken_off_counts_its_attempts(tmp_path: Path, finished: Finished) -> None:
    for _ in range(2):
        Run(reported_spec(finished[2]), tmp_path / "run", Recorder()).reporter.progress(
            "search", 0, None, STARTED
        )
    job = Run(reported_spec(finished[2]), tmp_path / "run", Recorder())
    job.reporter.progress("search", 1, 1, FINISHED)
    ended = recorded_timeline(job.workspace)["search"]
    job.reporter.progress("search", 1, 1, FINISHED)
    assert ended["attempts"] == 2
    assert ended["ended"] >= ended["began"]
    assert recorded_timeline(job.workspace)["search"] == ended


class _Seen(HTMLParser):
    """What a browser would make of a page: its elements, their attributes, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: dict[str, int] = {}
        self.attributes: list[tuple[str, str, str]] = []
        self._texts: list[str] = []
        self.feed(page)
        self.text = re.sub(r"\s+", " ", "".join(self._texts))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] = self.tags.get(tag, 0) + 1
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self._texts.append(data)
