"""XLNet: scores of content, distance and segment; the head reads the last token, where its `<cls>` is.

Its attention is made of parameters instead of modules, on hidden states with length before batch. So the
engine computes an XLNet by its own classes from the start: the same function, whichever side a row is
padded on, for all that scores know of places is how far apart they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from transformers import (
    PreTrainedConfig,
    PreTrainedModel,
    XLNetForMultipleChoice,
    XLNetForQuestionAnsweringSimple,
    XLNetForSequenceClassification,
    XLNetForTokenClassification,
)
from transformers.models.xlnet.modeling_xlnet import XLNetRelativeAttention

from worker.engine.anatomy.families import Family, LayerNames
from worker.engine.anatomy.heads import Head


def _variant(config: PreTrainedConfig) -> dict[str, Any]:
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.d_model,
        "hidden_act": config.ff_activation,
        "type_vocab_size": 0,
        "positions": "none",
        "relative": {"kind": "transformer_xl", "width": config.d_model},
        "attention_bias": False,
        "embedding_norm": False,
        "layer_norm_eps": config.layer_norm_eps,
        "hidden_dropout": config.dropout,
        "attention_dropout": config.dropout,
        "pooling": "last",
        "head_input_dropout": config.dropout,
        "head_dropout": config.summary_last_dropout,
        "initializer_range": config.initializer_range,
        "pad_token_id": config.pad_token_id,
    }


def _by_token(config: PreTrainedConfig) -> dict[str, Any]:
    """It reads the encoder's output, after the encoder's own dropout, as it is."""
    return {"head_dropout": config.dropout}


def _native_fields(config: PreTrainedConfig, present: Sequence[int]) -> Mapping[str, Any] | None:
    """No stock XLNet holds what has become one of the engine's own models."""
    return None


SUPPORTED: Mapping[str, Any] = {
    "attn_type": "bi",
    "bi_data": False,
    "same_length": False,
    "summary_type": "last",
    "summary_use_proj": True,
    "summary_proj_to_labels": False,
    "summary_activation": "tanh",
}
"""The form of all published checkpoints."""


def _refusal(config: Mapping[str, Any]) -> str | None:
    for name, value in SUPPORTED.items():
        given = config.get(name, value)
        if given != value:
            return f"has {name} {given!r} instead of {value!r}"
    farthest = config.get("clamp_len") or 0
    return f"takes distances beyond {farthest} for one (clamp_len)" if farthest > 0 else None


@torch.no_grad()
def _unroll(model: PreTrainedModel) -> None:
    """Give each layer's attention its parameters again as the modules of `TransformerXLAttention`."""
    for attention in model.modules():
        if not isinstance(attention, XLNetRelativeAttention):
            continue
        for name, weight in {
            "query": attention.q.flatten(1).T,
            "key": attention.k.flatten(1).T,
            "value": attention.v.flatten(1).T,
            "distance_key": attention.r.flatten(1).T,
            "output": attention.o.flatten(1),
        }.items():
            attention.add_module(name, _linear(weight))
        own, other = attention.seg_embed
        vectors = (attention.r_w_bias, attention.r_r_bias, attention.r_s_bias, other - own)
        table = torch.stack(vectors).flatten(1)
        attention.add_module("vectors", nn.Embedding.from_pretrained(table))


def _linear(weight: torch.Tensor) -> nn.Linear:
    """Of a weight (outputs, inputs)."""
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    linear.weight = nn.Parameter(weight)
    return linear


XLNET = Family(
    model_types=("xlnet",),
    model_class=XLNetForSequenceClassification,
    layers="transformer.layer",
    names=LayerNames(
        attention="rel_attn",
        query="rel_attn.query",
        key="rel_attn.key",
        value="rel_attn.value",
        attention_output="rel_attn.output",
        attention_norm="rel_attn.layer_norm",
        ffn_up="ff.layer_1",
        ffn_down="ff.layer_2",
        ffn_norm="ff.layer_norm",
        by_head={"distance_key": "rel_attn.distance_key", "vectors": "rel_attn.vectors"},
    ),
    embeddings="transformer.word_embedding",
    embedding_names={"word_embeddings": ""},
    head_dense="sequence_summary.summary",
    head_out="logits_proj",
    channels_field="d_inner",
    other_heads={
        "token": Head(XLNetForTokenClassification, "classifier", variant=_by_token),
        "span": Head(XLNetForQuestionAnsweringSimple, "qa_outputs", variant=_by_token),
        "choice": Head(XLNetForMultipleChoice, "logits_proj", "sequence_summary.summary"),
    },
    variant=_variant,
    native_fields=_native_fields,
    unroll=_unroll,
    recast=True,
    refusal=_refusal,
)
