"""The pieces of a fast tokenizer's model, and which of them others need: WordPiece, BPE and Unigram.

All three read the model part of a `tokenizer.json` (the `tokenizers` library's format). What has to hold
for each of them when pieces are taken away:

* a text that was cut into pieces that all stay is cut as before (`makers` names what else that needs);
* a text that was cut without an unknown token still is (`fallback` names the pieces that see to it).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

Numbers = Mapping[int, int]
"""New id by old id, of the pieces that stay."""


class Pieces(ABC):
    """`model` is the tokenizer's model as JSON; `texts` its pieces by their ids."""

    def __init__(self, model: Mapping[str, Any]) -> None:
        self.model = model
        self.texts = self._read()
        self.ids = {text: number for number, text in self.texts.items()}

    @abstractmethod
    def fallback(self) -> set[int]:
        """Pieces that any text may need once others are gone."""

    def makers(self, kept: set[int]) -> set[int]:
        """`kept`, and the pieces without which the tokenizer could not make those."""
        return kept

    @abstractmethod
    def commonest(self) -> list[int]:
        """All pieces, those first that texts in general have most of, as far as the tokenizer tells."""

    @abstractmethod
    def without(self, numbers: Numbers) -> dict[str, Any]:
        """The model as JSON with only the pieces that `numbers` has an id for."""

    @abstractmethod
    def _read(self) -> dict[int, str]: ...

    def _unknown(self) -> set[int]:
        token = self.model.get("unk_token")
        return {self.ids[token]} if token in self.ids else set()


class WordPiece(Pieces):
    """Cuts each word greedily, longest piece first; a word that comes to no end is one unknown token.

    Taking away longer pieces leaves a greedy cut that used none of them as it was. Words that used them
    end in single characters at worst: those stay, at the start of a word and inside one. A piece with a
    character that has no piece of its own there stays as a whole.
    """

    def fallback(self) -> set[int]:
        return self._unknown() | {
            number for number, text in self.texts.items() if self._single(text) or not self._spelled(text)
        }

    def commonest(self) -> list[int]:
        return sorted(self.texts)  # trainers number pieces in the order in which they found them

    def without(self, numbers: Numbers) -> dict[str, Any]:
        return {**self.model, "vocab": _renumbered(self.model["vocab"], numbers)}

    def _read(self) -> dict[int, str]:
        self._prefix: str = self.model["continuing_subword_prefix"]
        return {number: text for text, number in self.model["vocab"].items()}

    def _single(self, text: str) -> bool:
        return len(text.removeprefix(self._prefix)) == 1

    def _spelled(self, text: str) -> bool:
        """Whether all characters of a piece have a piece of their own where they stand."""
        inside = text.startswith(self._prefix) and text != self._prefix
        body = text.removeprefix(self._prefix) if inside else text
        spelling = [
            character if number == 0 and not inside else self._prefix + character
            for number, character in enumerate(body)
        ]
        return all(piece in self.ids for piece in spelling)


class BytePair(Pieces):
    """Joins neighbours by a list of merges; of characters or bytes, with or without a fallback to bytes.

    A piece stays together with both parts of every merge that makes it, and these with theirs: then
    every merge that a kept cut ever took stays, and a merge that goes was in none of them. Pieces that
    no merge makes are what texts begin as.
    """

    def fallback(self) -> set[int]:
        made = set(self._parts)
        return self._unknown() | {number for number in self.texts if number not in made}

    def makers(self, kept: set[int]) -> set[int]:
        closed, pending = set(kept), list(kept)
        while pending:
            for part in self._parts.get(pending.pop(), ()):
                if part not in closed:
                    closed.add(part)
                    pending.append(part)
        return closed

    def commonest(self) -> list[int]:
        rank = {self._joined(*parts): number for number, parts in reversed([*enumerate(self._merges)])}
        return sorted(self.texts, key=lambda number: (rank.get(self.texts[number], -1), number))

    def without(self, numbers: Numbers) -> dict[str, Any]:
        merges = [
            merge
            for merge, parts in zip(self.model["merges"], self._merges, strict=True)
            if all(self.ids.get(text) in numbers for text in (*parts, self._joined(*parts)))
        ]
        return {**self.model, "vocab": _renumbered(self.model["vocab"], numbers), "merges": merges}

    def _read(self) -> dict[int, str]:
        vocabulary: Mapping[str, int] = self.model["vocab"]
        self._prefix: str = self.model.get("continuing_subword_prefix") or ""
        self._merges: list[tuple[str, str]] = [_pair(merge) for merge in self.model["merges"]]
        self._parts: dict[int, list[int]] = defaultdict(list)
        for left, right in self._merges:
            self._parts[vocabulary[self._joined(left, right)]] += [vocabulary[left], vocabulary[right]]
        return {number: text for text, number in vocabulary.items()}

    def _joined(self, left: str, right: str) -> str:
        return left + right.removeprefix(self._prefix)


class Unigram(Pieces):
    """Takes the cut with the highest sum of scores (a unigram language model's most likely one).

    The best of many is the best of fewer. Characters stay as pieces of their own; one that has none is
    unknown outside the pieces that hold it, so these stay. So does the piece with the lowest score, from
    which the score of an unknown character is counted.
    """

    def fallback(self) -> set[int]:
        scores = [score for _, score in self.model["vocab"]]
        lowest = min(range(len(scores)), key=scores.__getitem__)
        unknown = self.model.get("unk_id")
        spelled = (number for number, text in self.texts.items() if len(text) > 1 and self._spelled(text))
        kept = set(self.texts) - set(spelled)
        bytes_ = {number for number, text in self.texts.items() if _is_byte(text)}
        return kept | bytes_ | {lowest} | ({unknown} if unknown is not None else set())

    def commonest(self) -> list[int]:
        return sorted(self.texts, key=lambda number: -self.model["vocab"][number][1])

    def without(self, numbers: Numbers) -> dict[str, Any]:
        kept = [entry for number, entry in enumerate(self.model["vocab"]) if number in numbers]
        unknown = self.model.get("unk_id")
        return {**self.model, "vocab": kept, "unk_id": None if unknown is None else numbers[unknown]}

    def _read(self) -> dict[int, str]:
        return {number: text for number, (text, _) in enumerate(self.model["vocab"])}

    def _spelled(self, text: str) -> bool:
        return all(character in self.ids for character in text)


KINDS: dict[str, type[Pieces]] = {"WordPiece": WordPiece, "BPE": BytePair, "Unigram": Unigram}
"""By the name of the model's type in `tokenizer.json`."""


def _renumbered(vocabulary: Mapping[str, int], numbers: Numbers) -> dict[str, int]:
    return {text: numbers[number] for text, number in vocabulary.items() if number in numbers}


def _pair(merge: str | Iterable[str]) -> tuple[str, str]:
    left, right = merge.split(" ") if isinstance(merge, str) else merge
    return left, right


def _is_byte(text: str) -> bool:
    return len(text) == 6 and text.startswith("<0x") and text.endswith(">")
