"""Where a transformer's blocks, heads and FFN channels are, for every supported architecture."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedModel

from models.spec.capabilities import ARCHITECTURES
from worker.engine.anatomy.albert import ALBERT
from worker.engine.anatomy.axforge import AXFORGE
from worker.engine.anatomy.base import Anatomy
from worker.engine.anatomy.bert import BERT
from worker.engine.anatomy.deberta import DEBERTA_V2
from worker.engine.anatomy.distilbert import DISTILBERT
from worker.engine.anatomy.electra import ELECTRA
from worker.engine.anatomy.families import Family
from worker.engine.anatomy.masking import Gates
from worker.engine.anatomy.modernbert import MODERNBERT
from worker.engine.anatomy.mpnet import MPNET
from worker.engine.anatomy.roberta import CAMEMBERT, ROBERTA, XLM_ROBERTA
from worker.engine.anatomy.shape import LayerShape, Shape
from worker.engine.errors import ModelError, UnsupportedArchitecture

__all__ = [
    "Anatomy",
    "Family",
    "Gates",
    "LayerShape",
    "Shape",
    "anatomy_of",
    "ensure_supported",
    "family_of",
    "supported_architectures",
]

BASE_FAMILIES: dict[str, Family] = {
    "albert": ALBERT,
    "bert": BERT,
    "camembert": CAMEMBERT,
    "deberta-v2": DEBERTA_V2,
    "distilbert": DISTILBERT,
    "electra": ELECTRA,
    "modernbert": MODERNBERT,
    "mpnet": MPNET,
    "roberta": ROBERTA,
    "xlm-roberta": XLM_ROBERTA,
}
ACTIVATIONS = ("gelu", "gelu_new", "gelu_pytorch_tanh", "relu")
FAMILIES: dict[str, Family] = {**BASE_FAMILIES, "axforge": AXFORGE}


def supported_architectures() -> tuple[str, ...]:
    """The `model_type`s that a base model may have."""
    return tuple(BASE_FAMILIES)


def ensure_supported(config: dict[str, Any]) -> None:
    """Judge a config.json before any weights are loaded.

    Raises UnsupportedArchitecture when the engine has no anatomy for it, ModelError when it is of
    a supported architecture but contradicts itself or is set up as a decoder.
    """
    model_type = config.get("model_type")
    if model_type not in ARCHITECTURES:
        raise _unsupported(f"the base model is of type {model_type!r}, which is not supported")
    if config.get("is_decoder") or config.get("add_cross_attention"):
        raise UnsupportedArchitecture(
            "the base model is set up as a decoder",
            remedy="give an encoder: config.json without is_decoder and add_cross_attention",
            pointer="/base_model",
        )
    if config.get("position_embedding_type", "absolute") != "absolute":
        raise UnsupportedArchitecture(
            f"the base model has {config['position_embedding_type']!r} positions",
            remedy="give a model with absolute position embeddings",
            pointer="/base_model",
        )
    named = (config.get(name) for name in ("hidden_act", "activation", "hidden_activation"))
    activation = next((name for name in named if name is not None), "gelu")
    if activation not in ACTIVATIONS:
        raise UnsupportedArchitecture(
            f"the base model's activation {activation!r} is not supported",
            remedy=f"give a model with one of: {', '.join(ACTIVATIONS)}",
            pointer="/base_model",
        )
    reason = BASE_FAMILIES[model_type].refusal(config)
    if reason is not None:
        raise UnsupportedArchitecture(
            f"the base model {reason}",
            remedy=f"give a sequence classifier or encoder of one of: {', '.join(ARCHITECTURES)}",
            pointer="/base_model",
        )
    _check_sizes(config)


def anatomy_of(model: PreTrainedModel) -> Anatomy:
    """The anatomy of a model with a head: dense, or sliced by the engine before.

    Raises UnsupportedArchitecture, naming what is supported.
    """
    family = FAMILIES.get(model.config.model_type)
    kind = None if family is None else family.kind_of(model)
    if family is None or kind is None:
        raise _unsupported(f"the engine has no anatomy for {type(model).__name__}")
    family.unroll(model)
    shares = _shares(model.config, family)
    return Anatomy(model, family, **dense_sizes(model.config, family), shares=shares, kind=kind)


def family_of(model_type: str) -> Family:
    """The family of a supported base architecture. Raises UnsupportedArchitecture."""
    if model_type not in BASE_FAMILIES:
        raise _unsupported(f"models of type {model_type!r} are not supported")
    return BASE_FAMILIES[model_type]


def dense_sizes(config: Any, family: Family) -> dict[str, int]:
    """layers, heads, channels, head_size, hidden_size and vocabulary of the dense model."""
    hidden = config.hidden_size
    kept = getattr(config, "axforge", None)
    if kept is not None:
        layers, heads, channels = len(kept["layers"]), kept["heads"], kept["channels"]
        head_size, vocabulary = kept["head_size"], kept["vocabulary"]
    else:
        layers, heads = config.num_hidden_layers, config.num_attention_heads
        channels, head_size = getattr(config, family.channels_field), hidden // heads
        vocabulary = config.vocab_size
    return {
        "layers": layers,
        "heads": heads,
        "channels": channels,
        "head_size": head_size,
        "hidden_size": hidden,
        "vocabulary": vocabulary,
    }


def _shares(config: Any, family: Family) -> tuple[int, ...]:
    """Which of the dense model's layers share weights: as a sliced model's config tells it, or its family."""
    kept = getattr(config, "axforge", None)
    return family.shares(config) if kept is None else tuple(kept.get("shares", ()))


def _check_sizes(config: dict[str, Any]) -> None:
    hidden = config.get("hidden_size", config.get("dim", 768))
    heads = config.get("num_attention_heads", config.get("n_heads", 12))
    layers = config.get("num_hidden_layers", config.get("n_layers", 12))
    sizes = {"hidden size": hidden, "number of heads": heads, "number of layers": layers}
    for name, size in sizes.items():
        if not isinstance(size, int) or size < 1:
            raise _broken(f"its {name} is {size!r}")
    if hidden % heads:
        raise _broken(f"its hidden size {hidden} is no multiple of its {heads} heads")


def _broken(what: str) -> ModelError:
    return ModelError(
        f"the base model's config.json makes no model: {what}",
        remedy="give the config.json that belongs to the weights",
        pointer="/base_model",
    )


def _unsupported(what: str) -> UnsupportedArchitecture:
    return UnsupportedArchitecture(
        what,
        remedy=f"give an encoder, with or without a head, of one of: {', '.join(ARCHITECTURES)}",
        pointer="/base_model",
    )
