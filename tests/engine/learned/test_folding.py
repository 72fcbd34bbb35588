"""A model under decided masks computes what it computes sliced, with the masks' means in its weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from tests.engine.decoder_models import DECODERS, tiny_decoder
from tests.engine.export_models import FAMILIES, logits, padded_batch, tiny_model
from tests.engine.learned.deciding import PRUNING, decided, pruned_shape
from tests.tiny_models import wordpiece_tokenizer
from worker.engine.anatomy import anatomy_of
from worker.engine.anatomy.slicing import sliced
from worker.engine.export.safetensors import load_folder, save_folder
from worker.engine.learned.folding import fold
from worker.engine.learned.gating import learning, noted_states
from worker.engine.learned.vib import Masks

TOLERANCE = 1e-4


def model_of(family: str) -> PreTrainedModel:
    return tiny_decoder(family) if family in DECODERS else tiny_model(family, "sequence")


@pytest.mark.parametrize("family", [*FAMILIES, *DECODERS])
def test_masked_is_sliced_is_reloaded(family: str, tmp_path: Path) -> None:
    model = model_of(family)
    batch = padded_batch(model)
    for seed in range(3):
        model = model_of(family)
        anatomy = anatomy_of(model)
        shape = pruned_shape(anatomy, seed)
        masks = decided(anatomy, shape, seed=seed, means=True)
        whole = logits(model, batch)
        with learning(anatomy, masks, 10.0):
            learnt = logits(model, batch)
        assert not torch.allclose(learnt, whole, atol=0.01), "masks with means change what it answers"
        fold(anatomy, masks, shape)
        with anatomy.masked(shape):
            masked = logits(model, batch)
        small = sliced(model, shape)
        tokenizer = wordpiece_tokenizer(["some text"], 50)
        save_folder(small, tokenizer, tmp_path / str(seed))
        reloaded = load_folder(tmp_path / str(seed))
        real = batch["attention_mask"].bool() if learnt.dim() == 3 else slice(None)
        for other in (masked, logits(small, batch), logits(reloaded, batch)):
            assert float((other[real] - learnt[real]).abs().max()) < TOLERANCE


@pytest.mark.parametrize("family", ["bert", "modernbert", "gpt2", "llama"])
def test_masks_that_begin_leave_the_model_nearly_as_it_is(family: str) -> None:
    model = model_of(family)
    batch, anatomy = padded_batch(model), anatomy_of(model_of(family))
    whole = logits(anatomy.model, batch)
    masks = Masks(anatomy, PRUNING, seed=0)
    for _, _, mask in masks.named():
        mask.log_variance.data.sub_(8.0)  # nearly no noise, and surely kept
    with learning(anatomy, masks, 10.0):
        first = logits(anatomy.model, batch)
    assert not torch.equal(first, whole)
    assert float((first - whole).std()) < 0.2 * float(whole.std())
    assert torch.equal(logits(anatomy.model, batch), whole), "hooks are gone"


@pytest.mark.parametrize("family", ["bert", "modernbert", "gpt2", "llama", "opt"])
def test_states_are_noted_as_transformers_tells_them(family: str) -> None:
    model = model_of(family)
    batch, anatomy = padded_batch(model), anatomy_of(model)
    with torch.no_grad(), noted_states(anatomy) as states:
        told = model(**batch, output_hidden_states=True).hidden_states
    assert sorted(states) == list(range(anatomy.layers))
    for layer, state in states.items():
        assert torch.equal(state, told[layer + 1]), layer
