"""ModernBERT: norms before blocks, turned queries and keys, gated FFNs; most layers see only near tokens."""

from collections.abc import Mapping, Sequence
from typing import Any

from transformers import (
    ModernBertForMultipleChoice,
    ModernBertForQuestionAnswering,
    ModernBertForSequenceClassification,
    ModernBertForTokenClassification,
    PreTrainedConfig,
)

from worker.engine.anatomy.families import Family, Fused, LayerNames
from worker.engine.anatomy.heads import Head

LOCAL = "sliding_attention"


def _variant(config: PreTrainedConfig) -> dict[str, Any]:
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "norm_placement": "pre",
        "norm_bias": config.norm_bias,
        "attention_bias": config.attention_bias,
        "ffn": "gated",
        "ffn_bias": config.mlp_bias,
        "hidden_act": config.hidden_activation,
        "max_position_embeddings": config.max_position_embeddings,
        "type_vocab_size": 0,
        "positions": "none",
        "relative": {"kind": "rotary"},
        "layer_norm_eps": config.norm_eps,
        "hidden_dropout": config.mlp_dropout,
        "attention_dropout": config.attention_dropout,
        "pooling": {"cls": "first", "mean": "mean"}[config.classifier_pooling],
        "head_bias": config.classifier_bias,
        "head_norm": True,
        "head_act": config.classifier_activation,
        "head_dropout": config.classifier_dropout,
        "initializer_range": config.initializer_range,
        "pad_token_id": config.pad_token_id,
    }


def _layer_variant(config: PreTrainedConfig, layer: int) -> dict[str, Any]:
    """The first layer has no norm before its attention: the embeddings' norm is right before it."""
    kind = config.layer_types[layer]
    return {
        "attention_norm": layer > 0,
        "theta": config.rope_parameters[kind]["rope_theta"],
        "window": config.local_attention // 2 if kind == LOCAL else None,
    }


def _native_fields(config: PreTrainedConfig, present: Sequence[int]) -> Mapping[str, Any] | None:
    """Only the first layer is without a norm, so it must be the first that is left."""
    return {"layer_types": [config.layer_types[layer] for layer in present]} if present[0] == 0 else None


def _refusal(config: Mapping[str, Any]) -> str | None:
    if config.get("classifier_activation", "gelu") not in ("gelu", "tanh", "relu"):
        return f"has a classifier with activation {config['classifier_activation']!r}"
    positions = config.get("rope_parameters") or {}
    kinds = {(settings or {}).get("rope_type", "default") for settings in positions.values()}
    if kinds - {"default"} or config.get("rope_scaling"):
        return "scales its rotary positions"
    return None


MODERNBERT = Family(
    model_types=("modernbert",),
    model_class=ModernBertForSequenceClassification,
    layers="model.layers",
    names=LayerNames(
        attention="attn",
        query=Fused("attn.Wqkv", 0, 3),
        key=Fused("attn.Wqkv", 1, 3),
        value=Fused("attn.Wqkv", 2, 3),
        attention_output="attn.Wo",
        attention_norm="attn_norm",
        ffn_gate=Fused("mlp.Wi", 0, 2),
        ffn_up=Fused("mlp.Wi", 1, 2),
        ffn_down="mlp.Wo",
        ffn_norm="mlp_norm",
    ),
    embeddings="model.embeddings",
    embedding_names={"word_embeddings": "tok_embeddings", "LayerNorm": "norm"},
    head_dense="head.dense",
    head_out="classifier",
    other_heads={
        "token": Head(ModernBertForTokenClassification, "classifier", "head.dense"),
        "span": Head(ModernBertForQuestionAnswering, "classifier", "head.dense"),
        "choice": Head(ModernBertForMultipleChoice, "classifier", "head.dense"),
    },
    extras={"final_norm": "model.final_norm", "head.norm": "head.norm"},
    variant=_variant,
    layer_variant=_layer_variant,
    native_fields=_native_fields,
    refusal=_refusal,
)
