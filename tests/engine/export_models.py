"""Tiny classifiers with random weights, batches with padding, and random recipes for them."""

from __future__ import annotations

import random
from typing import Any

import torch
from transformers import (
    BertConfig,
    DistilBertConfig,
    PreTrainedConfig,
    PreTrainedModel,
    RobertaConfig,
    XLMRobertaConfig,
)

from models.spec import HardAttention, PruneBlocks, PruneHeads, PruneLayers, PruneWeightGroups, Recipe, Step
from worker.engine.anatomy import family_of
from worker.engine.anatomy.heads import HeadKind, logits_of

LAYERS, HEADS, CHANNELS, HIDDEN, LABELS = 4, 4, 48, 32, 3
VOCABULARY = 300
FAMILIES = ("bert", "roberta", "distilbert", "xlm-roberta")
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": HIDDEN,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "intermediate_size": CHANNELS,
    "max_position_embeddings": 48,
    "num_labels": LABELS,
}


def tiny_classifier(family: str, seed: int = 0) -> PreTrainedModel:
    """A dense model whose weights are large enough that every element matters."""
    return tiny_model(family, "sequence", seed)


def tiny_model(family: str, kind: HeadKind, seed: int = 0) -> PreTrainedModel:
    """As `tiny_classifier`, with any head."""
    torch.manual_seed(seed)
    labels = 2 if kind == "span" else LABELS
    config = _config(family, {**SIZES, "num_labels": labels})
    model = family_of(family).heads[kind].model_class(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.15)
    model.config.id2label = {index: f"label {index}" for index in range(labels)}
    model.config.label2id = {name: index for index, name in model.config.id2label.items()}
    return model.eval()


def _config(family: str, sizes: dict[str, Any]) -> PreTrainedConfig:
    if family != "distilbert":
        kinds = {"bert": BertConfig, "roberta": RobertaConfig, "xlm-roberta": XLMRobertaConfig}
        return kinds[family](**sizes)
    names = {"hidden_size": "dim", "num_hidden_layers": "n_layers", "num_attention_heads": "n_heads"}
    sizes = {names.get(name, name): value for name, value in sizes.items()}
    sizes["hidden_dim"] = sizes.pop("intermediate_size")
    return DistilBertConfig(**sizes)


def padded_batch(model: PreTrainedModel, seed: int = 0) -> dict[str, torch.Tensor]:
    """Three examples of 11, 6 and 1 tokens, padded at the end; token types where the model has them."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(5, VOCABULARY, (3, 11), generator=generator)
    mask = torch.ones_like(ids)
    for row, length in enumerate((11, 6, 1)):
        ids[row, length:] = model.config.pad_token_id
        mask[row, length:] = 0
    batch = {"input_ids": ids, "attention_mask": mask}
    if getattr(model.config, "type_vocab_size", 0) == 2 and model.config.model_type in ("bert", "axforge"):
        batch["token_type_ids"] = (torch.arange(11) > 4).long().expand(3, 11) * mask
    return batch


def stacked(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The batch as one example of three choices, and a second one of the same in another order."""
    return {name: torch.stack((values, values[[2, 0, 1]])) for name, values in batch.items()}


def logits(model: PreTrainedModel, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    with torch.no_grad():
        return logits_of(model(**batch))


def random_recipe(
    seed: int, *, layers: int = LAYERS, heads: int = HEADS, channels: int = CHANNELS, uniform: bool = False
) -> Recipe:
    """A few random structural steps; with `uniform` such as a stock class can hold."""
    chance = random.Random(seed)
    gone = [index for index in range(layers) if chance.random() < 0.25][: layers - 1]
    steps: list[Step] = [PruneLayers(layers=tuple(gone))] if gone else []
    width = chance.randrange(1, channels)
    for layer in range(layers):
        if uniform:
            steps.append(PruneWeightGroups(layer=layer, channels=_some(chance, channels, width)))
            continue
        if chance.random() < 0.4:
            steps.append(HardAttention(layer=layer, top_k=chance.choice((1, 3, 30))))
        if chance.random() < 0.5:
            steps.append(PruneHeads(layer=layer, heads=_some(chance, heads, chance.randint(1, heads))))
        if chance.random() < 0.5:
            count = chance.randint(1, channels)
            steps.append(PruneWeightGroups(layer=layer, channels=_some(chance, channels, count)))
        if chance.random() < 0.3:
            steps.append(PruneBlocks(blocks=(f"layer.{layer}.{chance.choice(('attention', 'ffn'))}",)))
    chance.shuffle(steps)
    return Recipe(steps=tuple(steps))


def _some(chance: random.Random, count: int, wanted: int) -> tuple[int, ...]:
    return tuple(sorted(chance.sample(range(count), wanted)))
