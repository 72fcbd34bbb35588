"""The scores of every task against the libraries that the field uses, or its published examples."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nervaluate import Evaluator
from sklearn.metrics import accuracy_score, f1_score, precision_recall_fscore_support, r2_score

from worker.engine.tasks import TASKS, Marks, Rows, Split, squad
from worker.engine.tasks.entities import Entity, entities

LABELS = ("O", "B-per", "I-per", "B-loc", "I-loc")
TAGS = st.lists(st.integers(0, len(LABELS) - 1), min_size=1, max_size=8)


def split_of(labels: np.ndarray) -> Split:
    rows = len(labels)
    return Split(np.ones(rows, dtype=np.int64), np.arange(rows + 1), labels, pad_id=0)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 30), st.integers(2, 5), st.integers(0, 1000))
def test_multi_label_scores_are_scikit_learn_s(rows: int, classes: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    logits = rng.standard_normal((rows, classes)).astype(np.float32)
    labels = rng.integers(0, 2, (rows, classes))
    task, answered = TASKS["multi-label-classification"], (logits >= 0).astype(int)
    marks = task.marks(logits, split_of(labels))
    for name, average in (("f1_micro", "micro"), ("f1_macro", "macro")):
        expected = f1_score(labels, answered, average=average, zero_division=0)
        assert task.score(name, marks) == pytest.approx(expected)
    assert task.score("accuracy", marks) == pytest.approx(accuracy_score(labels, answered))
    table = precision_recall_fscore_support(labels, answered, average=None, zero_division=0)
    names = tuple(f"label {place}" for place in range(classes))
    for place, line in enumerate(task.classes(marks, names)):
        assert (line.precision, line.recall, line.f1, line.rows) == pytest.approx(
            tuple(column[place] for column in table)
        )


@pytest.mark.filterwarnings("ignore")
@settings(max_examples=50, deadline=None)
@given(st.integers(2, 40), st.integers(0, 1000))
def test_the_per_class_table_is_scikit_learn_s(rows: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    logits, labels = rng.standard_normal((rows, 3)).astype(np.float32), rng.integers(0, 3, rows)
    task = TASKS["text-classification"]
    marks = task.marks(logits, split_of(labels))
    table = precision_recall_fscore_support(
        labels, logits.argmax(1), labels=[0, 1, 2], average=None, zero_division=0
    )
    for place, line in enumerate(task.classes(marks, ("a", "b", "c"))):
        assert (line.precision, line.recall, line.f1, line.rows) == pytest.approx(
            tuple(column[place] for column in table)
        )


def test_regression_scores() -> None:
    rng = np.random.default_rng(0)
    labels = rng.random(50).astype(np.float32) * 5
    logits = (labels + rng.standard_normal(50)).astype(np.float32)[:, None]
    task = TASKS["regression"]
    marks = task.marks(logits, split_of(labels))
    assert task.score("pearson", marks) == pytest.approx(np.corrcoef(logits[:, 0], labels)[0, 1])
    ranks = [np.argsort(np.argsort(values)) for values in (logits[:, 0], labels)]
    assert task.score("spearman", marks) == pytest.approx(np.corrcoef(*ranks)[0, 1])
    assert task.score("r2", marks) == pytest.approx(r2_score(labels, logits[:, 0]))
    constant = task.marks(np.ones((50, 1), dtype=np.float32), split_of(labels))
    assert task.score("pearson", constant) == 0.0
    within = np.abs(logits[:, 0] - labels) <= 0.5 * labels.std()
    assert task.right(marks).tolist() == within.tolist()


def tokens_of(rows: list[list[int]]) -> Split:
    """A token for every tag, with one that nobody asks about before each row's."""
    flat = np.concatenate([[-100, *row] for row in rows])
    offsets = np.concatenate([[0], np.cumsum([len(row) + 1 for row in rows])])
    source = Rows({"tokens": [["w"] * len(row) for row in rows], "label": rows}, LABELS)
    ids = np.ones(len(flat), dtype=np.int64)
    return Split(ids, offsets.astype(np.int64), flat, pad_id=0, by_token=True, source=source)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(TAGS, st.integers(0, 99)), min_size=1, max_size=6))
def test_entity_scores_are_nervaluate_s_strict_ones(drawn: list[tuple[list[int], int]]) -> None:
    held = [tags for tags, _ in drawn]
    answered = [
        np.random.default_rng(seed).integers(0, len(LABELS), len(tags)).tolist() for tags, seed in drawn
    ]
    split, task = tokens_of(held), TASKS["token-classification"]
    logits = np.eye(len(LABELS), dtype=np.float32)[np.concatenate([[0, *row] for row in answered])]
    marks = task.marks(logits, split)
    names = [[[LABELS[tag] for tag in row] for row in rows] for rows in (held, answered)]
    strict = Evaluator(*names, tags=["per", "loc"], loader="list").evaluate()["overall"]["strict"]
    assert task.score("precision", marks) == pytest.approx(strict.precision)
    assert task.score("recall", marks) == pytest.approx(strict.recall)
    assert task.score("f1", marks) == pytest.approx(strict.f1)
    flat = np.concatenate([np.equal(a, h) for a, h in zip(answered, held, strict=True)])
    assert task.score("accuracy", marks) == pytest.approx(flat.mean())
    assert task.answers(logits, split) == names[1]
    assert task.expected(split.source) == names[0]


def test_entities_as_conlleval_reads_them() -> None:
    """The example of seqeval's documentation, and an I- that nothing comes before."""
    held = ["O", "O", "O", "B-MISC", "I-MISC", "I-MISC", "O"]
    answered = ["O", "O", "B-MISC", "I-MISC", "I-MISC", "I-MISC", "O"]
    assert entities([held, answered]) == [{Entity("MISC", 3, 5)}, {Entity("MISC", 2, 5)}]
    assert entities([["O", "I-LOC", "B-LOC", "I-PER"]]) == [
        {Entity("LOC", 1, 1), Entity("LOC", 2, 2), Entity("PER", 3, 3)}
    ]


@pytest.mark.parametrize(
    ("answer", "references", "exact", "f1"),
    [
        ("the Cat!", ["cat"], 1.0, 1.0),
        ("a cat on the mat", ["cat on mat"], 1.0, 1.0),
        ("black cat", ["cat", "dog"], 0.0, 2 / 3),
        ("cat cat", ["cat"], 0.0, 2 / 3),
        ("bird", ["cat", "dog"], 0.0, 0.0),
        ("", [], 1.0, 1.0),
        ("cat", [], 0.0, 0.0),
        ("", ["cat"], 0.0, 0.0),
    ],
)
def test_answers_are_compared_as_in_squad(
    answer: str, references: list[str], exact: float, f1: float
) -> None:
    assert squad.exact_match(answer, references) == exact
    assert squad.f1(answer, references) == pytest.approx(f1)


def test_scores_of_drawn_rows_are_those_of_their_marks() -> None:
    rng = np.random.default_rng(0)
    logits, labels = rng.standard_normal((30, 4)).astype(np.float32), rng.integers(0, 2, (30, 4))
    task, drawn = TASKS["multi-label-classification"], rng.integers(30, size=30)
    marks = task.marks(logits, split_of(labels))
    again = task.marks(logits[drawn], split_of(labels[drawn]))
    for name in task.metrics:
        assert task.score(name, marks.take(drawn)) == task.score(name, again)
    assert isinstance(marks, Marks)
