"""Words and their tags, windows and their answers, choices and their row: what the model is given."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from tests.engine.tasks.tables import read
from tests.tiny_models import wordpiece_tokenizer
from worker.engine.errors import DatasetError
from worker.engine.tasks import TASKS, Rows, Split
from worker.engine.tasks.split import IGNORED
from worker.engine.tasks.windows import best_span, start_and_end, window_labels

WORDS = ["Paris", "in", "the", "spring", "unbelievably", "."]
SENTENCE = "The tower in Paris was built by Gustave Eiffel in the year 1889 for a fair that was held there ."


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    made = wordpiece_tokenizer([*WORDS, SENTENCE, "who built it", "number one two three"], 60)
    made.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    return made


@pytest.fixture(scope="module")
def byte_level() -> Any:
    """A RoBERTa-like tokenizer, whose tokens hold the blank before them."""
    from tokenizers import ByteLevelBPETokenizer
    from transformers import PreTrainedTokenizerFast

    learned = ByteLevelBPETokenizer()
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    learned.train_from_iterator([" ".join(WORDS), SENTENCE] * 3, vocab_size=300, special_tokens=special)
    return PreTrainedTokenizerFast(tokenizer_object=learned._tokenizer, pad_token="<pad>")


class TestTags:
    @pytest.mark.parametrize("kind", ["tokenizer", "byte_level"])
    def test_the_first_token_of_each_word_has_its_tag(
        self, kind: str, request: pytest.FixtureRequest
    ) -> None:
        tokenizer = request.getfixturevalue(kind)
        tags = [1, 0, 2, 0, 3, 4]
        rows = Rows({"tokens": [WORDS, WORDS[:2]], "label": [tags, tags[:2]]}, tuple("abcde"))
        split = TASKS["token-classification"].encode(rows, tokenizer, max_length=60)
        for row, (words, wanted) in enumerate(((WORDS, tags), (WORDS[:2], tags[:2]))):
            labels = split.labels[split.flat_positions(np.array([row]))]
            assert labels[labels != IGNORED].tolist() == wanted
            firsts = split.row(row)[labels != IGNORED]
            texts = tokenizer.convert_ids_to_tokens(firsts)
            assert all(
                word.lower().startswith(text.lstrip("Ġ#").lower())
                for word, text in zip(words, texts, strict=True)
            )
        assert len(split.ids) > sum(split.labels != IGNORED) + (4 if kind == "tokenizer" else 0)

    def test_words_that_are_cut_off_are_not_judged(self, tokenizer: Any) -> None:
        rows = Rows({"tokens": [WORDS], "label": [[1] * 6]}, ("O", "B-x"))
        task = TASKS["token-classification"]
        whole, cut = (task.encode(rows, tokenizer, max_length=length) for length in (60, 6))
        assert (whole.labels != IGNORED).sum() == 6
        assert 1 <= (cut.labels != IGNORED).sum() < 6
        logits = np.tile(np.array([[0.0, 1.0]], dtype=np.float32), (len(cut.ids), 1))
        assert task.score("recall", task.marks(logits, cut)) == 1.0

    def test_a_row_s_loss_is_the_mean_over_its_words(self, tokenizer: Any) -> None:
        rows = Rows({"tokens": [WORDS, WORDS[:1]], "label": [[1, 0, 1, 0, 1, 0], [1]]}, ("O", "B-x"))
        task = TASKS["token-classification"]
        batch = task.encode(rows, tokenizer, max_length=40).batch(np.array([0, 1]))
        logits = torch.randn(*batch.mask.shape, 2)
        losses = task.losses(logits, batch)
        for row in range(2):
            asked = batch.labels[row] != IGNORED
            expected = torch.nn.functional.cross_entropy(logits[row][asked], batch.labels[row][asked])
            assert float(losses[row]) == pytest.approx(float(expected), abs=1e-6)


def question_rows(*answers: dict[str, Any]) -> Rows:
    asked = [{"question": "who built it", "context": SENTENCE, "answers": answer} for answer in answers]
    return read("question-answering", asked)[2]


EIFFEL = {"text": ["Gustave Eiffel"], "answer_start": [SENTENCE.index("Gustave")]}
NOBODY: dict[str, Any] = {"text": [], "answer_start": []}


class TestWindows:
    def test_every_token_of_the_context_is_in_a_window_and_the_answer_is_where_it_is(
        self, tokenizer: Any
    ) -> None:
        rows, task = question_rows(EIFFEL, NOBODY), TASKS["question-answering"]
        split = task.encode(rows, tokenizer, max_length=32)
        assert len(split) == 2
        assert split.sequence_lengths.max() == 32
        assert len(split.sequence_lengths) > 2
        assert split.spans is not None
        assert split.starts is not None
        covered = {place for first, end in split.spans for place in range(first, end) if first >= 0}
        assert {place for place, letter in enumerate(SENTENCE) if letter != " "} <= covered
        batch = split.batch(np.array([0, 1]))
        found = 0
        for window, (start, end) in enumerate(start_and_end(batch.labels).tolist()):
            spans = split.spans[split.offsets[window] : split.offsets[window + 1]]
            if start:
                found += 1
                assert SENTENCE[spans[start][0] : spans[end][1]] == "Gustave Eiffel"
                assert batch.rows[window] == 0
            else:
                assert end == 0
        assert found

    def test_perfect_logits_give_the_answers(self, tokenizer: Any) -> None:
        rows, task = question_rows(EIFFEL, NOBODY), TASKS["question-answering"]
        split = task.encode(rows, tokenizer, max_length=32)
        logits = np.zeros((len(split.ids), 2), dtype=np.float32)
        logits[:, 0] = 9.0 * np.isin(split.labels, (1, 3))
        logits[:, 1] = 9.0 * np.isin(split.labels, (2, 3))
        # A window without the answer says so as loudly as the one that has it: less loudly, here.
        firsts = split.offsets[:-1][: split.row_starts[1]]
        logits[firsts] /= 2
        assert task.answers(logits, split) == ["Gustave Eiffel", ""]
        marks = task.marks(logits, split)
        assert task.score("f1", marks) == task.score("exact_match", marks) == 1.0
        assert task.expected(rows) == [["Gustave Eiffel"], []]

    def test_where_every_question_has_an_answer_one_is_always_given(self, tokenizer: Any) -> None:
        rows, task = question_rows(EIFFEL), TASKS["question-answering"]
        split = task.encode(rows, tokenizer, max_length=60)
        logits = np.zeros((len(split.ids), 2), dtype=np.float32)
        logits[split.offsets[:-1]] = 9.0
        assert task.answers(logits, split)[0] != ""

    def test_losses_do_not_see_padding_and_are_means_over_windows(self, tokenizer: Any) -> None:
        rows, task = question_rows(EIFFEL, EIFFEL), TASKS["question-answering"]
        split = task.encode(rows, tokenizer, max_length=32)
        batch = split.batch(np.array([1]))
        logits = torch.randn(*batch.mask.shape, 2)
        loss = float(task.losses(logits, batch)[0])
        each = []
        for window in range(len(logits)):
            real = batch.mask[window]
            targets = start_and_end(batch.labels)[window]
            for side in range(2):
                scores = logits[window][real][:, side]
                each.append(float(torch.nn.functional.cross_entropy(scores, targets[side])))
        assert loss == pytest.approx(np.mean(each), abs=1e-5)
        louder = logits.clone()
        louder[~batch.mask] = 100.0
        assert float(task.losses(louder, batch)[0]) == pytest.approx(loss)
        assert float(task.soft_loss(louder, logits, batch, 2.0)) == pytest.approx(0.0, abs=1e-5)

    def test_long_questions_leave_room_for_the_context(self, tokenizer: Any) -> None:
        row = {"question": "who built it " * 40, "context": SENTENCE, "answers": EIFFEL}
        split = TASKS["question-answering"].encode(
            read("question-answering", [row])[2], tokenizer, max_length=32
        )
        assert split.sequence_lengths.max() == 32

    def test_windows_too_small_for_anything(self, tokenizer: Any) -> None:
        with pytest.raises(DatasetError) as raised:
            TASKS["question-answering"].encode(question_rows(EIFFEL), tokenizer, max_length=16)
        assert raised.value.pointer == "/baseline/max_length"

    def test_the_best_span_ends_after_it_begins_and_is_short(self) -> None:
        spans = np.array([[-1, -1], *([place, place + 1] for place in range(50)), [-1, -1]])
        logits = np.zeros((52, 2), dtype=np.float32)
        logits[40, 0], logits[45, 1] = 3.0, 2.0
        logits[3, 1] = 9.0  # an end far before the start
        logits[0] = logits[51] = 99.0  # not of the context
        best = best_span(logits, spans)
        assert best is not None
        assert (best.first, best.end, best.score) == (0, 3, 9.0)
        logits[3, 1] = 0.0
        best = best_span(logits, spans)
        assert best is not None
        assert (best.first, best.end, best.score) == (39, 45, 5.0)
        assert best_span(logits[:1], spans[:1]) is None

    def test_an_answer_that_a_window_cuts_is_not_in_it(self) -> None:
        spans = np.array([[-1, -1], [0, 3], [4, 7], [8, 11]])
        whole = window_labels(spans, {"text": "de fg", "start": 4})
        assert whole.tolist() == [3, 0, 0, 0] or whole.tolist() == [0, 0, 1, 2]
        cut = window_labels(spans[:3], {"text": "defghij", "start": 4})
        assert cut.tolist() == [3, 0, 0]


class TestChoices:
    def test_choices_of_a_row_stay_together(self, tokenizer: Any) -> None:
        rows = [
            {"question": "who built it", "choices": ["Gustave Eiffel", "the fair", word], "label": 0}
            for word in ("Paris", "spring", "unbelievably", "in the year 1889")
        ]
        task, _, read_rows = read("multiple-choice", rows)
        split = task.encode(read_rows, tokenizer, max_length=40)
        assert len(split) == 4
        assert split.choices == 3
        batch = split.batch(np.array([2, 0]))
        assert batch.inputs["input_ids"].shape[:2] == (2, 3)
        assert batch.labels.tolist() == [0, 0]
        last = batch.inputs["input_ids"][0, 2][batch.inputs["attention_mask"][0, 2].bool()]
        assert "unbelievably" in tokenizer.decode(last)
        assert set(batch.inputs["token_type_ids"].flatten().tolist()) == {0, 1}
        picked = split.select(np.array([3]))
        assert picked.row(0).tolist() == split.row(3).tolist()
        assert picked.choices == 3

    def test_a_question_goes_with_each_choice(self, tokenizer: Any) -> None:
        rows = [{"article": SENTENCE, "question": "who built it", "options": ["it", "in"], "label": 1}]
        task, _, read_rows = read("multiple-choice", rows)
        split = task.encode(read_rows, tokenizer, max_length=60)
        assert tokenizer.decode(split.row(0)).count("who built it") == 2


def test_splits_of_several_sequences_are_cut_and_batched_row_by_row() -> None:
    lengths, starts = [3, 1, 2, 4, 2], np.array([0, 2, 3, 5])
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    split = Split(np.arange(12), offsets, np.arange(12) * 10, 99, starts=starts, by_token=True)
    assert split.lengths.tolist() == [4, 2, 6]
    picked = split.select(np.array([2, 0]))
    assert picked.ids.tolist() == [6, 7, 8, 9, 10, 11, 0, 1, 2, 3]
    assert picked.labels.tolist() == [60, 70, 80, 90, 100, 110, 0, 10, 20, 30]
    batch = picked.batch(np.array([1, 0]))
    assert batch.rows.tolist() == [0, 0, 1, 1]
    assert batch.inputs["input_ids"].tolist() == [
        [0, 1, 2, 99],
        [3, 99, 99, 99],
        [6, 7, 8, 9],
        [10, 11, 99, 99],
    ]
    assert batch.labels[1].tolist() == [30, IGNORED, IGNORED, IGNORED]
    assert picked.flat_positions(np.array([1, 0])).tolist() == [6, 7, 8, 9, 0, 1, 2, 3, 4, 5]
