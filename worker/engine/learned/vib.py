"""Masks with the variational information bottleneck, on every element that may go.

VTrans (Dutta, Gupta and Agarwal, arXiv 2406.05276), after VIBNet (Dai et al. 2018): a unit is multiplied by
z = mu + eps * sigma with eps ~ N(0, 1), and pays for the information that it lets through. What is kept is
read off log alpha = log sigma^2 - log mu^2.

Ours, for trainings of hundreds of steps rather than thousands: log sigma^2 begins at -4 in the place of -9;
the sharpness of the soft decision begins at 1 and rises (`sharpness`), because the published constant of 10
has no gradient where masks begin; the noise that masks begin with differs by what Fisher information says of
the units (`Masks.begin_by`); a sample is multiplied by the part of the unit that is expected to stay, so
that its mean fades as it is decided to go; and the weight of a unit's divergence is what it costs beside an
FFN channel (`selection.unit_prices`) in the place of constants by kind.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, cast

import numpy as np
import torch
from torch import Tensor, nn

from models.spec import ApproximationName
from worker.engine.anatomy import Anatomy
from worker.engine.anatomy.hidden import dimensions

Kind = Literal["layers", "attention", "ffn", "heads", "channels", "hidden"]
MU, MU_SPREAD = 1.0, 0.01
LOG_VARIANCE, LOG_VARIANCE_SPREAD = -4.0, 0.01
TINY = 1e-8
BLUNTEST, SHARPEST = 1.0, 10.0
MOST_APART = 2.5  # of log sigma^2, where masks begin
FOR: Mapping[Kind, ApproximationName] = {
    "layers": "prune_layers",
    "attention": "prune_blocks",
    "ffn": "prune_blocks",
    "heads": "prune_heads",
    "channels": "prune_weight_groups",
    "hidden": "prune_hidden",
}


def divergence(mu: Tensor, log_variance: Tensor) -> Tensor:
    """KL of each unit's posterior from the best prior, 1/2 log(1 + mu^2 / sigma^2), >= 0, of any shape.

    Dai et al. 2018, eq. 8: the prior's variance is optimised out.
    """
    return 0.5 * torch.log1p(mu.square() / (log_variance.exp() + TINY))


def log_alpha(mu: Tensor, log_variance: Tensor) -> Tensor:
    """log sigma^2 - log mu^2: below 0 there is more signal than noise, and the unit is kept."""
    return log_variance - torch.log(mu.square() + TINY)


def soft_keep(log_alphas: Tensor, sharpness: float) -> Tensor:
    """How much of each unit is expected to stay: sigmoid(-sharpness * log alpha)."""
    return torch.sigmoid(-sharpness * log_alphas)


def sharpness(progress: float) -> float:
    """Of the soft decision, when that part of the steps is done: geometrically up to the published 10."""
    return float(BLUNTEST * (SHARPEST / BLUNTEST) ** min(1.0, max(0.0, progress)))


class VibMask(nn.Module):
    """The mask on `count` units: `mu` and `log_variance`, each (count,)."""

    def __init__(self, count: int, generator: torch.Generator) -> None:
        super().__init__()

        def drawn(mean: float, spread: float) -> nn.Parameter:
            return nn.Parameter(mean + spread * torch.randn(count, generator=generator))

        self.mu = drawn(MU, MU_SPREAD)
        self.log_variance = drawn(LOG_VARIANCE, LOG_VARIANCE_SPREAD)

    @property
    def log_alpha(self) -> Tensor:
        return log_alpha(self.mu, self.log_variance)

    @property
    def divergence(self) -> Tensor:
        """(count,)."""
        return divergence(self.mu, self.log_variance)

    def sampled(self, leading: Sequence[int], sharpness: float) -> Tensor:
        """(*leading, count): m z, with noise of its own at each place, from the global generator."""
        noise = torch.randn((*leading, len(self.mu)), device=self.mu.device, dtype=self.mu.dtype)
        drawn = self.mu + noise * torch.exp(0.5 * self.log_variance)
        return soft_keep(self.log_alpha, sharpness) * drawn


@dataclass(frozen=True)
class Ranking:
    """log alpha of every unit that has a mask: arrays over what the model holds, by kind and dense layer.

    Higher goes first. Of layers that share their weights the first has the key for all; layers themselves
    have one value each, and hidden dimensions the key 0.
    """

    units: Mapping[Kind, Mapping[int, np.ndarray]]

    def of(self, kind: Kind, layer: int = 0) -> np.ndarray | None:
        """None where such units have no mask."""
        return self.units.get(kind, {}).get(layer)

    def values(self) -> np.ndarray:
        """All of them, ascending, (units,)."""
        every = [array for layers in self.units.values() for array in layers.values()]
        return np.unique(np.concatenate(every)) if every else np.zeros(0)


class Masks(nn.Module):
    """One `VibMask` for each vector of units that `allowed` approximations may remove from the model.

    Layers that share their weights share the masks of heads, channels and blocks.
    """

    def __init__(self, anatomy: Anatomy, allowed: frozenset[ApproximationName], seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        full = anatomy.full_shape()
        self._masks = nn.ModuleDict()

        def add(kind: Kind, layer: int, count: int) -> None:
            if count and FOR[kind] in allowed:
                self._masks[f"{kind}-{layer}"] = VibMask(count, generator)

        add("hidden", 0, len(dimensions(anatomy, full)))
        for index, layer in enumerate(full.layers):
            add("layers", index, int(layer.present))
            if full.leads(index):
                add("attention", index, int(bool(layer.heads)))
                add("ffn", index, int(bool(layer.channels)))
                add("heads", index, len(layer.heads))
                add("channels", index, len(layer.channels))

    def of(self, kind: Kind, layer: int = 0) -> VibMask | None:
        """None where such units have no mask."""
        name = f"{kind}-{layer}"
        return cast(VibMask, self._masks[name]) if name in self._masks else None

    def named(self) -> Iterator[tuple[Kind, int, VibMask]]:
        """Every mask with its kind and layer, in a fixed order."""
        for name, mask in self._masks.items():
            kind, _, layer = name.rpartition("-")
            yield cast(Kind, kind), int(layer), cast(VibMask, mask)

    @torch.no_grad()
    def begin_by(self, worth: Mapping[tuple[Kind, int], np.ndarray], prices: Mapping[Kind, float]) -> None:
        """Begin with the noise that suits what units are worth: arrays like the masks', by kind and layer.

        Noise of variance s^2 on a unit costs about s^2 h / 2, where h is the curvature of the loss in it, of
        which Fisher information is an estimate, and saves in proportion to the unit's price p and to log s^2:
        both balance where s^2 is proportional to p / h. The middle, by price, is where all units begin
        that nothing is known of; none is further from it than `MOST_APART`.
        """
        known = [(kind, self.of(kind, layer), values) for (kind, layer), values in worth.items()]
        ratios = [
            (mask, prices[kind], np.log(prices[kind]) - np.log(np.maximum(values, TINY**2)))
            for kind, mask, values in known
            if mask is not None
        ]
        if not ratios:
            return
        middle = _weighted_median(
            np.concatenate([ratio for _, _, ratio in ratios]),
            np.concatenate([np.full(len(ratio), price) for _, price, ratio in ratios]),
        )
        for mask, _, ratio in ratios:
            apart = torch.from_numpy(np.clip(ratio - middle, -MOST_APART, MOST_APART))
            mask.log_variance.add_(apart.to(mask.log_variance))

    def ranking(self) -> Ranking:
        """log alpha as it stands."""
        units: dict[Kind, dict[int, np.ndarray]] = {}
        for kind, layer, mask in self.named():
            values = mask.log_alpha.detach().double().cpu().numpy()
            units.setdefault(kind, {})[layer] = values
        return Ranking(units)

    def divergence(self, prices: Mapping[Kind, float]) -> Tensor:
        """The sum over all units, each weighted by what one of its kind costs: a scalar."""
        weighed = [prices[kind] * mask.divergence.sum() for kind, _, mask in self.named()]
        return torch.stack(weighed).sum()


def _weighted_median(values: np.ndarray, weights: np.ndarray) -> float:
    order = np.argsort(values, kind="stable")
    passed = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(passed, passed[-1] / 2)])
