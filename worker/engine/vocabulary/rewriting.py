"""Rewriting a fast tokenizer for a vocabulary of fewer rows."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from worker.engine.vocabulary.pieces import KINDS, Numbers, Pieces

TOKENIZER_FILE, CONFIG_FILE = "tokenizer.json", "tokenizer_config.json"


class TokenizerUnsupported(ValueError):
    """The tokenizer's model is of a kind that cannot be rewritten."""


def with_rows(tokenizer: PreTrainedTokenizerBase, rows: Sequence[int]) -> PreTrainedTokenizerBase:
    """A tokenizer of the same class that gives the ids 0, 1, ... of a model whose table has only `rows`.

    Texts are normalised, split and framed as before. Raises ValueError when a special token's row is
    gone, TokenizerUnsupported as `pieces_of`.
    """
    with TemporaryDirectory(prefix="axforge-tokenizer-") as name:
        folder = Path(name)
        tokenizer.save_pretrained(folder)
        numbers = {row: number for number, row in enumerate(rows)}
        document = json.loads(tokenizer.backend_tokenizer.to_str())
        _write(folder / TOKENIZER_FILE, rewritten(document, numbers))
        config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
        _write(folder / CONFIG_FILE, _without_ids(config))
        for file in folder.iterdir():  # of a slow tokenizer: they hold the whole vocabulary
            if file.name not in (TOKENIZER_FILE, CONFIG_FILE):
                file.unlink()
        smaller: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    smaller.model_input_names = list(tokenizer.model_input_names)
    return smaller


def rewritten(document: Mapping[str, Any], numbers: Numbers) -> dict[str, Any]:
    """A `tokenizer.json` with the pieces that `numbers` has an id for, and these ids throughout.

    Raises ValueError when a token that is named outside the model has none.
    """
    if lost := sorted(named_ids(document) - set(numbers)):
        raise ValueError(f"the tokenizer adds the token {lost[0]} by itself; its row has to stay")
    padding = document.get("padding")
    return {
        **document,
        "model": pieces_of(document).without(numbers),
        "added_tokens": [{**token, "id": numbers[token["id"]]} for token in document["added_tokens"]],
        "post_processor": _renumbered(document.get("post_processor"), numbers),
        "padding": padding and {**padding, "pad_id": numbers[padding["pad_id"]]},
    }


def pieces_of(document: Mapping[str, Any]) -> Pieces:
    """The model of a `tokenizer.json`. Raises TokenizerUnsupported."""
    kind = document["model"].get("type")
    if kind not in KINDS:
        raise TokenizerUnsupported(
            f"a tokenizer of kind {kind!r} cannot be rewritten; those of {', '.join(KINDS)} can"
        )
    return KINDS[kind](document["model"])


def named_ids(document: Mapping[str, Any]) -> set[int]:
    """Ids that a `tokenizer.json` names outside its model: added tokens, framing and padding."""
    added = {int(token["id"]) for token in document["added_tokens"]}
    padding = document.get("padding")
    return (
        added
        | set(_processor_ids(document.get("post_processor")))
        | ({int(padding["pad_id"])} if padding else set())
    )


def _processor_ids(processor: Mapping[str, Any] | None) -> Iterator[int]:
    if processor is None:
        return
    for part in processor.get("processors", ()):
        yield from _processor_ids(part)
    for token in processor.get("special_tokens", {}).values():
        yield from token["ids"]
    for name in ("sep", "cls"):
        if name in processor:
            yield processor[name][1]


def _renumbered(processor: Mapping[str, Any] | None, numbers: Numbers) -> dict[str, Any] | None:
    """A post-processor: a template with special tokens, BERT's or RoBERTa's frame, or a sequence of such."""
    if processor is None:
        return None
    document = dict(processor)
    if "processors" in document:
        document["processors"] = [_renumbered(part, numbers) for part in document["processors"]]
    if "special_tokens" in document:
        document["special_tokens"] = {
            name: {**token, "ids": [numbers[each] for each in token["ids"]]}
            for name, token in document["special_tokens"].items()
        }
    for name in ("sep", "cls"):
        if name in document:
            token, number = document[name]
            document[name] = [token, numbers[number]]
    return document


def _without_ids(config: dict[str, Any]) -> dict[str, Any]:
    """`tokenizer_config.json` without the added tokens' ids: `tokenizer.json` has them, too."""
    return {name: value for name, value in config.items() if name != "added_tokens_decoder"}


def _write(path: Path, document: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(document, ensure_ascii=False), encoding="utf-8")
