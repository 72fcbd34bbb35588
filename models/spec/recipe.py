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
Heads = Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)]
BlockName = Annotated[str, StringConstraints(pattern=r"^layer\.\d+\.(attention|ffn)$")]

TablePrecision = Literal["fp32", "fp16", "int8", "int4"]
Precision = Literal[TablePrecision, "w4a8"]
MatrixName = Annotated[str, StringConstraints(pattern=r"^layer\.\d+\.(attention|ffn)\.(input|output)$")]
"""The matrices from a layer's width to its heads or channels, as one, and that back from them."""


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
    heads: Heads


class PruneWeightGroups(Document):
    """FFN channels (intermediate neurons) of one layer are removed; the output bias stays."""

    approximation: Literal["prune_weight_groups"] = "prune_weight_groups"
    layer: LayerIndex
    channels: tuple[Annotated[int, Field(ge=0)], ...] = Field(min_length=1)


class PruneHidden(Document):
    """Dimensions of the residual stream are removed from every module that reads or writes it.

    Norms are taken over the dimensions that are left. Heads keep their number and size.
    """

    approximation: Literal["prune_hidden"] = "prune_hidden"
    dimensions: Ranges = Field(examples=["0-31,352-383"], description="Those that go.")


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
    """Keep the `top_k` largest attention probabilities of each row, without re-normalising.

    In the `heads` of the layer that are named; null for all of them.
    """

    approximation: Literal["hard_attention"] = "hard_attention"
    layer: LayerIndex
    top_k: int = Field(30, ge=1)
    heads: Heads | None = None


class SignMatchingAttention(Document):
    """Each token reads the `top_k` whose keys agree with its query in most signs.

    `variant`: `average` takes the mean of their values, `softmax` weighs them by their scores. In the `heads`
    of the layer that are named; null for all of them.
    """

    approximation: Literal["sign_matching_attention"] = "sign_matching_attention"
    layer: LayerIndex
    top_k: int = Field(30, ge=1)
    variant: Literal["average", "softmax"] = "softmax"
    heads: Heads | None = None


class Calibration(Document):
    """Training rows that the ranges of activations are read off: so many, drawn by `seed`."""

    rows: int = Field(ge=1)
    seed: int = Field(ge=0)


class Quantize(Document):
    """Weights of the ONNX export in fewer bits.

    `weights` is the form of all matrices, `matrices` of those that have another one. In int8 the products
    are of integers too, with activations quantized when they are known, or by the ranges that they have on
    the rows of `calibration`. w4a8 weights are int8 ones that the file holds in 4 bits, with a whole step
    size for every 32 values: the runtime widens them once, when it loads the file, and products are those of
    int8. int4 weights have a float scale for every 32 values, fp16 weights none; both are widened again as
    they are used. `embeddings` is the form of the word embedding table: int8 with one scale, int4 with a
    scale for every few values of a row, or half precision.
    """

    approximation: Literal["quantize"] = "quantize"
    weights: Precision = "int8"
    matrices: dict[MatrixName, Precision] = Field(default_factory=dict)
    embeddings: TablePrecision = "int8"
    per_channel: bool = True
    calibration: Calibration | None = None


class Recover(Document):
    """Weights were trained at this point, by distillation from the dense model."""

    approximation: Literal["recover"] = "recover"
    epochs: int = Field(ge=1)
    learning_rate: float = Field(gt=0.0)
    seed: int = Field(ge=0)


class LearnMasks(Document):
    """Masks were trained at this point, and their means folded into the weights that stay.

    For `steps` steps on `rows` training rows, by distillation from the dense model; `weights` says whether
    these were trained too.
    """

    approximation: Literal["learn_masks"] = "learn_masks"
    weights: bool
    rows: int = Field(ge=1)
    steps: int = Field(ge=1)
    seed: int = Field(ge=0)


class Reconstruct(Document):
    """Output projections were solved anew at this point, without training.

    From the first layer upwards, by linear least squares on `rows` training rows drawn by `seed`, so that
    what is left of each block gives what the dense model has after it. `damping` holds the weights where
    they were.
    """

    approximation: Literal["reconstruct"] = "reconstruct"
    rows: int = Field(ge=1)
    damping: float = Field(gt=0.0)
    seed: int = Field(ge=0)


Step = Annotated[
    PruneLayers
    | PruneBlocks
    | PruneHeads
    | PruneWeightGroups
    | PruneHidden
    | PruneVocabulary
    | LowRankEmbeddings
    | LowRankFfn
    | HardAttention
    | SignMatchingAttention
    | Quantize
    | Recover
    | LearnMasks
    | Reconstruct,
    Field(discriminator="approximation"),
]


class Recipe(Document):
    steps: tuple[Step, ...] = ()

    def then(self, *steps: Step) -> Recipe:
        """The recipe with further decisions at its end."""
        return Recipe(steps=(*self.steps, *steps))

    def quantization(self) -> Quantize | None:
        """The first step that quantizes."""
        return next((step for step in self.steps if isinstance(step, Quantize)), None)
