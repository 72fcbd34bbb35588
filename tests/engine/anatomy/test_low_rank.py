"""Low rank: the best approximation of the weights that stay."""

from __future__ import annotations

import pytest
import torch
from transformers import PreTrainedModel

from models.spec import LowRankEmbeddings, LowRankFfn, PruneVocabulary, PruneWeightGroups, Recipe
from tests.engine.export_models import CHANNELS, HIDDEN, VOCABULARY, logits, padded_batch, tiny_classifier
from worker.engine.anatomy import anatomy_of
from worker.engine.anatomy.low_rank import factors, noted_moments
from worker.engine.anatomy.slicing import sliced
from worker.engine.anatomy.vocabulary import note_counts


@pytest.fixture(scope="module")
def dense() -> PreTrainedModel:
    return tiny_classifier("bert")


@pytest.mark.parametrize("size", [(40, 24), (24, 40)])
def test_no_product_of_that_rank_is_nearer(size: tuple[int, int]) -> None:
    weight = torch.randn(size, generator=torch.Generator().manual_seed(0))
    left, right = factors(weight, 7)
    assert left.shape == (size[0], 7)
    assert right.shape == (7, size[1])
    values = torch.linalg.svdvals(weight)
    assert torch.linalg.norm(weight - left @ right) == pytest.approx(values[7:].square().sum().sqrt().item())


def test_the_rank_is_spent_on_the_channels_that_stay(dense: PreTrainedModel) -> None:
    gone = tuple(range(10, CHANNELS))
    recipe = Recipe(steps=(LowRankFfn(layer=1, rank=6), PruneWeightGroups(layer=1, channels=gone)))
    small = sliced(dense, anatomy_of(dense).shape(recipe))
    part = anatomy_of(small).parts[1]
    whole = anatomy_of(dense).parts[1]
    assert part.ffn_up is not None
    assert whole.ffn_up is not None
    kept = whole.ffn_up.weight[:10].detach()
    error = torch.linalg.norm(part.ffn_up.weight.detach() - kept)
    assert error == pytest.approx(torch.linalg.svdvals(kept)[6:].square().sum().sqrt().item(), rel=1e-4)


def test_a_rank_that_saves_nothing_is_none(dense: PreTrainedModel) -> None:
    gone = tuple(range(5, CHANNELS))
    recipe = Recipe(steps=(LowRankFfn(layer=1, rank=6), PruneWeightGroups(layer=1, channels=gone)))
    assert anatomy_of(dense).shape(recipe).layers[1].ffn_rank is None


def test_embeddings_of_fewer_rows_than_the_rank_are_exact(dense: PreTrainedModel) -> None:
    anatomy, rows = anatomy_of(dense), PruneVocabulary(rows="0-19")
    batch = {name: value % 20 for name, value in padded_batch(dense).items()}
    small = sliced(dense, anatomy.shape(Recipe(steps=(rows,))))
    low = sliced(dense, anatomy.shape(Recipe(steps=(rows, LowRankEmbeddings(rank=25)))))
    torch.testing.assert_close(logits(low, batch), logits(small, batch), rtol=0, atol=1e-4)


def test_further_reduction_begins_with_what_is_there(dense: PreTrainedModel) -> None:
    first = Recipe(steps=(LowRankEmbeddings(rank=20), LowRankFfn(layer=2, rank=20)))
    second = Recipe(steps=(LowRankEmbeddings(rank=9), LowRankFfn(layer=2, rank=5)))
    between = sliced(dense, anatomy_of(dense).shape(first))
    shape = anatomy_of(between).shape(second)
    last, batch = sliced(between, shape), padded_batch(dense)
    with anatomy_of(between).masked(shape):
        torch.testing.assert_close(logits(between, batch), logits(last, batch), rtol=0, atol=1e-4)
    assert anatomy_of(between).parameters(shape) == sum(one.numel() for one in last.parameters())
    with pytest.raises(ValueError, match="does not have"):
        sliced(last, anatomy_of(between).full_shape())


def test_parameters_saved(dense: PreTrainedModel) -> None:
    anatomy = anatomy_of(dense)
    shape = anatomy.shape(Recipe(steps=(LowRankEmbeddings(rank=8), LowRankFfn(layer=0, rank=4))))
    saved = VOCABULARY * HIDDEN - 8 * (VOCABULARY + HIDDEN)
    saved += 2 * (HIDDEN * CHANNELS - 4 * (HIDDEN + CHANNELS))
    assert anatomy.parameters(anatomy.full_shape()) - anatomy.parameters(shape) == saved


@pytest.mark.parametrize("step", [LowRankEmbeddings(rank=HIDDEN), LowRankFfn(layer=0, rank=HIDDEN)])
def test_a_rank_must_be_below_the_width(dense: PreTrainedModel, step: LowRankFfn | LowRankEmbeddings) -> None:
    with pytest.raises(ValueError, match=f"rank {HIDDEN} does not exist"):
        anatomy_of(dense).shape(Recipe(steps=(step,)))


def test_known_inputs_are_served_better(dense: PreTrainedModel) -> None:
    """Few tokens are frequent, and channels are rarely active: both are told, and both help."""
    model = tiny_classifier("bert", seed=3)
    anatomy, batch = anatomy_of(model), padded_batch(model)
    batch["input_ids"] = batch["input_ids"] % 12
    shape = anatomy.shape(
        Recipe(steps=(LowRankEmbeddings(rank=10), *(LowRankFfn(layer=n, rank=12) for n in range(4))))
    )
    whole = logits(model, batch)
    unaware = (logits(sliced(model, shape), batch) - whole).norm()

    note_counts(model, torch.bincount(batch["input_ids"].flatten(), minlength=VOCABULARY))
    with noted_moments(anatomy):
        logits(model, batch)
    small = sliced(model, shape)
    assert (logits(small, batch) - whole).norm() < 0.5 * unaware
    with anatomy.masked(shape):
        torch.testing.assert_close(logits(model, batch), logits(small, batch), rtol=0, atol=1e-4)
    assert small.state_dict().keys() == sliced(dense, shape).state_dict().keys()


@pytest.mark.parametrize("family", ["albert", "modernbert"])
def test_known_inputs_of_shared_weights_and_joint_matrices(family: str) -> None:
    """Layers that share a weight share what is known of its inputs; parts of one matrix are cut apart."""
    model = tiny_classifier(family)
    anatomy, batch = anatomy_of(model), padded_batch(model)
    with noted_moments(anatomy):
        logits(model, batch)
    gone = PruneWeightGroups(layer=2, channels=(0, 5, 40))
    shape = anatomy.shape(Recipe(steps=(gone, LowRankFfn(layer=2, rank=7))))
    expected = logits(sliced(model, shape), batch)
    with anatomy.masked(shape):
        torch.testing.assert_close(logits(model, batch), expected, rtol=0, atol=1e-4)
    assert not torch.allclose(logits(model, batch), expected, atol=1e-3)


def test_fewer_inputs_than_the_rank_are_served_exactly() -> None:
    generator = torch.Generator().manual_seed(0)
    weight, inputs = torch.randn(40, 24, generator=generator), torch.randn(5, 24, generator=generator)
    left, right = factors(weight, 9, inputs.T @ inputs)
    assert torch.isfinite(left).all()
    torch.testing.assert_close(inputs @ right.T @ left.T, inputs @ weight.T, rtol=0, atol=1e-4)
