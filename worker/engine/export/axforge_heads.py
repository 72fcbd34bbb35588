# Copyright 2026 The axforge authors. Licensed under the Apache License, Version 2.0.
"""Heads other than the sequence classifier on the encoder of modeling_axforge.py.

Travels beside that file inside exported model folders, and is loaded by the auto class of the task, such as
`AutoModelForTokenClassification.from_pretrained(folder, trust_remote_code=True)`.
"""

from typing import Any

from torch import Tensor
from torch.nn import functional as F
from transformers.modeling_outputs import (
    MultipleChoiceModelOutput,
    QuestionAnsweringModelOutput,
    TokenClassifierOutput,
)

from .modeling_axforge import AxforgeConfig, AxforgeEncoder, pooled


class AxforgeForTokenClassification(AxforgeEncoder):
    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        labels: Tensor | None = None,
        output_hidden_states: bool = False,
        return_dict: bool = True,
        **kwargs: Any,
    ) -> Any:
        states = self.hidden_states(input_ids, attention_mask, token_type_ids)
        logits = self.head(states[-1])
        output = TokenClassifierOutput(
            loss=None if labels is None else F.cross_entropy(logits.flatten(0, 1), labels.flatten()),
            logits=logits,
            hidden_states=states if output_hidden_states else None,
        )
        return output if return_dict else output.to_tuple()


class AxforgeForQuestionAnswering(AxforgeEncoder):
    """Every token's score as the first and as the last of the answer."""

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        start_positions: Tensor | None = None,
        end_positions: Tensor | None = None,
        output_hidden_states: bool = False,
        return_dict: bool = True,
        **kwargs: Any,
    ) -> Any:
        states = self.hidden_states(input_ids, attention_mask, token_type_ids)
        start, end = self.head(states[-1]).unbind(-1)
        loss = None
        if start_positions is not None and end_positions is not None:
            loss = (F.cross_entropy(start, start_positions) + F.cross_entropy(end, end_positions)) / 2
        output = QuestionAnsweringModelOutput(
            loss=loss,
            start_logits=start,
            end_logits=end,
            hidden_states=states if output_hidden_states else None,
        )
        return output if return_dict else output.to_tuple()


class AxforgeForMultipleChoice(AxforgeEncoder):
    """Inputs are (batch, choices, length); every choice is scored by itself."""

    @staticmethod
    def outputs(config: AxforgeConfig) -> int:
        return 1

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        labels: Tensor | None = None,
        output_hidden_states: bool = False,
        return_dict: bool = True,
        **kwargs: Any,
    ) -> Any:
        mask = None if attention_mask is None else attention_mask.flatten(0, 1)
        types = None if token_type_ids is None else token_type_ids.flatten(0, 1)
        states = self.hidden_states(input_ids.flatten(0, 1), mask, types)
        logits = self.head(pooled(states[-1], mask, self.config.pooling)).view(input_ids.shape[:2])
        output = MultipleChoiceModelOutput(
            loss=None if labels is None else F.cross_entropy(logits, labels),
            logits=logits,
            hidden_states=states if output_hidden_states else None,
        )
        return output if return_dict else output.to_tuple()
