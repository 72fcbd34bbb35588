"""How answers are compared in SQuAD (Rajpurkar et al. 2016, section 6.1, and the official script v1.1)."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def exact_match(answer: str, references: Sequence[str]) -> float:
    """1 where the answer is one of the references, articles, punctuation, case and blanks aside."""
    return max(float(normalised(answer) == normalised(one)) for one in references or [""])


def f1(answer: str, references: Sequence[str]) -> float:
    """F1 of the words that answer and reference share, with the reference that it is highest for.

    Without a reference the right answer is none, the empty text (SQuAD 2.0).
    """
    return max(_overlap(normalised(answer).split(), normalised(one).split()) for one in references or [""])


def normalised(text: str) -> str:
    """Lower case, without punctuation and articles, words joined by one blank."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def _overlap(answer: list[str], reference: list[str]) -> float:
    if not answer or not reference:
        return float(answer == reference)
    shared = sum((Counter(answer) & Counter(reference)).values())
    return 2 * shared / (len(answer) + len(reference))
