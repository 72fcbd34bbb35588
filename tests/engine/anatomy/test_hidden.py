"""The residual stream: norms over what is left, gates, native configs, and what a narrower model costs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from transformers import AutoModelForSequenceClassification, PreTrainedModel
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from models.spec import LowRankEmbeddings, LowRankFfn, PruneHeads, PruneHidden, Recipe
from tests.engine.export_models import (
    FAMILIES,
    HIDDEN,
    LAYERS,
    NARROW,
    NEVER_NATIVE,
    logits,
    padded_batch,
    tiny_classifier,
)
from tests.tiny_models import wordpiece_tokenizer
from worker.engine.anatomy import Anatomy, anatomy_of
from worker.engine.anatomy.hidden import points, weighted, weighted_norm
from worker.engine.anatomy.slicing import is_native, sliced
from worker.engine.export.safetensors import load_folder, save_folder
from worker.engine.significance.elements import group_size, hidden_elements

GONE = PruneHidden(dimensions="0-7,20")


def without(*steps: Any) -> Recipe:
    return Recipe(steps=steps)


@pytest.mark.parametrize("made", [nn.LayerNorm, lambda width: nn.LayerNorm(width, bias=False), LlamaRMSNorm])
def test_a_weighted_norm_is_the_norm_over_what_is_kept(made: Any) -> None:
    torch.manual_seed(0)
    norm, narrow, hidden = made(12), made(9), torch.randn(2, 5, 12)
    kept = [0, 2, 3, 4, 5, 6, 8, 9, 11]
    for parameter in norm.parameters():
        parameter.data.normal_()
    for name, parameter in narrow.named_parameters():
        parameter.data.copy_(norm.get_parameter(name)[kept])
    weights = torch.zeros(12).index_fill_(0, torch.tensor(kept), 1.0)
    given = weighted_norm(norm, hidden, weights)
    torch.testing.assert_close(given[..., kept], narrow(hidden[..., kept]))
    assert not given[..., [1, 7, 10]].any()
    torch.testing.assert_close(weighted_norm(norm, hidden, torch.ones(12)), norm(hidden))


def test_masking_the_output_of_a_norm_alone_would_not_do() -> None:
    """The trap: statistics over all dimensions are others."""
    dense = tiny_classifier("bert")
    anatomy, batch = anatomy_of(dense), padded_batch(dense)
    shape = anatomy.shape(without(GONE))
    small = sliced(dense, shape)
    mask = torch.ones(HIDDEN).index_fill_(0, torch.tensor(shape.hidden_gone), 0.0)
    norms = [module for module in dense.modules() if isinstance(module, nn.LayerNorm)]
    hooks = [norm.register_forward_hook(lambda module, args, output: output * mask) for norm in norms]
    naive = logits(dense, batch)
    for hook in hooks:
        hook.remove()
    assert (naive - logits(small, batch)).abs().max() > 1e-2


@pytest.mark.parametrize("family", FAMILIES)
def test_gates_at_zero_are_removal_and_their_gradient_is_the_slope(family: str) -> None:
    dense = tiny_classifier(family)
    anatomy, batch = anatomy_of(dense), padded_batch(dense)
    shape = anatomy.shape(without(GONE))
    gated = tuple(point for point in points(anatomy) if not point.common)

    def answers(gates: torch.Tensor) -> torch.Tensor:
        with torch.no_grad(), weighted(gated, gates):
            return logits(dense, batch)

    def loss(given: torch.Tensor) -> torch.Tensor:
        return functional.cross_entropy(given, torch.zeros(3, dtype=torch.long))

    gates = torch.ones(HIDDEN)
    torch.testing.assert_close(answers(gates), logits(dense, batch), rtol=0.0, atol=1e-4)
    closed = answers(gates.index_fill(0, torch.tensor(shape.hidden_gone), 0.0))
    if family != "deberta-v2":  # whose table of positions is not gated
        torch.testing.assert_close(closed, logits(sliced(dense, shape), batch), rtol=0.0, atol=1e-4)
    with anatomy.gated(hidden=True) as open_gates:
        assert open_gates.hidden is not None
        (slope,) = torch.autograd.grad(loss(dense(**batch).logits), open_gates.hidden)
    assert slope.abs().max() > 1e-2
    for dimension in (3, 17):
        step = torch.zeros(HIDDEN).index_fill_(0, torch.tensor(dimension), 0.01)
        difference = float(loss(answers(gates + step)) - loss(answers(gates - step)))
        assert difference / 0.02 == pytest.approx(float(slope[dimension]), rel=0.05, abs=2e-3)


def test_gates_of_each_example_add_up_and_combine_with_masks() -> None:
    dense = tiny_classifier("modernbert")
    anatomy, batch = anatomy_of(dense), padded_batch(dense)
    shape = anatomy.shape(without(GONE))
    labels, given = torch.zeros(3, dtype=torch.long), []
    for size in (None, 3):
        with anatomy.masked(shape), anatomy.gated(size, hidden=True) as gates:
            assert gates.hidden is not None
            answers = dense(**batch).logits
            loss = functional.cross_entropy(answers, labels, reduction="sum")
            (slope,) = torch.autograd.grad(loss, gates.hidden)
            given.append(slope if size is None else slope.sum(0))
        torch.testing.assert_close(answers.detach(), logits(sliced(dense, shape), batch), rtol=0, atol=1e-4)
    torch.testing.assert_close(*given)
    assert given[0].abs().max() > 0


def test_a_model_that_was_narrowed_is_gated_by_dense_index() -> None:
    dense = tiny_classifier("electra")
    small = sliced(dense, anatomy_of(dense).shape(without(GONE)))
    with anatomy_of(small).gated(hidden=True) as gates:
        assert gates.hidden is not None
        (slope,) = torch.autograd.grad(small(**padded_batch(small)).logits.sum(), gates.hidden)
    assert slope.shape == (HIDDEN,)
    assert not slope[[*range(8), 20]].any()
    assert slope[[8, 19, 21, 31]].all()


@pytest.mark.parametrize("family", [name for name in FAMILIES if name not in ("mpnet", *NEVER_NATIVE)])
def test_heads_that_make_up_the_width_leave_a_stock_model(family: str, tmp_path: Path) -> None:
    dense = tiny_classifier(family)
    anatomy, batch = anatomy_of(dense), padded_batch(dense)
    fewer = [PruneHeads(layer=layer, heads=(1, 2)) for layer in range(LAYERS)]
    shape = anatomy.shape(without(*fewer, PruneHidden(dimensions="0-7,24-31")))
    assert is_native(anatomy, shape)
    small = sliced(dense, shape)
    assert save_folder(small, wordpiece_tokenizer(["a few words"], 100), tmp_path) == "native"
    stock = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    assert type(stock) is type(dense)
    assert stock.config.hidden_size == HIDDEN // 2
    with anatomy.masked(shape):
        torch.testing.assert_close(logits(stock, batch), logits(dense, batch), rtol=0.0, atol=1e-4)
    between = anatomy_of(load_folder(tmp_path))
    assert between.full_shape() == shape
    assert between.hidden_size == HIDDEN
    assert not is_native(anatomy, anatomy.shape(without(*fewer, PruneHidden(dimensions="0-4,20-31"))))


@pytest.mark.parametrize("family", ["electra", "albert"])
def test_a_projection_to_the_same_width_stays(family: str) -> None:
    """A stock ELECTRA whose embeddings are as wide as its hidden states has none."""
    dense = tiny_classifier(family)
    fewer = [PruneHeads(layer=layer, heads=(1,)) for layer in range(LAYERS)]
    recipe = without(*fewer, PruneHidden(dimensions=f"0-{HIDDEN - NARROW - 1}"))
    anatomy = anatomy_of(dense)
    assert not is_native(anatomy, anatomy.shape(recipe))
    assert_law(dense, recipe)


def test_a_bare_table_of_relative_positions_is_narrowed_where_it_is_read() -> None:
    for shared in (True, False):
        dense = tiny_classifier("deberta-v2", norm_rel_ebd="none", share_att_key=shared)
        assert_law(dense, without(GONE))


@pytest.mark.parametrize("family", ["bert", "electra"])
def test_ranks_that_a_narrower_stream_does_not_need_are_dropped(family: str) -> None:
    dense = tiny_classifier(family)
    thin = [LowRankEmbeddings(rank=20), *(LowRankFfn(layer=layer, rank=20) for layer in range(LAYERS))]
    anatomy = anatomy_of(dense)
    shape = anatomy.shape(without(*thin, PruneHidden(dimensions="0-13")))
    assert {layer.ffn_rank for layer in shape.layers} == {None}
    assert shape.embedding_rank == (None if family == "bert" else 20)
    assert_law(dense, without(*thin, PruneHidden(dimensions="0-13")))
    assert_law(dense, without(*thin, PruneHidden(dimensions="0-10")))
    # From what is thin already to what is whole, because it is narrower.
    between = sliced(dense, anatomy.shape(without(*thin)))
    assert_law(between, without(PruneHidden(dimensions="0-13")))


def test_something_must_be_left() -> None:
    anatomy = anatomy_of(tiny_classifier("bert"))
    with pytest.raises(ValueError, match="no hidden dimension"):
        anatomy.shape(without(PruneHidden(dimensions="0-31")))
    with pytest.raises(ValueError, match="dimension 32 does not exist"):
        anatomy.shape(without(PruneHidden(dimensions="30-32")))
    full = anatomy.full_shape()
    small = anatomy_of(sliced(anatomy.model, anatomy.shape(without(GONE))))
    with pytest.raises(ValueError, match="does not have"):
        small.parameters(full)


def test_groups_leave_multiples_of_their_size() -> None:
    shape = anatomy_of(tiny_classifier("bert")).full_shape()
    ranking = np.arange(32)[::-1].astype(float)
    groups = hidden_elements(shape, 32, 5, ranking)
    assert [len(group.channels) for group in groups] == [2, 5, 5, 5, 5, 5, 5]
    assert groups[0].channels == (30, 31)
    left = groups[0].removed_from(shape)
    assert left == anatomy_of(tiny_classifier("bert")).shape(without(groups[0].step()))
    assert hidden_elements(left, 32, 5, ranking)[0].channels == (25, 26, 27, 28, 29)
    assert [len(group.channels) for group in hidden_elements(shape, 32, 5)] == [5, 5, 5, 5, 5, 5, 2]


@pytest.mark.parametrize(
    ("count", "asked", "size"),
    [
        (1536, None, 128),
        (3072, None, 256),
        (512, None, 32),
        (384, None, 32),
        (312, None, 32),
        (48, None, 4),
        (1536, 1, 1),
        (1536, 100, 100),
        (24, 100, 24),
    ],
)
def test_groups_are_as_large_as_asked_or_aligned(count: int, asked: int | None, size: int) -> None:
    assert group_size(count, asked) == size


def assert_law(dense: PreTrainedModel, recipe: Recipe) -> None:
    anatomy: Anatomy = anatomy_of(dense)
    shape, batch = anatomy.shape(recipe), padded_batch(dense)
    small = sliced(dense, shape)
    with anatomy.masked(replace(shape)):
        torch.testing.assert_close(logits(small, batch), logits(dense, batch), rtol=0.0, atol=1e-4)
    assert small.num_parameters() == anatomy.parameters(shape)
