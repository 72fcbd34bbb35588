"""Language modelling: blocks of a text, perplexity, and what compares a metric of which less is better."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from pydantic import ValidationError

from models.spec import (
    DEFAULT_APPROXIMATIONS,
    AccuracyConstraint,
    Columns,
    Constraints,
    DatasetSource,
    JobSpec,
    Recipe,
    metric_value,
)
from tests.engine.decoder_models import tiny_decoder
from tests.tiny_models import byte_pair_tokenizer
from worker.engine.device import Device
from worker.engine.errors import ColumnError, DatasetError
from worker.engine.measure.inputs import next_token_scores
from worker.engine.measure.intervals import paired_bootstrap
from worker.engine.measure.verdict import Measured, allowed_drop, evaluate_constraints
from worker.engine.prepare.dataset import prepare_dataset
from worker.engine.stages.nearest import nearest_of
from worker.engine.stages.rungs import Rung, best_of, has_room
from worker.engine.tasks import TASKS, Rows, Scorer, evaluate
from worker.engine.tasks.evaluate import LOGITS_BYTES, affordable

TASK = TASKS["causal-lm"]
TEXTS = ["The ships lay still.", "Nobody had seen the harbour master since noon.", "Rain came."] * 5
JOB: dict[str, Any] = {"base_model": {"path": "m"}, "dataset": {"path": "d"}, "task": "causal-lm"}


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return byte_pair_tokenizer(TEXTS, 290)


class TestBlocks:
    def test_every_token_but_the_first_is_predicted_once(self, tokenizer: Any) -> None:
        split = TASK.encode(Rows({"text": TEXTS}), tokenizer, max_length=16)
        end = tokenizer.eos_token_id
        stream = [token for text in TEXTS for token in (*tokenizer(text)["input_ids"], end)]
        assert split.labels[split.labels >= 0].tolist() == stream[1:]
        assert split.sequence_lengths.max() == 16
        assert (split.sequence_lengths[:-1] == 16).all()
        assert split.sequence_lengths[-1] >= 2
        for block in range(1, len(split)):
            assert split.row(block)[0] == split.row(block - 1)[-1]
        assert split.source is not None
        assert tokenizer(split.source["text"][0])["input_ids"] == split.row(0).tolist()

    def test_a_text_of_no_two_tokens_is_refused(self, tokenizer: Any) -> None:
        with pytest.raises(DatasetError, match="no token"):
            TASK.encode(Rows({"text": []}), tokenizer, max_length=16)

    def test_neighbours_stay_together_and_every_row_is_on_one_side(self, tmp_path: Any) -> None:
        rows = [f"line {number}" for number in range(1000)]
        (tmp_path / "train.csv").write_text("text\n" + "\n".join(rows) + "\n")
        data = prepare_dataset(
            DatasetSource(path=str(tmp_path / "train.csv")), tmp_path / "out", seed=0, task=TASK
        )
        parts = [list(part["text"]) for part in (data.train(), data.selection(), data.holdout())]
        assert sorted(row for part in parts for row in part) == sorted(rows)
        for part in parts:
            numbers = np.array([int(row.split()[1]) for row in part])
            breaks = np.flatnonzero(np.diff(numbers) != 1)
            assert 0 < len(breaks) < len(numbers) / 6, "stretches of about ten lines"

    def test_columns(self) -> None:
        table = pa.table({"id": [1, 2], "content": ["a", "b"], "source": ["x", "y"]})
        assert TASK.map_columns(table, Columns()) == Columns(text="content")
        assert TASK.map_columns(table, Columns(text="source")) == Columns(text="source")
        with pytest.raises(ColumnError) as raised:
            TASK.map_columns(pa.table({"first": ["a"], "second": ["b"]}), Columns())
        assert raised.value.pointer == "/dataset/columns/text"


class TestPerplexity:
    def test_it_is_that_of_the_models_own_loss(self, tokenizer: Any) -> None:
        model = tiny_decoder("llama")
        split = TASK.encode(Rows({"text": TEXTS}), tokenizer, max_length=24)
        device = Device.pick("cpu", threads=1)
        judged = evaluate(model, split, TASK, batch_size=3, device=device)
        losses, hits = [], []
        for block in range(len(split)):
            ids = torch.from_numpy(split.row(block))[None]
            with torch.no_grad():
                answered = model(ids, labels=ids)
            losses += [float(answered.loss)] * (len(ids[0]) - 1)
            hits += (answered.logits[0, :-1].argmax(-1) == ids[0, 1:]).tolist()
            assert judged.losses[block] == pytest.approx(float(answered.loss), abs=1e-4)
        assert metric_value("perplexity", judged.metrics["perplexity"]) == pytest.approx(
            np.exp(np.mean(losses)), rel=1e-4
        )
        assert judged.metrics["accuracy"] == pytest.approx(np.mean(hits))
        answers = TASK.answers(judged.logits, split)
        assert answers[0] == pytest.approx(np.exp(judged.losses[0]), rel=1e-3)

    def test_what_probes_keep_is_what_the_engine_keeps(self, tokenizer: Any) -> None:
        split = TASK.encode(Rows({"text": TEXTS}), tokenizer, max_length=11)
        batch = split.batch(np.arange(len(split)))
        logits = torch.randn(*batch.labels.shape, len(tokenizer), generator=torch.Generator().manual_seed(0))
        ids, mask = (batch.inputs[name].numpy() for name in ("input_ids", "attention_mask"))
        np.testing.assert_allclose(
            next_token_scores(logits.numpy(), ids, mask), TASK.kept(logits, batch).numpy(), atol=1e-5
        )

    def test_batches_are_as_large_as_their_logits_allow(self, tokenizer: Any) -> None:
        split = TASK.encode(Rows({"text": TEXTS}), tokenizer, max_length=16)
        row_bytes = 16 * 4 * len(tokenizer)
        assert affordable(8, split) == 8
        assert affordable(10**6, split) == LOGITS_BYTES // row_bytes

    def test_a_student_is_taught_every_real_token(self, tokenizer: Any) -> None:
        split = TASK.encode(Rows({"text": TEXTS}), tokenizer, max_length=16)
        batch = split.batch(np.array([0, len(split) - 1]))
        generator = torch.Generator().manual_seed(0)
        one, other = (torch.randn(*batch.labels.shape, 40, generator=generator) for _ in range(2))
        real = batch.mask
        expected = torch.nn.functional.kl_div(
            torch.log_softmax(one[real], -1),
            torch.log_softmax(other[real], -1),
            log_target=True,
            reduction="batchmean",
        )
        assert float(TASK.soft_loss(one, other, batch, 1.0)) == pytest.approx(float(expected), rel=1e-4)
        other[~real] += 100
        assert float(TASK.soft_loss(one, other, batch, 1.0)) == pytest.approx(float(expected), rel=1e-4)


def kept(likelihood: float, split: Any) -> np.ndarray:
    """What is kept of a model that gives each next token the same log-probability."""
    scores = np.zeros((len(split.ids), 2), dtype=np.float32)
    scores[split.labels >= 0, 0] = likelihood
    return scores


class TestLessIsBetter:
    """Every comparison of metrics, where the dense model's perplexity is 10 and the other's 11."""

    @pytest.fixture
    def scorer(self, tokenizer: Any) -> Scorer:
        return Scorer(TASK, "perplexity", TASK.encode(Rows({"text": TEXTS}), tokenizer, max_length=16))

    def test_a_rise_is_a_drop(self, scorer: Scorer) -> None:
        dense, worse = (scorer.marks(kept(-np.log(value), scorer.split)) for value in (10.0, 11.0))
        paired = paired_bootstrap(scorer, dense, worse)
        assert paired.relative_drop == pytest.approx(0.1)
        assert paired.absolute_drop == pytest.approx(1.0)
        low, high = paired.relative_drop_interval()
        assert (low, high) == (pytest.approx(0.1), pytest.approx(0.1))
        assert paired_bootstrap(scorer, worse, dense).relative_drop == pytest.approx(-1 / 11)

    @pytest.mark.parametrize(
        ("bound", "met"),
        [
            ({"max_relative_drop": 0.11}, True),
            ({"max_relative_drop": 0.09}, False),
            ({"max_absolute_drop": 1.1}, True),
            ({"max_absolute_drop": 0.9}, False),
            ({"max": 11.1}, True),
            ({"max": 10.9}, False),
            ({"min_gain": 0.1}, False),
        ],
    )
    def test_constraints(self, bound: dict[str, float], met: bool, scorer: Scorer) -> None:
        dense, worse = (scorer.marks(kept(-np.log(value), scorer.split)) for value in (10.0, 11.0))
        for confidence in ("point", 0.95):
            measured = Measured(
                dense_metric=scorer.score(dense),
                optimized_metric=scorer.score(worse),
                dense_bytes=1,
                optimized_bytes=1,
                speedup=1.0,
                p50=1.0,
                p95=1.0,
                throughput=1.0,
                paired=paired_bootstrap(scorer, dense, worse),
            )
            constraints = Constraints(accuracy=AccuracyConstraint(**bound, confidence=confidence))
            (result,) = evaluate_constraints(constraints, measured)
            assert result.met == met
            if "max" in bound:
                assert result.measured == pytest.approx(11.0)

    @pytest.mark.parametrize(
        ("bound", "roomy"),
        [
            ({"max_relative_drop": 0.21}, True),
            ({"max_relative_drop": 0.19}, False),
            ({"max": 12.1}, True),
            ({"max": 11.9}, False),
        ],
    )
    def test_room(self, bound: dict[str, float], roomy: bool) -> None:
        assert has_room(AccuracyConstraint(**bound), -10.0, -11.0) == roomy

    def test_the_rung_of_less_perplexity_is_the_more_accurate(self) -> None:
        def rung(number: int, perplexity: float) -> Rung:
            return Rung(number, Recipe(), -perplexity, 2.0, 1.0, 100, {}, False, 1.0, 1.0)

        assert best_of([rung(0, 11.0), rung(1, 10.5), rung(2, 12.0)], "speed").number == 1

    def test_what_a_bound_allows_and_what_came_nearest_to_it(self) -> None:
        bound = AccuracyConstraint(max=11.0)
        assert allowed_drop(bound, -10.0) == pytest.approx(1.0)
        assert allowed_drop(bound, -12.0) == pytest.approx(-1.0)
        rungs = [
            Rung(0, Recipe(), -perplexity, 2.0, 1.0, 100, {"accuracy.max": 0.1}, False, 1.0, 1.0)
            for perplexity in (13.0, 11.5)
        ]
        found = nearest_of(
            Constraints(accuracy=bound), rungs, dense_metric=-10.0, dense_bytes=200, batch_size=1
        )
        assert found == {"accuracy.max": 11.5}

    def test_scores_and_values_are_each_others_inverse(self) -> None:
        assert metric_value("perplexity", -12.5) == 12.5
        assert metric_value("accuracy", 0.5) == 0.5


class TestSpec:
    def test_all_approximations_that_go_with_the_task_are_the_default(self) -> None:
        spec = JobSpec.model_validate(JOB)
        assert set(DEFAULT_APPROXIMATIONS) - set(spec.approximations) == {"prune_vocabulary"}
        assert JobSpec.model_validate(spec.model_dump(mode="json")) == spec

    def test_a_smaller_vocabulary_is_refused(self) -> None:
        with pytest.raises(ValidationError, match="prune_vocabulary does not go with task causal-lm"):
            JobSpec.model_validate({**JOB, "approximations": ["quantize", "prune_vocabulary"]})

    @pytest.mark.parametrize(("metric", "bound"), [("perplexity", "min"), ("accuracy", "max")])
    def test_a_bound_on_the_wrong_side_is_refused(self, metric: str, bound: str) -> None:
        with pytest.raises(ValidationError, match=f"accuracy.{bound} bounds nothing"):
            JobSpec.model_validate({**JOB, "metric": metric, "constraints": {"accuracy": {bound: 1.0}}})

    @pytest.mark.parametrize(
        ("own", "reason"),
        [
            ({"recovery": {"attention": 1.0}}, "recovery.attention does not go with task causal-lm"),
            ({"exports": ["onnx", "torch_export"]}, "no torch_export of task causal-lm"),
        ],
    )
    def test_what_the_task_has_not_is_refused(self, own: dict[str, Any], reason: str) -> None:
        with pytest.raises(ValidationError, match=reason):
            JobSpec.model_validate({**JOB, **own})
