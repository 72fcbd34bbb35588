"""The parts of a report that need no run: the front, summaries, redaction, heat steps, bytes by part."""

from __future__ import annotations

import itertools
import random
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from models.spec import (
    JobSpec,
    PruneHeads,
    PruneLayers,
    PruneVocabulary,
    PruneWeightGroups,
    Quantize,
    Recipe,
    Recover,
)
from models.spec.front import pareto_front
from tests.engine.report.documents import QUANTIZED, candidate
from worker.engine.measure.grid import Cell, CellTime, _least_seconds, planned_cells
from worker.engine.measure.probing import ModelFile
from worker.engine.recording import ToldCandidate
from worker.engine.report.document import candidate_lines
from worker.engine.report.heat import heat_map
from worker.engine.report.page import SHOWN_CANDIDATES, shown_candidates
from worker.engine.report.redaction import public_name, public_spec
from worker.engine.report.schema import Report
from worker.engine.report.summaries import summary
from worker.engine.report.weights import FileContent, StoredTensor, content, part_bytes, part_of, precision


def test_the_page_about_reports_lists_every_key() -> None:
    text = (Path(__file__).parents[3] / "docs" / "report.md").read_text()
    rows = re.findall(r"^\| (`.+?) \|", text.partition("## report.json")[2], re.MULTILINE)
    assert {key for row in rows for key in re.findall(r"`(\w+)`", row)} == set(Report.model_fields)


def test_the_front_is_what_nothing_beats_in_everything() -> None:
    points = [(1, 5), (2, 2), (5, 1), (3, 3), (2, 2), (2, 6)]
    assert pareto_front(points) == [True, True, True, False, True, False]


def test_every_point_off_the_front_is_beaten_by_one_on_it() -> None:
    chance = random.Random(0)
    points = [tuple(chance.randrange(6) for _ in range(3)) for _ in range(60)]
    on_it = [point for point, on in zip(points, pareto_front(points), strict=True) if on]
    for point in points:
        beaten = any(
            all(a <= b for a, b in zip(best, point, strict=True)) and best != point for best in on_it
        )
        assert beaten != (point in on_it)


def test_candidates_without_a_measurement_are_neither_on_nor_off_the_front() -> None:
    told = [
        candidate(0, 0.9, 100, 10.0),
        candidate(1, 0.9, 50, 5.0, recipe=QUANTIZED),
        candidate(2, None, 10, 1.0),
        candidate(3, 0.9, 10, None),
    ]
    lines = candidate_lines([ToldCandidate.of(each) for each in told], QUANTIZED)
    assert [line.on_front for line in lines] == [False, True, None, None]
    assert [line.delivered for line in lines] == [False, True, False, False]


def test_a_page_of_very_many_candidates_keeps_those_that_matter() -> None:
    told = [candidate(number, number / 1000, 100, 1.0) for number in range(900)]
    told[5] = candidate(5, 0.0, 100, 9.0, recipe=QUANTIZED)
    lines = candidate_lines([ToldCandidate.of(each) for each in told], QUANTIZED)
    kept = [line.number for line in shown_candidates(lines)]
    assert len(kept) == SHOWN_CANDIDATES
    assert {5, 899} < set(kept)
    assert kept == sorted(kept)


def test_a_recipe_is_told_by_kind() -> None:
    recipe = Recipe(
        steps=(
            PruneVocabulary(rows="0-9,20-29"),
            PruneLayers(layers=(1, 4)),
            PruneLayers(layers=(2,)),
            PruneHeads(layer=0, heads=(0, 3)),
            PruneWeightGroups(layer=0, channels=tuple(range(1500))),
            Recover(epochs=3, learning_rate=0.1, seed=0),
            Quantize(embeddings="int4"),
        )
    )
    assert summary(recipe) == (
        "vocabulary cut to 20 rows; layers 1-2, 4 removed; 2 heads removed; 1,500 FFN channels removed; "
        "distilled for 3 passes; int8, embeddings int4"
    )
    assert summary(Recipe()) == "nothing changed"


@pytest.mark.parametrize(
    ("origin", "name"),
    [
        ({"path": "/data/people/anna/model-7/"}, "model-7"),
        ({"uri": "s3://bucket/secret/of/anna/model-7"}, "model-7"),
        ({"hub": "a/b", "revision": "c0ffee"}, "a/b@c0ffee"),
    ],
)
def test_a_spec_is_shown_without_addresses_and_metadata(origin: dict[str, str], name: str) -> None:
    spec = JobSpec.model_validate(
        {
            "base_model": origin,
            "dataset": {"path": "/data/people/anna/rows.csv", "max_train_rows": 50},
            "metadata": {"token": "hf_abcdefghijkl"},
            "seed": 3,
        }
    )
    shown = public_spec(spec)
    assert public_name(spec.base_model) == name
    assert not any(secret in repr(shown) for secret in ("anna", "bucket", "hf_", "metadata"))
    assert shown["dataset"] == {"path": "rows.csv", "max_train_rows": 50}
    assert JobSpec.model_validate(shown).seed == 3


