"""Word embeddings with fewer rows or of low rank: copied, computed with by a masked model, and in configs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from worker.engine.anatomy.low_rank import directions

TOKEN_ID_SUFFIX = "_token_id"
COUNTS = "token_counts"
UNSEEN = 0.1  # how often a token that was not counted is expected beside one that was counted once
PROJECTION = "word_projection"  # of AxforgeEmbeddings


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
    model: PreTrainedModel,
    embeddings: nn.Module,
    rows: Tensor | None,
    rank: int | None,
    columns: Tensor | None = None,
) -> dict[str, Tensor]:
    """The state of `model`'s module `embeddings`, of the word embeddings the `rows` only, at that `rank`.

    `rows` are positions in the table, (rows that are left,), `columns` positions in what the module gives,
    (values that are left,); None for all. `rank` None: whole rows.
    """
    words, held = cast(nn.Embedding, model.get_input_embeddings()), getattr(embeddings, PROJECTION, None)
    own, name = word_parameters(model, embeddings), _words_name(model, embeddings)
    weights = {
        key: _columns(value, columns) for key, value in embeddings.state_dict().items() if key not in own
    }
    table = _columns(_table(model, embeddings, rows), columns)
    if rank is not None and held is not None and held.in_features == rank:
        weights[f"{PROJECTION}.weight"] = _rows(held.weight, columns)
        table = _rows(words.weight, rows)
    elif rank is not None:
        kept = table_directions(model, embeddings, rank, rows, columns)
        weights[f"{PROJECTION}.weight"], table = kept.T, table @ kept.T
    return {**weights, _weight_of(name): table}


def word_parameters(model: PreTrainedModel, embeddings: nn.Module) -> set[str]:
    """Names of the word embedding's parameters in `model`'s module `embeddings`: one, or two if low-rank."""
    return {_weight_of(_words_name(model, embeddings)), f"{PROJECTION}.weight"}


def note_counts(model: PreTrainedModel, counts: Tensor) -> None:
    """Let low-rank tables of the model, while it lives, be those that are best for texts with so many tokens.

    `counts` (rows,) are by the model's token ids. Without them all rows count the same.
    """
    words = cast(nn.Embedding, model.get_input_embeddings())
    words.register_buffer(COUNTS, (counts + UNSEEN).to(words.weight.device), persistent=False)


@contextmanager
def projected(
    model: PreTrainedModel,
    embeddings: nn.Module,
    rank: int,
    rows: Tensor | None,
    columns: Tensor | None = None,
) -> Iterator[None]:
    """While it lasts, word embeddings are what a table of that rank with those `rows` and `columns` gives.

    None: with all. Other columns are 0.
    """
    kept = table_directions(model, embeddings, rank, rows, columns)

    def hook(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return thinned(output, kept, columns)

    last = getattr(embeddings, PROJECTION, None) or model.get_input_embeddings()
    handle = last.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def thinned(values: Tensor, directions: Tensor, columns: Tensor | None) -> Tensor:
    """(..., width): of the values at `columns` (None: all) what lies in the `directions`; others are 0."""
    thin = _columns(values, columns) @ directions.T @ directions
    if columns is None:
        return thin
    return torch.zeros_like(values).index_copy_(-1, columns.to(values.device), thin)


def table_directions(
    model: PreTrainedModel,
    embeddings: nn.Module,
    rank: int,
    rows: Tensor | None,
    columns: Tensor | None = None,
) -> Tensor:
    """In which the rows lie best, each as often as its token is expected, (rank, columns)."""
    table = _columns(_table(model, embeddings, rows), columns)
    counts = getattr(model.get_input_embeddings(), COUNTS, None)
    if counts is not None:
        table = table.double() * _rows(counts, rows).double().sqrt()[:, None]
    return directions(table, rank).to(model.dtype)


@torch.no_grad()
def _table(model: PreTrainedModel, embeddings: nn.Module, rows: Tensor | None) -> Tensor:
    """The word embeddings of `rows` in the width of the dense model's table, (rows, width)."""
    words = _rows(cast(nn.Embedding, model.get_input_embeddings()).weight.detach(), rows)
    projection = getattr(embeddings, PROJECTION, None)
    return words if projection is None else words @ projection.weight.T


def _rows(table: Tensor, rows: Tensor | None) -> Tensor:
    return table if rows is None else table[rows.to(table.device)]


def _columns(table: Tensor, columns: Tensor | None) -> Tensor:
    """Of (..., width) the values at `columns`."""
    return table if columns is None else table[..., columns.to(table.device)]


def _weight_of(name: str) -> str:
    """Some families' embeddings are the table alone, whose name is empty."""
    return f"{name}.weight".lstrip(".")


def _words_name(model: PreTrainedModel, embeddings: nn.Module) -> str:
    words = model.get_input_embeddings()
    name: str = next(name for name, part in embeddings.named_modules() if part is words)
    return name


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
