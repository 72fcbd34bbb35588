"""A smaller vocabulary: the training data is cut as before, any other text without unknown tokens."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertForSequenceClassification,
    PreTrainedTokenizerFast,
)

from models.spec import PruneVocabulary, Recipe
from models.spec.ranges import as_ranges
from tests.engine.export_models import logits, tiny_classifier
from tests.engine.vocabulary.tokenizers_of_kinds import KINDS, tokenizer_of
from worker.engine.anatomy import anatomy_of
from worker.engine.anatomy.slicing import sliced
from worker.engine.export.safetensors import save_folder
from worker.engine.vocabulary import TokenizerUnsupported, needed_rows, with_rows

VOCABULARY = 900
TRAIN_TEXTS = 60
STRANGE = (
    "Ünïcode naïve café, señor Łukasz!",
    "日本語 and 中文 mixed with English",
    "emoji 🙂🙃 and \u200b zero width",
    "",
    "   ",
    "a" * 120,
    "<s> [CLS] </s> [MASK] <mask> [PAD]",
    "ALL CAPS 12345 $%^&*() x2 3.14",
)


@pytest.fixture(scope="module")
def texts() -> list[str]:
    file = Path(__file__).resolve().parents[3] / "examples" / "data" / "banking77-30" / "train.jsonl.gz"
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        return [json.loads(line)["text"] for line in lines][:1200]


@pytest.fixture(scope="module", params=KINDS)
def tokenizer(request: pytest.FixtureRequest, texts: list[str], tmp_path_factory: Any) -> Any:
    spread = [*texts, *STRANGE]
    return tokenizer_of(request.param, spread, VOCABULARY, tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def rows(tokenizer: Any, texts: list[str]) -> tuple[int, ...]:
    return needed_rows(tokenizer, ids_of(tokenizer, texts[:TRAIN_TEXTS]), len(tokenizer))


def ids_of(tokenizer: Any, texts: list[str]) -> np.ndarray:
    return np.array([token for row in tokenizer(texts)["input_ids"] for token in row])


def shuffled_words(texts: list[str], seed: int) -> list[str]:
    """New words of the texts' characters, which no vocabulary has."""
    chance = random.Random(seed)
    letters = [letter for text in texts for letter in text]
    return [
        " ".join("".join(chance.choices(letters, k=chance.randint(1, 9))) for _ in range(6))
        for _ in range(100)
    ]


def test_the_training_texts_are_cut_as_before(
    tokenizer: Any, rows: tuple[int, ...], texts: list[str]
) -> None:
    smaller = with_rows(tokenizer, rows)
    assert len(rows) < 0.85 * len(tokenizer)
    before, after = tokenizer(texts[:TRAIN_TEXTS]), smaller(texts[:TRAIN_TEXTS])
    assert [[rows[token] for token in row] for row in after["input_ids"]] == before["input_ids"]
    assert after["attention_mask"] == before["attention_mask"]
    assert len(smaller) == len(rows)


def test_other_texts_are_cut_finer_and_say_the_same(
    tokenizer: Any, rows: tuple[int, ...], texts: list[str]
) -> None:
    smaller = with_rows(tokenizer, rows)
    others = [*texts[TRAIN_TEXTS:400], *STRANGE, *shuffled_words(texts, 0)]
    finer = 0
    for text in others:
        before, after = tokenizer(text)["input_ids"], smaller(text)["input_ids"]
        assert len(after) >= len(before)
        finer += len(after) > len(before)
        unknown = after.count(smaller.unk_token_id)
        assert unknown == before.count(tokenizer.unk_token_id)
        assert smaller.decode(after).split() == tokenizer.decode(before).split()
    assert finer > 100


def test_pairs_are_framed_as_before(tokenizer: Any, rows: tuple[int, ...], texts: list[str]) -> None:
    smaller = with_rows(tokenizer, rows)
    pair = texts[0], texts[1]
    before, after = (
        tokenizer(*pair, padding="max_length", max_length=90),
        smaller(*pair, padding="max_length", max_length=90),
    )
    assert [rows[token] for token in after["input_ids"]] == before["input_ids"]
    assert {name: after[name] for name in after if name != "input_ids"} == {
        name: before[name] for name in before if name != "input_ids"
    }
    for name in ("pad_token_id", "cls_token_id", "sep_token_id", "unk_token_id", "mask_token_id"):
        assert rows[getattr(smaller, name)] == getattr(tokenizer, name)