def test_heat_has_steps_of_the_largest_change() -> None:
    def element(kind: str, layer: int, number: int, change: float) -> dict[str, Any]:
        name = f"{kind}.{layer}.{number}"
        return {
            "id": name,
            "kind": kind,
            "layer": layer,
            "loss_change": change,
            "standard_error": 0.01,
            "milliseconds": 0.5,
        }

    changes = [-0.1, 0.0, 0.02, 0.5, 0.1, 1.0]
    heads = [element("head", number // 4, number, change) for number, change in enumerate(changes)]
    found = heat_map([*heads, element("attention", 0, 0, 2.0)], "head", "attention")
    cells = [cell for row in found.rows for cell in row.cells]
    assert [None if cell is None else cell.step for cell in cells] == [-1, 0, 1, 5, 2, 5, None, None]
    assert [row.block is not None for row in found.rows] == [True, False]


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("embeddings.words_quantized", "embeddings"),
        ("embeddings.norm.weight", "embeddings"),
        ("layer.0.attention.qkv.weight_quantized", "attention"),
        ("layer.0.attention_norm.weight", "attention"),
        ("layer.0.ffn_up.weight_scale", "ffn"),
        ("layer.0.ffn_norm.bias", "ffn"),
        ("head.out.weight", "head"),
        ("layer.0.ffn_up.weight_quantized.steps_scales", "ffn"),
        ("int.0", "graph"),
        ("w4a8.sizes", "graph"),
        ("relative.by_distance", "attention"),
        ("bert.encoder.layer.3.attention.output.LayerNorm.weight", "attention"),
        ("bert.encoder.layer.3.output.dense.weight", "ffn"),
        ("bert.embeddings.word_embeddings.weight", "embeddings"),
        ("bert.pooler.dense.weight", "head"),
        ("distilbert.transformer.layer.1.ffn.lin1.weight", "ffn"),
        ("distilbert.transformer.layer.1.sa_layer_norm.weight", "attention"),
        ("model.layers.2.attn.Wqkv.weight", "attention"),
        ("deberta.encoder.rel_embeddings.weight", "embeddings"),
        ("classifier.weight", "head"),
    ],
)
def test_tensors_belong_to_parts(name: str, part: str) -> None:
    assert part_of(name) == part


def test_bytes_of_a_file_without_a_layer_are_counted_for_the_layers_it_has() -> None:
    dense = FileContent(
        tuple(StoredTensor(f"layer.{n}.ffn_up.weight", 40, 10, "fp32") for n in range(3)), rest=7
    )
    optimized = FileContent(
        (
            StoredTensor("layer.0.ffn_up.weight_quantized", 10, 10, "int8"),
            StoredTensor("layer.1.ffn_up.weight_quantized", 5, 5, "int8"),
            StoredTensor("layer.1.ffn_up.weight_scale", 8, 2, "fp32"),
            StoredTensor("layer.1.ffn_up.weight_quantized.steps_scales", 0, 9, "int4"),
        ),
        rest=3,
    )
    found = {
        (each.part, each.layer): (each.dense, each.optimized) for each in part_bytes(dense, optimized, [0, 2])
    }
    assert found == {
        ("ffn", 0): (40, 10),
        ("ffn", 1): (40, 0),
        ("ffn", 2): (40, 13),
        ("graph", None): (7, 3),
    }
    assert precision(optimized).ffn == "int8"


def test_the_bytes_of_a_safetensors_folder_are_those_of_its_file(tmp_path: Path) -> None:
    tensors = {
        "bert.embeddings.word_embeddings.weight": np.zeros((10, 4), np.float32),
        "bert.encoder.layer.0.attention.self.query.weight": np.zeros((4, 4), np.float16),
        "classifier.weight": np.zeros((2, 4), np.float32),
    }
    file = tmp_path / "model.safetensors"
    save_file(tensors, file)
    held = content(ModelFile(tmp_path, "torch"))
    assert sum(tensor.bytes for tensor in held.tensors) + held.rest == file.stat().st_size
    assert {part_of(tensor.name): tensor.bytes for tensor in held.tensors} == {
        "embeddings": 160,
        "attention": 32,
        "head": 32,
    }
    assert precision(held).model_dump() == {
        "embeddings": "fp32",
        "attention": "fp16",
        "ffn": "none",
        "head": "fp32",
    }


def test_cells_of_the_grid_come_cheapest_first_and_have_the_targets_batch() -> None:
    cells = planned_cells(128, 4)
    assert {length for length, _ in cells} == {16, 32, 64, 128}
    assert {batch for _, batch in cells} == {1, 4, 8, 32}
    assert all(a * b <= c * d for (a, b), (c, d) in itertools.pairwise(cells))


def test_a_cell_is_foreseen_by_the_one_before() -> None:
    known: dict[Cell, CellTime] = {(16, 1): CellTime(4.0, 1.0)}
    assert _least_seconds(known, (32, 4)) == pytest.approx(8 * _least_seconds(known, (16, 1)))
    assert _least_seconds({}, (16, 1)) == 0.0
