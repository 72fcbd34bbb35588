"""DistilBERT: no token types, no pooler; a classifier of its own with ReLU."""

from typing import Any

from transformers import (
    DistilBertForMultipleChoice,
    DistilBertForQuestionAnswering,
    DistilBertForSequenceClassification,
    DistilBertForTokenClassification,
    PreTrainedConfig,
)

from worker.engine.anatomy.families import Family, LayerNames
from worker.engine.anatomy.heads import Head


def _variant(config: PreTrainedConfig) -> dict[str, Any]:
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.dim,
        "hidden_act": config.activation,
        "max_position_embeddings": config.max_position_embeddings,
        "type_vocab_size": 0,
        "layer_norm_eps": 1e-12,
        "hidden_dropout": config.dropout,
        "attention_dropout": config.attention_dropout,
        "head_act": "relu",
        "head_dropout": config.seq_classif_dropout,
        "initializer_range": config.initializer_range,
        "pad_token_id": config.pad_token_id,
    }


DISTILBERT = Family(
    model_types=("distilbert",),
    model_class=DistilBertForSequenceClassification,
    layers="distilbert.transformer.layer",
    names=LayerNames(
        attention="attention",
        query="attention.q_lin",
        key="attention.k_lin",
        value="attention.v_lin",
        attention_output="attention.out_lin",
        attention_norm="sa_layer_norm",
        ffn_up="ffn.lin1",
        ffn_down="ffn.lin2",
        ffn_norm="output_layer_norm",
    ),
    embeddings="distilbert.embeddings",
    head_dense="pre_classifier",
    head_out="classifier",
    channels_field="hidden_dim",
    variant=_variant,
    other_heads={
        "token": Head(
            DistilBertForTokenClassification,
            "classifier",
            variant=lambda config: {"head_dropout": config.dropout},
        ),
        "span": Head(
            DistilBertForQuestionAnswering,
            "qa_outputs",
            variant=lambda config: {"head_dropout": config.qa_dropout},
        ),
        "choice": Head(DistilBertForMultipleChoice, "classifier", "pre_classifier"),
    },
)
