"""What each architecture has of its own: positions in scores, norms, gates, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import MPNetConfig
from transformers.models.deberta_v2.modeling_deberta_v2 import make_log_bucket_position
from transformers.models.mpnet.modeling_mpnet import MPNetEncoder

from models.spec import PruneBlocks, PruneLayers, Recipe
from tests.engine.export_models import FAMILIES, LAYERS, SIZES, logits, padded_batch, tiny_classifier
from worker.engine.anatomy import anatomy_of, ensure_supported
from worker.engine.anatomy.slicing import as_axforge, is_native, sliced
from worker.engine.errors import UnsupportedArchitecture
from worker.engine.export.axforge_attention import DistanceBuckets, DistanceTable, distances
from worker.engine.export.modeling_axforge import AxforgeConfig
from worker.engine.stages.prepare import positions


@pytest.mark.parametrize("family", FAMILIES)
def test_the_exported_model_has_the_stock_models_hidden_states(family: str) -> None:
    """Distillation compares them layer by layer."""
    dense = tiny_classifier(family)
    batch = padded_batch(dense)
    real = batch["attention_mask"].bool()
    with torch.no_grad():
        wanted = dense(**batch, output_hidden_states=True).hidden_states
        given = as_axforge(dense)(**batch, output_hidden_states=True).hidden_states
    assert len(given) == len(wanted) == LAYERS + 1
    for one, other in zip(given, wanted, strict=True):
        torch.testing.assert_close(one[real], other[real], atol=1e-5, rtol=1e-4)


def test_buckets_are_mpnets_at_every_distance() -> None:
    away = distances(512, torch.device("cpu"))
    config = AxforgeConfig(relative={"kind": "buckets", "buckets": 32, "heads": 4})
    given = DistanceBuckets(config).index(away)
    assert torch.equal(given, MPNetEncoder.relative_position_bucket(-away))
    assert given.unique().numel() > 28


@pytest.mark.parametrize(("span", "farthest"), [(256, 512), (4, 48), (16, 100)])
def test_rows_of_the_distance_table_are_debertas(span: int, farthest: int) -> None:
    relative = {"kind": "disentangled", "span": span, "farthest": farthest, "norm": False}
    table = DistanceTable(AxforgeConfig(hidden_size=8, relative=relative))
    away = distances(600, torch.device("cpu"))
    wanted = make_log_bucket_position(away, span, farthest).long() + span
    assert torch.equal(table.index(away), wanted.clamp(0, 2 * span - 1))


@pytest.mark.parametrize(
    "own",
    [
        {"share_att_key": False},
        {"share_att_key": False, "pos_att_type": "p2c"},
        {"pos_att_type": "c2p", "norm_rel_ebd": "none"},
        {"position_buckets": -1, "position_biased_input": True},
    ],
    ids=str,
)
def test_every_form_of_deberta(own: dict[str, Any]) -> None:
    dense = tiny_classifier("deberta-v2", **own)
    anatomy, batch = anatomy_of(dense), padded_batch(dense)
    recipe = Recipe(steps=(PruneBlocks(blocks=("layer.1.attention", "layer.2.ffn")),))
    for shape in (anatomy.full_shape(), anatomy.shape(recipe)):
        with anatomy.masked(shape):
            masked = logits(dense, batch)
        small = sliced(dense, shape) if not is_native(anatomy, shape) else as_axforge(dense)
        torch.testing.assert_close(logits(small, batch), masked, atol=1e-4, rtol=0)
        assert small.num_parameters() == anatomy.parameters(shape)


@pytest.mark.parametrize("pooling", ["cls", "mean"])
@pytest.mark.parametrize("biased", [True, False])
def test_every_form_of_modernbert(pooling: str, biased: bool) -> None:
    names = ("attention_bias", "mlp_bias", "norm_bias", "classifier_bias")
    own: dict[str, Any] = {"classifier_pooling": pooling, **dict.fromkeys(names, biased)}
    dense = tiny_classifier("modernbert", **own)
    anatomy, batch = anatomy_of(dense), padded_batch(dense)
    whole = as_axforge(dense)
    torch.testing.assert_close(logits(whole, batch), logits(dense, batch), atol=1e-4, rtol=0)
    assert whole.num_parameters() == dense.num_parameters() == anatomy.parameters(anatomy.full_shape())


def test_modernbert_without_its_first_layer_is_no_stock_model() -> None:
    """Its first layer has no norm before its attention, every other one has."""
    dense = tiny_classifier("modernbert")
    anatomy, batch = anatomy_of(dense), padded_batch(dense)
    for gone, native in ((0, False), (1, True), (3, True)):
        shape = anatomy.shape(Recipe(steps=(PruneLayers(layers=(gone,)),)))
        assert is_native(anatomy, shape) == native
        with anatomy.masked(shape):
            masked = logits(dense, batch)
        small = sliced(dense, shape)
        torch.testing.assert_close(logits(small, batch), masked, atol=1e-4, rtol=0)
        assert anatomy_of(small).full_shape() == shape


def test_a_block_with_its_norm_before_it_leaves_nothing() -> None:
    anatomy = anatomy_of(tiny_classifier("modernbert"))
    full, width = anatomy.full_shape(), anatomy.hidden_size
    for name, block, norm in (("attention", 4 * width * width, width), ("ffn", 3 * width * 48, width)):
        gone = anatomy.shape(Recipe(steps=(PruneBlocks(blocks=(f"layer.2.{name}",)),)))
        assert anatomy.parameters(full) - anatomy.parameters(gone) == block + norm


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"model_type": "albert", "inner_group_num": 2}, "inner_group_num"),
    ({"model_type": "mpnet", "relative_attention_num_buckets": 64}, "64 buckets"),
    ({"model_type": "deberta-v2"}, "without relative positions"),
    ({"model_type": "deberta-v2", "relative_attention": True, "pos_att_type": []}, "relative"),
    (
        {
            "model_type": "deberta-v2",
            "relative_attention": True,
            "pos_att_type": "c2p",
            "conv_kernel_size": 3,
        },
        "convolution",
    ),
    ({"model_type": "modernbert", "rope_scaling": {"rope_type": "yarn"}}, "rotary"),
    ({"model_type": "modernbert", "hidden_activation": "mish"}, "mish"),
    ({"model_type": "xlnet", "attn_type": "uni"}, "attn_type 'uni'"),
    ({"model_type": "xlnet", "bi_data": True}, "bi_data"),
    ({"model_type": "xlnet", "same_length": True}, "same_length"),
    ({"model_type": "xlnet", "clamp_len": 64}, "beyond 64"),
    ({"model_type": "xlnet", "summary_type": "mean"}, "summary_type 'mean'"),
    ({"model_type": "xlnet", "summary_use_proj": False}, "summary_use_proj"),
    ({"model_type": "xlnet", "summary_activation": None}, "summary_activation"),
    ({"model_type": "xlnet", "ff_activation": "selu"}, "selu"),
]


@pytest.mark.parametrize(("config", "reason"), REFUSED)
def test_configurations_that_are_refused_say_why(config: dict[str, Any], reason: str) -> None:
    with pytest.raises(UnsupportedArchitecture, match=reason):
        ensure_supported(config)


@pytest.mark.parametrize(("family", "known"), [("bert", 48), ("mpnet", 46), ("roberta", 46), ("albert", 48)])
def test_positions_that_a_model_has(family: str, known: int, tmp_path: Path) -> None:
    tiny_classifier(family).config.save_pretrained(tmp_path)
    assert positions(tmp_path) == known


def test_mpnets_relative_positions_are_as_many_as_its_code_has() -> None:
    assert MPNetConfig(**SIZES).relative_attention_num_buckets == 32
