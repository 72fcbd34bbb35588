"""Tiny classifiers with random weights, batches with padding, and random recipes for them."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import torch
from transformers import AutoConfig, PreTrainedModel

from models.spec import (
    HardAttention,
    LowRankEmbeddings,
    LowRankFfn,
    PruneBlocks,
    PruneHeads,
    PruneHidden,
    PruneLayers,
    PruneVocabulary,
    PruneWeightGroups,
    Recipe,
    SignMatchingAttention,
    Step,
)
from models.spec.ranges import as_ranges
from worker.engine.anatomy.heads import AUTO_CLASSES, HeadKind, logits_of
from worker.engine.anatomy.slicing import recast, source_config
from worker.engine.export import axforge_sparse_attention

Inputs = dict[str, torch.Tensor]
LAYERS, HEADS, CHANNELS, HIDDEN, LABELS = 4, 4, 48, 32, 3
VOCABULARY = 300
NARROW = 24  # width of the embeddings of families that project them
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": HIDDEN,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "intermediate_size": CHANNELS,
    "max_position_embeddings": 48,
}
CLEAR = 1e-5  # fp32 rounding of queries and keys of size 1 is a tenth of it
OF_THEIRS: dict[str, tuple[str, ...]] = {
    "distilbert": ("vocab_size", "max_position_embeddings"),
    "xlnet": ("vocab_size",),
}
"""Which of `SIZES` an architecture calls by these names, where it does not call all so."""


OWN: dict[str, dict[str, Any]] = {
    "bert": {},
    "roberta": {},
    "distilbert": {"dim": HIDDEN, "n_layers": LAYERS, "n_heads": HEADS, "hidden_dim": CHANNELS},
    "xlm-roberta": {},
    "camembert": {},
    "albert": {"embedding_size": NARROW},
    "deberta-v2": {
        "relative_attention": True,
        "pos_att_type": "p2c|c2p",
        "position_buckets": 4,
        "position_biased_input": False,
        "norm_rel_ebd": "layer_norm",
        "share_att_key": True,
        "type_vocab_size": 0,
    },
    "electra": {"embedding_size": NARROW},
    "mpnet": {},
    "xlnet": {"d_model": HIDDEN, "n_layer": LAYERS, "n_head": HEADS, "d_inner": CHANNELS, "pad_token_id": 0},
    "modernbert": {"local_attention": 6, "classifier_pooling": "mean", "pad_token_id": 0},
}
"""What the tiny configuration of each architecture has of its own."""
FAMILIES = tuple(OWN)
NEVER_NATIVE = ("xlnet",)
"""Architectures of which the engine makes its own models from the start."""
WITH_TOKEN_TYPES = ("bert", "electra", "albert", "xlnet")


def tiny_classifier(family: str, seed: int = 0, **own: Any) -> PreTrainedModel:
    """A dense model whose weights are large enough that every element matters."""
    return tiny_model(family, "sequence", seed, **own)


def tiny_model(family: str, kind: HeadKind, seed: int = 0, **own: Any) -> PreTrainedModel:
    """As `tiny_classifier`, with any head: in the form in which the engine loads a base model."""
    return recast(stock_model(family, kind, seed, **own))


def stock_model(family: str, kind: HeadKind, seed: int = 0, **own: Any) -> PreTrainedModel:
    """The same as transformers has it."""
    torch.manual_seed(seed)
    labels = 2 if kind == "span" else LABELS
    sizes = {name: SIZES[name] for name in OF_THEIRS.get(family, SIZES)}
    config = AutoConfig.for_model(family, **{**sizes, **OWN[family], "num_labels": labels, **own})
    model = AUTO_CLASSES[kind].from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.15)
    model.config.id2label = {index: f"label {index}" for index in range(labels)}
    model.config.label2id = {name: index for index, name in model.config.id2label.items()}
    return model.eval()


def padded_batch(model: PreTrainedModel, seed: int = 0) -> dict[str, torch.Tensor]:
    """Three examples of 11, 6 and 1 tokens, padded at the end; token types where the model has them."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(5, model.config.vocab_size, (3, 11), generator=generator)
    mask = torch.ones_like(ids)
    for row, length in enumerate((11, 6, 1)):
        ids[row, length:] = model.config.pad_token_id
        mask[row, length:] = 0
    batch = {"input_ids": ids, "attention_mask": mask}
    source = source_config(model.config)
    if source["model_type"] in WITH_TOKEN_TYPES and source.get("type_vocab_size", 2) == 2:
        batch["token_type_ids"] = (torch.arange(11) > 4).long().expand(3, 11) * mask
    return batch


class NoClearBatchError(AssertionError):
    """A sign lies within rounding of 0 whatever the batch: a key of padding is decided by weights alone."""


def clear_batch(
    model: PreTrainedModel, seed: int = 0, form: Callable[[Inputs], Inputs] = dict
) -> dict[str, torch.Tensor]:
    """A padded batch, in some form, on which sign matching is well defined.

    A sign is not continuous: where a query or key lies within rounding of 0, two forms of a model may rightly
    choose other tokens. So the batch is one of which all that `model` takes signs of is further from 0
    than rounding goes; equal matches need no such care, for counts are exact. Raises NoClearBatchError.
    """
    for other in range(seed, seed + 1000, 100):
        batch = form(padded_batch(model, other))
        if _smallest_signed(model, batch) > CLEAR:
            return batch
    raise NoClearBatchError("no batch is clear")


