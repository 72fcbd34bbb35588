"""Masks with the information bottleneck: divergence, the rule that keeps units, and what a sample is."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import integrate

from tests.engine.export_models import tiny_model
from worker.engine.anatomy import anatomy_of
from worker.engine.learned.vib import Masks, VibMask, divergence, log_alpha, sharpness, soft_keep


@pytest.mark.parametrize(("mu", "variance"), [(1.0, 0.1), (0.3, 2.0), (-2.0, 0.5)])
def test_divergence_is_that_from_the_best_centred_prior(mu: float, variance: float) -> None:
    """By numerical integration of KL(N(mu, s^2) || N(0, mu^2 + s^2)), the prior whose variance is best."""

    def density(x: float, mean: float, spread: float) -> float:
        return math.exp(-((x - mean) ** 2) / (2 * spread)) / math.sqrt(2 * math.pi * spread)

    prior = mu**2 + variance

    def term(x: float) -> float:
        return density(x, mu, variance) * (
            math.log(prior / variance) / 2 - (x - mu) ** 2 / (2 * variance) + x**2 / (2 * prior)
        )

    expected = integrate.quad(term, -30, 30, points=[mu])[0]
    found = divergence(torch.tensor(mu), torch.tensor(math.log(variance)))
    assert float(found) == pytest.approx(expected, abs=1e-5)


def test_a_unit_is_kept_while_it_has_more_signal_than_noise() -> None:
    mu = torch.tensor([1.0, 1.0, 0.1, -2.0])
    variance = torch.tensor([0.9, 1.1, 0.02, 3.0])
    alphas = log_alpha(mu, variance.log())
    assert (alphas < 0).tolist() == [True, False, False, True]
    kept = soft_keep(alphas, 10.0)
    assert ((kept > 0.5) == (alphas < 0)).all()


def test_the_soft_decision_begins_loose_and_ends_sharp() -> None:
    assert sharpness(0.0) == 1.0
    assert sharpness(1.0) == pytest.approx(10.0)
    steps = [sharpness(part) for part in np.linspace(0, 1, 11)]
    assert steps == sorted(steps)


def test_samples_have_the_masks_mean_and_noise_of_their_own_at_each_place() -> None:
    mask = VibMask(3, torch.Generator().manual_seed(0))
    with torch.no_grad():
        mask.mu.copy_(torch.tensor([1.0, 0.5, -1.0]))
        mask.log_variance.copy_(torch.tensor([0.04, 1.0, 0.25]).log())
    torch.manual_seed(0)
    kept = soft_keep(mask.log_alpha, 2.0)
    drawn = (mask.sampled((200, 100), 2.0) / kept).detach().reshape(-1, 3)
    assert torch.allclose(drawn.mean(0), mask.mu, atol=0.02)
    assert torch.allclose(drawn.var(0), mask.log_variance.exp(), rtol=0.03)
    assert len(drawn[:, 1].unique()) > 19_000


def test_there_is_a_mask_for_what_may_go_and_for_nothing_else() -> None:
    anatomy = anatomy_of(tiny_model("bert", "sequence"))
    masks = Masks(anatomy, frozenset({"prune_heads", "prune_hidden", "quantize"}), seed=0)
    kinds = {kind for kind, _, _ in masks.named()}
    assert kinds == {"heads", "hidden"}
    assert masks.of("channels", 0) is None
    first = Masks(anatomy, frozenset({"prune_heads"}), seed=3)
    again = Masks(anatomy, frozenset({"prune_heads"}), seed=3)
    for (_, _, one), (_, _, other) in zip(first.named(), again.named(), strict=True):
        assert torch.equal(one.mu, other.mu)


def test_layers_that_share_weights_share_masks() -> None:
    anatomy = anatomy_of(tiny_model("albert", "sequence"))
    masks = Masks(anatomy, frozenset({"prune_heads", "prune_layers"}), seed=0)
    named = [(kind, layer) for kind, layer, _ in masks.named()]
    assert [layer for kind, layer in named if kind == "heads"] == [0]
    assert [layer for kind, layer in named if kind == "layers"] == list(range(anatomy.layers))


def test_masks_begin_noisier_where_units_are_worth_less() -> None:
    anatomy = anatomy_of(tiny_model("bert", "sequence"))
    masks = Masks(anatomy, frozenset({"prune_heads", "prune_weight_groups"}), seed=0)
    worth = {("channels", 0): np.geomspace(1e-6, 1e-2, anatomy.channels), ("heads", 0): np.full(4, 1e-3)}
    untouched = masks.of("channels", 1)
    assert untouched is not None
    before = untouched.log_variance.clone()
    masks.begin_by(worth, {"channels": 1.0, "heads": 5.0})
    ranking = masks.ranking()
    channels, heads = ranking.of("channels", 0), ranking.of("heads", 0)
    assert channels is not None
    assert heads is not None
    assert np.argmax(channels) < 12
    assert channels[:12].mean() > channels[-12:].mean() + 3.0
    assert channels.max() - channels.min() < 5.3
    # A head that is worth as much as a channel of the middle is five times as dear.
    middle = channels[np.argmin(np.abs(worth["channels", 0] - 1e-3))]
    assert heads.mean() == pytest.approx(middle + np.log(5.0), abs=0.4)
    assert torch.equal(untouched.log_variance, before)
