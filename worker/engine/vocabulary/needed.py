"""Which rows of a vocabulary a task needs, from its training data alone."""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from itertools import islice

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from worker.engine.vocabulary.rewriting import named_ids, pieces_of

PLACEHOLDER = re.compile(r"\[unused\d+\]|madeupword\d+")
"""Rows that BERT's and RoBERTa's authors left free."""


def needed_rows(
    tokenizer: PreTrainedTokenizerBase,
    used: NDArray[np.int64],
    vocabulary: int,
    *,
    fixed: Collection[int] = (),
    reserve: int = 0,
) -> tuple[int, ...]:
    """Of the `vocabulary` rows of a model's table those that stay, ascending.

    They are those of the token ids in `used` (any shape), which the training data has; those without which
    the tokenizer could not make these; its special and added tokens, padding's among them, and those that
    are `fixed` (`Anatomy.fixed_rows`); and the single characters or bytes that every other word falls back
    to. So the training data is cut as before, and no text gets an unknown token where it had none. `reserve`
    more are the commonest others, for texts with words that the training data lacks. Raises
    TokenizerUnsupported.
    """
    document = json.loads(tokenizer.backend_tokenizer.to_str())
    pieces = pieces_of(document)
    special = named_ids(document) | {int(number) for number in tokenizer.all_special_ids}
    named = {int(number) for number in np.unique(used)} | special | {*fixed}
    kept = pieces.makers(named | pieces.fallback())
    others = (number for number in pieces.commonest() if not PLACEHOLDER.match(pieces.texts[number]))
    kept |= set(islice((number for number in others if number not in kept), reserve))
    return tuple(sorted(number for number in pieces.makers(kept) if number < vocabulary))
