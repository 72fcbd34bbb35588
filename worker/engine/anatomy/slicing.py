"""Really removing weights: from a model and a shape to a smaller, independent model."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any, cast

import torch
from torch import Tensor
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel
from transformers.initialization import no_init_weights

from models.spec.ranges import from_ranges
from worker.engine.anatomy import Anatomy, Shape, anatomy_of, family_of, lm_head
from worker.engine.anatomy.axforge import AXFORGE
from worker.engine.anatomy.families import Family, LayerParts, Linear, Rows
from worker.engine.anatomy.groups import heads_of
from worker.engine.anatomy.hidden import BESIDE, cut, narrowing, roles
from worker.engine.anatomy.low_rank import copy_linear
from worker.engine.anatomy.shape import LayerShape, positions
from worker.engine.anatomy.vocabulary import embedding_weights, with_rows, without_rows
from worker.engine.approximations.sparse_heads import grouped
from worker.engine.export.modeling_axforge import AxforgeConfig


def is_native(anatomy: Anatomy, shape: Shape) -> bool:
    """Whether a stock transformers class can hold `shape`.

    It can when at least one layer is left and all that are left have the same number of channels and as
    many heads as make up the hidden width (stock configs tell a head's size by dividing), none of them
    sparse, and all matrices are whole; and where layers are not all of one kind, when the family's own
    class has a place for those that are left. Learned biases by distance need every head that they are
    for, and embeddings that are projected must not be as wide as what they are projected to (ELECTRA's
    are not then). Decoders, whose heads may share keys or have a size of their own, need all heads and the
    whole width.
    """
    shape = anatomy.checked(shape)
    present = [layer for layer in shape.layers if layer.present]
    if anatomy.kind == "causal" and not _is_whole(anatomy, shape):
        return False
    by_distance = (anatomy.form.get("relative") or {}).get("kind") == "buckets"
    width = anatomy.hidden_size if by_distance else anatomy.width(shape)
    return (
        bool(present)
        and shape.embedding_rank is None
        and width == anatomy.width(shape) != anatomy.form.get("embedding_size")
        and all(
            (len(layer.heads) * anatomy.head_size == width or anatomy.kind == "causal")
            and not layer.sparse
            and layer.ffn_rank is None
            for layer in present
        )
        and len({len(layer.channels) for layer in present}) == 1
        and bool(present[0].channels)
        and _native_fields(source_config(anatomy.model.config), shape) is not None
    )


def _is_whole(anatomy: Anatomy, shape: Shape) -> bool:
    """Whether the residual stream has its whole width, and every layer that is left all its heads."""
    heads = {len(layer.heads) for layer in shape.layers if layer.present}
    return anatomy.width(shape) == anatomy.hidden_size and heads <= {anatomy.heads}


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


def recast(model: PreTrainedModel) -> PreTrainedModel:
    """A base model as the engine computes with it: as it is, or as one of the engine's own classes."""
    return as_axforge(model) if family_of(model.config.model_type).recast else model


def _build(anatomy: Anatomy, shape: Shape, *, native: bool) -> PreTrainedModel:
    source = source_config(anatomy.model.config)
    kept = {
        "heads": anatomy.heads,
        "channels": anatomy.channels,
        "head_size": anatomy.head_size,
        "hidden_size": anatomy.hidden_size,
        "vocabulary": anatomy.vocabulary,
        **shape.to_json(),
    }
    if native:
        family, config = family_of(source["model_type"]), _native_config(anatomy, shape, source, kept)
    else:
        family, config = AXFORGE, _axforge_config(anatomy, shape, source, kept)
    _copy_labels(anatomy.model.config, config)
    with no_init_weights():
        target = cast(PreTrainedModel, family.heads[anatomy.kind].model_class(config))
        target.tie_weights()  # which goes with the initialisation that is left out
    target.to(device=anatomy.model.device, dtype=anatomy.model.dtype)
    _copy_weights(anatomy, target, family, shape)
    if anatomy.kind == "causal":
        target.config.use_cache = getattr(anatomy.model.config, "use_cache", True)
        if anatomy.token_ids(shape) is None:  # else its special tokens have other ids
            target.generation_config = deepcopy(anatomy.model.generation_config)
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


def _native_config(
    anatomy: Anatomy, shape: Shape, source: Mapping[str, Any], kept: Mapping[str, Any]
) -> PreTrainedConfig:
    config = _stock_config(source, shape)
    fields = {**(_native_fields(source, shape) or {}), **_native_width(anatomy, shape, config)}
    # What is said of the dense model's layers is needed again when this model is sliced further.
    config.axforge = {**kept, "dense_fields": {name: source[name] for name in fields}}
    present = [layer for layer in shape.layers if layer.present]
    config.num_hidden_layers = len(present)
    setattr(config, family_of(source["model_type"]).channels_field, len(present[0].channels))
    for name, value in fields.items():
        setattr(config, name, value)
    return config


def _native_width(anatomy: Anatomy, shape: Shape, config: PreTrainedConfig) -> dict[str, Any]:
    """What the stock config says of the hidden width, by its own names, where that is not the dense one."""
    width = anatomy.width(shape)
    if width == anatomy.hidden_size:
        return {}
    fields = {"hidden_size": width, "num_attention_heads": width // anatomy.head_size}
    follows = ["pooler_hidden_size", *([] if anatomy.form.get("embedding_size") else ["embedding_size"])]
    fields |= {name: width for name in follows if hasattr(config, name)}
    return {_field(config, name): value for name, value in fields.items()}


def _axforge_config(
    anatomy: Anatomy, shape: Shape, source: dict[str, Any], kept: dict[str, Any]
) -> PreTrainedConfig:
    stock, family = _stock_config(source, shape), family_of(source["model_type"])
    present = [index for index, layer in enumerate(shape.layers) if layer.present]
    layers = [shape.layers[index] for index in present]
    return AxforgeConfig(
        **{
            **family.variant(stock),
            **family.heads[anatomy.kind].form(stock),
            "hidden_size": anatomy.width(shape),
        },
        head_size=anatomy.head_size,
        layer_heads=[len(layer.heads) for layer in layers],
        layer_channels=[len(layer.channels) for layer in layers],
        layer_ranks=[layer.ffn_rank for layer in layers],
        layer_variants=[
            {**family.layer_variant(stock, index), **_own_heads(shape.layers[index])} for index in present
        ],
        layer_shares=[shape.shares[index] for index in present] if shape.shares else None,
        embedding_rank=shape.embedding_rank,
        axforge=kept,
        source_config=source,
    )


def _own_heads(layer: LayerShape) -> dict[str, Any]:
    """Which heads of the dense model a layer has, and which of them are sparse."""
    sparse = grouped(layer.sparse, layer.heads)
    return {"heads": list(layer.heads), **({"sparse": sparse} if sparse else {})}


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
    narrower, used = narrowing(anatomy, shape), roles(anatomy.form)
    columns = None if narrower is None else narrower.kept
    for name, module in wanted.items():
        if anatomy.kind == "causal" and name == lm_head.WEIGHTS:
            if not anatomy.tied_head:  # else it is the embeddings' weight, which is copied as theirs
                state = lm_head.head_weights(given[name], anatomy.token_ids(shape))
                module.load_state_dict(cut(state, used[name], columns))
            continue
        if name != "embeddings":
            state = cut(given[name].state_dict(), used.get(name), columns)
        else:
            rows, own = anatomy.token_ids(shape), columns if name in used else None
            state = embedding_weights(anatomy.model, given[name], rows, shape.embedding_rank, own)
            state = _renamed(state, anatomy.family.embedding_names, family.embedding_names)
        module.load_state_dict(state)
    held = anatomy.full_shape()
    sources = {part.index: part for part in anatomy.parts}
    for part in anatomy_of(target).parts:
        layers = held.layers[part.index], shape.layers[part.index]
        _copy_layer(anatomy, sources[part.index], part, *layers, columns)


def _renamed(
    state: Mapping[str, Tensor], given: Mapping[str, str], wanted: Mapping[str, str]
) -> dict[str, Tensor]:
    """Weights of embeddings by the names of another family; both maps are from BERT's names to a family's."""
    usual = {own: name for name, own in given.items()}

    def name_of(path: str) -> str:
        module, _, weight = path.rpartition(".")
        module = usual.get(module, module)
        return f"{wanted.get(module, module)}.{weight}".lstrip(".")

    return {name_of(path): weight for path, weight in state.items()}


def _copy_layer(
    anatomy: Anatomy,
    source: LayerParts,
    target: LayerParts,
    held: LayerShape,
    kept: LayerShape,
    hidden: Tensor | None,
) -> None:
    """`hidden`: the positions of the dimensions that are left of the residual stream; None for all."""
    for name, norm in target.head_norms.items():
        norm.load_state_dict(source.head_norms[name].state_dict())
    for given, wanted in ((source.attention_norm, target.attention_norm), (source.ffn_norm, target.ffn_norm)):
        if given is not None and wanted is not None:
            wanted.load_state_dict(cut(given.state_dict(), "norm", hidden))
    if kept.heads:
        for name, projection in target.by_head.items():
            rows = _head_rows(anatomy, held, kept, name)
            _copy_matrix(source.by_head.get(name), projection, rows, None if name in BESIDE else hidden)
        columns = _head_rows(anatomy, held, kept, "query")
        _copy_output(source.attention_output, target.attention_output, hidden, columns)
    if kept.channels:
        channels = _positions(held.channels, kept.channels)
        for up, target_up in ((source.ffn_gate, target.ffn_gate), (source.ffn_up, target.ffn_up)):
            if target_up is not None:
                _copy_matrix(up, target_up, channels, hidden)
        _copy_output(source.ffn_down, target.ffn_down, hidden, channels)


def _head_rows(anatomy: Anatomy, held: LayerShape, kept: LayerShape, projection: str) -> Tensor:
    """Which outputs of a projection by head are kept."""
    mine, size = heads_of(projection, kept.heads, anatomy.kv_group), anatomy.head_size
    heads = _positions(heads_of(projection, held.heads, anatomy.kv_group), mine)
    return (heads[:, None] * size + torch.arange(size)).flatten()


def _positions(held: tuple[int, ...], kept: tuple[int, ...]) -> Tensor:
    return torch.tensor(positions(held, kept))


def _copy_matrix(source: Rows | None, target: Rows, rows: Tensor, columns: Tensor | None) -> None:
    if source is None:
        raise ValueError("the shape keeps a block that the model does not have")
    copy_linear(source, target, rows, columns)


def _copy_output(source: Linear | None, target: Linear | None, rows: Tensor | None, columns: Tensor) -> None:
    if source is None or target is None:
        raise ValueError("the shape keeps a block that the model does not have")
    copy_linear(Rows(source), Rows(target), rows, columns)
