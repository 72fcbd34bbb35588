"""The plain contenders of the benches: what they remove, and that a job with their choice is certified."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bench.contenders import CONTENDERS, SCORES, Contender, Units, contended, least, magnitude
from tests.engine.export_models import tiny_classifier
from tests.engine.runs import tiny_sources, tiny_spec
from worker.engine.anatomy import Anatomy, anatomy_of
from worker.engine.device import Device
from worker.engine.significance.base import Material
from worker.engine.tasks import TASKS, Split

KINDS = ("prune_heads", "prune_weight_groups", "prune_hidden")
ROWS, LENGTH = 16, 6


@pytest.fixture
def anatomy() -> Anatomy:
    return anatomy_of(tiny_classifier("bert"))


def material(anatomy: Anatomy) -> Material:
    """A few random rows."""
    generator = np.random.default_rng(0)
    rows = Split(
        ids=generator.integers(5, 300, ROWS * LENGTH),
        offsets=np.arange(0, (ROWS + 1) * LENGTH, LENGTH),
        labels=generator.integers(0, 3, ROWS),
        pad_id=0,
    )
    task, device = TASKS["text-classification"], Device.pick("cpu")
    return Material(anatomy, anatomy.full_shape(), rows, task, device, precision="fp32", hidden=True)


@pytest.mark.parametrize("contender", CONTENDERS)
def test_units_that_do_nothing_are_the_first_to_go(anatomy: Anatomy, contender: Contender) -> None:
    part, size = anatomy.parts[1], anatomy.head_size
    with torch.no_grad():
        for rows in part.by_head.values():
            rows.weight[size : 2 * size] = 0.0
        part.attention_output.weight[:, size : 2 * size] = 0.0
        part.ffn_up.weight[5] = part.ffn_down.weight[:, 5] = 0.0
    scores = SCORES[contender](material(anatomy))
    shape = anatomy.shape(Units(anatomy.full_shape(), scores, KINDS).at(0.99 - 1 / anatomy.heads))
    assert scores.heads[1, 1] == scores.heads.min() == 0.0
    assert scores.channels[1, 5] == scores.channels.min() == 0.0
    assert 1 not in shape.layers[1].heads
    assert 5 not in shape.layers[1].channels
    assert (np.delete(scores.heads.ravel(), anatomy.heads + 1) > 0).all()
    assert scores.hidden is not None
    assert scores.hidden.shape == (anatomy.hidden_size,)


def test_a_channels_magnitude_is_that_of_what_it_reads_and_writes(anatomy: Anatomy) -> None:
    part = anatomy.parts[0]
    before = magnitude(material(anatomy)).channels
    assert before[0, 3] ** 2 == pytest.approx(
        part.ffn_up.weight[3].square().sum().item() + part.ffn_down.weight[:, 3].square().sum().item(),
        rel=1e-5,
    )
    with torch.no_grad():
        part.ffn_up.weight[3] *= 2.0
        part.ffn_down.weight[:, 4] *= 2.0
    after = magnitude(material(anatomy)).channels
    assert np.argwhere(~np.isclose(after, before)).tolist() == [[0, 3], [0, 4]]


def test_a_dimensions_magnitude_is_that_of_all_weights_that_meet_it(anatomy: Anatomy) -> None:
    before = magnitude(material(anatomy)).hidden
    part = anatomy.parts[0]
    assert part.ffn_up is not None
    with torch.no_grad():
        added = 3.0 * part.ffn_up.weight[:, 7].square().sum().item()
        part.ffn_up.weight[:, 7] *= 2.0
    after = magnitude(material(anatomy)).hidden
    assert before is not None
    assert after is not None
    assert np.flatnonzero(~np.isclose(after, before)).tolist() == [7]
    assert after[7] ** 2 - before[7] ** 2 == pytest.approx(added, rel=1e-3)


def test_every_layer_keeps_the_same_part_of_what_may_go(anatomy: Anatomy) -> None:
    scores, full = magnitude(material(anatomy)), anatomy.full_shape()
    shape = anatomy.shape(Units(full, scores, KINDS).at(0.5))
    assert {len(layer.heads) for layer in shape.layers} == {round(anatomy.heads / 2)}
    assert {len(layer.channels) for layer in shape.layers} == {round(anatomy.channels / 2)}
    assert len(shape.hidden_gone) == anatomy.hidden_size - round(anatomy.hidden_size / 2)
    for index, layer in enumerate(shape.layers):
        weakest = np.argsort(scores.heads[index])[: anatomy.heads - len(layer.heads)]
        assert not set(weakest.tolist()) & set(layer.heads)
    heads_only = anatomy.shape(Units(full, scores, KINDS[:1]).at(0.5))
    assert {len(layer.channels) for layer in heads_only.layers} == {anatomy.channels}
    assert not heads_only.hidden_gone


@pytest.mark.parametrize("part", [0.45, 0.7])
def test_the_largest_part_is_kept_that_fits(anatomy: Anatomy, part: float) -> None:
    full = anatomy.full_shape()
    units = Units(full, magnitude(material(anatomy)), KINDS)

    def parameters(ratio: float) -> int:
        return anatomy.parameters(anatomy.shape(units.at(ratio)))

    bound = part * anatomy.parameters(full)
    kept = units.largest(lambda recipe: anatomy.parameters(anatomy.shape(recipe)) <= bound)
    fitting = [size for number in range(97) if (size := parameters(number / 96)) <= bound]
    assert max(fitting) <= anatomy.parameters(anatomy.shape(kept)) <= bound
    # Filled up to less than a channel of every layer, with a bias and a column and a row of the width left.
    shape = anatomy.shape(kept)
    channel = anatomy.layers * (2 * anatomy.width(shape) + 1)
    assert bound - anatomy.parameters(shape) < channel
    assert len({len(layer.heads) for layer in shape.layers}) == 1
    assert len({len(layer.channels) for layer in shape.layers}) == 1
    assert anatomy.shape(units.largest(lambda recipe: True)) == full
    assert units.largest(lambda recipe: False) == units.at(0.0)


def test_wide_rows_are_kept_in_multiples_of_what_processors_multiply_at_once() -> None:
    scores = np.arange(384.0)[::-1]
    for ratio in (0.0, 0.3, 0.52, 1.0):
        gone = least(scores, ratio)
        assert (384 - len(gone)) % 32 == 0
        assert abs((384 - len(gone)) - max(32, ratio * 384)) <= 16
        assert gone == tuple(range(384 - len(gone), 384))
    assert least(np.ones(3), 0.4) == (0, 1)


@pytest.mark.slow
def test_a_job_with_a_contenders_choice_is_certified(tmp_path: Path) -> None:
    spec = tiny_spec(
        tiny_sources(tmp_path),
        approximations=list(KINDS),
        constraints={"size": {"min_reduction": 1.3}},
        exports=["onnx"],
        budget={"max_minutes": 0.5},
    )
    told = contended(spec, tmp_path / "run", "fisher", 1.0)
    certificate: dict[str, Any] = told["certificate"]
    assert certificate["constraints_met"], certificate["ratios"]
    approximations = [step["approximation"] for step in certificate["recipe"]["steps"]]
    assert set(approximations) - {"recover"} == set(KINDS)
    assert certificate["optimized"]["parameters"] < certificate["dense"]["parameters"]
    assert told["training_seconds"] > 0
    report = json.loads((tmp_path / "run" / "certify" / "report.json").read_text())
    removed = sum(len(step["heads"]) for step in certificate["recipe"]["steps"] if "heads" in step)
    assert report["attention"]["removed"]["heads"] == removed > 0
    assert report["attention"]["summary"].startswith(f"On average the {removed} removed head")
    assert contended(spec, tmp_path / "run", "fisher", 1.0)["certificate"] == certificate
