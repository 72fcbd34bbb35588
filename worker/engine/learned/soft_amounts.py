"""How much of a model is expected to stay, by masks that are not yet decided."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from worker.engine.anatomy import Anatomy
from worker.engine.anatomy.costs import Amounts, LayerAmounts
from worker.engine.learned.vib import Kind, Masks, soft_keep


@dataclass(frozen=True)
class Kept:
    """Of each unit the part that stays, 0 to 1, by kind and layer, on the CPU; what has no mask stays."""

    masks: Masks
    sharpness: float

    def of(self, kind: Kind, layer: int = 0) -> Tensor | None:
        mask = self.masks.of(kind, layer)
        return None if mask is None else soft_keep(mask.log_alpha.cpu(), self.sharpness)

    def one(self, kind: Kind, layer: int) -> Tensor | float:
        """Of a layer or a block, a scalar."""
        kept = self.of(kind, layer)
        return 1.0 if kept is None else kept[0]


def expected_amounts(anatomy: Anatomy, kept: Kept) -> Amounts:
    """The amounts that `costs.model_parameters` and the like take, as scalar tensors; exact where the part of
    every unit is 0 or 1.

    A layer's part multiplies its blocks', a block's part that of its heads or channels. Of something there is
    any left unless each of its units goes: 1 - prod(1 - m), for blocks, for heads of keys and values that
    several query heads read, and for weights that several layers share.
    """
    full = anatomy.full_shape()
    present = {part.index: torch.as_tensor(kept.one("layers", part.index)) for part in anatomy.parts}
    run: dict[int, LayerAmounts] = {}
    stored: dict[int, LayerAmounts] = {}
    for index, layer_part in present.items():
        sharing = full.sharing(index)
        run[index] = _layer(anatomy, kept, sharing[0], layer_part)
        if index == sharing[0]:
            any_part = _any(torch.stack([present[other] for other in sharing]))
            stored[index] = _layer(anatomy, kept, index, any_part)
    hidden = kept.of("hidden")
    return Amounts(
        width=anatomy.width(full) if hidden is None else hidden.sum(),
        rows=anatomy.vocabulary if full.rows is None else len(full.rows),
        embedding_rank=full.embedding_rank,
        run=run,
        stored=stored,
    )


def _layer(anatomy: Anatomy, kept: Kept, leader: int, present: Tensor) -> LayerAmounts:
    held = anatomy.full_shape().layers[leader]
    heads = _units(kept, "heads", leader, held.heads)
    channels = _units(kept, "channels", leader, held.channels)
    attention = present * kept.one("attention", leader)
    ffn = present * kept.one("ffn", leader)
    groups: dict[int, list[Tensor]] = {}
    for head, part in zip(held.heads, heads, strict=True):
        groups.setdefault(head // anatomy.kv_group, []).append(part)
    zero = present * 0.0
    shared = sum((_any(torch.stack(parts)) for parts in groups.values()), zero)
    return LayerAmounts(
        heads=attention * heads.sum() if held.heads else zero,
        kv_heads=attention * shared,
        channels=ffn * channels.sum() if held.channels else zero,
        attention=attention * _any(heads) if held.heads else zero,
        ffn=ffn * _any(channels) if held.channels else zero,
        present=present,
        ffn_rank=held.ffn_rank,
    )


def _units(kept: Kept, kind: Kind, layer: int, held: tuple[int, ...]) -> Tensor:
    known = kept.of(kind, layer)
    return torch.ones(len(held)) if known is None else known


def _any(parts: Tensor) -> Tensor:
    return 1.0 - torch.prod(1.0 - parts)
