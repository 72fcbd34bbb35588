"""What masks are expected to cost is exactly what a shape costs where every mask is decided."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from tests.engine.decoder_models import DECODERS, tiny_decoder
from tests.engine.export_models import FAMILIES, random_recipe, tiny_model
from tests.engine.learned.deciding import PRUNING, decided
from worker.engine.anatomy import Anatomy, Shape, anatomy_of
from worker.engine.anatomy.costs import Amounts
from worker.engine.learned.expected_cost import (
    CostName,
    ExpectedCosts,
    FileBytes,
    expected_milliseconds,
    interpolated,
)
from worker.engine.learned.soft_amounts import Kept, expected_amounts
from worker.engine.learned.vib import Masks
from worker.engine.measure.latency_table import BlockCosts, LatencyTable, NarrowCosts
from worker.engine.measure.layer_size import LayerSize
from worker.engine.strategies.goal import LEAST_FILE, CostModel

LENGTH = 11


def table(anatomy: Anatomy) -> LatencyTable:
    """Invented, with a bend in the middle of every width, and a cheaper last layer."""
    half_heads, half_channels = anatomy.heads // 2, anatomy.channels // 2
    inner = BlockCosts(
        (0, half_heads, anatomy.heads), (0.2, 1.0, 1.5), (0, half_channels, anatomy.channels), (0.2, 0.7, 2.0)
    )
    narrow = NarrowCosts(anatomy.hidden_size, anatomy.hidden_size // 2, inner.scaled(0.6))
    return LatencyTable(inner, inner.scaled(0.5), 0.4, 10.0, 1.0, 1.2, narrow=narrow)


def costs_of(anatomy: Anatomy) -> ExpectedCosts:
    beside = LayerSize(bare=40.0, attention=30.0, head=7.0, ffn=20.0, channel=3.0)
    file = FileBytes(anatomy.full_shape(), 1e6, 1.5, 0.5, beside)
    return ExpectedCosts(anatomy, table(anatomy), 1.25, file, LENGTH)


def exact(anatomy: Anatomy, shape: Shape) -> dict[CostName, float]:
    """By what the search counts with."""
    left = Amounts.of(anatomy, anatomy.checked(shape))
    file = costs_of(anatomy).file
    return {
        "parameters": float(anatomy.parameters(shape)),
        "macs": float(anatomy.macs(shape, LENGTH)),
        "ms": 1.25 * table(anatomy).predict(shape),
        "bytes": float(file.of(anatomy, left)),
    }


@pytest.mark.parametrize("family", [*FAMILIES, *DECODERS])
def test_decided_masks_cost_what_their_shape_costs(family: str) -> None:
    model = tiny_decoder(family) if family in DECODERS else tiny_model(family, "sequence")
    anatomy = anatomy_of(model)
    checked = 0
    for seed in range(12):
        recipe = random_recipe(seed)
        structure = replace(anatomy.full_shape().applied(recipe), rows=None, embedding_rank=None)
        layers = tuple(replace(layer, ffn_rank=None, sparse=()) for layer in structure.layers)
        shape = replace(structure, layers=layers).normalised()
        kept = expected_amounts(anatomy, Kept(decided(anatomy, shape).double(), 10.0))
        for cost, value in exact(anatomy, shape).items():
            assert float(costs_of(anatomy).of(cost, kept).detach()) == pytest.approx(value, rel=1e-6), (
                seed,
                cost,
            )
            assert costs_of(anatomy).exactly(cost, shape) == pytest.approx(value, rel=1e-6), (seed, cost)
        checked += shape != anatomy.full_shape()
    assert checked > 6


def test_no_file_is_predicted_to_take_nothing() -> None:
    """Bytes are the whole file's less a price for what is gone, which may come to more than there is."""
    anatomy = anatomy_of(tiny_model("bert", "sequence"))
    full = anatomy.full_shape()
    count = anatomy.parameters(full)
    gone = replace(full, layers=tuple(replace(layer, present=False) for layer in full.layers)).normalised()
    searched = CostModel(lambda shape: 1.0, anatomy.parameters, float(count), count, 100.0)
    learned = FileBytes(full, float(count), 100.0).of(anatomy, Amounts.of(anatomy, anatomy.checked(gone)))
    assert searched(full).bytes == count
    assert searched(gone).bytes == pytest.approx(LEAST_FILE * count)
    assert float(learned) == pytest.approx(LEAST_FILE * count)


def test_every_cost_pushes_every_kind_of_mask() -> None:
    anatomy = anatomy_of(tiny_decoder("llama"))
    for cost in ("ms", "bytes", "parameters", "macs"):
        masks = Masks(anatomy, PRUNING, seed=0)
        costs_of(anatomy).of(cost, expected_amounts(anatomy, Kept(masks, 0.3))).backward()
        for kind, layer, mask in masks.named():
            gradient = mask.log_variance.grad
            assert gradient is not None, (cost, kind)
            assert bool((gradient < 0).all()), (cost, kind, layer)  # more noise, less of it kept, less cost


def test_the_last_layer_is_expected_to_be_the_last() -> None:
    anatomy = anatomy_of(tiny_model("bert", "sequence"))
    masks = Masks(anatomy, PRUNING, seed=0)
    with torch.no_grad():
        for kind, _, mask in masks.named():
            if kind == "layers":
                mask.log_variance.fill_(0.0)
                mask.mu.fill_(1.0)
    kept = expected_amounts(anatomy, Kept(masks, 1.0))
    assert float(kept.run[0].present.detach()) == pytest.approx(0.5)
    # Each layer is there or not, at even odds: the mean over all choices of layers, none excluded.
    found = float(expected_milliseconds(table(anatomy), kept).detach())
    assert found == pytest.approx(_mean_over_choices(anatomy, kept), rel=1e-5)


def _mean_over_choices(anatomy: Anatomy, kept: Amounts) -> float:
    times = []
    for choice in range(2**anatomy.layers):
        present = [index for index in range(anatomy.layers) if choice >> index & 1]
        run = {
            index: replace(
                kept.run[index],
                **{
                    name: getattr(kept.run[index], name) * 2
                    for name in ("heads", "kv_heads", "channels", "attention", "ffn", "present")
                },
            )
            for index in present
        }
        times.append(float(expected_milliseconds(table(anatomy), replace(kept, run=run)).detach()))
    return math.fsum(times) / len(times)


def test_lines_between_timed_widths_are_those_of_the_table() -> None:
    places, values = (0, 3, 8), (1.0, 2.0, 2.5)
    costs = BlockCosts(places, values, places, values)
    for at in (0.0, 1.5, 3.0, 4.0, 8.0, 9.0):
        assert float(interpolated(torch.tensor(at), places, values)) == pytest.approx(
            costs.block_ms("attention", at)  # type: ignore[arg-type]
        )
