"""The law of the engine for language models: masked == sliced == reloaded == ONNX, cached or not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from models.spec import (
    Calibration,
    HardAttention,
    LowRankEmbeddings,
    PruneBlocks,
    PruneHeads,
    PruneHidden,
    PruneLayers,
    PruneVocabulary,
    PruneWeightGroups,
    Quantize,
    Recipe,
)
from tests.engine.decoder_models import DECODERS, TIED, OnnxDecoder, tiny_decoder
from tests.engine.export_models import LAYERS, clear_batch, logits, padded_batch, random_recipe
from tests.tiny_models import byte_pair_tokenizer, wordpiece_tokenizer
from worker.engine.anatomy import anatomy_of
from worker.engine.anatomy.slicing import as_axforge, is_native, sliced
from worker.engine.device import Device
from worker.engine.export.axforge_decoder import CausalStep, number_caches
from worker.engine.export.layer_stack import layer_stack
from worker.engine.export.onnx import export_onnx, layer_stack_onnx, quantize_onnx
from worker.engine.export.safetensors import load_folder, save_folder
from worker.engine.measure.inputs import BenchInputs, next_token_scores
from worker.engine.measure.probing import ModelFile, probe
from worker.engine.measure.torch_layers import layer_calls, write_stack
from worker.engine.significance.prefix import PrefixReplay
from worker.engine.tasks import TASKS, Rows, evaluate

TOLERANCE = 1e-4
RECIPES = 8
TEXTS = ["The ships lay still.", "Nobody had seen the harbour master since noon.", "Rain came."] * 3
PROMPT = 4  # tokens, before those that are fed one by one


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return wordpiece_tokenizer(["a few words", "and some more of them"], 100)


def assert_same(one: torch.Tensor, other: torch.Tensor) -> None:
    torch.testing.assert_close(one, other, rtol=0.0, atol=TOLERANCE)


def real(values: torch.Tensor, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    return values[batch["attention_mask"].bool()]


def assert_cached_steps_are_one_pass(path: Path, model: PreTrainedModel, seed: int) -> None:
    """A prompt, and then token by token: at every step what one pass over all of them says."""
    ids = clear_batch(model, seed, _without_padding)["input_ids"]
    expected = logits(model, {"input_ids": ids, "attention_mask": torch.ones_like(ids)})
    decoder = OnnxDecoder(path).begin(2)
    assert_same(decoder.step(ids[:, :PROMPT]), expected[:, :PROMPT])
    for at in range(PROMPT, ids.shape[1]):
        assert_same(decoder.step(ids[:, at : at + 1]), expected[:, at : at + 1])


def _without_padding(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Ten tokens of the longest row, and the same backwards."""
    ids = torch.stack((batch["input_ids"][0, :10], batch["input_ids"][0, :10].flip(0)))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


@pytest.mark.parametrize("family", DECODERS)
def test_every_form_of_a_model_answers_the_same(
    family: str, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    dense = tiny_decoder(family)
    anatomy = anatomy_of(dense)
    assert anatomy.kind == "causal"
    assert anatomy.tied_head == (family in TIED)
    assert anatomy.parameters(anatomy.full_shape()) == dense.num_parameters()
    changed, natives = 0, 0
    for seed in range(RECIPES):
        recipe = random_recipe(seed, uniform=seed % 3 == 0)
        shape = anatomy.shape(recipe)
        small = sliced(dense, shape)
        batch = clear_batch(small, seed)
        with anatomy.masked(shape):
            masked = real(logits(dense, batch), batch)
        assert_same(real(logits(small, batch), batch), masked)
        native = is_native(anatomy, shape)
        folder = tmp_path / str(seed)
        assert save_folder(small, tokenizer, folder) == ("native" if native else "remote_code")
        elsewhere = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=not native)
        for reloaded in (elsewhere, load_folder(folder)):
            assert_same(real(logits(reloaded.eval(), batch), batch), masked)
        assert elsewhere.num_parameters() == anatomy.parameters(shape) == small.num_parameters()
        path = tmp_path / f"{seed}.onnx"
        export_onnx(small, tokenizer, path)
        given = OnnxDecoder(path).begin(3).step(batch["input_ids"], batch["attention_mask"])
        assert_same(real(given, batch), masked)
        assert_cached_steps_are_one_pass(path, small, seed)
        whole = real(logits(dense, batch), batch)
        changed += masked.shape != whole.shape or not torch.allclose(masked, whole, atol=1e-2)
        natives += native
    assert changed >= 6, "recipes that change nothing prove nothing"
    assert 0 < natives < RECIPES / 2, "some of the uniform ones have fewer heads, which no stock class has"


