"""The engine's own models: what `sliced` returns when no stock class can hold the shape."""

from typing import Any

from transformers import PreTrainedConfig

from worker.engine.anatomy.families import Family, LayerNames
from worker.engine.anatomy.heads import Head
from worker.engine.export.axforge_decoder import AxforgeForCausalLM
from worker.engine.export.axforge_heads import (
    AxforgeForMultipleChoice,
    AxforgeForQuestionAnswering,
    AxforgeForTokenClassification,
)
from worker.engine.export.modeling_axforge import AxforgeForSequenceClassification


def _variant(config: PreTrainedConfig) -> dict[str, Any]:
    kept = (
        "vocab_size",
        "hidden_size",
        "head_size",
        "norm_placement",
        "norm_bias",
        "attention_bias",
        "ffn",
        "ffn_bias",
        "hidden_act",
        "max_position_embeddings",
        "type_vocab_size",
        "positions",
        "relative",
        "embedding_size",
        "embedding_norm",
        "layer_norm_eps",
        "hidden_dropout",
        "attention_dropout",
        "pooling",
        "head_dense",
        "head_bias",
        "head_norm",
        "head_act",
        "head_dropout",
        "head_input_dropout",
        "initializer_range",
        "pad_token_id",
        "causal",
    )
    return {name: getattr(config, name) for name in kept}


BY_HEAD = ("position_query", "position_key", "distance_key", "vectors")
EXTRAS = ("position_embeddings", "projection", "relative.table", "relative.norm", "final_norm", "head.norm")
AXFORGE = Family(
    model_types=("axforge",),
    model_class=AxforgeForSequenceClassification,
    layers="layers",
    names=LayerNames(
        attention="attention",
        query="attention.query",
        key="attention.key",
        value="attention.value",
        attention_output="attention.output",
        attention_norm="attention_norm",
        ffn_up="ffn_up",
        ffn_down="ffn_down",
        ffn_norm="ffn_norm",
        ffn_gate="ffn_gate",
        by_head={name: f"attention.{name}" for name in BY_HEAD},
        head_norms={name: f"attention.{name}" for name in ("query_norm", "key_norm")},
    ),
    embeddings="embeddings",
    head_dense="head.dense",
    head_out="head.out",
    variant=_variant,
    extras={name: name for name in EXTRAS},
    other_heads={
        "token": Head(AxforgeForTokenClassification, "head.out", "head.dense"),
        "span": Head(AxforgeForQuestionAnswering, "head.out", "head.dense"),
        "choice": Head(AxforgeForMultipleChoice, "head.out", "head.dense"),
        "causal": Head(AxforgeForCausalLM, "lm_head.out"),
    },
)
