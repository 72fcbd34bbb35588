"""A recipe: the ordered decisions that turn the dense model into the delivered one.

Layers, heads and channels are always named by their index in the dense model, so that a step
means the same whatever was removed before it.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from models.spec.base import Document
from models.spec.ranges import Ranges

LayerIndex = Annotated[int, Field(ge=0)]
BlockName = Annotated[str, StringConstraints(pattern=r"^layer\.\d+\.(attention|ffn)$")]


class PruneLayers(Document):
    """Whole layers are skipped: the layer's output is its input."""

    approximation: Literal["prune_layers"] = "prune_layers"
    layers: tuple[LayerIndex, ...] = Field(min_length=1)


class PruneBlocks(Document):
    """A whole attention or FFN block is removed: only its residual path and layer norm remain."""

    approximation: Literal["prune_blocks"] = "prune_blocks"
    blocks: tuple[BlockName, ...] = Field(min_length=1)


class PruneHeads(Document):
    """Heads of one layer are removed: their context is zero."""

    approximation: Literal["prune_heads"] = "prune_heads"
    layer: LayerIndex
    heads: tuple[Annotated[int, Field(ge=0)], ...] = Field(min_length=1)


class PruneWeightGroups(Document):
    """FFN channels (intermediate neurons) of one layer are removed; the output bias stays."""

    approximation: Literal["prune_weight_groups"] = "prune_weight_groups"
    layer: LayerIndex
    channels: tuple[Annotated[int, Field(ge=0)], ...] = Field(min_length=1)


class PruneVocabulary(Document):
    """Rows of the word embedding are removed and the tokenizer rewritten: texts are cut into the tokens left.

    `rows` are those that stay, by their ids in the dense model's vocabulary. In the smaller one they are
    numbered anew, in the same order.
    """

    approximation: Literal["prune_vocabulary"] = "prune_vocabulary"
    rows: Ranges = Field(examples=["0,100-103,999-3041"])


class LowRankEmbeddings(Document):
    """The word embedding becomes a table of `rank` values a row, and a matrix from them to its width."""

    approximation: Literal["low_rank_embeddings"] = "low_rank_embeddings"
    rank: int = Field(ge=1)


class LowRankFfn(Document):
    """Both FFN matrices of one layer become products of two with `rank` values between them."""

    approximation: Literal["low_rank_ffn"] = "low_rank_ffn"
    layer: LayerIndex
    rank: int = Field(ge=1)


class HardAttention(Document):
    """Keep the `top_k` largest attention probabilities of each row, without re-normalising."""

    approximation: Literal["hard_attention"] = "hard_attention"
    layer: LayerIndex
    top_k: int = Field(30, ge=1)


class Quantize(Document):
    """Dynamic int8 of the ONNX export, per output channel.

    `embeddings` is the form of the word embedding table: int8 with one scale, or int4 with a scale
    for every few values of a row.
    """

    approximation: Literal["quantize"] = "quantize"
    weights: Literal["int8"] = "int8"
    embeddings: Literal["int8", "int4"] = "int8"
    per_channel: bool = True


class Recover(Document):
    """Weights were trained at this point, by distillation from the dense model."""

    approximation: Literal["recover"] = "recover"
    epochs: int = Field(ge=1)
    learning_rate: float = Field(gt=0.0)
    seed: int = Field(ge=0)


Step = Annotated[
    PruneLayers
    | PruneBlocks
    | PruneHeads
    | PruneWeightGroups
    | PruneVocabulary
    | LowRankEmbeddings
    | LowRankFfn
    | HardAttention
    | Quantize
    | Recover,
    Field(discriminator="approximation"),
]


class Recipe(Document):
    steps: tuple[Step, ...] = ()

    def then(self, *steps: Step) -> Recipe:
        """The recipe with further decisions at its end."""
        return Recipe(steps=(*self.steps, *steps))
