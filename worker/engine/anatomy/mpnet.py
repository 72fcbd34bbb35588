"""MPNet: a learned bias for each distance and head, common to all layers; no token types, no pooler."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from transformers import (
    MPNetForMultipleChoice,
    MPNetForQuestionAnswering,
    MPNetForSequenceClassification,
    MPNetForTokenClassification,
    PreTrainedConfig,
)

from worker.engine.anatomy.bert import BERT_LAYER, bert_heads
from worker.engine.anatomy.families import Family

PADDING, BUCKETS = 1, 32  # fixed in transformers' code, whatever the config says


def _variant(config: PreTrainedConfig) -> dict[str, Any]:
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "hidden_act": config.hidden_act,
        "max_position_embeddings": config.max_position_embeddings,
        "type_vocab_size": 0,
        "positions": "after_padding",
        "relative": {"kind": "buckets", "buckets": BUCKETS, "heads": config.num_attention_heads},
        "layer_norm_eps": config.layer_norm_eps,
        "hidden_dropout": config.hidden_dropout_prob,
        "attention_dropout": config.attention_probs_dropout_prob,
        "head_dropout": config.hidden_dropout_prob,
        "head_input_dropout": config.hidden_dropout_prob,
        "initializer_range": config.initializer_range,
        "pad_token_id": PADDING,
    }


def _choice(config: PreTrainedConfig) -> dict[str, Any]:
    return {"head_input_dropout": 0.0}


def _refusal(config: Mapping[str, Any]) -> str | None:
    buckets = config.get("relative_attention_num_buckets", BUCKETS)
    return None if buckets == BUCKETS else f"has {buckets} buckets of relative positions instead of {BUCKETS}"


MPNET = Family(
    model_types=("mpnet",),
    model_class=MPNetForSequenceClassification,
    layers="mpnet.encoder.layer",
    names=replace(
        BERT_LAYER,
        attention="attention.attn",
        query="attention.attn.q",
        key="attention.attn.k",
        value="attention.attn.v",
        attention_output="attention.attn.o",
        attention_norm="attention.LayerNorm",
        probabilities="attention.attn.dropout",
    ),
    embeddings="mpnet.embeddings",
    head_dense="classifier.dense",
    head_out="classifier.out_proj",
    extras={"relative.table": "mpnet.encoder.relative_attention_bias"},
    variant=_variant,
    other_heads=bert_heads(
        MPNetForTokenClassification,
        MPNetForQuestionAnswering,
        MPNetForMultipleChoice,
        "mpnet.pooler.dense",
        _choice,
    ),
    refusal=_refusal,
)
