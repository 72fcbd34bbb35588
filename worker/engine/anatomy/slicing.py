"""Really removing weights: from a model and a shape to a smaller, independent model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel
from transformers.initialization import no_init_weights

from models.spec.ranges import from_ranges
from worker.engine.anatomy import Anatomy, Shape, anatomy_of, family_of
from worker.engine.anatomy.axforge import AXFORGE
from worker.engine.anatomy.families import Family, LayerParts, Linear, Rows
from worker.engine.anatomy.low_rank import copy_linear
from worker.engine.anatomy.shape import LayerShape, positions
from worker.engine.anatomy.vocabulary import embedding_weights, with_rows, without_rows
from worker.engine.export.modeling_axforge import AxforgeConfig


def is_native(anatomy: Anatomy, shape: Shape) -> bool:
    """Whether a stock transformers class can hold `shape`.

    It can when at least one layer is left and all that are left have every head of the dense model,
    no hard attention, and the same number of channels, and all matrices are whole; and where layers are
    not all of one kind, when the family's own class has a place for those that are left.
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
        and _native_fields(source_config(anatomy.model.config), shape) is not None
    )


def sliced(model: PreTrainedModel, shape: Shape) -> PreTrainedModel:
    """A model of `shape` with the weights that `model` has for it, sharing no memory with it.

    A stock class with the same head if `is_native`, else one of the engine's own (`AxforgeFor...`).
    Its config's `axforge` says which elements of the dense model it holds, so it can be masked,
    gated and sliced further. Raises ValueError when `model` does not hold all of `shape`.
    """
    anatomy = anatomy_of(model)
    shape = anatomy.checked(shape)
    return _build(anatomy, shape, native=is_native(anatomy, shape))


def as_axforge(model: PreTrainedModel) -> PreTrainedModel:
    """The same model as one of the engine's own classes, whatever its shape."""
    anatomy = anatomy_of(model)
    return _build(anatomy, anatomy.full_shape(), native=False)


def _build(anatomy: Anatomy, shape: Shape, *, native: bool) -> PreTrainedModel:
    source = source_config(anatomy.model.config)
    kept = {
        "heads": anatomy.heads,
        "channels": anatomy.channels,
        "head_size": anatomy.head_size,
        "vocabulary": anatomy.vocabulary,
        **shape.to_json(),
    }
    if native:
        family, config = family_of(source["model_type"]), _native_config(source, shape, kept)
    else:
        family, config = AXFORGE, _axforge_config(anatomy, shape, source, kept)
    _copy_labels(anatomy.model.config, config)
    with no_init_weights():
        target = cast(PreTrainedModel, family.heads[anatomy.kind].model_class(config))
        target.tie_weights()  # which goes with the initialisation that is left out
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
        document.update(kept.get("dense_fields", {}))
        if kept["rows"] is not None:
            document = without_rows(document, from_ranges(kept["rows"]), kept["vocabulary"])
    return cast(dict[str, Any], document)


def _native_fields(source: Mapping[str, Any], shape: Shape) -> Mapping[str, Any] | None:
    """What the stock config says of the layers that `shape` leaves; None where it has no place for them."""
    present = [index for index, layer in enumerate(shape.layers) if layer.present]
    return family_of(source["model_type"]).native_fields(_stock_config(source, shape), present)


def _native_config(source: Mapping[str, Any], shape: Shape, kept: Mapping[str, Any]) -> PreTrainedConfig:
    config, fields = _stock_config(source, shape), _native_fields(source, shape) or {}
    # What is said of the dense model's layers is needed again when this model is sliced further.
    config.axforge = {**kept, "dense_fields": {name: source[name] for name in fields}}
    present = [layer for layer in shape.layers if layer.present]
    config.num_hidden_layers = len(present)
    setattr(config, family_of(source["model_type"]).channels_field, len(present[0].channels))
    for name, value in fields.items():
        setattr(config, name, value)
    return config


