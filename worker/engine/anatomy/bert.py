"""BERT: token types, pooler with tanh."""

from collections.abc import Callable, Mapping
from typing import Any

from transformers import (
    BertForMultipleChoice,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
    PreTrainedConfig,
    PreTrainedModel,
)

from worker.engine.anatomy.families import Family, LayerNames
from worker.engine.anatomy.heads import Head, HeadKind, nothing

BERT_LAYER = LayerNames(
    attention="attention.self",
    query="attention.self.query",
    key="attention.self.key",
    value="attention.self.value",
    attention_output="attention.output.dense",
    attention_norm="attention.output.LayerNorm",
    ffn_up="intermediate.dense",
    ffn_down="output.dense",
    ffn_norm="output.LayerNorm",
)


def bert_variant(config: PreTrainedConfig) -> dict[str, Any]:
    """The fields of `AxforgeConfig` that BERT and its relatives share."""
    head_dropout = config.classifier_dropout
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "hidden_act": config.hidden_act,
        "max_position_embeddings": config.max_position_embeddings,
        "type_vocab_size": config.type_vocab_size,
        "layer_norm_eps": config.layer_norm_eps,
        "hidden_dropout": config.hidden_dropout_prob,
        "attention_dropout": config.attention_probs_dropout_prob,
        "head_dropout": config.hidden_dropout_prob if head_dropout is None else head_dropout,
        "initializer_range": config.initializer_range,
        "pad_token_id": config.pad_token_id,
    }


def no_head_dropout(config: PreTrainedConfig) -> dict[str, Any]:
    """Of a span head: it reads the encoder's output as it is."""
    return {"head_dropout": 0.0}


def bert_heads(
    token: type[PreTrainedModel],
    span: type[PreTrainedModel],
    choice: type[PreTrainedModel],
    pooler: str,
    choice_variant: Callable[[PreTrainedConfig], Mapping[str, Any]] = nothing,
) -> dict[HeadKind, Head]:
    """`Family.other_heads` of most families: these classes, by BERT's names.

    Choices are weighed by what the linear module `pooler` makes of them.
    """
    return {
        "token": Head(token, "classifier"),
        "span": Head(span, "qa_outputs", variant=no_head_dropout),
        "choice": Head(choice, "classifier", pooler, choice_variant),
    }


BERT = Family(
    model_types=("bert",),
    model_class=BertForSequenceClassification,
    layers="bert.encoder.layer",
    names=BERT_LAYER,
    embeddings="bert.embeddings",
    head_dense="bert.pooler.dense",
    head_out="classifier",
    variant=bert_variant,
    other_heads=bert_heads(
        BertForTokenClassification, BertForQuestionAnswering, BertForMultipleChoice, "bert.pooler.dense"
    ),
)
