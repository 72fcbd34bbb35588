"""Replaying the unchanged first layers gives the very losses that the whole model gives."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    PreTrainedModel,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from worker.engine.anatomy import anatomy_of
from worker.engine.anatomy.slicing import sliced
from worker.engine.device import Device
from worker.engine.significance import prefix
from worker.engine.significance.elements import Element
from worker.engine.significance.prefix import PrefixReplay
from worker.engine.significance.report import all_elements
from worker.engine.tasks import TASKS, Split, evaluate

TASK = TASKS["text-classification"]
SIZES = {"vocab_size": 40, "max_position_embeddings": 20, "num_labels": 3}
ENCODER = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 12}


def models() -> dict[str, PreTrainedModel]:
    torch.manual_seed(0)
    distilbert = DistilBertConfig(**SIZES, dim=16, n_layers=3, n_heads=2, hidden_dim=12)
    bert = BertForSequenceClassification(BertConfig(**SIZES, **ENCODER))
    anatomy = anatomy_of(bert)
    without_a_head = Element("head", 0, 1).removed_from(anatomy.full_shape())
    return {
        "bert": bert,
        "roberta": RobertaForSequenceClassification(RobertaConfig(**SIZES, **ENCODER)),
        "distilbert": DistilBertForSequenceClassification(distilbert),
        "sliced": sliced(bert, without_a_head),
    }


def ragged_split() -> Split:
    generator = np.random.default_rng(0)
    lengths = generator.integers(3, 12, 30)
    return Split(
        ids=generator.integers(2, 40, int(lengths.sum())),
        offsets=np.concatenate([[0], np.cumsum(lengths)]),
        labels=generator.integers(0, 3, 30),
        pad_id=1,
    )


@pytest.mark.parametrize("name", ["bert", "roberta", "distilbert", "sliced"])
@pytest.mark.parametrize("room", [True, False])
def test_losses_are_those_of_the_whole_model(name: str, room: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefix, "CACHE_BYTES", 1 << 30 if room else 0)
    model, split, device = models()[name].eval(), ragged_split(), Device.pick("cpu")
    anatomy = anatomy_of(model)
    layers = model.get_submodule(anatomy.family.layers)
    replay = PrefixReplay(anatomy, split, TASK, device, precision="fp32", batch_size=8)
    full = anatomy.full_shape()
    low_rank = replace(full, embedding_rank=3)
    for shape in [full, low_rank, *(element.removed_from(full) for element in all_elements(full))]:
        with anatomy.masked(shape):
            expected = evaluate(model, split, TASK, batch_size=8, device=device).losses
        assert np.array_equal(replay.losses(shape), expected)
    assert model.get_submodule(anatomy.family.layers) is layers


def test_the_first_layers_are_not_computed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    model, split = models()["bert"].eval(), ragged_split()
    anatomy = anatomy_of(model)
    replay = PrefixReplay(anatomy, split, TASK, Device.pick("cpu"), precision="fp32", batch_size=30)
    calls: list[int] = []
    for number, layer in enumerate(model.get_submodule(anatomy.family.layers)):
        layer.register_forward_hook(lambda module, given, output, number=number: calls.append(number))
    replay.losses(Element("ffn", 2).removed_from(anatomy.full_shape()))
    assert calls == [2]
