"""What an architecture family tells about itself; everything else is the same for all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from worker.engine.anatomy.heads import Head, HeadKind
from worker.engine.export.modeling_axforge import LowRankLinear

Linear: TypeAlias = nn.Linear | LowRankLinear | Conv1D | nn.Embedding
"""GPT-2's Conv1D is a linear module whose weight lies the other way round: (inputs, outputs). So does that of
a table of vectors, which is one of as many inputs as it has rows."""


@dataclass(frozen=True)
class Fused:
    """One of `of` equal parts of a linear module's outputs, such as the keys of a joint projection."""

    path: str
    part: int
    of: int


@dataclass(frozen=True)
class LayerNames:
    """Where the parts of a layer are, as module paths below the layer.

    `attention` is the module that calls transformers' attention function. Where it works out its
    probabilities itself, `probabilities` is the dropout module that they go through.
    `ffn_gate` is the projection that the activation is of, where another one (`ffn_up`) is multiplied.
    `by_head` are further projections with outputs for every head, by the exported model's path, or tables of
    vectors for every head;
    `head_norms` norms over a head's values, common to all heads, by theirs.
    """

    attention: str
    query: str | Fused
    key: str | Fused
    value: str | Fused
    attention_output: str
    attention_norm: str
    ffn_up: str | Fused
    ffn_down: str
    ffn_norm: str
    ffn_gate: str | Fused | None = None
    by_head: Mapping[str, str] = field(default_factory=dict)
    head_norms: Mapping[str, str] = field(default_factory=dict)
    probabilities: str | None = None


def no_layer_variant(config: PreTrainedConfig, layer: int) -> Mapping[str, Any]:
    """All layers are of one kind."""
    return {}


def any_layers(config: PreTrainedConfig, present: Sequence[int]) -> Mapping[str, Any] | None:
    """A stock class holds whatever layers are left."""
    return {}


def no_refusal(config: Mapping[str, Any]) -> str | None:
    """Every model of the family is supported."""
    return None


def no_sharing(config: PreTrainedConfig) -> tuple[int, ...]:
    """Every layer has its own weights."""
    return ()


def unchanged(model: PreTrainedModel) -> None:
    """Every layer and part is a module of its own as it is."""


@dataclass(frozen=True)
class Family:
    """An architecture, and the heads that its models may have.

    `embeddings`, `head_dense` and `head_out` are module paths: the embedding module, and the two
    linear modules of the sequence classifier `model_class`. `layers` is the path of the list of layers.
    `other_heads` are those besides sequence classification, which decoders do not have.
    `extras`: further modules outside the layers, by their path in the exported model; such as a
    configuration or a head does not have may be among them. `embedding_names`: names of embedding tables and
    norm that are not BERT's. `variant` gives the fields of `AxforgeConfig` that tell this family's forward
    pass from others, `layer_variant` those of one layer. `channels_field` is the config's name for the
    FFN width.

    `native_fields`: what a stock config says of the layers that are left, besides how many these are; None
    where the stock class cannot hold just these. `shares`: for each layer the number of the weights
    that it shares (empty: each has its own). `unroll` makes each layer a module of its own, and its parts
    modules, in place. `recast`: the engine computes such models by its own classes from the start, for
    hooks on the stock modules would not do (see `slicing.recast`).
    `refusal`: why a config.json is of no model that the engine can handle.
    """

    model_types: tuple[str, ...]
    layers: str
    names: LayerNames
    embeddings: str
    variant: Callable[[PreTrainedConfig], Mapping[str, Any]]
    model_class: type[PreTrainedModel] | None = None
    head_dense: str | None = None
    head_out: str = ""
    channels_field: str = "intermediate_size"
    other_heads: Mapping[HeadKind, Head] = field(default_factory=dict)
    extras: Mapping[str, str] = field(default_factory=dict)
    embedding_names: Mapping[str, str] = field(default_factory=dict)
    layer_variant: Callable[[PreTrainedConfig, int], Mapping[str, Any]] = no_layer_variant
    native_fields: Callable[[PreTrainedConfig, Sequence[int]], Mapping[str, Any] | None] = any_layers
    shares: Callable[[PreTrainedConfig], tuple[int, ...]] = no_sharing
    unroll: Callable[[PreTrainedModel], None] = unchanged
    recast: bool = False
    refusal: Callable[[Mapping[str, Any]], str | None] = no_refusal

    @property
    def heads(self) -> Mapping[HeadKind, Head]:
        """All heads by their kind."""
        if self.model_class is None:
            return self.other_heads
        return {"sequence": Head(self.model_class, self.head_out, self.head_dense), **self.other_heads}

    def kind_of(self, model: PreTrainedModel) -> HeadKind | None:
        """The kind of head that a model of this family has, or None where it is of no known class."""
        known = (kind for kind, head in self.heads.items() if isinstance(model, head.model_class))
        return next(known, None)

    def outside(self, model: PreTrainedModel, kind: HeadKind) -> dict[str, nn.Module]:
        """The modules that are in no layer, of a model with a head of that kind, by their exported path."""
        paths = {"embeddings": self.embeddings, **self.heads[kind].modules, **self.extras}
        found = {name: module_at(model, path) for name, path in paths.items()}
        return {name: module for name, module in found.items() if module is not None}


