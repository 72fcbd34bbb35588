"""Costs, gates, checks and the registry of architectures."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import BertConfig, BertModel, GPT2Config, GPT2ForSequenceClassification, PreTrainedModel

from models.spec import (
    HardAttention,
    PruneBlocks,
    PruneHeads,
    PruneLayers,
    PruneWeightGroups,
    Recipe,
    SignMatchingAttention,
    Step,
)
from models.spec.capabilities import ARCHITECTURES, DECODERS, ENCODERS
from tests.engine.decoder_models import tiny_decoder
from tests.engine.export_models import (
    CHANNELS,
    FAMILIES,
    HEADS,
    LAYERS,
    SIZES,
    logits,
    padded_batch,
    random_recipe,
    stock_model,
    tiny_classifier,
)
from worker.engine.anatomy import Shape, anatomy_of, ensure_supported, supported_architectures
from worker.engine.anatomy.heads import HeadKind
from worker.engine.anatomy.shape import LayerShape
from worker.engine.anatomy.slicing import sliced
from worker.engine.approximations.sparse_heads import SparseHead
from worker.engine.errors import ModelError, UnsupportedArchitecture


@pytest.fixture(scope="module")
def dense() -> PreTrainedModel:
    return tiny_classifier("bert")


class TestCosts:
    @pytest.mark.parametrize("seed", range(3))
    @pytest.mark.parametrize("family", FAMILIES)
    def test_macs_are_those_that_torch_counts(self, family: str, seed: int) -> None:
        dense = tiny_classifier(family)
        anatomy = anatomy_of(dense)
        shape = anatomy.shape(random_recipe(seed, uniform=seed == 0))
        small = sliced(dense, shape)
        length = 9
        # The counter knows the matrix products of plain attention, not those inside fused kernels.
        with (
            sdpa_kernel(SDPBackend.MATH),
            FlopCounterMode(display=False) as counter,
            torch.no_grad(),
        ):
            small(torch.ones((1, length), dtype=torch.long))
        assert counter.get_total_flops() == 2 * anatomy.macs(shape, length)

    @pytest.mark.parametrize("family", FAMILIES)
    def test_dense_parameters(self, family: str) -> None:
        dense = tiny_classifier(family)
        anatomy = anatomy_of(dense)
        assert anatomy.parameters(anatomy.full_shape()) == dense.num_parameters()


class TestGates:
    @pytest.mark.parametrize("family", FAMILIES)
    def test_gradients_are_those_of_the_loss_along_the_gates(self, family: str) -> None:
        model = tiny_classifier(family).double()
        anatomy, batch = anatomy_of(model), padded_batch(model)
        labels = torch.tensor([0, 1, 2])
        losses = torch.nn.CrossEntropyLoss()
        with anatomy.gated() as gates:
            losses(model(**batch).logits, labels).backward()
            heads, channels = gates.heads.grad, gates.channels.grad
        assert heads is not None
        assert channels is not None
        assert heads.shape == (LAYERS, HEADS)
        assert channels.shape == (LAYERS, CHANNELS)
        # The weights that a gate multiplies scale the loss the same way: d/dg = <d/dW_column, W_column>.
        model.zero_grad()
        losses(model(**batch).logits, labels).backward()
        shape = anatomy.full_shape()
        heads, channels = (
            torch.stack([gates[list(shape.sharing(layer))].sum(0) for layer in range(LAYERS)])
            for gates in (heads, channels)
        )
        for layer, part in enumerate(anatomy.parts):
            assert part.attention_output is not None
            assert part.ffn_down is not None
            columns = (part.attention_output.weight.grad * part.attention_output.weight).sum(0)
            torch.testing.assert_close(
                heads[layer].double(), columns.view(HEADS, -1).sum(1), atol=1e-6, rtol=1e-4
            )
            columns = (part.ffn_down.weight.grad * part.ffn_down.weight).sum(0)
            torch.testing.assert_close(channels[layer].double(), columns, atol=1e-6, rtol=1e-4)

    def test_per_sample_gradients(self, dense: PreTrainedModel) -> None:
        anatomy, batch = anatomy_of(dense), padded_batch(dense)
        with anatomy.gated(batch_size=3) as gates:
            dense(**batch).logits.square().sum().backward()
            together = gates.heads.grad
        assert together is not None
        for row in range(3):
            with anatomy.gated() as gates:
                one = {name: value[row : row + 1] for name, value in batch.items()}
                dense(**one).logits.square().sum().backward()
                assert gates.heads.grad is not None
                torch.testing.assert_close(together[row], gates.heads.grad, atol=1e-5, rtol=1e-4)

    def test_a_sliced_model_is_gated_by_dense_index(self, dense: PreTrainedModel) -> None:
        recipe = Recipe(
            steps=(
                PruneLayers(layers=(0,)),
                PruneHeads(layer=2, heads=(0, 3)),
                PruneWeightGroups(layer=1, channels=(7, 8)),
            )
        )
        anatomy, batch = anatomy_of(dense), padded_batch(dense)
        shape = anatomy.shape(recipe)
        with anatomy.masked(shape), anatomy.gated() as wanted:
            dense(**batch).logits.square().sum().backward()
        small = sliced(dense, shape)
        with anatomy_of(small).gated() as gates:
            small(**batch).logits.square().sum().backward()
        kept = torch.zeros(LAYERS, HEADS, dtype=torch.bool)
        for index, layer in enumerate(shape.layers):
            kept[index, list(layer.heads)] = True
        assert gates.heads.grad is not None
        assert wanted.heads.grad is not None
        assert not gates.heads.grad[~kept].any()
        torch.testing.assert_close(gates.heads.grad[kept], wanted.heads.grad[kept], atol=1e-5, rtol=1e-4)


class TestMasking:
    @pytest.mark.parametrize("family", FAMILIES)
    def test_leaves_no_trace(self, family: str) -> None:
        model = tiny_classifier(family)
        anatomy, batch = anatomy_of(model), padded_batch(model)
        before, implementation = logits(model, batch), model.config._attn_implementation
        with pytest.raises(RuntimeError, match="on purpose"):  # noqa: SIM117
            with anatomy.masked(anatomy.shape(random_recipe(3))), anatomy.gated():
                raise RuntimeError("on purpose")
        assert torch.equal(logits(model, batch), before)
        assert model.config._attn_implementation == implementation
        assert not any(
            module._forward_hooks or module._forward_pre_hooks
            for part in anatomy.parts
            for module in part.module.modules()
        )

    def test_a_removed_block_leaves_the_norm_of_its_input(self, dense: PreTrainedModel) -> None:
        anatomy, batch = anatomy_of(dense), padded_batch(dense)
        seen: dict[str, Any] = {}
        part = anatomy.parts[2]
        handles = [
            part.module.register_forward_pre_hook(lambda module, args: seen.update(given=args[0])),
            part.attention_norm.register_forward_hook(
                lambda module, args, output: seen.update(normed=output)
            ),
        ]
        with anatomy.masked(anatomy.shape(Recipe(steps=(PruneBlocks(blocks=("layer.2.attention",)),)))):
            logits(dense, batch)
        for handle in handles:
            handle.remove()
        torch.testing.assert_close(seen["normed"], part.attention_norm(seen["given"]))

    def test_hard_attention_of_all_tokens_is_soft(self, dense: PreTrainedModel) -> None:
        anatomy, batch = anatomy_of(dense), padded_batch(dense)
        recipe = Recipe(steps=tuple(HardAttention(layer=layer, top_k=11) for layer in range(LAYERS)))
        with anatomy.masked(anatomy.shape(recipe)):
            hard = logits(dense, batch)
        torch.testing.assert_close(hard, logits(dense, batch), atol=1e-5, rtol=0)

    def test_a_shape_must_be_held(self, dense: PreTrainedModel) -> None:
        small = sliced(dense, anatomy_of(dense).shape(Recipe(steps=(PruneHeads(layer=1, heads=(0,)),))))
        whole = anatomy_of(dense).full_shape()
        with pytest.raises(ValueError, match="layer 1"):
            anatomy_of(small).masked(whole)
        with pytest.raises(ValueError, match="layer 1"):
            sliced(small, whole)
        with pytest.raises(ValueError, match="3 layers"):
            anatomy_of(dense).parameters(Shape.full(3, HEADS, CHANNELS))


class TestSlicing:
    def test_shares_nothing_with_its_source(self, dense: PreTrainedModel) -> None:
        batch = padded_batch(dense)
        before = logits(dense, batch)
        small = sliced(dense, anatomy_of(dense).full_shape()).train()
        small(**batch, labels=torch.tensor([0, 1, 2])).loss.backward()
        with torch.no_grad():
            for parameter in small.parameters():
                assert parameter.grad is not None or not parameter.requires_grad
                parameter.zero_()
        assert torch.equal(logits(dense, batch), before)

    @pytest.mark.parametrize("family", FAMILIES)
    def test_trains(self, family: str) -> None:
        dense = tiny_classifier(family)
        small = sliced(dense, anatomy_of(dense).shape(random_recipe(1))).train()
        batch, labels = padded_batch(small), torch.tensor([0, 1, 2])
        optimizer = torch.optim.AdamW(small.parameters(), lr=1e-2)
        losses = []
        for _ in range(12):
            loss = small(**batch, labels=labels).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
        assert losses[-1] < losses[0] / 2


class TestRecipes:
    @pytest.mark.parametrize(
        ("step", "message"),
        [
            (PruneLayers(layers=(LAYERS,)), "steps/0/layers: layer 4 does not exist"),
            (PruneBlocks(blocks=("layer.9.ffn",)), "steps/0/blocks: layer 9"),
            (PruneHeads(layer=0, heads=(0, HEADS)), "steps/0/heads: head 4"),
            (PruneWeightGroups(layer=5, channels=(0,)), "steps/0/layer: layer 5"),
            (PruneWeightGroups(layer=0, channels=(CHANNELS,)), "steps/0/channels: channel 48"),
            (HardAttention(layer=4, top_k=2), "steps/0/layer: layer 4"),
            (HardAttention(layer=0, top_k=2, heads=(1, 4)), "steps/0/heads: head 4"),
            (SignMatchingAttention(layer=0, heads=(9,)), "steps/0/heads: head 9"),
        ],
    )
    def test_elements_that_do_not_exist(self, dense: PreTrainedModel, step: Step, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            anatomy_of(dense).shape(Recipe(steps=(step,)))

    def test_shapes_survive_a_config(self) -> None:
        shape = Shape(
            (
                LayerShape((0, 2, 3), (*range(40), 45)),
                LayerShape((), (), present=False),
                LayerShape((1,), (), sparse=(SparseHead(1, "hard", 3),)),
                LayerShape(
                    (0, 1, 2),
                    (4,),
                    sparse=(SparseHead(0, "sign_average", 30), SparseHead(2, "hard", 30)),
                ),
            )
        )
        assert Shape.from_json(shape.to_json()) == shape
        assert shape.to_json()["layers"][0]["channels"] == "0-39,45"

    def test_of_several_decisions_on_a_head_the_coarsest_counts(self, dense: PreTrainedModel) -> None:
        steps: list[Step] = [
            HardAttention(layer=0, top_k=2),
            HardAttention(layer=0, top_k=30, heads=(0, 1)),
            SignMatchingAttention(layer=0, top_k=9, heads=(1, 2)),
            SignMatchingAttention(layer=0, top_k=30, variant="average", heads=(2,)),
        ]
        expected = (
            SparseHead(0, "hard", 2),
            SparseHead(1, "sign_softmax", 9),
            SparseHead(2, "sign_average", 30),
            SparseHead(3, "hard", 2),
        )
        for order in itertools.permutations(steps):
            assert anatomy_of(dense).shape(Recipe(steps=tuple(order))).layers[0].sparse == expected
        gone = Recipe(steps=(*steps, PruneHeads(layer=0, heads=(0, 2))))
        assert anatomy_of(dense).shape(gone).layers[0].sparse == expected[1::2]

    def test_sparse_is_less_than_soft_and_soft_is_not_less_than_sparse(self, dense: PreTrainedModel) -> None:
        anatomy = anatomy_of(dense)
        soft = anatomy.full_shape()
        hard, one = (
            anatomy.shape(Recipe(steps=(HardAttention(layer=0, top_k=2, heads=heads),)))
            for heads in (None, (1,))
        )
        assert hard.within(soft)
        assert hard.within(one)
        assert not soft.within(hard)
        assert not one.within(hard)
        assert anatomy.shape(Recipe(steps=(PruneHeads(layer=0, heads=(0, 2, 3)),))).within(hard) is False
        assert anatomy.shape(Recipe(steps=(PruneHeads(layer=0, heads=(1,)),))).within(one)


class TestArchitectures:
    def test_the_torch_free_list_is_the_registry(self) -> None:
        assert sorted(ARCHITECTURES) == sorted(supported_architectures())

    def test_a_decoder_with_another_head_is_refused(self) -> None:
        model = GPT2ForSequenceClassification(GPT2Config(n_embd=8, n_layer=1, n_head=2, vocab_size=9))
        with pytest.raises(UnsupportedArchitecture) as caught:
            anatomy_of(model)
        assert all(name in caught.value.remedy for name in ARCHITECTURES)

    def test_a_headless_model_is_refused(self) -> None:
        sizes = {name: size for name, size in SIZES.items() if name != "num_labels"}
        with pytest.raises(UnsupportedArchitecture, match="BertModel"):
            anatomy_of(BertModel(BertConfig(**sizes)))

    @pytest.mark.parametrize(
        ("config", "error"),
        [
            ({}, UnsupportedArchitecture),
            ({"model_type": "t5"}, UnsupportedArchitecture),
            ({"model_type": "gpt2", "scale_attn_by_inverse_layer_idx": True}, UnsupportedArchitecture),
            ({"model_type": "opt", "do_layer_norm_before": False}, UnsupportedArchitecture),
            ({"model_type": "llama", "rope_parameters": {"rope_type": "llama3"}}, UnsupportedArchitecture),
            ({"model_type": "llama", "rope_scaling": {"type": "linear"}}, UnsupportedArchitecture),
            ({"model_type": "llama", "num_attention_heads": 4, "num_key_value_heads": 3}, ModelError),
            ({"model_type": "bert", "is_decoder": True}, UnsupportedArchitecture),
            ({"model_type": "bert", "position_embedding_type": "relative_key"}, UnsupportedArchitecture),
            ({"model_type": "bert", "hidden_act": "selu"}, UnsupportedArchitecture),
            ({"model_type": "bert", "hidden_size": 100, "num_attention_heads": 12}, ModelError),
            ({"model_type": "distilbert", "n_layers": "six"}, ModelError),
        ],
    )
    def test_configs_that_are_refused(self, config: dict[str, Any], error: type[ModelError]) -> None:
        with pytest.raises(error) as caught:
            ensure_supported(config)
        assert type(caught.value) is error
        assert caught.value.remedy

    @pytest.mark.parametrize(("name", "head"), [("gpt2", "sequence"), ("bert", "causal")])
    def test_families_without_the_head_of_the_task_are_refused(self, name: str, head: HeadKind) -> None:
        with pytest.raises(UnsupportedArchitecture, match="no head for this task") as caught:
            ensure_supported({"model_type": name}, head)
        able = caught.value.remedy.rpartition(": ")[2].split(", ")
        assert sorted(able) == sorted(DECODERS if head == "causal" else ENCODERS)

    @pytest.mark.parametrize("family", DECODERS)
    def test_configs_of_decoders_that_are_supported(self, family: str) -> None:
        ensure_supported(tiny_decoder(family).config.to_dict(), "causal")

    @pytest.mark.parametrize("family", FAMILIES)
    def test_configs_that_are_supported(self, family: str) -> None:
        ensure_supported(stock_model(family, "sequence").config.to_dict())
