"""Which columns each task finds, how it reads labels, and what it says about what it cannot use."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from models.spec import Columns, DatasetSource, TaskName
from tests.engine.prepare.conftest import write_jsonl
from tests.engine.tasks.tables import read
from worker.engine.errors import ColumnError, EngineError, LabelError
from worker.engine.prepare import prepare_dataset
from worker.engine.reporting import SilentReporter
from worker.engine.tasks import TASKS

SQUAD = {"text": ["Paris"], "answer_start": [10]}
CONTEXT = "It was in Paris that they met."
FOUND: list[tuple[TaskName, dict[str, Any], Columns]] = [
    ("multi-label-classification", {"text": "a", "labels": ["x", "y"]}, Columns(text="text", label="labels")),
    ("multi-label-classification", {"body": "a", "Topics": ["x"]}, Columns(text="body", label="Topics")),
    (
        "multi-label-classification",
        {"id": "7", "comment": "a", "toxic": 1, "rude": 0, "length": 5},
        Columns(text="comment", labels=("toxic", "rude")),
    ),
    (
        "regression",
        {"sentence1": "a", "sentence2": "b", "score": 2.5, "idx": 1},
        Columns(text="sentence1", text_pair="sentence2", label="score"),
    ),
    ("regression", {"review": "a", "stars": 4.0}, Columns(text="review", label="stars")),
    (
        "token-classification",
        {"tokens": ["a"], "ner_tags": ["O"], "id": "0"},
        Columns(tokens="tokens", label="ner_tags"),
    ),
    ("token-classification", {"words": ["a"], "tags": [0]}, Columns(tokens="words", label="tags")),
    (
        "question-answering",
        {"id": "0", "title": "t", "context": CONTEXT, "question": "Where?", "answers": SQUAD},
        Columns(question="question", context="context", answers="answers"),
    ),
    (
        "multiple-choice",
        {"question": "q", "choices": ["a", "b"], "label": 0},
        Columns(text="question", choices="choices", label="label"),
    ),
    (
        "multiple-choice",
        {"sent1": "q", "ending0": "a", "ending1": "b", "ending2": "c", "label": 0},
        Columns(text="sent1", choices=("ending0", "ending1", "ending2"), label="label"),
    ),
    (
        "multiple-choice",
        {"goal": "q", "sol1": "a", "sol2": "b", "label": 0},
        Columns(text="goal", choices=("sol1", "sol2"), label="label"),
    ),
    (
        "multiple-choice",
        {"article": "t", "question": "q", "options": ["a", "b"], "answer": "A"},
        Columns(text="article", question="question", choices="options", label="answer"),
    ),
    (
        "multiple-choice",
        {"question": "q", "choices": {"label": ["A", "B"], "text": ["a", "b"]}, "answerKey": "A"},
        Columns(text="question", choices="choices", label="answerKey"),
    ),
    ("causal-lm", {"id": 3, "text": "t"}, Columns(text="text")),
]


@pytest.mark.parametrize(("task", "row", "columns"), FOUND)
def test_columns_are_found_by_name_and_type(task: TaskName, row: dict[str, Any], columns: Columns) -> None:
    assert TASKS[task].map_columns(pa.Table.from_pylist([row]), Columns()) == columns
    given = TASKS[task].map_columns(pa.Table.from_pylist([row]), columns)
    assert given == columns


AMBIGUOUS: list[tuple[TaskName, dict[str, Any], str]] = [
    ("multi-label-classification", {"text": "a", "label": "x"}, "labels"),
    ("multi-label-classification", {"text": "a", "tags": ["x"], "topics": ["y"]}, "label"),
    ("regression", {"text": "a", "first": 1.0, "second": 2.0}, "label"),
    ("token-classification", {"tokens": "a b", "tags": ["O"]}, "tokens"),
    ("token-classification", {"tokens": ["a"], "tags": "O"}, "label"),
    ("question-answering", {"question": "q", "answers": SQUAD}, "context"),
    ("question-answering", {"context": "c", "answers": SQUAD}, "question"),
    ("question-answering", {"question": "q", "context": "c", "answer": "a"}, "answers"),
    ("multiple-choice", {"question": "q", "choice": "a", "label": 0}, "choices"),
    ("multiple-choice", {"question": "q", "choices": ["a", "b"], "right": 0.5}, "label"),
]


@pytest.mark.parametrize(("task", "row", "part"), AMBIGUOUS)
def test_what_is_missing_is_named_with_the_columns_there_are(
    task: TaskName, row: dict[str, Any], part: str
) -> None:
    with pytest.raises(ColumnError) as raised:
        TASKS[task].map_columns(pa.Table.from_pylist([row] * 3), Columns())
    assert raised.value.pointer == f"/dataset/columns/{part}"
    assert all(name in raised.value.message for name in row)
    assert f"dataset.columns.{part}" in raised.value.remedy


class TestMultiLabel:
    def test_lists_and_columns_of_flags_say_the_same(self) -> None:
        rows = [["x"], ["x", "y"], [], ["y"]] * 3
        _, _, lists = read("multi-label-classification", [{"text": "t", "labels": row} for row in rows])
        flags = [{"text": "t", "x": int("x" in row), "y": int("y" in row)} for row in rows]
        _, columns, flagged = read("multi-label-classification", flags)
        assert columns.labels == ("x", "y") == lists.labels == flagged.labels
        assert list(lists["label"]) == list(flagged["label"])

    def test_other_numbers_are_no_flags(self) -> None:
        rows = [{"text": "t", "x": place % 3, "y": place % 2} for place in range(9)]
        with pytest.raises(LabelError, match="'x' holds something else than 0 and 1"):
            read("multi-label-classification", rows, labels=("x", "y"))

    def test_a_row_counts_for_the_rarest_of_its_labels(self) -> None:
        rows = [["x", "y"], ["x"], ["x"], []] * 3 + [["z", "x"]]
        task, _, read_rows = read("multi-label-classification", [{"text": "t", "labels": r} for r in rows])
        assert task.strata(read_rows).tolist() == [1, 0, 0, -1] * 3 + [2]


class TestRegression:
    @pytest.mark.parametrize(
        ("values", "message"),
        [([3.0] * 20, "the score 3"), ([1.0, 40_000.0] * 10, "too large"), (["a", "b"] * 10, "not scores")],
    )
    def test_scores_that_cannot_be_learnt(self, values: list[Any], message: str) -> None:
        rows = [{"text": "t", "label": value} for value in values]
        with pytest.raises(LabelError, match=message) as raised:
            read("regression", rows, label="label")
        assert raised.value.pointer == "/dataset/columns/label"

    def test_strata_are_even_parts_by_score(self) -> None:
        task, _, rows = read("regression", [{"text": "t", "score": float(place)} for place in range(100)])
        assert np.bincount(task.strata(rows)).tolist() == [10] * 10

    def test_numbers_that_are_none_are_missing(self) -> None:
        rows = [{"text": "t", "score": value} for value in [0.5, float("nan"), None, 1.5] * 5]
        assert len(read("regression", rows)[2]) == 10


class TestTokens:
    def test_outside_comes_first(self) -> None:
        _, _, rows = read(
            "token-classification",
            [{"tokens": ["a", "b"], "ner_tags": ["B-x", "O"]}, {"tokens": ["c"], "ner_tags": ["I-x"]}],
        )
        assert rows.labels == ("O", "B-x", "I-x")
        assert list(rows["label"]) == [[1, 0], [2]]

    def test_names_of_the_hub(self) -> None:
        names = ["O", "B-x", "I-x", "B-rare"]
        features = {"ner_tags": {"feature": {"names": names, "_type": "ClassLabel"}, "_type": "List"}}
        table = pa.Table.from_pylist([{"tokens": ["a", "b"], "ner_tags": [0, 1]}] * 3)
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
        task = TASKS["token-classification"]
        columns = task.map_columns(table, Columns())
        rows = task.read(table, columns)
        assert list(rows["label"]) == [["O", "B-x"]] * 3
        assert task.label_set(rows, table, columns) == tuple(names)

    def test_words_without_tags(self) -> None:
        with pytest.raises(LabelError, match="row 2 has 2 words in column 'tokens' and 1 tags") as raised:
            read(
                "token-classification",
                [{"tokens": ["a"], "ner_tags": ["O"]}, {"tokens": ["a", "b"], "ner_tags": ["O"]}],
            )
        assert raised.value.remedy == "give one tag for each word"

    def test_entities_cannot_be_counted_in_other_tags(self) -> None:
        task = TASKS["token-classification"]
        task.check_metric(("NOUN", "VERB"), "accuracy")
        task.check_metric(("O", "B-x", "I-x"), "f1")
        with pytest.raises(LabelError, match="'NOUN' is none of") as raised:
            task.check_metric(("NOUN", "VERB"), "f1")
        assert raised.value.pointer == "/metric"


class TestAnswers:
    def rows(self, answers: Any) -> list[dict[str, Any]]:
        good = {"question": "Where?", "context": CONTEXT, "answers": SQUAD}
        return [good, {**good, "answers": answers}]

    def test_an_answer_that_is_not_at_its_place_is_looked_for(self) -> None:
        _, _, rows = read("question-answering", self.rows({"text": ["Paris"], "answer_start": [3]}))
        assert rows["label"][1] == [{"text": "Paris", "start": 10}]

    def test_an_answer_that_is_nowhere(self) -> None:
        with pytest.raises(LabelError, match=r"'Rome' of row 2 .* is no part of its context") as raised:
            read("question-answering", self.rows({"text": ["Rome"], "answer_start": [3]}))
        assert raised.value.pointer == "/dataset/columns/answers"

    def test_questions_without_answers_must_be_learnt_to_be_asked(self) -> None:
        none = {"text": [], "answer_start": []}
        task, _, rows = read("question-answering", self.rows(none))
        assert rows.labels == ("answer", "no answer")
        with pytest.raises(LabelError, match="the test split has questions without an answer"):
            task.numbered(rows, ("answer",), "test")
        with pytest.raises(LabelError, match="no training row has an answer"):
            read("question-answering", [self.rows(none)[1]] * 3)

    def test_lists_of_answers(self) -> None:
        rows = [
            {
                "question": "q",
                "context": CONTEXT,
                "answers": [{"text": "Paris", "answer_start": 10}, {"text": "in Paris", "answer_start": 7}],
            }
        ]
        assert [answer["start"] for answer in read("question-answering", rows)[2]["label"][0]] == [10, 7]


class TestChoices:
    @pytest.mark.parametrize(
        ("values", "labels"),
        [([0, 1, 2], "012"), ([1, 2, 3], "123"), (["A", "C", "B"], "ABC"), (["1", "3", "2"], "123")],
    )
    def test_places_from_zero_from_one_and_by_letters(self, values: list[Any], labels: str) -> None:
        rows = [{"question": "q", "choices": ["a", "b", "c"], "label": value} for value in values]
        read_rows = read("multiple-choice", rows)[2]
        assert read_rows.labels == tuple(labels)
        assert list(read_rows["label"]) == [labels.index(str(value)) for value in values]

    def test_different_numbers_of_choices(self) -> None:
        rows = [{"question": "q", "choices": ["a"] * count, "label": 0} for count in (2, 3)]
        with pytest.raises(LabelError, match="2, 3 choices") as raised:
            read("multiple-choice", rows)
        assert raised.value.pointer == "/dataset/columns/choices"

    def test_a_label_that_names_no_choice(self) -> None:
        rows = [{"question": "q", "choices": ["a", "b"], "label": value} for value in (0, 5)]
        with pytest.raises(LabelError, match="'5' names none of 2 choices"):
            read("multiple-choice", rows)


def test_a_context_is_on_one_side_only(tmp_path: Path) -> None:
    rows = []
    for number in range(40):
        context = f"{number} is the number of Paris."
        for question in ("Where?", "Which city?"):
            start = context.index("Paris")
            answers = {"text": ["Paris"], "answer_start": [start]}
            rows.append({"question": question, "context": context, "answers": answers})
    write_jsonl(tmp_path / "train.jsonl", rows)
    data = prepare_dataset(
        DatasetSource(path=str(tmp_path / "train.jsonl")),
        tmp_path / "prepared",
        seed=0,
        task=TASKS["question-answering"],
    )
    splits = [set(part["context"]) for part in (data.train(), data.selection(), data.holdout())]
    assert all(splits)
    assert not splits[0] & splits[1]
    assert not splits[0] & splits[2]
    assert not splits[1] & splits[2]
    assert data.train()["label"][0][0]["text"] == "Paris"


@pytest.mark.parametrize("task", [name for name in TASKS if name != "text-classification"])
def test_data_of_another_form_is_refused(task: TaskName, tmp_path: Path) -> None:
    """Every task answers data that it cannot use with a typed error that says where."""
    write_jsonl(tmp_path / "train.jsonl", [{"unknown": number} for number in range(30)])
    with pytest.raises(EngineError) as raised:
        prepare_dataset(
            DatasetSource(path=str(tmp_path / "train.jsonl")), tmp_path / "out", seed=0, task=TASKS[task]
        )
    assert raised.value.pointer is not None
    assert "unknown" in raised.value.message


def test_the_mapping_is_told(tmp_path: Path) -> None:
    events: list[str] = []

    class Listening(SilentReporter):
        def event(self, type: str, message: str, **data: Any) -> None:
            events.append(message)

    rows = [{"text": f"t {n}", "a": n % 2, "b": (n // 2) % 2} for n in range(60)]
    write_jsonl(tmp_path / "train.jsonl", rows)
    prepare_dataset(
        DatasetSource(path=str(tmp_path / "train.jsonl")),
        tmp_path / "out",
        seed=0,
        task=TASKS["multi-label-classification"],
        reporter=Listening(),
    )
    assert "text from column 'text', labels from column 'a', 'b'" in events