def _smallest_signed(model: PreTrainedModel, batch: dict[str, torch.Tensor]) -> float:
    """The smallest magnitude that the forward pass takes a sign of; infinity where it takes none."""
    seen = [float("inf")]
    plain = axforge_sparse_attention.signs

    def signs(values: torch.Tensor) -> torch.Tensor:
        seen.append(float(values.abs().min()))
        return plain(values)

    with patch.object(axforge_sparse_attention, "signs", signs):
        logits(model, batch)
    return min(seen)


def stacked(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The batch as one example of three choices, and a second one of the same in another order."""
    return {name: torch.stack((values, values[[2, 0, 1]])) for name, values in batch.items()}


def logits(model: PreTrainedModel, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    with torch.no_grad():
        return logits_of(model(**batch))


def random_recipe(
    seed: int,
    *,
    layers: int = LAYERS,
    heads: int = HEADS,
    channels: int = CHANNELS,
    uniform: bool = False,
    low_rank: bool = True,
    hidden: int = HIDDEN,
) -> Recipe:
    """A few random structural steps; with `uniform` such as a stock class can hold."""
    sparse = [] if uniform else random_sparse(seed, layers=layers, heads=heads)
    low_rank = low_rank and not uniform
    chance = random.Random(seed)
    gone = [index for index in range(layers) if chance.random() < 0.25][: layers - 1]
    steps: list[Step] = [PruneLayers(layers=tuple(gone))] if gone else []
    if chance.random() < 0.5:
        steps.append(random_vocabulary(chance.randrange(2**31)))
    if low_rank and chance.random() < 0.4:
        steps.append(LowRankEmbeddings(rank=chance.randint(1, NARROW - 1)))
    if not uniform and chance.random() < 0.4:
        count = chance.randint(1, hidden - 1)
        steps.append(PruneHidden(dimensions=as_ranges(_some(chance, hidden, count))))
    if uniform and chance.random() < 0.4:
        steps += _fewer_heads(chance, layers, heads, hidden)
    width = chance.randrange(1, channels)
    for layer in range(layers):
        if uniform:
            steps.append(PruneWeightGroups(layer=layer, channels=_some(chance, channels, width)))
            continue
        if chance.random() < 0.4:
            steps.append(HardAttention(layer=layer, top_k=chance.choice((1, 3, 30))))
        if chance.random() < 0.5:
            steps.append(PruneHeads(layer=layer, heads=_some(chance, heads, chance.randint(1, heads))))
        if low_rank and chance.random() < 0.4:
            steps.append(LowRankFfn(layer=layer, rank=chance.randint(1, HIDDEN - 1)))
        if chance.random() < 0.5:
            count = chance.randint(1, channels)
            steps.append(PruneWeightGroups(layer=layer, channels=_some(chance, channels, count)))
        if chance.random() < 0.3:
            steps.append(PruneBlocks(blocks=(f"layer.{layer}.{chance.choice(('attention', 'ffn'))}",)))
    steps += sparse
    chance.shuffle(steps)
    return Recipe(steps=tuple(steps))


def _fewer_heads(chance: random.Random, layers: int, heads: int, hidden: int) -> list[Step]:
    """The same heads from every layer, and hidden dimensions so that the heads left make up the width."""
    gone = _some(chance, heads, chance.randint(1, heads - 1))
    dimensions = _some(chance, hidden, hidden // heads * len(gone))
    pruned = [PruneHeads(layer=layer, heads=gone) for layer in range(layers)]
    return [*pruned, PruneHidden(dimensions=as_ranges(dimensions))]


def random_sparse(seed: int, *, layers: int = LAYERS, heads: int = HEADS) -> list[Step]:
    """Sparse heads of every kind, of some layers; more than one kind in a layer, and on a head."""
    chance = random.Random(seed + 10_000)
    steps: list[Step] = []
    for layer in range(layers):
        if chance.random() < 0.3:
            some = _some(chance, heads, chance.randint(1, heads))
            steps.append(HardAttention(layer=layer, top_k=chance.choice((1, 3, 30)), heads=some))
        if chance.random() < 0.4:
            steps.append(
                SignMatchingAttention(
                    layer=layer,
                    top_k=chance.choice((1, 3, 7, 30)),
                    variant=chance.choice(("average", "softmax")),
                    heads=chance.choice((None, _some(chance, heads, chance.randint(1, heads)))),
                )
            )
    return steps


def random_vocabulary(seed: int) -> PruneVocabulary:
    """Between ten and all of the rows; padding's, and what is numbered before it, always."""
    chance = random.Random(seed)
    rows = {0, 1, *chance.sample(range(VOCABULARY), chance.randint(10, VOCABULARY))}
    return PruneVocabulary(rows=as_ranges(sorted(rows)))


def _some(chance: random.Random, count: int, wanted: int) -> tuple[int, ...]:
    return tuple(sorted(chance.sample(range(count), wanted)))
