"""RoBERTa, and by other names XLM-RoBERTa and CamemBERT.

Positions start after the padding index, and there is dropout before the head.
"""

from dataclasses import replace
from typing import Any

from transformers import (
    CamembertForMultipleChoice,
    CamembertForQuestionAnswering,
    CamembertForSequenceClassification,
    CamembertForTokenClassification,
    PreTrainedConfig,
    RobertaForMultipleChoice,
    RobertaForQuestionAnswering,
    RobertaForSequenceClassification,
    RobertaForTokenClassification,
    XLMRobertaForMultipleChoice,
    XLMRobertaForQuestionAnswering,
    XLMRobertaForSequenceClassification,
    XLMRobertaForTokenClassification,
)

from worker.engine.anatomy.bert import BERT_LAYER, bert_heads, bert_variant
from worker.engine.anatomy.families import Family


def _variant(config: PreTrainedConfig) -> dict[str, Any]:
    shared = bert_variant(config)
    return {**shared, "positions": "after_padding", "head_input_dropout": shared["head_dropout"]}


def _choice(config: PreTrainedConfig) -> dict[str, Any]:
    return {"head_input_dropout": 0.0, "head_dropout": config.hidden_dropout_prob}


ROBERTA = Family(
    model_types=("roberta",),
    model_class=RobertaForSequenceClassification,
    layers="roberta.encoder.layer",
    names=BERT_LAYER,
    embeddings="roberta.embeddings",
    head_dense="classifier.dense",
    head_out="classifier.out_proj",
    variant=_variant,
    other_heads=bert_heads(
        RobertaForTokenClassification,
        RobertaForQuestionAnswering,
        RobertaForMultipleChoice,
        "roberta.pooler.dense",
        _choice,
    ),
)
XLM_ROBERTA = replace(
    ROBERTA,
    model_types=("xlm-roberta",),
    model_class=XLMRobertaForSequenceClassification,
    other_heads=bert_heads(
        XLMRobertaForTokenClassification,
        XLMRobertaForQuestionAnswering,
        XLMRobertaForMultipleChoice,
        "roberta.pooler.dense",
        _choice,
    ),
)
CAMEMBERT = replace(
    ROBERTA,
    model_types=("camembert",),
    model_class=CamembertForSequenceClassification,
    other_heads=bert_heads(
        CamembertForTokenClassification,
        CamembertForQuestionAnswering,
        CamembertForMultipleChoice,
        "roberta.pooler.dense",
        _choice,
    ),
)
