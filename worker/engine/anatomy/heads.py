"""Heads: what a model puts on its encoder to answer a task, and where each kind keeps its modules."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMultipleChoice,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PreTrainedConfig,
    PreTrainedModel,
)

HeadKind = Literal["sequence", "token", "span", "choice", "causal"]
"""`sequence` answers once for a sequence, `token` for every token; `span` gives every token's score as the
first and as the last of an answer; `choice` scores a row's sequences against each other; `causal` gives every
token's scores of all words as the next."""
AUTO_CLASSES: dict[HeadKind, Any] = {
    "sequence": AutoModelForSequenceClassification,
    "token": AutoModelForTokenClassification,
    "span": AutoModelForQuestionAnswering,
    "choice": AutoModelForMultipleChoice,
    "causal": AutoModelForCausalLM,
}
READS_FIRST_TOKEN: tuple[HeadKind, ...] = ("sequence", "choice")
"""Heads for which the last layer need not work out any other token."""
BY_TOKEN: tuple[HeadKind, ...] = ("token", "span", "causal")
"""Heads whose logits are (sequences, length, outputs)."""


LM_HEAD_NAME = "LMHeadModel"
"""How the names of causal language models of older families end, such as GPT-2's."""


PLAIN_SPANS = "Simple"
"""How the names of XLNet's span heads end that score each token by itself, as other families' do."""


def nothing(config: PreTrainedConfig) -> Mapping[str, Any]:
    return {}


@dataclass(frozen=True)
class Head:
    """The head of one model class.

    `out` is the module path of the linear module that gives the logits; `dense` of the one before it, where
    there is one. `variant` gives what else this head has of its own as fields of `AxforgeConfig`.
    """

    model_class: type[PreTrainedModel]
    out: str
    dense: str | None = None
    variant: Callable[[PreTrainedConfig], Mapping[str, Any]] = nothing

    @property
    def modules(self) -> dict[str, str]:
        """Module paths by their path in the exported model, input first."""
        dense = {} if self.dense is None else {"head.dense": self.dense}
        return {**dense, "head.out": self.out}

    def form(self, config: PreTrainedConfig) -> dict[str, Any]:
        """The fields of `AxforgeConfig` in which the model differs from the family's sequence classifier."""
        return {"head_dense": self.dense is not None, **self.variant(config)}


def suffix(kind: HeadKind) -> str:
    """How the names of model classes with such a head end, such as `ForTokenClassification`."""
    return "For" + str(AUTO_CLASSES[kind].__name__).removeprefix("AutoModelFor")


def kind_of(architectures: Sequence[str] | None) -> HeadKind | None:
    """The head that the class names of a config.json tell, or None where they tell none."""
    kinds: Sequence[HeadKind] = tuple(AUTO_CLASSES)
    names = [name.removesuffix(PLAIN_SPANS) for name in architectures or ()]
    known = next((kind for kind in kinds for name in names if name.endswith(suffix(kind))), None)
    return "causal" if known is None and any(name.endswith(LM_HEAD_NAME) for name in names) else known


def logits_of(output: Any) -> torch.Tensor:
    """What a model answers: (b, outputs), or (sequences, length, outputs) for heads `BY_TOKEN`.

    The outputs of a span are the scores as first and as last token.
    """
    start = getattr(output, "start_logits", None)
    if start is None:
        logits: torch.Tensor = output.logits
        return logits
    return torch.stack((start, output.end_logits), dim=-1)
