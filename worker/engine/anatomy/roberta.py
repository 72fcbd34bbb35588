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

from worker.engine.anatomy.bert import BERT_LAYER, bert_variant, no_head_dropout
from worker.engine.anatomy.families import Family
from worker.engine.anatomy.heads import Head


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
    other_heads={
        "token": Head(RobertaForTokenClassification, "classifier"),
        "span": Head(RobertaForQuestionAnswering, "qa_outputs", variant=no_head_dropout),
        "choice": Head(RobertaForMultipleChoice, "classifier", "roberta.pooler.dense", _choice),
    },
)
XLM_ROBERTA = replace(
    ROBERTA,
    model_types=("xlm-roberta",),
    model_class=XLMRobertaForSequenceClassification,
    other_heads={
        "token": Head(XLMRobertaForTokenClassification, "classifier"),
        "span": Head(XLMRobertaForQuestionAnswering, "qa_outputs", variant=no_head_dropout),
        "choice": Head(XLMRobertaForMultipleChoice, "classifier", "roberta.pooler.dense", _choice),
    },
)
CAMEMBERT = replace(
    ROBERTA,
    model_types=("camembert",),
    model_class=CamembertForSequenceClassification,
    other_heads={
        "token": Head(CamembertForTokenClassification, "classifier"),
        "span": Head(CamembertForQuestionAnswering, "qa_outputs", variant=no_head_dropout),
        "choice": Head(CamembertForMultipleChoice, "classifier", "roberta.pooler.dense", _choice),
    },
)
