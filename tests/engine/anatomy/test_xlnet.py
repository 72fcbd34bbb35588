"""XLNet as one of the engine's own models: the same function as transformers' own classes compute."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase, XLNetLMHeadModel, XLNetTokenizer

from models.spec import PruneHeads, PruneHidden, PruneVocabulary, Recipe, TaskName
from models.spec.ranges import as_ranges
from tests.engine.export_models import LABELS, VOCABULARY, logits, stock_model
from worker.engine.anatomy import anatomy_of, ensure_supported
from worker.engine.anatomy.heads import HeadKind
from worker.engine.anatomy.slicing import is_native, recast, sliced
from worker.engine.errors import UnsupportedArchitecture
from worker.engine.export.modeling_axforge import AxforgeEncoder
from worker.engine.prepare import load_model, load_tokenizer
from worker.engine.stages.prepare import positions
from worker.engine.tasks import TASKS
from worker.engine.vocabulary import needed_rows, with_rows

KINDS: tuple[HeadKind, ...] = ("sequence", "token", "span", "choice")
SPECIAL = ("<unk>", "<s>", "</s>", "<cls>", "<sep>", "<pad>", "<mask>", "<eop>", "<eod>")
PADDING = SPECIAL.index("<pad>")
PAIRS = [
    ("the cat sat on the mat and looked at us", "who sat there"),
    ("a", "b"),
    ("no second text is as long as this one is", "but the first one may be"),
]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    """XLNet's own, of letters and some words: it pads in front and puts `<cls>` at the end."""
    letters = [(letter, -8.0) for letter in "\u2581abcdefghijklmnopqrstuvwxyz"]
    words = [(f"\u2581{word}", -4.0) for word in ("the", "cat", "sat", "who", "one", "this")]
    names = ["input_ids", "token_type_ids", "attention_mask"]
    vocabulary = [*((name, 0.0) for name in SPECIAL), *letters, *words]
    return XLNetTokenizer(vocab=vocabulary, model_input_names=names)


def as_batch(tokenizer: PreTrainedTokenizerBase, kind: HeadKind, side: str) -> dict[str, torch.Tensor]:
    firsts, seconds = zip(*PAIRS, strict=True)
    tokenizer.padding_side = side
    batch = dict(tokenizer(firsts, seconds, padding=True, return_tensors="pt"))
    tokenizer.padding_side = "left"
    return {name: value[None] for name, value in batch.items()} if kind == "choice" else batch


def real(values: torch.Tensor, batch: dict[str, torch.Tensor], kind: HeadKind) -> torch.Tensor:
    return values[batch["attention_mask"].bool()] if kind in ("token", "span") else values


@pytest.mark.parametrize("kind", KINDS)
def test_computes_what_the_stock_model_does(kind: HeadKind, tokenizer: PreTrainedTokenizerBase) -> None:
    """Pairs of several lengths, padded as the tokenizer does, in front."""
    stock = stock_model("xlnet", kind, pad_token_id=PADDING)
    own = recast(stock)
    batch = as_batch(tokenizer, kind, "left")
    assert batch["input_ids"].flatten()[batch["input_ids"].shape[-1]] == PADDING
    assert batch["token_type_ids"].unique().tolist() == [0, 1, 2]
    expected = real(logits(stock, batch), batch, kind)
    torch.testing.assert_close(real(logits(own, batch), batch, kind), expected, atol=1e-5, rtol=0.0)
    behind = as_batch(tokenizer, kind, "right")
    torch.testing.assert_close(real(logits(own, behind), behind, kind), expected, atol=1e-5, rtol=0.0)
    for name in ("token_type_ids", "attention_mask"):
        less = {key: value for key, value in batch.items() if key != name}
        without = real(logits(stock, less), batch, kind)
        assert not torch.allclose(without, expected, atol=1e-3)
        torch.testing.assert_close(real(logits(own, less), batch, kind), without, atol=1e-5, rtol=0.0)
