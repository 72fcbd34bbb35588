"""Tokenizers of every kind that can be rewritten, trained on a few hundred texts."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import BertTokenizer, PreTrainedTokenizerFast, RobertaTokenizer, XLMRobertaTokenizer

from tests.tiny_models import wordpiece_tokenizer

KINDS = ("wordpiece", "byte-level BPE", "BPE with bytes", "unigram")
ROBERTA_SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
NAMES = {
    "bos_token": "<s>",
    "pad_token": "<pad>",
    "eos_token": "</s>",
    "unk_token": "<unk>",
    "mask_token": "<mask>",
    "cls_token": "<s>",
    "sep_token": "</s>",
}


def tokenizer_of(kind: str, texts: Iterable[str], vocabulary: int, folder: Path) -> Any:
    """As the hub has them: with a class of their own where transformers has one."""
    if kind == "wordpiece":
        tokens = wordpiece_tokenizer(texts, vocabulary).get_vocab()
        return BertTokenizer(vocab=tokens)
    if kind == "byte-level BPE":
        return _roberta(texts, vocabulary)
    if kind == "unigram":
        return _xlm_roberta(texts, vocabulary)
    return _bytes(texts, vocabulary)


def _roberta(texts: Iterable[str], vocabulary: int) -> Any:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=ROBERTA_SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    model = _model(tokenizer)
    merges = [tuple(merge) for merge in model["merges"]]
    return RobertaTokenizer(vocab=model["vocab"], merges=merges)


def _xlm_roberta(texts: Iterable[str], vocabulary: int) -> Any:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=vocabulary, special_tokens=ROBERTA_SPECIAL, unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    pieces = [tuple(entry) for entry in _model(tokenizer)["vocab"]]
    ordered = [(token, 0.0) for token in ROBERTA_SPECIAL[:4]]
    ordered += [entry for entry in pieces if entry[0] not in ROBERTA_SPECIAL]
    return XLMRobertaTokenizer(vocab=[*ordered, ("<mask>", 0.0)])


def _bytes(texts: Iterable[str], vocabulary: int) -> Any:
    """As Llama's: characters, and bytes where there is no piece for a character."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback()])
    names = [*ROBERTA_SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=vocabulary, special_tokens=names, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    document = _document(tokenizer)
    document["added_tokens"] = document["added_tokens"][: len(ROBERTA_SPECIAL)]
    tokenizer = Tokenizer.from_str(_text(document))
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **NAMES)


def _document(tokenizer: Tokenizer) -> dict[str, Any]:
    import json

    document: dict[str, Any] = json.loads(tokenizer.to_str())
    return document


def _model(tokenizer: Tokenizer) -> dict[str, Any]:
    model: dict[str, Any] = _document(tokenizer)["model"]
    return model


def _text(document: dict[str, Any]) -> str:
    import json

    return json.dumps(document)
