"""Search problems on a tiny random BERT, with losses that a test writes down itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from transformers import BertConfig, BertForSequenceClassification, PreTrainedModel

from models.spec import APPROXIMATIONS
from worker.engine.anatomy import Shape, anatomy_of
from worker.engine.significance.fisher import FisherInformation
from worker.engine.strategies.base import Judgement, SearchProblem
from worker.engine.strategies.goal import CostModel, DenseReference, Goal

ROWS = 10
BASE = np.linspace(0.5, 1.5, ROWS)


def problem(
    losses: Callable[[Shape], np.ndarray], *, model: PreTrainedModel | None = None, **changes: Any
) -> SearchProblem:
    """Milliseconds: 1, and for every layer 1, a tenth a head, a hundredth a channel. Bytes: parameters."""
    anatomy = anatomy_of(model or _tiny_bert())
    full = anatomy.full_shape()
    whole = anatomy.parameters(full)

    def judge(shape: Shape) -> Judgement:
        each = losses(shape.normalised())
        return Judgement(float(np.mean(each)), -float(np.mean(each)), each)

    def fisher(shape: Shape) -> FisherInformation:
        generator = np.random.default_rng(0)
        heads = generator.random((4, anatomy.layers, anatomy.heads))
        channels = generator.random((4, anatomy.layers, anatomy.channels)) / anatomy.channels
        return FisherInformation(heads, channels, hidden=generator.random((4, anatomy.hidden_size)))

    costs = CostModel(milliseconds, anatomy.parameters, float(whole), whole, 1.0)
    made = SearchProblem(
        anatomy=anatomy,
        judge=judge,
        divergence=lambda shape: judge(shape).loss,
        significance=fisher,
        costs=costs,
        dense=DenseReference(milliseconds(full), float(whole), 1),
        goal=Goal(),
        focus="speed",
        # Hidden dimensions only where a test asks for them: they touch every layer's costs.
        allowed=frozenset(APPROXIMATIONS) - {"prune_hidden"},
        trials=None,
        length=8,
        max_candidates=1000,
    )
    return replace(made, **changes)


def milliseconds(shape: Shape) -> float:
    return 1.0 + sum(
        1.0 + 0.1 * len(layer.heads) + 0.01 * len(layer.channels) for layer in shape.layers if layer.present
    )


def flat(shape: Shape) -> np.ndarray:
    """No element matters."""
    return BASE


def _tiny_bert() -> BertForSequenceClassification:
    return BertForSequenceClassification(
        BertConfig(
            vocab_size=50,
            hidden_size=16,
            num_hidden_layers=3,
            num_attention_heads=4,
            intermediate_size=24,
            max_position_embeddings=16,
        )
    )
