"""A language model's head on a vocabulary of fewer rows or of low rank: masked, and copied.

The head has a row for each word, as the table of word embeddings has, and they go together. Where it is tied
to the table it has no weights of its own: a table of low rank makes a head of low rank.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from worker.engine.anatomy.shape import Shape
from worker.engine.anatomy.vocabulary import table_directions, thinned

if TYPE_CHECKING:
    from worker.engine.anatomy.base import Anatomy

MODULE = "lm_head"
"""The head's module in every family, and in exported models."""
WEIGHTS = "head.out"
"""The path of the head's own matrix in an exported model, as `Family.outside` has it."""


@contextmanager
def masked_head(
    anatomy: Anatomy, embeddings: nn.Module, shape: Shape, rows: Tensor | None, columns: Tensor | None
) -> Iterator[None]:
    """While it lasts, logits are those of the model of `shape`: of the words left, (..., rows that are left).

    `rows` and `columns` are positions in the table, of the words and of the dimensions that are left; None
    where all stay.
    """
    model, rank = anatomy.model, shape.embedding_rank
    head: nn.Module = getattr(model, MODULE)
    with ExitStack() as undo:
        if anatomy.tied_head and rank is not None and rank != anatomy.full_shape().embedding_rank:
            kept = table_directions(model, embeddings, rank, rows, columns)

            def projected(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
                return (thinned(args[0], kept, columns), *args[1:])

            undo.callback(head.register_forward_pre_hook(projected).remove)
        if rows is not None:
            left = rows.to(model.device)
            undo.callback(head.register_forward_hook(lambda module, args, output: output[..., left]).remove)
        yield


def head_weights(given: nn.Module, rows: Tensor | None) -> dict[str, Tensor]:
    """The state of the head's linear module with the `rows` that are left."""
    state: dict[str, Tensor] = given.state_dict()
    return state if rows is None else {name: value[rows.to(value.device)] for name, value in state.items()}
