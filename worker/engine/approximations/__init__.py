"""What can be done to elements of a model: one file an approximation, one registry for all."""

from __future__ import annotations

from typing import Any

from models.spec import ApproximationName
from worker.engine.approximations.base import Approximation, Named, Structural
from worker.engine.approximations.hard_attention import SelectiveHardAttention
from worker.engine.approximations.low_rank import EmbeddingFactorization, FfnFactorization
from worker.engine.approximations.prune_blocks import BlockPruning
from worker.engine.approximations.prune_heads import HeadPruning
from worker.engine.approximations.prune_hidden import HiddenPruning
from worker.engine.approximations.prune_layers import LayerPruning
from worker.engine.approximations.prune_vocabulary import VocabularyPruning
from worker.engine.approximations.prune_weight_groups import WeightGroupPruning
from worker.engine.approximations.quantize import Quantization
from worker.engine.approximations.sign_matching_attention import SignMatching

__all__ = ["APPROXIMATIONS", "STRUCTURAL", "Approximation", "Named", "Structural"]

STRUCTURAL: dict[str, Structural[Any]] = {
    "prune_layers": LayerPruning(),
    "prune_blocks": BlockPruning(),
    "prune_heads": HeadPruning(),
    "prune_weight_groups": WeightGroupPruning(),
    "prune_hidden": HiddenPruning(),
    "prune_vocabulary": VocabularyPruning(),
    "low_rank_embeddings": EmbeddingFactorization(),
    "low_rank_ffn": FfnFactorization(),
    "hard_attention": SelectiveHardAttention(),
    "sign_matching_attention": SignMatching(),
}
APPROXIMATIONS: dict[ApproximationName, Approximation[Any]] = {
    **{approximation.name: approximation for approximation in STRUCTURAL.values()},
    "quantize": Quantization(),
}
