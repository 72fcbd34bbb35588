"""Windows of a context: where in one the answer is, and which answer one gives."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from worker.engine.tasks.answers import Answer

LONGEST_ANSWER = 30  # tokens
NEITHER, START, END = 0, 1, 2  # labels of tokens; a token that is both has their sum


class Span(NamedTuple):
    """A part of a context: `score` is the sum of its first token's and its last token's."""

    score: float
    first: int
    end: int


def window_labels(spans: NDArray[np.int64], answer: Answer | None) -> NDArray[np.int64]:
    """Labels of a window's tokens, (tokens,): the answer's first and last, else the window's first is both.

    `spans` (tokens, 2) are characters in the context, -1 for tokens that are not of it.
    """
    labels = np.full(len(spans), NEITHER, dtype=np.int64)
    first, last = 0, 0
    if answer is not None:
        end = answer["start"] + len(answer["text"])
        inside = np.flatnonzero((spans[:, 1] > answer["start"]) & (spans[:, 0] < end) & (spans[:, 0] >= 0))
        context = np.flatnonzero(spans[:, 0] >= 0)
        whole = len(inside) and spans[context[0], 0] <= answer["start"] and spans[context[-1], 1] >= end
        if whole:
            first, last = int(inside[0]), int(inside[-1])
    labels[first] += START
    labels[last] += END
    return labels


def start_and_end(labels: torch.Tensor) -> torch.Tensor:
    """Places of first and last token, (windows, 2), from the labels of a batch (windows, length)."""
    starts = (labels == START) | (labels == START + END)
    ends = (labels == END) | (labels == START + END)
    return torch.stack((starts.int().argmax(dim=1), ends.int().argmax(dim=1)), dim=1)


def best_span(logits: NDArray[np.float32], spans: NDArray[np.int64]) -> Span | None:
    """The likeliest answer of a window that has no more than `LONGEST_ANSWER` tokens of the context.

    logits: (tokens, 2) scores as first and as last token. None where the window has no context.
    """
    places = np.flatnonzero(spans[:, 0] >= 0)
    if not len(places):
        return None
    start, end = logits[places].T.astype(np.float64)
    padded = np.concatenate([end, np.full(LONGEST_ANSWER - 1, -np.inf)])
    sums = start[:, None] + np.lib.stride_tricks.sliding_window_view(padded, LONGEST_ANSWER)
    first, more = divmod(int(sums.argmax()), LONGEST_ANSWER)
    return Span(float(sums[first, more]), int(spans[places[first], 0]), int(spans[places[first + more], 1]))
