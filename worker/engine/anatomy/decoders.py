"""What decoder families have in common: their head, and the fields of `AxforgeConfig` that they all set."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from transformers import PreTrainedConfig, PreTrainedModel

from worker.engine.anatomy.heads import Head, HeadKind

TABLE_ALONE = {"word_embeddings": ""}
"""`Family.embedding_names` of families whose module of embeddings is the table itself."""


def decoder_variant(
    config: PreTrainedConfig,
    *,
    norm: Literal["layer", "rms"],
    hidden_act: str,
    layer_norm_eps: float,
    output_bias: bool,
    kv_group: int = 1,
    qk_norm: bool = False,
    position_offset: int = 0,
    **fields: Any,
) -> dict[str, Any]:
    """The fields of `AxforgeConfig` of a decoder: norms before blocks, no token types, tied or with a head.

    `fields` are further ones. `kv_group`, `output_bias` and `qk_norm`: see `CausalAttention`;
    `position_offset`: rows of the position table before that of the first token.
    """
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "hidden_act": hidden_act,
        "max_position_embeddings": config.max_position_embeddings,
        "type_vocab_size": 0,
        "norm_placement": "pre",
        "layer_norm_eps": layer_norm_eps,
        "pad_token_id": config.pad_token_id,
        "bos_token_id": config.bos_token_id,
        "eos_token_id": config.eos_token_id,
        "causal": {
            "norm": norm,
            "kv_group": kv_group,
            "output_bias": output_bias,
            "qk_norm": qk_norm,
            "position_offset": position_offset,
            "tied_head": bool(config.tie_word_embeddings),
        },
        **fields,
    }


def causal_head(model_class: type[PreTrainedModel]) -> Mapping[HeadKind, Head]:
    """`Family.other_heads` of a decoder."""
    return {"causal": Head(model_class, "lm_head")}
