"""Attention maps as knowledge: queries and keys as layers make them, and how far two maps are apart."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from worker.engine.anatomy import Anatomy
from worker.engine.anatomy.families import Rows

QUERY_AND_KEY = ("query", "key")


@contextmanager
def noted_queries(anatomy: Anatomy, layers: Collection[int]) -> Iterator[dict[int, dict[str, Tensor]]]:
    """While it lasts, forward passes leave queries and keys of `layers` (dense indices) in what it yields.

    Each is (batch, length, heads * head size), of the heads that the layer has, positions not yet in them.
    """
    noted: dict[int, dict[str, Tensor]] = {}
    with ExitStack() as undo:
        for part in anatomy.parts:
            if part.index not in layers or part.attention_output is None:
                continue
            held = noted.setdefault(part.index, {})
            for name in QUERY_AND_KEY:
                undo.callback(_noting(part.by_head[name], held, name))
        yield noted


def attention_distance(student: Tensor, teacher: Tensor, mask: Tensor, head_size: int) -> Tensor:
    """Mean over heads and tokens of KL(teacher's map || student's): MiniLM, Wang et al. 2020, eq. 5.

    Both are queries and keys, (2, batch, length, heads * head size) of the same heads; a map is the softmax
    of their scaled products. What positions add to scores in some architectures is left out on both sides.
    `mask` (batch, length): the tokens that are no padding.
    """
    student_map, teacher_map = (_log_map(pair.float(), mask, head_size) for pair in (student, teacher))
    by_key = functional.kl_div(student_map, teacher_map, reduction="none", log_target=True)
    # Padded keys have no probability on either side; there the product is 0 times an infinite logarithm.
    by_key = by_key.masked_fill(~mask[:, None, None, :], 0.0)
    by_query = by_key.sum(-1).transpose(0, 1)  # (heads, batch, length)
    return by_query[:, mask].mean()


def _log_map(pair: Tensor, mask: Tensor, head_size: int) -> Tensor:
    """(batch, heads, length, length): logarithms of each query's probabilities."""
    query, key = (each.unflatten(-1, (-1, head_size)).transpose(1, 2) for each in pair)
    scores = query @ key.transpose(-1, -2) * head_size**-0.5
    masked: Tensor = scores.masked_fill(~mask[:, None, None, :], torch.finfo(scores.dtype).min)
    return masked.log_softmax(-1)


def _noting(projection: Rows, held: dict[str, Tensor], name: str) -> Any:
    def hook(module: nn.Module, args: Any, output: Tensor) -> None:
        held[name] = output.chunk(projection.of, dim=-1)[projection.part]

    return projection.linear.register_forward_hook(hook).remove
