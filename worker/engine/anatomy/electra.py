"""ELECTRA: narrow embeddings that are projected to the hidden width, a classifier with GELU."""

from collections.abc import Mapping
from typing import Any

from transformers import (
    ElectraForMultipleChoice,
    ElectraForQuestionAnswering,
    ElectraForSequenceClassification,
    ElectraForTokenClassification,
    PreTrainedConfig,
)

from worker.engine.anatomy.bert import BERT_LAYER, bert_heads, bert_variant
from worker.engine.anatomy.families import Family


def _variant(config: PreTrainedConfig) -> dict[str, Any]:
    shared, narrow = bert_variant(config), config.embedding_size != config.hidden_size
    return {
        **shared,
        "embedding_size": config.embedding_size if narrow else None,
        "head_act": "gelu",
        "head_input_dropout": shared["head_dropout"],
    }


def _choice(config: PreTrainedConfig) -> dict[str, Any]:
    return {
        "head_act": config.summary_activation,
        "head_input_dropout": 0.0,
        "head_dropout": config.summary_last_dropout,
    }


def _refusal(config: Mapping[str, Any]) -> str | None:
    """Of the parts that only multiple choice has; no published model sets them."""
    usual = {"summary_type": "first", "summary_use_proj": True, "summary_activation": "gelu"}
    unusual = [name for name, value in usual.items() if config.get(name, value) != value]
    return f"sums up sequences in a way of its own ({unusual[0]})" if unusual else None


ELECTRA = Family(
    model_types=("electra",),
    model_class=ElectraForSequenceClassification,
    layers="electra.encoder.layer",
    names=BERT_LAYER,
    embeddings="electra.embeddings",
    head_dense="classifier.dense",
    head_out="classifier.out_proj",
    extras={"projection": "electra.embeddings_project"},
    variant=_variant,
    other_heads=bert_heads(
        ElectraForTokenClassification,
        ElectraForQuestionAnswering,
        ElectraForMultipleChoice,
        "sequence_summary.summary",
        _choice,
    ),
    refusal=_refusal,
)