def reads_token_types(form: Mapping[str, Any]) -> bool:
    """Whether a model that computes as `form` says tells texts of a row apart by token type ids."""
    by_score = (form.get("relative") or {}).get("kind") == "transformer_xl"
    return by_score or int(form["type_vocab_size"]) > 1


@dataclass(frozen=True)
class Rows:
    """A projection: all outputs of a linear module, or part `part` of `of` equal ones.

    Only a module with a whole weight has parts.
    """

    linear: Linear
    part: int = 0
    of: int = 1

    @property
    def weight(self) -> Tensor:
        """(outputs, inputs): a view, or of a low-rank module the product."""
        if isinstance(self.linear, LowRankLinear):
            return self.linear.outer.weight @ self.linear.inner.weight
        turned = isinstance(self.linear, Conv1D | nn.Embedding)
        weight: Tensor = self.linear.weight.T if turned else self.linear.weight
        part: Tensor = weight.unflatten(0, (self.of, -1))[self.part]
        return part

    @property
    def bias(self) -> Tensor | None:
        """A view, (outputs,)."""
        bias: Tensor | None = None if isinstance(self._last, nn.Embedding) else self._last.bias
        return None if bias is None else bias.view(self.of, -1)[self.part]

    @property
    def inputs(self) -> int:
        if isinstance(self.linear, Conv1D):
            return int(self.linear.nx)
        if isinstance(self.linear, nn.Embedding):
            return self.linear.num_embeddings
        return int((self.linear.inner if isinstance(self.linear, LowRankLinear) else self.linear).in_features)

    @property
    def outputs(self) -> int:
        last = self._last
        if isinstance(last, nn.Embedding):
            return last.embedding_dim
        return int(last.nf if isinstance(last, Conv1D) else last.out_features) // self.of

    @property
    def rank(self) -> int | None:
        """None where the weight is whole."""
        return int(self.linear.inner.out_features) if isinstance(self.linear, LowRankLinear) else None

    @property
    def _last(self) -> nn.Linear | Conv1D | nn.Embedding:
        return self.linear.outer if isinstance(self.linear, LowRankLinear) else self.linear


@dataclass(frozen=True, eq=False)
class LayerParts:
    """The modules of one layer that is present, and its index in the dense model.

    The modules of a block that was really removed are None, and so is a norm that the layer does not
    have. `by_head` are all projections with outputs for every head, queries, keys and values among them; of
    keys and values several heads may share one (`Anatomy.kv_group`). `head_norms`: see `LayerNames`.
    """

    index: int
    module: nn.Module
    attention: nn.Module | None
    probabilities: nn.Module | None
    by_head: Mapping[str, Rows]
    head_norms: Mapping[str, nn.Module]
    attention_output: Linear | None
    attention_norm: nn.Module | None
    ffn_gate: Rows | None
    ffn_up: Rows | None
    ffn_down: Linear | None
    ffn_norm: nn.Module | None

    @property
    def ffn_ups(self) -> tuple[Rows, ...]:
        """The projections to channels: gate, if there is one, and up."""
        return tuple(up for up in (self.ffn_gate, self.ffn_up) if up is not None)


def layer_parts(names: LayerNames, index: int, layer: nn.Module) -> LayerParts:
    """What `names` name in a layer, the one with `index` in the dense model."""

    def rows(name: str | Fused | None) -> Rows | None:
        fused = Fused(name, 0, 1) if isinstance(name, str) else name
        linear = None if fused is None else module_at(layer, fused.path)
        return None if fused is None or linear is None else Rows(linear, fused.part, fused.of)

    by_head = {"query": names.query, "key": names.key, "value": names.value, **names.by_head}
    projections = {name: rows(path) for name, path in by_head.items()}
    norms = {name: module_at(layer, path) for name, path in names.head_norms.items()}
    return LayerParts(
        index=index,
        module=layer,
        attention=module_at(layer, names.attention),
        probabilities=module_at(layer, names.probabilities) if names.probabilities else None,
        by_head={name: projection for name, projection in projections.items() if projection is not None},
        head_norms={name: norm for name, norm in norms.items() if norm is not None},
        attention_output=module_at(layer, names.attention_output),
        attention_norm=module_at(layer, names.attention_norm),
        ffn_gate=rows(names.ffn_gate),
        ffn_up=rows(names.ffn_up),
        ffn_down=module_at(layer, names.ffn_down),
        ffn_norm=module_at(layer, names.ffn_norm),
    )


def module_at(module: nn.Module, path: str) -> Any:
    """The module at a path below `module`, or None where there is none."""
    found: Any = module
    for name in path.split("."):
        found = getattr(found, name, None)
    return found
