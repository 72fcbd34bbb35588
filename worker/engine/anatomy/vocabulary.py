"""Models with fewer vocabulary rows: their token ids, their configs, and the masked model that takes them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

TOKEN_ID_SUFFIX = "_token_id"


@contextmanager
def renumbered(model: PreTrainedModel, token_ids: Tensor | None) -> Iterator[None]:
    """While it lasts, the model looks up the row `token_ids[i]` for each input id i; None changes nothing.

    Only the table sees the model's own ids: whatever else reads ids, as RoBERTa's positions do, reads those
    that were given.
    """
    if token_ids is None:
        yield
        return
    rows = token_ids.to(model.device)

    def hook(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (rows[args[0]], *args[1:])

    handle = cast(nn.Embedding, model.get_input_embeddings()).register_forward_pre_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def embedding_weights(
    model: PreTrainedModel, embeddings: nn.Module, rows: Tensor | None
) -> dict[str, Tensor]:
    """The state of `model`'s module `embeddings`, of the word embeddings the `rows` only.

    `rows` are positions in the table, (rows that are left,); None for all.
    """
    weights, words = dict(embeddings.state_dict()), model.get_input_embeddings()
    if rows is not None:
        name = next(name for name, part in embeddings.named_modules() if part is words) + ".weight"
        weights[name] = weights[name][rows.to(weights[name].device)]
    return weights


def with_rows(config: PreTrainedConfig, rows: Sequence[int]) -> None:
    """Let a dense model's `config` describe the model of which only `rows` of the vocabulary are left."""
    numbers = {row: number for number, row in enumerate(rows)}
    config.vocab_size = len(rows)
    for name, token_id in _token_ids(config):
        setattr(config, name, numbers.get(token_id))


def without_rows(document: dict[str, Any], rows: Sequence[int], vocabulary: int) -> dict[str, Any]:
    """The inverse of `with_rows` on a config's JSON: the dense model's, which has `vocabulary` rows.

    The id of a special token whose row is gone stays unknown.
    """
    restored = {
        name: rows[value] if name.endswith(TOKEN_ID_SUFFIX) and isinstance(value, int) else value
        for name, value in document.items()
    }
    return {**restored, "vocab_size": vocabulary}


def _token_ids(config: PreTrainedConfig) -> list[tuple[str, int]]:
    fields: Mapping[str, Any] = config.to_dict()
    return [
        (name, value)
        for name, value in fields.items()
        if name.endswith(TOKEN_ID_SUFFIX) and isinstance(value, int)
    ]