@pytest.mark.parametrize("family", DECODERS)
def test_slices_of_slices(family: str, tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    dense = tiny_decoder(family)
    for seed in range(5):
        first = random_recipe(seed, uniform=seed % 2 == 0, low_rank=False)
        second = random_recipe(100 + seed)
        save_folder(sliced(dense, anatomy_of(dense).shape(first)), tokenizer, tmp_path / str(seed))
        between = load_folder(tmp_path / str(seed))
        shape = anatomy_of(dense).shape(first.then(*second.steps))
        assert anatomy_of(between).shape(second) == shape
        assert anatomy_of(between).parameters(shape) == anatomy_of(dense).parameters(shape)
        last = sliced(between, shape)
        batch = clear_batch(last)
        with anatomy_of(dense).masked(shape):
            expected = real(logits(dense, batch), batch)
        with anatomy_of(between).masked(shape):
            assert_same(real(logits(between, batch), batch), expected)
        assert_same(real(logits(last, batch), batch), expected)


MIXED = Recipe(
    steps=(
        PruneHeads(layer=0, heads=(1,)),
        PruneHeads(layer=1, heads=(0, 1)),
        PruneBlocks(blocks=("layer.2.attention",)),
        PruneWeightGroups(layer=3, channels=tuple(range(7))),
        HardAttention(layer=3, top_k=3),
        LowRankEmbeddings(rank=12),
        PruneHidden(dimensions="3,17-19"),
    )
)
FORMS = {"native": Recipe(steps=(PruneLayers(layers=(1,)),)), "remote_code": MIXED}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("family", DECODERS)
def test_a_reloaded_folder_generates_with_its_cache(
    family: str, form: str, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    """Greedily, as whole passes over all tokens so far say, from prompts of different lengths."""
    dense = tiny_decoder(family)
    small = sliced(dense, anatomy_of(dense).shape(FORMS[form]))
    assert save_folder(small, tokenizer, tmp_path) == form
    reloaded = AutoModelForCausalLM.from_pretrained(tmp_path, trust_remote_code=form == "remote_code").eval()
    read: list[int] = []
    reloaded.get_input_embeddings().register_forward_hook(lambda _, given, out: read.append(out.shape[1]))
    prompts = torch.randint(3, 300, (2, 5), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(prompts)
    mask[1, :2] = 0
    options = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False}
    given = reloaded.generate(prompts, attention_mask=mask, **options)
    assert read == [5, 1, 1, 1, 1, 1], "the prompt, and then each token alone"
    uncached = reloaded.generate(prompts, attention_mask=mask, use_cache=False, **options)
    assert given.tolist() == uncached.tolist()
    for row in range(2):
        real_tokens = prompts[row][mask[row].bool()][None]
        for _ in range(6):
            scores = logits(small, {"input_ids": real_tokens})[0, -1]
            scores[2] = -torch.inf  # as `min_new_tokens` forbids the end
            real_tokens = torch.cat((real_tokens, scores.argmax()[None, None]), dim=1)
        assert given[row, 5:].tolist() == real_tokens[0, -6:].tolist()


@pytest.mark.parametrize("family", DECODERS)
def test_prompts_padded_on_the_left_are_read_as_without_padding(
    family: str, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    small = sliced(tiny_decoder(family), anatomy_of(tiny_decoder(family)).shape(MIXED))
    export_onnx(small, tokenizer, tmp_path / "model.onnx")
    ids = torch.randint(3, 300, (1, 7), generator=torch.Generator().manual_seed(1))
    padded = torch.cat((torch.zeros((1, 3), dtype=torch.int64), ids), dim=1)
    mask = (torch.arange(10) >= 3).long()[None]
    decoder = OnnxDecoder(tmp_path / "model.onnx")
    expected = logits(small, {"input_ids": ids})
    assert_same(decoder.begin(1).step(ids), expected)
    assert_same(decoder.begin(1).step(padded, mask)[:, 3:], expected)
    assert_same(logits(small, {"input_ids": padded, "attention_mask": mask})[:, 3:], expected)


@pytest.mark.parametrize("family", DECODERS)
def test_int8_answers_nearly_the_same_and_holds_a_tied_table_once(
    family: str, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    dense = tiny_decoder(family)
    for name, recipe in {"dense": Recipe(), "mixed": MIXED}.items():
        small = sliced(dense, anatomy_of(dense).shape(recipe))
        fp32, int8 = tmp_path / f"{name}.onnx", tmp_path / f"{name}-int8.onnx"
        export_onnx(small, tokenizer, fp32)
        quantize_onnx(fp32, int8, Quantize())
        batch = padded_batch(small)
        plain, quantized = (
            real(OnnxDecoder(path).begin(3).step(batch["input_ids"], batch["attention_mask"]), batch)
            for path in (fp32, int8)
        )
        assert 0 < float((plain - quantized).abs().max()) < 0.25 * float(plain.max() - plain.min())
        table = small.get_input_embeddings().weight.numel()
        saved = fp32.stat().st_size - int8.stat().st_size
        assert saved > 3 * table * (1 if family in TIED else 2) - 12 * 300
        assert fp32.stat().st_size < 4 * small.num_parameters() + 60_000
    if family in TIED:
        with pytest.raises(ValueError, match="not quantized to int4"):
            quantize_onnx(tmp_path / "dense.onnx", tmp_path / "int4.onnx", Quantize(embeddings="int4"))


@pytest.mark.parametrize("family", DECODERS)
def test_matrices_of_other_precisions_answer_nearly_the_same(
    family: str, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    dense = tiny_decoder(family)
    export_onnx(dense, tokenizer, tmp_path / "fp32.onnx")
    batch = padded_batch(dense)
    rows = [{name: values[:1].numpy() for name, values in batch.items()}]
    steps = {
        "mixed": Quantize(matrices={"layer.0.ffn.input": "fp16", "layer.1.attention.input": "int4"}),
        "half": Quantize(weights="fp16", embeddings="fp16"),
        "in 4 bits": Quantize(weights="w4a8"),
        "static": Quantize(calibration=Calibration(rows=1, seed=0)),
    }

    def answers(name: str) -> torch.Tensor:
        decoder = OnnxDecoder(tmp_path / f"{name}.onnx").begin(3)
        return real(decoder.step(batch["input_ids"], batch["attention_mask"]), batch)

    plain = answers("fp32")
    for name, step in steps.items():
        quantize_onnx(tmp_path / "fp32.onnx", tmp_path / f"{name}.onnx", step, calibration=rows)
        gap = float((answers(name) - plain).abs().max())
        allowed = {"half": 0.01, "in 4 bits": 0.6}.get(name, 0.35)
        assert 0 < gap < allowed * float(plain.max() - plain.min())
        assert (tmp_path / f"{name}.onnx").stat().st_size < (tmp_path / "fp32.onnx").stat().st_size


def test_keys_and_values_go_with_the_last_query_head_that_reads_them(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    """Heads 0 and 1 share, and 2 and 3: groups of 2 and 1, and of one alone."""
    dense = tiny_decoder("llama")
    anatomy = anatomy_of(dense)
    steps = (
        PruneHeads(layer=0, heads=(1,)),
        PruneHeads(layer=1, heads=(0, 1)),
        PruneHeads(layer=2, heads=(0, 2)),
    )
    shape = anatomy.shape(Recipe(steps=steps))
    small = sliced(dense, shape)
    blocks = [layer.attention for layer in small.layers]
    assert [block.kv_heads for block in blocks] == [2, 1, 2, 2]
    assert [block.kv_index for block in blocks] == [[0, 1, 1], [0, 0], [0, 1], [0, 0, 1, 1]]
    export_onnx(small, tokenizer, tmp_path / "model.onnx")
    shapes = {each.name: each.shape for each in OnnxDecoder(tmp_path / "model.onnx").session.get_inputs()}
    assert shapes["past_key_values.1.value"] == ["batch", 1, "past_length", 8]
    whole = anatomy.full_shape()
    size, width = anatomy.head_size, anatomy.hidden_size
    assert (
        anatomy.parameters(whole) - anatomy.parameters(shape)
        == (1 + 2 + 2) * 2 * size * width + 2 * size * width
    )
    # One query head: two products for it, and scores and context over all pairs of tokens.
    one = anatomy.shape(Recipe(steps=steps[:1]))
    assert anatomy.macs(whole, 10) - anatomy.macs(one, 10) == 10 * 2 * width * size + 2 * 100 * size


def test_a_vocabulary_of_fewer_words_and_a_tied_table_of_low_rank_are_the_heads_too() -> None:
    dense = tiny_decoder("gpt2")
    anatomy = anatomy_of(dense)
    shape = anatomy.shape(Recipe(steps=(PruneVocabulary(rows="0-49"), LowRankEmbeddings(rank=8))))
    small = sliced(dense, shape)
    assert small.lm_head.out is None
    assert logits(small, padded_batch(small)).shape[-1] == 50
    gone = 300 * 32 - (50 * 8 + 8 * 32)
    assert dense.num_parameters() - small.num_parameters() == gone
    assert anatomy.parameters(shape) == small.num_parameters()
    assert anatomy.macs(anatomy.full_shape(), 1) - anatomy.macs(shape, 1) == 300 * 32 - (50 + 32) * 8 - 32 * 8


@pytest.mark.parametrize("family", DECODERS)
def test_gates_of_examples_are_their_own(family: str) -> None:
    """Each example's gradients are those that it has alone, in a model as it comes and in a sliced one."""
    dense = tiny_decoder(family)
    sharing = Recipe(steps=(PruneHeads(layer=0, heads=(1,)), PruneWeightGroups(layer=1, channels=(0, 5))))
    for model in (dense, sliced(dense, anatomy_of(dense).shape(sharing))):
        anatomy, ids = anatomy_of(model), torch.randint(3, 300, (3, 7))
        with anatomy.gated(3, hidden=True) as gates:
            model(ids).logits.square().sum().backward()
        for row in range(3):
            with anatomy.gated(hidden=True) as alone:
                model(ids[row : row + 1]).logits.square().sum().backward()
            pairs = zip(
                (gates.heads, gates.channels, gates.hidden),
                (alone.heads, alone.channels, alone.hidden),
                strict=True,
            )
            for mine, own in pairs:
                assert mine is not None
                assert own is not None
                assert mine.grad is not None
                assert own.grad is not None
                torch.testing.assert_close(mine.grad[row], own.grad, rtol=1e-3, atol=1e-3)
                assert float(own.grad.abs().max()) > 0.01


@pytest.mark.parametrize("family", DECODERS)
def test_losses_from_later_layers_on_are_those_of_the_whole_model(family: str) -> None:
    """What significance is measured by, also where layers are of several kinds (Qwen2)."""
    dense = tiny_decoder(family)
    anatomy, device = anatomy_of(dense), Device.pick("cpu", threads=1)
    split = TASKS["causal-lm"].encode(Rows({"text": TEXTS}), byte_pair_tokenizer(TEXTS, 290), max_length=12)
    replay = PrefixReplay(anatomy, split, TASKS["causal-lm"], device, precision="fp32", batch_size=4)
    for layer in range(LAYERS):
        shape = anatomy.shape(Recipe(steps=(PruneHeads(layer=layer, heads=(0, 3)),)))
        with anatomy.masked(shape):
            expected = evaluate(dense, split, TASKS["causal-lm"], batch_size=4, device=device).losses
        np.testing.assert_allclose(replay.losses(shape), expected, atol=1e-5)


def test_dense_models_as_the_engines_own() -> None:
    for family in DECODERS:
        dense = tiny_decoder(family)
        own, batch = as_axforge(dense), padded_batch(dense)
        assert_same(real(logits(own, batch), batch), real(logits(dense, batch), batch))
        assert own.num_parameters() == dense.num_parameters()


@pytest.mark.parametrize("remote", [False, True], ids=["native", "remote_code"])
def test_probes_of_both_runtimes_tell_what_is_said_of_the_next_tokens(
    remote: bool, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    dense = tiny_decoder("qwen2")
    model = sliced(dense, anatomy_of(dense).shape(MIXED if remote else FORMS["native"]))
    save_folder(model, tokenizer, tmp_path / "folder")
    export_onnx(model, tokenizer, tmp_path / "model.onnx")
    generator = np.random.default_rng(0)
    rows = [generator.integers(3, 300, size=length) for length in (3, 9, 5, 2)]
    alone = []
    for row in rows:
        ids = torch.from_numpy(row)[None]
        scores = torch.log_softmax(logits(model, {"input_ids": ids})[0], dim=-1)
        follows = scores[range(len(row) - 1), row[1:]]
        likeliest = scores[:-1].argmax(-1) == ids[0, 1:]
        alone.append(np.pad(np.stack([follows, likeliest], axis=1), ((0, 1), (0, 0))))
    inputs = BenchInputs.in_order(rows, batch_size=2, next_token=True)
    for file in (
        ModelFile(tmp_path / "model.onnx"),
        ModelFile(tmp_path / "folder", "torch", remote_code=remote),
    ):
        with probe(file, inputs, threads=1) as running:
            np.testing.assert_allclose(running.logits(), np.concatenate(alone), atol=TOLERANCE)
    assert next_token_scores(np.zeros((1, 2, 4), np.float32), np.array([[1, 0]]), np.array([[1, 1]]))[
        0, 0
    ].tolist() == pytest.approx([-np.log(4), 1.0])


@pytest.mark.parametrize("family", DECODERS)
@pytest.mark.parametrize("quantized", [False, True], ids=["fp32", "int8"])
def test_layers_of_the_latency_table_compute_what_layers_of_models_do(
    family: str, quantized: bool, tmp_path: Path
) -> None:
    """In both runtimes the same; and what comes later changes nothing before it."""
    anatomy = anatomy_of(tiny_decoder(family))
    described = {
        "hidden_size": anatomy.hidden_size,
        "head_size": anatomy.head_size,
        "layers": [(3, 20), (0, 10), (4, 0)],
        "form": anatomy.form,
        "layer_variants": anatomy.layer_variants,
    }
    layer_stack_onnx(tmp_path / "stack.onnx", **described, quantized=quantized)
    write_stack(tmp_path / "stack.json", described)
    session = onnxruntime.InferenceSession(str(tmp_path / "stack.onnx"), providers=["CPUExecutionProvider"])
    modules, _, _ = layer_stack(**described)
    number_caches(modules)
    hidden = torch.randn(2, 9, anatomy.hidden_size, generator=torch.Generator().manual_seed(0))
    mask = torch.ones(2, 9, dtype=torch.int64)
    out, step = hidden, CausalStep(torch.arange(9)[None], mask)
    with torch.no_grad():
        for module in modules:
            out = module.eval()(out, None, step)
    (given,) = session.run(["output"], {"hidden": hidden.numpy(), "attention_mask": mask.numpy()})
    np.testing.assert_allclose(given, out.numpy(), atol=0.2 if quantized else TOLERANCE)
    shorter = {"hidden": hidden[:, :4].numpy(), "attention_mask": mask[:, :4].numpy()}
    if not quantized:
        np.testing.assert_allclose(session.run(["output"], shorter)[0], given[:, :4], atol=TOLERANCE)
    inputs = BenchInputs.in_order([[1, 2, 3]], batch_size=1)
    (call,) = layer_calls(tmp_path / "stack.json", inputs, threads=1, device="cpu")
    assert np.isfinite(call()).all()
