"""Attention that reads a few tokens only, as something that is weighed and decided for a layer or a head."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from models.spec import ApproximationName, HardAttention, SignMatchingAttention
from worker.engine.anatomy.shape import Shape
from worker.engine.approximations import STRUCTURAL
from worker.engine.approximations.sparse_heads import KINDS, SparseKind

TOP_K = 30  # "works well for all the GLUE tasks", AxFormer's published code, of hard attention
APPROXIMATION_OF: dict[SparseKind, ApproximationName] = {
    "hard": "hard_attention",
    "sign_softmax": "sign_matching_attention",
    "sign_average": "sign_matching_attention",
}


@dataclass(frozen=True)
class SparseElement:
    """The attention of a layer (`head` None), or of one head of it, by index in the dense model."""

    kind: SparseKind
    layer: int
    head: int | None = None

    @property
    def id(self) -> str:
        """Stable name, such as `layer.3.hard` or `layer.0.sign_average.head.5`."""
        whole = f"layer.{self.layer}.{self.kind}"
        return whole if self.head is None else f"{whole}.head.{self.head}"

    @property
    def top_k(self) -> int:
        """How many tokens are read."""
        return TOP_K

    @staticmethod
    def named(name: str) -> SparseElement | None:
        """The inverse of `id`; None for the name of something else."""
        parts = name.split(".")
        for kind in KINDS:
            if len(parts) in (3, 5) and parts[2] == kind:
                return SparseElement(kind, int(parts[1]), int(parts[4]) if len(parts) == 5 else None)
        return None

    def removed_from(self, shape: Shape) -> Shape:
        """`shape` with this in the place of attention to all tokens."""
        step = self.step()
        return STRUCTURAL[step.approximation].narrowed(shape, step).normalised()

    def step(self) -> HardAttention | SignMatchingAttention:
        """The recipe step that does it."""
        heads = None if self.head is None else (self.head,)
        if self.kind == "hard":
            return HardAttention(layer=self.layer, top_k=self.top_k, heads=heads)
        variant: Literal["average", "softmax"] = "average" if self.kind == "sign_average" else "softmax"
        return SignMatchingAttention(layer=self.layer, top_k=self.top_k, variant=variant, heads=heads)

    def by_head(self, shape: Shape) -> list[SparseElement]:
        """The same of each head that the layer has."""
        return [SparseElement(self.kind, self.layer, head) for head in shape.layers[self.layer].heads]


def sparse_kinds(allowed: Collection[str], longest: int | None) -> list[SparseKind]:
    """What a job allows, in the order in which it is tried.

    `longest`: tokens of its longest sequence, None where that is not known. Where no sequence is longer than
    what is read, all of it is: hard attention, and sign matching with a softmax, then change nothing.
    """
    return [
        kind
        for kind in KINDS
        if APPROXIMATION_OF[kind] in allowed
        and (kind == "sign_average" or longest is None or longest > TOP_K)
    ]


def sparse_layers(shape: Shape, kind: SparseKind) -> list[SparseElement]:
    """One for each layer that has heads, the first layer first."""
    return [SparseElement(kind, index) for index, layer in enumerate(shape.layers) if layer.heads]
