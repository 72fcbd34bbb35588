"""RoBERTa, and by other names XLM-RoBERTa and CamemBERT.

Positions start after the padding index, and there is dropout before the head.
"""

from dataclasses import replace
from typing import Any

from transformers import (
    CamembertForSequenceClassification,
    PreTrainedConfig,
    RobertaForSequenceClassification,
    XLMRobertaForSequenceClassification,
)

from worker.engine.anatomy.bert import BERT_LAYER, bert_variant
from worker.engine.anatomy.families import Family


def _variant(config: PreTrainedConfig) -> dict[str, Any]:
    shared = bert_variant(config)
    return {**shared, "positions": "after_padding", "head_input_dropout": shared["head_dropout"]}


ROBERTA = Family(
    model_types=("roberta",),
    model_class=RobertaForSequenceClassification,
    layers="roberta.encoder.layer",
    names=BERT_LAYER,
    embeddings="roberta.embeddings",
    head_dense="classifier.dense",
    head_out="classifier.out_proj",
    variant=_variant,
)
XLM_ROBERTA = replace(ROBERTA, model_types=("xlm-roberta",), model_class=XLMRobertaForSequenceClassification)
CAMEMBERT = replace(ROBERTA, model_types=("camembert",), model_class=CamembertForSequenceClassification)
