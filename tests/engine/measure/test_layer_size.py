"""Bytes of layers, fitted to files, and predicted sizes against exported ones."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest
from transformers import PreTrainedModel

from models.spec import (
    PruneBlocks,
    PruneHeads,
    PruneHidden,
    PruneLayers,
    PruneVocabulary,
    PruneWeightGroups,
    Quantize,
    Recipe,
    Step,
)
from models.spec.ranges import as_ranges
from tests.engine.export_models import tiny_classifier
from worker.engine.anatomy import Anatomy, anatomy_of
from worker.engine.anatomy.shape import LayerShape
from worker.engine.anatomy.slicing import as_axforge, sliced
from worker.engine.export.graph import model_graph
from worker.engine.export.modeling_axforge import AxforgeEncoder
from worker.engine.export.onnx import layer_stack_onnx, quantize_onnx
from worker.engine.measure.layer_size import LayerSize, SizedStack, fit_layer_size
from worker.engine.measure.table_fit import Stack, planned_stacks
from worker.engine.stages.problem import layer_parameters, other_bytes, table_bytes
from worker.engine.strategies.goal import CostModel

RECIPES: tuple[tuple[Step, ...], ...] = (
    (PruneLayers(layers=(0,)),),
    (PruneBlocks(blocks=("layer.0.attention", "layer.1.ffn")),),
    (PruneHeads(layer=0, heads=(0, 1, 3)), PruneWeightGroups(layer=1, channels=tuple(range(20)))),
)


def test_parts_of_a_layer_are_told_apart() -> None:
    true = LayerSize(bare=7.0, attention=100.0, head=30.0, ffn=50.0, channel=3.0)
    stacks = [
        SizedStack(one.depth, one.heads, one.channels, round(1000 + one.depth * true.of(_layer(one))))
        for one in planned_stacks(8, 64)
    ]
    fitted = fit_layer_size(stacks)
    assert vars(fitted) == pytest.approx(vars(true))
    assert fitted.of(LayerShape((), (), present=False)) == 0.0
    assert fitted.less(true, 1.0).of(LayerShape((0,), (0,))) == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("steps", RECIPES)
@pytest.mark.parametrize("quantized", [False, True])
def test_predicted_files_weigh_what_exported_ones_do(
    tmp_path: Path, steps: tuple[Step, ...], quantized: bool
) -> None:
    model = tiny_classifier("bert")
    anatomy = anatomy_of(model)
    full = anatomy.full_shape()
    size = _measured_layer_size(tmp_path, anatomy, quantized)
    per_parameter = 1.0 if quantized else 4.0
    costs = CostModel(
        milliseconds=lambda shape: 1.0,
        parameters=anatomy.parameters,
        whole_bytes=_exported(tmp_path, model, quantized),
        whole_parameters=anatomy.parameters(full),
        bytes_per_parameter=per_parameter,
        other_bytes=other_bytes(anatomy, size, per_parameter),
    )
    shape = anatomy.shape(Recipe(steps=steps))
    exported = _exported(tmp_path, sliced(model, shape), quantized)
    assert costs(shape).bytes == pytest.approx(exported, rel=0.02)


@pytest.mark.parametrize("family", ["bert", "albert", "modernbert"])
def test_parameters_of_a_layer_add_up(family: str) -> None:
    anatomy = anatomy_of(tiny_classifier(family))
    full = anatomy.full_shape()
    without = full
    for sharing in full.sharing(0):
        without = without.with_layer(sharing, LayerShape((), (), present=False))
    lost = anatomy.parameters(full) - anatomy.parameters(without)
    assert layer_parameters(anatomy).of(full.layers[0]) == lost


def _layer(stack: Stack) -> LayerShape:
    return LayerShape(tuple(range(stack.heads)), tuple(range(stack.channels)))


def _measured_layer_size(folder: Path, anatomy: Anatomy, quantized: bool) -> LayerSize:
    stacks = []
    for number, stack in enumerate(planned_stacks(anatomy.heads, anatomy.channels, last=False)):
        file = folder / f"stack-{number}.onnx"
        layer_stack_onnx(
            file,
            hidden_size=anatomy.hidden_size,
            head_size=anatomy.head_size,
            layers=[(stack.heads, stack.channels)] * stack.depth,
            quantized=quantized,
            form=anatomy.form,
            layer_variants=anatomy.layer_variants,
        )
        stacks.append(SizedStack(stack.depth, stack.heads, stack.channels, file.stat().st_size))
    return fit_layer_size(stacks)


def _exported(folder: Path, model: PreTrainedModel, quantized: bool) -> int:
    source, target = folder / "model.fp32.onnx", folder / "model.int8.onnx"
    model_graph(cast(AxforgeEncoder, as_axforge(model)), ["input_ids", "attention_mask"]).save(source)
    if not quantized:
        return source.stat().st_size
    quantize_onnx(source, target, Quantize())
    return target.stat().st_size


def test_tables_in_fewer_bits_are_counted_so() -> None:
    """A file with a byte a weight in layers, and half a byte outside of them, loses just as much."""
    anatomy = anatomy_of(tiny_classifier("bert"))
    full = anatomy.full_shape()
    nothing = Recipe(steps=(PruneLayers(layers=tuple(range(anatomy.layers))),))
    outside = anatomy.parameters(anatomy.shape(nothing))
    whole_bytes = (anatomy.parameters(full) - outside) + 0.5 * outside
    lacking = table_bytes(anatomy, full, whole_bytes, 1.0)
    rows = as_ranges(tuple(range(anatomy.vocabulary // 2)))
    for step in (PruneHidden(dimensions="0-7"), PruneVocabulary(rows=rows), PruneHeads(layer=0, heads=(1,))):
        recipe = Recipe(steps=(step,))
        shape, bare = anatomy.shape(recipe), anatomy.shape(recipe.then(*nothing.steps))
        left = anatomy.parameters(shape) - anatomy.parameters(bare) + 0.5 * anatomy.parameters(bare)
        removed = anatomy.parameters(full) - anatomy.parameters(shape)
        assert whole_bytes - removed - lacking(shape) == pytest.approx(left)
