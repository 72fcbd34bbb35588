"""From a ranking to a shape: bounds hold, nearly all of them is used, and what ranks lowest stays."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import pytest

from models.spec import APPROXIMATIONS, ApproximationName, GroupSizes
from tests.engine.decoder_models import tiny_decoder
from tests.engine.export_models import tiny_model
from tests.engine.learned.deciding import PRUNING
from worker.engine.anatomy import Anatomy, Shape, anatomy_of
from worker.engine.learned.selection import Chosen, Grain, chosen, unit_prices
from worker.engine.learned.vib import Kind, Masks, Ranking
from worker.engine.strategies.narrowing import as_steps

FAMILIES = ("bert", "roberta", "albert", "gpt2", "llama")


def anatomy_for(family: str) -> Anatomy:
    return anatomy_of(tiny_decoder(family) if family in ("gpt2", "llama") else tiny_model(family, "sequence"))


def random_ranking(anatomy: Anatomy, seed: int, allowed: Iterable[ApproximationName] = PRUNING) -> Ranking:
    masks = Masks(anatomy, frozenset(allowed), seed)
    chance = np.random.default_rng(seed)
    units: dict[Kind, dict[int, np.ndarray]] = {}
    for kind, layer, mask in masks.named():
        units.setdefault(kind, {})[layer] = chance.normal(-2.0, 3.0, len(mask.mu))
    return Ranking(units)


def parameters_room(anatomy: Anatomy, part: float) -> Callable[[Shape], float]:
    limit = part * anatomy.parameters(anatomy.full_shape())
    return lambda shape: 1.0 - anatomy.parameters(shape) / limit


def selected(
    anatomy: Anatomy,
    ranking: Ranking,
    part: float,
    sizes: GroupSizes | None = None,
    allowed: Iterable[ApproximationName] = PRUNING,
) -> Chosen:
    grain = Grain.of(anatomy, sizes or GroupSizes(), frozenset(allowed))
    return chosen(anatomy, anatomy.full_shape(), ranking, grain, parameters_room(anatomy, part))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("part", [0.9, 0.7, 0.5])
def test_a_bound_is_met_within_a_hundredth(family: str, part: float) -> None:
    anatomy = anatomy_for(family)
    for seed in range(4):
        taken = selected(anatomy, random_ranking(anatomy, seed), part)
        assert 0.0 <= taken.room <= 0.01
        assert anatomy.parameters(taken.shape) <= part * anatomy.parameters(anatomy.full_shape())


@pytest.mark.parametrize("family", FAMILIES)
def test_the_slices_make_the_shape_and_end_with_what_is_nearest_to_staying(family: str) -> None:
    anatomy = anatomy_for(family)
    ranking = random_ranking(anatomy, 1)
    taken = selected(anatomy, ranking, 0.6)
    shape = anatomy.full_shape()
    for slice_ in taken.slices:
        before = anatomy.parameters(shape)
        for step in as_steps(slice_):
            shape = shape.applied(type_recipe(step))
        assert anatomy.parameters(shape) < before
    assert shape.normalised() == taken.shape.normalised()
    assert len(taken.slices) > 4


def type_recipe(step: object) -> object:
    from models.spec import Recipe

    return Recipe(steps=(step,))  # type: ignore[arg-type]


def test_what_stays_of_a_vector_ranks_below_what_goes() -> None:
    anatomy = anatomy_for("bert")
    ranking = random_ranking(anatomy, 2)
    shape = selected(anatomy, ranking, 0.6).shape
    for index, layer in enumerate(shape.layers):
        alphas = ranking.of("channels", index)
        assert alphas is not None
        if 0 < len(layer.channels) < anatomy.channels:
            gone = set(range(anatomy.channels)) - set(layer.channels)
            assert max(alphas[list(layer.channels)]) <= min(alphas[list(gone)])


def test_widths_are_multiples_of_what_goes_together() -> None:
    anatomy = anatomy_for("bert")
    for seed in range(3):
        sizes = GroupSizes(ffn=8, hidden=4)
        shape = selected(anatomy, random_ranking(anatomy, seed), 0.6, sizes).shape
        assert all(len(layer.channels) % 8 == 0 for layer in shape.layers)
        assert anatomy.width(shape) % 4 == 0


def test_nothing_goes_that_may_not() -> None:
    anatomy = anatomy_for("bert")
    for allowed in (["prune_heads", "prune_weight_groups"], ["prune_blocks"], ["prune_layers"]):
        ranking = random_ranking(anatomy, 0, allowed)
        shape = selected(anatomy, ranking, 0.8, allowed=allowed).shape
        if "prune_layers" not in allowed:
            assert all(layer.present for layer in shape.layers)
        if "prune_blocks" not in allowed:
            assert all(layer.heads and layer.channels for layer in shape.layers if layer.present)
        if "prune_heads" not in allowed:
            assert all(len(layer.heads) in (0, anatomy.heads) for layer in shape.layers)
        assert not shape.hidden_gone


def test_where_nothing_is_enough_everything_that_may_go_goes() -> None:
    anatomy = anatomy_for("bert")
    taken = selected(anatomy, random_ranking(anatomy, 0), 0.001)
    assert taken.room < 0.0
    present = [layer for layer in taken.shape.layers if layer.present]
    assert len(present) == 1
    assert not present[0].heads
    assert not present[0].channels
    assert anatomy.width(taken.shape) == 1


def test_units_are_priced_by_the_parameters_that_go_with_them() -> None:
    prices = unit_prices(anatomy_for("bert"))
    assert prices["channels"] == 1.0
    assert prices["layers"] == pytest.approx(prices["attention"] + prices["ffn"])
    assert prices["heads"] > 4
    assert set(prices) == {"channels", "heads", "attention", "ffn", "layers", "hidden"}
    assert set(PRUNING) < set(APPROXIMATIONS)