def test_stock_transformers_and_the_plain_library_read_the_folder(
    tokenizer: Any, rows: tuple[int, ...], texts: list[str], tmp_path: Path
) -> None:
    smaller = with_rows(tokenizer, rows)
    smaller.save_pretrained(tmp_path)
    stock = AutoTokenizer.from_pretrained(tmp_path)
    plain = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    plain.no_truncation()
    plain.no_padding()
    assert type(stock) is type(tokenizer)
    for text in [*texts[:200], *STRANGE]:
        assert stock(text)["input_ids"] == smaller(text)["input_ids"] == plain.encode(text).ids
        assert max(stock(text)["input_ids"]) < len(rows)


def test_a_reserve_is_of_common_pieces(tokenizer: Any, rows: tuple[int, ...], texts: list[str]) -> None:
    train = ids_of(tokenizer, texts[:TRAIN_TEXTS])
    more = needed_rows(tokenizer, train, len(tokenizer), reserve=50)
    assert set(rows) < set(more)
    assert 50 <= len(more) - len(rows) <= 150
    others = ids_of(tokenizer, texts[TRAIN_TEXTS:])
    gone = sorted(set(range(len(tokenizer))) - set(rows))
    chosen = [np.count_nonzero(others == row) for row in set(more) - set(rows)]
    assert np.mean(chosen) > np.mean([np.count_nonzero(others == row) for row in gone])


def test_a_row_that_is_named_outside_the_model_has_to_stay(tokenizer: Any, rows: tuple[int, ...]) -> None:
    without = tuple(row for row in rows if row != tokenizer.sep_token_id)
    with pytest.raises(ValueError, match="has to stay"):
        with_rows(tokenizer, without)


def test_what_cannot_be_rewritten_is_said() -> None:
    words = Tokenizer(models.WordLevel({"[UNK]": 0, "a": 1}, unk_token="[UNK]"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]", pad_token="[UNK]")
    with pytest.raises(TokenizerUnsupported, match="WordLevel"):
        needed_rows(tokenizer, np.array([1]), 2)


@pytest.mark.parametrize(("family", "kind"), [("bert", "wordpiece"), ("roberta", "byte-level BPE")])
def test_masked_is_the_dense_model_on_the_rows_of_the_new_tokens(
    family: str, kind: str, texts: list[str], tmp_path: Path
) -> None:
    """And the sliced and the reloaded model answer the same, from the text on."""
    dense = tiny_classifier(family)
    tokenizer = tokenizer_of(kind, texts, dense.config.vocab_size, tmp_path)
    rows = needed_rows(tokenizer, ids_of(tokenizer, texts[:5]), dense.config.vocab_size)
    anatomy = anatomy_of(dense)
    shape = anatomy.shape(Recipe(steps=(PruneVocabulary(rows=as_ranges(rows)),)))
    smaller = with_rows(tokenizer, rows)
    batch = dict(smaller(texts[100:108], padding=True, truncation=True, max_length=40, return_tensors="pt"))
    mapped = {**batch, "input_ids": torch.tensor(rows)[batch["input_ids"]]}
    expected = logits(dense, mapped)
    with anatomy.masked(shape):
        torch.testing.assert_close(logits(dense, batch), expected, rtol=0, atol=1e-6)
    save_folder(sliced(dense, shape), smaller, tmp_path / "folder")
    stock = AutoModelForSequenceClassification.from_pretrained(tmp_path / "folder")
    assert stock.config.vocab_size == len(rows) < dense.config.vocab_size
    assert isinstance(stock, BertForSequenceClassification) == (family == "bert")
    reloaded = AutoTokenizer.from_pretrained(tmp_path / "folder")
    again = dict(reloaded(texts[100:108], padding=True, truncation=True, max_length=40, return_tensors="pt"))
    torch.testing.assert_close(logits(stock, again), expected, rtol=0, atol=1e-5)
