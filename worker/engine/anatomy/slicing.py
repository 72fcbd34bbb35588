"""Really removing weights: from a model and a shape to a smaller, independent model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel
from transformers.initialization import no_init_weights

from models.spec.ranges import from_ranges
from worker.engine.anatomy import Anatomy, Shape, anatomy_of, family_of
from worker.engine.anatomy.axforge import AXFORGE
from worker.engine.anatomy.families import Family, LayerParts
from worker.engine.anatomy.low_rank import Linear, copy_linear
from worker.engine.anatomy.shape import LayerShape, positions
from worker.engine.anatomy.vocabulary import copy_embeddings, with_rows, without_rows
from worker.engine.export.modeling_axforge import AxforgeConfig

HEAD_MODULES = ("query", "key", "value")


def is_native(anatomy: Anatomy, shape: Shape) -> bool:
    """Whether a stock transformers class can hold `shape`.

    It can when at least one layer is left and all that are left have every head of the dense model,
    no hard attention, and the same number of channels, and all matrices are whole.
    """
    shape = anatomy.checked(shape)
    present = [layer for layer in shape.layers if layer.present]
    return (
        bool(present)
        and shape.embedding_rank is None
        and all(
            len(layer.heads) == anatomy.heads and layer.hard_top_k is None and layer.ffn_rank is None
            for layer in present
        )
        and len({len(layer.channels) for layer in present}) == 1
        and bool(present[0].channels)
    )


def sliced(model: PreTrainedModel, shape: Shape) -> PreTrainedModel:
    """A model of `shape` with the weights that `model` has for it, sharing no memory with it.

    A stock `...ForSequenceClassification` if `is_native`, else an `AxforgeForSequenceClassification`.
    Its config's `axforge` says which elements of the dense model it holds, so it can be masked,
    gated and sliced further. Raises ValueError when `model` does not hold all of `shape`.
    """
    anatomy = anatomy_of(model)
    shape = anatomy.checked(shape)
    return _build(anatomy, shape, native=is_native(anatomy, shape))


def as_axforge(model: PreTrainedModel) -> PreTrainedModel:
    """The same model as an `AxforgeForSequenceClassification`, whatever its shape."""
    anatomy = anatomy_of(model)
    return _build(anatomy, anatomy.full_shape(), native=False)


def _build(anatomy: Anatomy, shape: Shape, *, native: bool) -> PreTrainedModel:
    source = source_config(anatomy.model.config)
    source_family = family_of(source["model_type"])
    kept = {
        "heads": anatomy.heads,
        "channels": anatomy.channels,
        "head_size": anatomy.head_size,
        "vocabulary": anatomy.vocabulary,
        **shape.to_json(),
    }
    if native:
        family, config = source_family, _native_config(source, source_family, shape)
        config.axforge = kept
    else:
        variant = source_family.variant(_stock_config(source, shape))
        family, config = AXFORGE, _axforge_config(anatomy, shape, variant, source, kept)
    _copy_labels(anatomy.model.config, config)
    with no_init_weights():
        target = cast(PreTrainedModel, family.model_class(config))
    target.to(device=anatomy.model.device, dtype=anatomy.model.dtype)
    _copy_weights(anatomy, target, family, shape)
    target.train(anatomy.model.training)
    return target


def source_config(config: PreTrainedConfig) -> dict[str, Any]:
    """The config of the dense model that a model was sliced from (its own, if it is dense)."""
    if isinstance(config, AxforgeConfig) and config.source_config is not None:
        return dict(config.source_config)
    document = config.to_dict()
    kept = document.pop("axforge", None)
    if kept is not None:
        family = family_of(config.model_type)
        document[_field(config, "num_hidden_layers")] = len(kept["layers"])
        document[family.channels_field] = kept["channels"]
        if kept["rows"] is not None:
            document = without_rows(document, from_ranges(kept["rows"]), kept["vocabulary"])
    return cast(dict[str, Any], document)


def _native_config(source: Mapping[str, Any], family: Family, shape: Shape) -> PreTrainedConfig:
    config = _stock_config(source, shape)
    present = [layer for layer in shape.layers if layer.present]
    config.num_hidden_layers = len(present)
    setattr(config, family.channels_field, len(present[0].channels))
    return config


def _axforge_config(
    anatomy: Anatomy,
    shape: Shape,
    variant: Mapping[str, Any],
    source: dict[str, Any],
    kept: dict[str, Any],
) -> PreTrainedConfig:
    present = [layer for layer in shape.layers if layer.present]
    return AxforgeConfig(
        **variant,
        head_size=anatomy.head_size,
        layer_heads=[len(layer.heads) for layer in present],
        layer_channels=[len(layer.channels) for layer in present],
        layer_top_k=[layer.hard_top_k for layer in present],
        layer_ranks=[layer.ffn_rank for layer in present],
        embedding_rank=shape.embedding_rank,
        axforge=kept,
        source_config=source,
    )


def _stock_config(source: Mapping[str, Any], shape: Shape) -> PreTrainedConfig:
    """The dense model's config, with the vocabulary that `shape` leaves."""
    config = cast(PreTrainedConfig, AutoConfig.for_model(**source))
    if shape.rows is not None:
        with_rows(config, shape.rows)
    return config


def _field(config: PreTrainedConfig, name: str) -> str:
    return cast(str, config.attribute_map.get(name, name))


def _copy_labels(source: PreTrainedConfig, target: PreTrainedConfig) -> None:
    target.id2label = dict(source.id2label)
    target.label2id = dict(source.label2id)
    target.problem_type = source.problem_type


def _copy_weights(anatomy: Anatomy, target: PreTrainedModel, family: Family, shape: Shape) -> None:
    embeddings, *outside = zip(anatomy.family.outside, family.outside, strict=True)
    for path, target_path in outside:
        _copy(anatomy.model.get_submodule(path), target.get_submodule(target_path))
    copy_embeddings(anatomy.model, embeddings[0], target, embeddings[1], anatomy.token_ids(shape))
    held = anatomy.full_shape()
    sources = {part.index: part for part in anatomy.parts}
    for part in anatomy_of(target).parts:
        _copy_layer(
            sources[part.index], part, held.layers[part.index], shape.layers[part.index], anatomy.head_size
        )


def _copy_layer(
    source: LayerParts, target: LayerParts, held: LayerShape, kept: LayerShape, head_size: int
) -> None:
    _copy(source.attention_norm, target.attention_norm)
    _copy(source.ffn_norm, target.ffn_norm)
    if kept.heads:
        heads = _positions(held.heads, kept.heads)
        rows = (heads[:, None] * head_size + torch.arange(head_size)).flatten()
        for name in HEAD_MODULES:
            _copy_linear(getattr(source, name), getattr(target, name), rows=rows)
        _copy_linear(source.attention_output, target.attention_output, columns=rows)
    if kept.channels:
        channels = _positions(held.channels, kept.channels)
        _copy_linear(source.ffn_up, target.ffn_up, rows=channels)
        _copy_linear(source.ffn_down, target.ffn_down, columns=channels)


def _positions(held: tuple[int, ...], kept: tuple[int, ...]) -> Tensor:
    return torch.tensor(positions(held, kept))


def _copy(source: nn.Module, target: nn.Module) -> None:
    target.load_state_dict(source.state_dict())


def _copy_linear(
    source: Linear | None,
    target: Linear | None,
    *,
    rows: Tensor | None = None,
    columns: Tensor | None = None,
) -> None:
    if source is None or target is None:
        raise ValueError("the shape keeps a block that the model does not have")
    copy_linear(source, target, rows, columns)
