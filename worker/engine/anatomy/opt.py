"""OPT: learned positions behind two rows that are never used, norms before blocks."""

from collections.abc import Mapping
from typing import Any

from transformers import OPTForCausalLM, PreTrainedConfig

from worker.engine.anatomy.decoders import TABLE_ALONE, causal_head, decoder_variant
from worker.engine.anatomy.families import Family, LayerNames

EPSILON = 1e-5  # of its norms, whatever the config says


def _variant(config: PreTrainedConfig) -> dict[str, Any]:
    return decoder_variant(
        config,
        norm="layer",
        hidden_act=config.activation_function,
        layer_norm_eps=EPSILON,
        output_bias=config.enable_bias,
        position_offset=2,
        positions="absolute",
        attention_bias=config.enable_bias,
        ffn_bias=config.enable_bias,
        hidden_dropout=config.dropout,
        attention_dropout=config.attention_dropout,
        initializer_range=config.init_std,
    )


def _refusal(config: Mapping[str, Any]) -> str | None:
    width = config.get("hidden_size", 768)
    if not config.get("do_layer_norm_before", True) or config.get("word_embed_proj_dim", width) not in (
        None,
        width,
    ):
        return "has norms after its blocks or projected word embeddings, as OPT of 350M parameters has"
    if config.get("_remove_final_layer_norm") or not config.get("layer_norm_elementwise_affine", True):
        return "has no last norm, or norms without weights"
    return None


OPT = Family(
    model_types=("opt",),
    layers="model.decoder.layers",
    names=LayerNames(
        attention="self_attn",
        query="self_attn.q_proj",
        key="self_attn.k_proj",
        value="self_attn.v_proj",
        attention_output="self_attn.out_proj",
        attention_norm="self_attn_layer_norm",
        ffn_up="fc1",
        ffn_down="fc2",
        ffn_norm="final_layer_norm",
    ),
    embeddings="model.decoder.embed_tokens",
    embedding_names=TABLE_ALONE,
    extras={
        "position_embeddings": "model.decoder.embed_positions",
        "final_norm": "model.decoder.final_layer_norm",
    },
    other_heads=causal_head(OPTForCausalLM),
    channels_field="ffn_dim",
    variant=_variant,
    refusal=_refusal,
)
