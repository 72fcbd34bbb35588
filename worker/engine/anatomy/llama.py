"""Llama, Mistral, Qwen2 and Qwen3: RMS norms, turned queries and keys, gated FFNs, shared keys and values.

They differ in biases, in windows (how far a token sees), and in Qwen3's norms of queries and keys.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from transformers import (
    LlamaForCausalLM,
    MistralForCausalLM,
    PreTrainedConfig,
    Qwen2ForCausalLM,
    Qwen3ForCausalLM,
)

from worker.engine.anatomy.decoders import TABLE_ALONE, causal_head, decoder_variant
from worker.engine.anatomy.families import Family, LayerNames

SLIDING = "sliding_attention"


def _variant(config: PreTrainedConfig, **fields: Any) -> dict[str, Any]:
    biased = bool(getattr(config, "attention_bias", False))
    fields = {"attention_bias": biased, "output_bias": biased, "ffn_bias": False, **fields}
    return decoder_variant(
        config,
        norm="rms",
        hidden_act=config.hidden_act,
        layer_norm_eps=config.rms_norm_eps,
        kv_group=config.num_attention_heads // config.num_key_value_heads,
        positions="none",
        ffn="gated",
        hidden_dropout=0.0,
        attention_dropout=config.attention_dropout,
        initializer_range=config.initializer_range,
        **fields,
    )


def _llama(config: PreTrainedConfig) -> dict[str, Any]:
    return _variant(config, ffn_bias=config.mlp_bias)


def _qwen2(config: PreTrainedConfig) -> dict[str, Any]:
    return _variant(config, attention_bias=True)


def _qwen3(config: PreTrainedConfig) -> dict[str, Any]:
    return _variant(config, qk_norm=True)


def _layer(config: PreTrainedConfig, layer: int) -> dict[str, Any]:
    """The base of its rotation, and how far its tokens see: `sliding_window` counts the token itself."""
    kinds, width = getattr(config, "layer_types", None), getattr(config, "sliding_window", None)
    sees_far = kinds is not None and kinds[layer] != SLIDING
    window = None if width is None or sees_far else width - 1
    return {"theta": config.rope_parameters["rope_theta"], "window": window}


def _layer_types(config: PreTrainedConfig, present: Sequence[int]) -> Mapping[str, Any]:
    return {"layer_types": [config.layer_types[layer] for layer in present]}


def _refusal(config: Mapping[str, Any]) -> str | None:
    positions = config.get("rope_parameters") or {}
    if positions.get("rope_type", "default") != "default" or config.get("rope_scaling"):
        return "scales its rotary positions"
    return None


LLAMA = Family(
    model_types=("llama",),
    layers="model.layers",
    names=LayerNames(
        attention="self_attn",
        query="self_attn.q_proj",
        key="self_attn.k_proj",
        value="self_attn.v_proj",
        attention_output="self_attn.o_proj",
        attention_norm="input_layernorm",
        ffn_gate="mlp.gate_proj",
        ffn_up="mlp.up_proj",
        ffn_down="mlp.down_proj",
        ffn_norm="post_attention_layernorm",
    ),
    embeddings="model.embed_tokens",
    embedding_names=TABLE_ALONE,
    extras={"final_norm": "model.norm"},
    other_heads=causal_head(LlamaForCausalLM),
    variant=_llama,
    layer_variant=_layer,
    refusal=_refusal,
)
MISTRAL = replace(
    LLAMA, model_types=("mistral",), other_heads=causal_head(MistralForCausalLM), variant=_variant
)
QWEN2 = replace(
    LLAMA,
    model_types=("qwen2",),
    other_heads=causal_head(Qwen2ForCausalLM),
    variant=_qwen2,
    native_fields=_layer_types,
)
QWEN3 = replace(
    LLAMA,
    model_types=("qwen3",),
    names=replace(LLAMA.names, head_norms={"query_norm": "self_attn.q_norm", "key_norm": "self_attn.k_norm"}),
    other_heads=causal_head(Qwen3ForCausalLM),
    variant=_qwen3,
    native_fields=_layer_types,
)
