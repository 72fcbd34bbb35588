"""Sign-matching attention: each token reads those whose key agrees with its query in most signs.

AxFormer's first version (arXiv 2010.03688v1) describes it; how many tokens are read, and how they are
weighed, is ours: `axforge_sparse_attention.py` says what is computed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from models.spec import SignMatchingAttention
from worker.engine.approximations.base import Named, Structural
from worker.engine.approximations.sparse_heads import SparseKind, made_sparse

if TYPE_CHECKING:
    from worker.engine.anatomy.shape import Shape


class SignMatching(Structural[SignMatchingAttention]):
    """For accuracy: where it is faster, on long inputs in torch, the search does not use it for that."""

    name = "sign_matching_attention"
    step = SignMatchingAttention
    changes_size = False
    changes_speed = False

    def named(self, step: SignMatchingAttention) -> Iterable[Named]:
        return [("layer", "layer", (step.layer,)), ("heads", "head", step.heads or ())]

    def narrowed(self, shape: Shape, step: SignMatchingAttention) -> Shape:
        layer = shape.layers[step.layer]
        heads = layer.heads if step.heads is None else step.heads
        kind: SparseKind = "sign_average" if step.variant == "average" else "sign_softmax"
        sparse = made_sparse(layer.sparse, heads, kind, step.top_k)
        return shape.with_layer(step.layer, replace(layer, sparse=sparse))