def _axforge_config(
    anatomy: Anatomy, shape: Shape, source: dict[str, Any], kept: dict[str, Any]
) -> PreTrainedConfig:
    stock, family = _stock_config(source, shape), family_of(source["model_type"])
    present = [index for index, layer in enumerate(shape.layers) if layer.present]
    layers = [shape.layers[index] for index in present]
    return AxforgeConfig(
        **{**family.variant(stock), **family.heads[anatomy.kind].form(stock)},
        head_size=anatomy.head_size,
        layer_heads=[len(layer.heads) for layer in layers],
        layer_channels=[len(layer.channels) for layer in layers],
        layer_top_k=[layer.hard_top_k for layer in layers],
        layer_ranks=[layer.ffn_rank for layer in layers],
        layer_variants=[
            {**family.layer_variant(stock, index), "heads": list(shape.layers[index].heads)}
            for index in present
        ],
        layer_shares=[shape.shares[index] for index in present] if shape.shares else None,
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
    given, wanted = anatomy.outside, family.outside(target, anatomy.kind)
    for name, module in wanted.items():
        state = given[name].state_dict()
        if name == "embeddings":
            state = embedding_weights(
                anatomy.model, given[name], anatomy.token_ids(shape), shape.embedding_rank
            )
            state = _renamed(state, anatomy.family.embedding_names, family.embedding_names)
        module.load_state_dict(state)
    held = anatomy.full_shape()
    sources = {part.index: part for part in anatomy.parts}
    for part in anatomy_of(target).parts:
        _copy_layer(
            sources[part.index], part, held.layers[part.index], shape.layers[part.index], anatomy.head_size
        )


def _renamed(
    state: Mapping[str, Tensor], given: Mapping[str, str], wanted: Mapping[str, str]
) -> dict[str, Tensor]:
    """Weights of embeddings by the names of another family; both maps are from BERT's names to a family's."""
    usual = {own: name for name, own in given.items()}

    def name_of(path: str) -> str:
        module, _, weight = path.rpartition(".")
        module = usual.get(module, module)
        return f"{wanted.get(module, module)}.{weight}"

    return {name_of(path): weight for path, weight in state.items()}


def _copy_layer(
    source: LayerParts, target: LayerParts, held: LayerShape, kept: LayerShape, head_size: int
) -> None:
    for given, wanted in ((source.attention_norm, target.attention_norm), (source.ffn_norm, target.ffn_norm)):
        if given is not None and wanted is not None:
            wanted.load_state_dict(given.state_dict())
    if kept.heads:
        heads = _positions(held.heads, kept.heads)
        rows = (heads[:, None] * head_size + torch.arange(head_size)).flatten()
        for name, projection in target.by_head.items():
            _copy_matrix(source.by_head.get(name), projection, rows=rows)
        _copy_output(source.attention_output, target.attention_output, rows)
    if kept.channels:
        channels = _positions(held.channels, kept.channels)
        for up, target_up in ((source.ffn_gate, target.ffn_gate), (source.ffn_up, target.ffn_up)):
            if target_up is not None:
                _copy_matrix(up, target_up, rows=channels)
        _copy_output(source.ffn_down, target.ffn_down, channels)


def _positions(held: tuple[int, ...], kept: tuple[int, ...]) -> Tensor:
    return torch.tensor(positions(held, kept))


def _copy_matrix(
    source: Rows | None, target: Rows, *, rows: Tensor | None = None, columns: Tensor | None = None
) -> None:
    if source is None:
        raise ValueError("the shape keeps a block that the model does not have")
    copy_linear(source, target, rows, columns)


def _copy_output(source: Linear | None, target: Linear | None, columns: Tensor) -> None:
    if source is None or target is None:
        raise ValueError("the shape keeps a block that the model does not have")
    copy_linear(Rows(source), Rows(target), None, columns)
