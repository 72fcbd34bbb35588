"""ELECTRA: narrow embeddings that are projected to the hidden width, a classifier with GELU."""

from typing import Any

from transformers import ElectraForSequenceClassification, PreTrainedConfig

from worker.engine.anatomy.bert import BERT_LAYER, bert_variant
from worker.engine.anatomy.families import Family


def _variant(config: PreTrainedConfig) -> dict[str, Any]:
    shared, narrow = bert_variant(config), config.embedding_size != config.hidden_size
    return {
        **shared,
        "embedding_size": config.embedding_size if narrow else None,
        "head_act": "gelu",
        "head_input_dropout": shared["head_dropout"],
    }


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
)
