"""Attention probing in the report: of a real run's dense model, and how it is told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from models.spec import PruneBlocks, PruneHeads, PruneLayers, Recipe
from tests.engine.report.documents import Finished, probed, reported_spec
from tests.engine.runs import Recorder
from worker.engine.anatomy import Shape
from worker.engine.report.page import report_page
from worker.engine.report.probing import attention_probe, not_probed, summary
from worker.engine.report.schema import MeanAttention, Report
from worker.engine.run import Run
from worker.engine.significance.attended import Attended
from worker.engine.stages.attention import probed_attention, special_ids


@pytest.fixture
def job(finished: Finished) -> Run:
    """The finished run, its stages as they were left."""
    return Run(reported_spec(finished[2]), finished[1], Recorder())


def test_the_dense_models_heads_are_told_by_what_became_of_them(job: Run, tmp_path: Path) -> None:
    steps = (
        PruneHeads(layer=0, heads=(1, 2)),
        PruneBlocks(blocks=("layer.1.attention",)),
        PruneLayers(layers=(2,)),
    )
    after = job.dense.anatomy.shape(Recipe(steps=steps))
    file = tmp_path / "attention.json"
    probe = probed_attention(job, after, file)
    assert probe.skipped is None
    assert {(each.layer, each.head): each.gone_with for each in probe.heads} == {
        **{(0, head): "head" if head in (1, 2) else None for head in range(4)},
        **{(1, head): "attention" for head in range(4)},
        **{(2, head): "layer" for head in range(4)},
    }
    assert 32 <= probe.rows <= len(job.selection)
    assert probe.tokens == sum(map(len, _sampled(job, probe.rows)))
    for each in probe.heads:
        assert each.special + each.current + each.adjacent + each.other == pytest.approx(1.0, abs=1e-5)
    assert probe.removed is not None
    assert probe.kept is not None
    assert (probe.removed.heads, probe.kept.heads) == (10, 2)
    kept = [each for each in probe.heads if each.gone_with is None]
    assert probe.kept.special == pytest.approx(np.mean([each.special for each in kept]))
    assert probed_attention(job, after, tmp_path / "again.json") == probe, "the same rows, the same numbers"
    stored = file.read_text()
    assert probed_attention(job, job.dense.anatomy.full_shape(), file) == probe, (
        "what was measured is read back"
    )
    assert file.read_text() == stored


def test_special_tokens_are_those_that_frame_a_text(job: Run) -> None:
    tokenizer = job.dense.tokenizer
    assert special_ids(job) == {tokenizer.cls_token_id, tokenizer.sep_token_id}


def test_where_no_head_was_removed_nothing_is_measured(job: Run, tmp_path: Path) -> None:
    probe = probed_attention(job, job.dense.anatomy.full_shape(), tmp_path / "attention.json")
    assert probe.skipped == "no attention head was removed"
    assert probe.heads == ()


def test_the_run_itself_has_probed_what_it_removed(report: Report) -> None:
    before, after = (
        sum(layer.heads_kept for layer in outline.layers)
        for outline in (report.architecture.before, report.architecture.after)
    )
    gone = [each for each in report.attention.heads if each.gone_with is not None]
    assert (report.attention.skipped is None) == (after < before)
    assert len(gone) == before - after


def test_the_page_shows_groups_and_every_head(report: Report) -> None:
    shown = report_page(probed(report))
    assert "On average the 3 removed heads gave 60.0% of their attention" in shown
    assert "the 1 kept 30.0%: 30.0 points more." in shown
    assert (
        'title="layer 0 head 1, removed: special 40.00%, itself 20.00%, beside 30.00%, other 10.00%"' in shown
    )
    assert "removed with its layer" in shown
    skipped = report_page(report.model_copy(update={"attention": not_probed("its class gives no maps")}))
    assert "Heads were not probed: its class gives no maps." in skipped
    assert "removed with its layer" not in skipped


def test_all_heads_removed_and_fewer_points_have_words() -> None:
    one = MeanAttention(heads=1, special=0.1, current=0.1, adjacent=0.4, other=0.4)
    other = MeanAttention(heads=3, special=0.2, current=0.25, adjacent=0.25, other=0.3)
    assert summary(one, None).startswith("On average the 1 removed head gave 20.0% of")
    assert summary(one, None).endswith("; no head is kept.")
    assert summary(one, other).endswith("the 3 kept 45.0%: 25.0 points less.")


def test_heads_that_the_dense_model_does_not_have_are_left_out() -> None:
    full = Shape.full(2, 3, 4)
    lacking = full.with_layer(1, type(full.layers[1])((0, 2), (0, 1)))
    masses = np.full((2, 3, 4), 0.25)
    probe = attention_probe(
        lacking, lacking.with_layer(0, type(full.layers[0])((0,), (0, 1))), Attended(masses, 7), 2
    )
    assert [(each.layer, each.head) for each in probe.heads] == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 2)]


def _sampled(job: Run, rows: int) -> list[np.ndarray]:
    """The rows that a run takes, drawn by its seed."""
    chosen = np.random.default_rng(job.spec.seed).choice(len(job.dense.selection), size=rows, replace=False)
    every = range(len(job.dense.selection)) if rows == len(job.dense.selection) else np.sort(chosen)
    return [job.dense.selection.row(int(row)) for row in every]
