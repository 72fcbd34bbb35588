"""ALBERT: layers that share their weights lose and learn the same things, and are stored once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from transformers import AlbertForSequenceClassification

from models.spec import HardAttention, PruneHeads, PruneLayers, PruneWeightGroups, Recipe
from tests.engine.export_models import CHANNELS, HEADS, LAYERS, logits, padded_batch, tiny_classifier
from tests.tiny_models import wordpiece_tokenizer
from worker.engine.anatomy import anatomy_of
from worker.engine.anatomy.shape import Shape
from worker.engine.anatomy.slicing import is_native, sliced
from worker.engine.export.onnx import export_onnx
from worker.engine.significance.elements import Element, block_elements, head_elements
from worker.engine.significance.fisher import FisherInformation
from worker.engine.significance.report import all_elements


def test_what_one_layer_loses_all_that_share_lose() -> None:
    anatomy = anatomy_of(tiny_classifier("albert"))
    steps = (PruneHeads(layer=2, heads=(1,)), HardAttention(layer=0, top_k=2))
    shape = anatomy.shape(Recipe(steps=steps))
    assert [layer.heads for layer in shape.layers] == [(0, 2, 3)] * LAYERS
    assert [len(layer.sparse) for layer in shape.layers] == [3, 0, 0, 0]


def test_a_head_is_counted_once_and_a_dropped_layer_saves_no_weights() -> None:
    dense = tiny_classifier("albert")
    anatomy = anatomy_of(dense)
    full, size, width = anatomy.full_shape(), anatomy.head_size, anatomy.hidden_size
    fewer = anatomy.shape(Recipe(steps=(PruneHeads(layer=2, heads=(1,)),)))
    assert anatomy.parameters(full) - anatomy.parameters(fewer) == size * (4 * width + 3)
    dropped = anatomy.shape(Recipe(steps=(PruneLayers(layers=(1, 2)),)))
    assert anatomy.parameters(dropped) == anatomy.parameters(full)
    assert anatomy.macs(dropped, 9) < 0.6 * anatomy.macs(full, 9)
    for shape in (fewer, dropped):
        assert sliced(dense, shape).num_parameters() == anatomy.parameters(shape)


def test_the_onnx_file_holds_shared_weights_once(tmp_path: Path) -> None:
    dense = tiny_classifier("albert")
    tokenizer = wordpiece_tokenizer(["a few words"], 100)
    tokenizer.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    steps = (PruneHeads(layer=2, heads=(1,)), PruneLayers(layers=(1,)))
    for number, recipe in enumerate((Recipe(), Recipe(steps=steps))):
        small = sliced(dense, anatomy_of(dense).shape(recipe))
        path = tmp_path / f"{number}.onnx"
        export_onnx(small, tokenizer, path)
        tables = [one for one in onnx.load(path).graph.initializer if len(one.dims) > 1]
        wanted = sum(one.numel() for one in small.parameters() if one.dim() > 1)
        # The last layer works out one token only, and so its queries apart from keys and values.
        anatomy = anatomy_of(small)
        again = 3 * len(anatomy.full_shape().layers[0].heads) * anatomy.head_size * anatomy.hidden_size
        assert sum(int(np.prod(one.dims)) for one in tables) == wanted + again


def test_a_dense_model_is_saved_as_it_came(tmp_path: Path) -> None:
    dense = tiny_classifier("albert")
    stock = {name: value.clone() for name, value in dense.state_dict().items()}
    batch = padded_batch(dense)
    before = logits(dense, batch)
    anatomy_of(dense)
    assert dense.state_dict().keys() == stock.keys()
    assert torch.equal(logits(dense, batch), before)
    dense.save_pretrained(tmp_path)
    again = AlbertForSequenceClassification.from_pretrained(tmp_path).eval()
    assert again.config.num_hidden_groups == 1
    torch.testing.assert_close(logits(again, batch), before)
    with torch.no_grad():
        dense.get_parameter("albert.embeddings.LayerNorm.bias").zero_()
        anatomy_of(dense).parts[1].by_head["query"].weight.zero_()
    dense.load_state_dict(stock)
    assert torch.equal(logits(dense, batch), before)


@pytest.mark.parametrize("as_stock", [True, False])
def test_training_keeps_what_is_shared(as_stock: bool) -> None:
    dense = tiny_classifier("albert")
    steps = (PruneWeightGroups(layer=0, channels=(3, 4)),) if as_stock else (PruneHeads(layer=0, heads=(0,)),)
    small = sliced(dense, anatomy_of(dense).shape(Recipe(steps=steps))).train()
    assert (type(small) is AlbertForSequenceClassification) == as_stock
    before = small.num_parameters()
    optimizer = torch.optim.SGD(small.parameters(), lr=0.1)
    small(**padded_batch(dense), labels=torch.tensor([0, 1, 2])).loss.backward()
    optimizer.step()
    first, *others = (part.by_head["query"].weight for part in anatomy_of(small).parts)
    assert all(torch.equal(first, other) for other in others)
    assert small.num_parameters() == before


def test_groups_of_layers_share_among_themselves() -> None:
    dense = tiny_classifier("albert", num_hidden_groups=2)
    anatomy, batch = anatomy_of(dense), padded_batch(dense)
    assert anatomy.shares == (0, 0, 1, 1)
    recipe = Recipe(steps=(PruneWeightGroups(layer=3, channels=tuple(range(30))),))
    shape = anatomy.shape(recipe)
    assert [len(layer.channels) for layer in shape.layers] == [CHANNELS, CHANNELS, 18, 18]
    assert not is_native(anatomy, shape)
    with anatomy.masked(shape):
        masked = logits(dense, batch)
    torch.testing.assert_close(logits(sliced(dense, shape), batch), masked, atol=1e-4, rtol=0)
    # Two groups that are applied once and twice are no stock model; once each, or one alone, they are.
    for gone, native in (((1,), False), ((0, 2), True), ((0, 1), True)):
        shape = anatomy.shape(Recipe(steps=(PruneLayers(layers=gone),)))
        assert is_native(anatomy, shape) == native
        small = sliced(dense, shape)
        with anatomy.masked(shape):
            masked = logits(dense, batch)
        torch.testing.assert_close(logits(small, batch), masked, atol=1e-4, rtol=0)
        assert anatomy_of(small).full_shape() == shape
        assert small.num_parameters() == anatomy.parameters(shape)


def test_elements_that_are_shared_are_weighed_once() -> None:
    full = anatomy_of(tiny_classifier("albert")).full_shape()
    assert [element.id for element in block_elements(full)] == ["layer.0.attention", "layer.0.ffn"]
    assert len(head_elements(full, 0)) == HEADS
    assert head_elements(full, 1) == []
    assert len(all_elements(full)) == LAYERS + 2 + HEADS + 12
    without_first = Element("layer", 0).removed_from(full)
    assert [element.layer for element in block_elements(without_first)] == [1, 1]


def test_fisher_of_shared_elements_is_of_gates_that_close_together() -> None:
    heads, channels = np.zeros((1, 2, 2)), np.zeros((1, 2, 3))
    heads[0, :, 1], channels[0, 0] = (1.0, 2.0), (1.0, 0.0, 0.0)
    shape = Shape.full(2, 2, 3, shares=(0, 0))
    told = FisherInformation(heads, channels, [shape.sharing(layer) for layer in range(2)])
    assert told.of(Element("head", 0, 1)) == pytest.approx(0.5 * 3.0**2)
    assert told.of(Element("layer", 0)) == pytest.approx(0.5 * 2.0**2)
    assert FisherInformation(heads, channels).of(Element("head", 0, 1)) == pytest.approx(0.5)
    np.testing.assert_allclose(told.channel_scores(1), [0.5, 0.0, 0.0])


def test_a_shape_without_the_sharing_is_refused() -> None:
    anatomy = anatomy_of(tiny_classifier("albert"))
    with pytest.raises(ValueError, match="share"):
        anatomy.parameters(Shape.full(LAYERS, HEADS, CHANNELS))
