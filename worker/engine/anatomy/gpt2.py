"""GPT-2: learned positions, norms before blocks, and weights that lie the other way round (Conv1D)."""

from collections.abc import Mapping
from typing import Any

from transformers import GPT2LMHeadModel, PreTrainedConfig

from worker.engine.anatomy.decoders import TABLE_ALONE, causal_head, decoder_variant
from worker.engine.anatomy.families import Family, Fused, LayerNames


def _variant(config: PreTrainedConfig) -> dict[str, Any]:
    return decoder_variant(
        config,
        norm="layer",
        hidden_act=config.activation_function,
        layer_norm_eps=config.layer_norm_epsilon,
        output_bias=True,
        positions="absolute",
        hidden_dropout=config.resid_pdrop,
        attention_dropout=config.attn_pdrop,
        initializer_range=config.initializer_range,
    )


def _refusal(config: Mapping[str, Any]) -> str | None:
    if not config.get("scale_attn_weights", True) or config.get("scale_attn_by_inverse_layer_idx"):
        return "scales its attention otherwise than by the size of a head"
    return None


GPT2 = Family(
    model_types=("gpt2",),
    layers="transformer.h",
    names=LayerNames(
        attention="attn",
        query=Fused("attn.c_attn", 0, 3),
        key=Fused("attn.c_attn", 1, 3),
        value=Fused("attn.c_attn", 2, 3),
        attention_output="attn.c_proj",
        attention_norm="ln_1",
        ffn_up="mlp.c_fc",
        ffn_down="mlp.c_proj",
        ffn_norm="ln_2",
    ),
    embeddings="transformer.wte",
    embedding_names=TABLE_ALONE,
    extras={"position_embeddings": "transformer.wpe", "final_norm": "transformer.ln_f"},
    other_heads=causal_head(GPT2LMHeadModel),
    channels_field="n_inner",
    variant=_variant,
    refusal=_refusal,
)
