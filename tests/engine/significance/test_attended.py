"""What heads attend to, against maps whose masses are known, on every architecture."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from models.spec import HardAttention, Recipe
from tests.engine.decoder_models import DECODERS, tiny_decoder
from tests.engine.export_models import FAMILIES, HEADS, LAYERS, tiny_classifier
from worker.engine.anatomy import anatomy_of
from worker.engine.anatomy.slicing import as_axforge, sliced
from worker.engine.device import Device
from worker.engine.significance import attended as module
from worker.engine.significance.attended import Attended, NoMaps, attended, mass_sums
from worker.engine.tasks import Split

FIRST, LAST = 3, 4
SPECIAL = frozenset({FIRST, LAST})
LENGTHS = (9, 5, 2, 7)


def framed(lengths: tuple[int, ...] = LENGTHS) -> Split:
    """Rows of random tokens between two special ones; the padding's id is 0 as in most families."""
    generator = np.random.default_rng(0)
    rows = [[FIRST, *generator.integers(5, 300, length - 2), LAST] for length in lengths]
    return Split(
        ids=np.concatenate(rows).astype(np.int64),
        offsets=np.concatenate([[0], np.cumsum(lengths)]),
        labels=np.zeros(len(lengths), dtype=np.int64),
        pad_id=0,
    )


def looked(model: PreTrainedModel, split: Split) -> Attended:
    return attended(anatomy_of(model), split, SPECIAL, Device.pick("cpu"))


def test_masses_are_sums_over_real_queries() -> None:
    generator = torch.Generator().manual_seed(0)
    maps = torch.rand((2, 3, 6, 6), generator=generator)
    mask = torch.tensor([[True] * 6, [True] * 4 + [False] * 2])
    maps = maps * mask[:, None, None, :]
    special = torch.tensor(
        [[True, False, False, True, False, False], [True, False, False, True, False, False]]
    )
    expected = np.zeros((3, 4))
    for row in range(2):
        for query in np.flatnonzero(mask[row]):
            for key in range(6):
                near = abs(int(query) - key)
                kind = 0 if special[row, key] else 1 if near == 0 else 2 if near == 1 else 3
                expected[:, kind] += maps[row, :, query, key].numpy()
    assert mass_sums(maps, mask, special).numpy() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("family", [*FAMILIES, *DECODERS])
def test_every_architecture_tells_where_its_attention_goes(family: str) -> None:
    model = tiny_classifier(family) if family in FAMILIES else tiny_decoder(family)
    before, split = model.config._attn_implementation, framed()
    inputs = split.batch(np.arange(2)).inputs
    with torch.no_grad():
        logits = model(**inputs).logits
        found = looked(model, split)
        assert torch.equal(model(**inputs).logits, logits)
    assert model.config._attn_implementation == before
    assert found.masses.shape == (LAYERS, HEADS, 4)
    assert found.tokens == sum(LENGTHS)
    assert found.masses.sum(axis=-1) == pytest.approx(np.ones((LAYERS, HEADS)), abs=1e-5)
    assert (found.masses[..., :3] > 0).all()
    assert len(np.unique(found.masses.round(6).reshape(-1, 4), axis=0)) == LAYERS * HEADS


def test_heads_without_a_preference_look_at_all_tokens_alike() -> None:
    model = tiny_classifier("bert")
    with torch.no_grad():
        query = anatomy_of(model).parts[2].by_head["query"].linear
        query.weight.zero_()
        query.bias.zero_()
    found = looked(model, framed((8, 8)))
    # Of eight tokens two are special; as queries the six others see themselves, and four of them two beside.
    assert found.masses[2] == pytest.approx(
        np.tile([2 / 8, 6 / 64, (4 * 2 + 2 * 1 + 2 * 1) / 64, 1 - 2 / 8 - 6 / 64 - 12 / 64], (HEADS, 1)),
        abs=1e-6,
    )
    assert np.abs(found.masses[1, 0] - found.masses[2, 0]).max() > 1e-3


def test_every_token_counts_once_however_rows_are_batched(monkeypatch: pytest.MonkeyPatch) -> None:
    model, split = tiny_classifier("bert"), framed()
    together = looked(model, split)
    alone = [looked(model, split.select(np.array([row]))) for row in range(len(LENGTHS))]
    weighted = sum(each.masses * each.tokens for each in alone) / sum(LENGTHS)
    assert together.masses == pytest.approx(weighted, abs=1e-6)
    monkeypatch.setattr(module, "MAPS_BYTES", 1)
    assert looked(model, split).masses == pytest.approx(together.masses, abs=1e-6)


def test_an_exported_model_s_heads_look_where_the_stock_model_s_do() -> None:
    for family in ("deberta-v2", "modernbert"):
        model = tiny_classifier(family)
        stock, own = looked(model, framed()), looked(as_axforge(model), framed())
        assert own.masses == pytest.approx(stock.masses, abs=1e-5)


def test_heads_without_maps_are_told() -> None:
    anatomy = anatomy_of(tiny_classifier("bert"))
    smaller = sliced(anatomy.model, anatomy.shape(Recipe(steps=(HardAttention(layer=0, top_k=2),))))
    before = smaller.config._attn_implementation
    with pytest.raises(NoMaps, match="sparse heads"):
        looked(smaller, framed())
    assert smaller.config._attn_implementation == before
