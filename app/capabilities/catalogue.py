"""What the engine can do, told without loading it: the names of `models.spec`, and their use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from models.spec import (
    ApproximationName,
    HardAttention,
    LowRankEmbeddings,
    LowRankFfn,
    PruneBlocks,
    PruneHeads,
    PruneHidden,
    PruneLayers,
    PruneVocabulary,
    PruneWeightGroups,
    Quantize,
    SignMatchingAttention,
    StrategyName,
)
from models.spec.base import Document

Runtime = Literal["onnxruntime", "torch"]

STAGES = ("prepare", "baseline", "analyse", "search", "recover", "export", "certify")


@dataclass(frozen=True)
class Approximation:
    """An approximation, the form of its step in a recipe, and where it gains something."""

    step: type[Document]
    element: str
    gains: Sequence[Literal["speed", "size", "accuracy"]]
    runtimes: Sequence[Runtime] = ("onnxruntime", "torch")


APPROXIMATIONS: dict[ApproximationName, Approximation] = {
    "prune_layers": Approximation(PruneLayers, "layer", ("speed", "size", "accuracy")),
    "prune_blocks": Approximation(PruneBlocks, "block", ("speed", "size", "accuracy")),
    "prune_heads": Approximation(PruneHeads, "head", ("speed", "size", "accuracy")),
    "prune_weight_groups": Approximation(PruneWeightGroups, "weight group", ("speed", "size", "accuracy")),
    "prune_hidden": Approximation(PruneHidden, "hidden dimension", ("speed", "size")),
    "prune_vocabulary": Approximation(PruneVocabulary, "vocabulary row", ("size",)),
    "low_rank_embeddings": Approximation(LowRankEmbeddings, "word embedding", ("size",)),
    "low_rank_ffn": Approximation(LowRankFfn, "layer", ("speed", "size")),
    "hard_attention": Approximation(HardAttention, "head", ("accuracy",)),
    "sign_matching_attention": Approximation(SignMatchingAttention, "head", ("accuracy",)),
    "quantize": Approximation(Quantize, "model", ("speed", "size")),
}

STRATEGIES: dict[StrategyName, str] = {
    "axformer": "Finds what the task does not need by leaving it out, coarse parts first. The accuracy focus "
    "removes what hinders; the others remove what costs least for what it saves.",
    "auto": "Searches as axformer does, then decides whether the structure needs training, and says why.",
    "vtrans": "Trains masks on hidden dimensions, heads, FFN channels, blocks and layers together with the "
    "weights, on all training rows, until what is left keeps to the bounds on costs.",
    "fast-vtrans": "As vtrans, on 3 % of the training rows (`learned.data_fraction`).",
    "faster-vtrans": "As fast-vtrans, but the weights stay as they are while the masks are trained.",
}
