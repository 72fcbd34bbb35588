"""DeBERTa-v2 and v3: scores of content with relative positions; the head reads the first token with GELU."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from transformers import (
    DebertaV2ForMultipleChoice,
    DebertaV2ForQuestionAnswering,
    DebertaV2ForSequenceClassification,
    DebertaV2ForTokenClassification,
    PreTrainedConfig,
)

from worker.engine.anatomy.bert import BERT_LAYER, no_head_dropout
from worker.engine.anatomy.families import Family
from worker.engine.anatomy.heads import Head

TERMS = ("c2p", "p2c")


def _variant(config: PreTrainedConfig) -> dict[str, Any]:
    head_dropout = getattr(config, "cls_dropout", None)
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "hidden_act": config.hidden_act,
        "max_position_embeddings": config.max_position_embeddings,
        "type_vocab_size": config.type_vocab_size,
        "positions": "absolute" if config.position_biased_input else "none",
        "relative": _relative(config),
        "layer_norm_eps": config.layer_norm_eps,
        "hidden_dropout": config.hidden_dropout_prob,
        "attention_dropout": config.attention_probs_dropout_prob,
        "head_act": config.pooler_hidden_act,
        "head_input_dropout": config.pooler_dropout,
        "head_dropout": config.hidden_dropout_prob if head_dropout is None else head_dropout,
        "initializer_range": config.initializer_range,
        "pad_token_id": config.pad_token_id,
    }


def _token(config: PreTrainedConfig) -> dict[str, Any]:
    return {"head_dropout": config.hidden_dropout_prob}


def _relative(config: PreTrainedConfig) -> dict[str, Any]:
    farthest = config.max_relative_positions
    farthest = config.max_position_embeddings if farthest < 1 else farthest
    buckets = getattr(config, "position_buckets", -1)
    return {
        "kind": "disentangled",
        "span": buckets if buckets > 0 else farthest,
        "farthest": farthest if buckets > 0 else None,
        "terms": [term for term in TERMS if term in config.pos_att_type],
        "own_projections": not getattr(config, "share_att_key", False),
        "norm": "layer_norm" in getattr(config, "norm_rel_ebd", "none").lower().split("|"),
    }


def _refusal(config: Mapping[str, Any]) -> str | None:
    if not config.get("relative_attention") or not _terms(config):
        return "attends without relative positions, as no published DeBERTa does"
    if config.get("conv_kernel_size", 0) > 0:
        return "has a convolution beside its first layer (conv_kernel_size)"
    width = config.get("hidden_size", 1536)
    if config.get("embedding_size", width) != width or config.get("pooler_hidden_size", width) != width:
        return "has embeddings or a pooler of another width than its layers"
    if config.get("attention_head_size") is not None:
        return "has heads of a size of their own (attention_head_size)"
    return None


def _terms(config: Mapping[str, Any]) -> list[str]:
    asked = config.get("pos_att_type") or ()
    return [term for term in TERMS if term in asked]


DEBERTA_V2 = Family(
    model_types=("deberta-v2",),
    model_class=DebertaV2ForSequenceClassification,
    layers="deberta.encoder.layer",
    names=replace(
        BERT_LAYER,
        query="attention.self.query_proj",
        key="attention.self.key_proj",
        value="attention.self.value_proj",
        by_head={
            "position_key": "attention.self.pos_key_proj",
            "position_query": "attention.self.pos_query_proj",
        },
        probabilities="attention.self.dropout",
    ),
    embeddings="deberta.embeddings",
    head_dense="pooler.dense",
    head_out="classifier",
    other_heads={
        "token": Head(DebertaV2ForTokenClassification, "classifier", variant=_token),
        "span": Head(DebertaV2ForQuestionAnswering, "qa_outputs", variant=no_head_dropout),
        "choice": Head(DebertaV2ForMultipleChoice, "classifier", "pooler.dense"),
    },
    extras={"relative.table": "deberta.encoder.rel_embeddings", "relative.norm": "deberta.encoder.LayerNorm"},
    variant=_variant,
    refusal=_refusal,
)
