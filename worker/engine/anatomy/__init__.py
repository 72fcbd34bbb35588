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
from worker.engine.anatomy.gpt2 import GPT2
from worker.engine.anatomy.heads import HeadKind
from worker.engine.anatomy.llama import LLAMA, MISTRAL, QWEN2, QWEN3
from worker.engine.anatomy.masking import Gates
from worker.engine.anatomy.modernbert import MODERNBERT
from worker.engine.anatomy.mpnet import MPNET
from worker.engine.anatomy.opt import OPT
from worker.engine.anatomy.roberta import CAMEMBERT, ROBERTA, XLM_ROBERTA
from worker.engine.anatomy.shape import LayerShape, Shape
from worker.engine.anatomy.xlnet import XLNET
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
    "headless",
    "supported_architectures",
]

BASE_FAMILIES: dict[str, Family] = {
    "albert": ALBERT,
    "bert": BERT,
    "camembert": CAMEMBERT,
    "deberta-v2": DEBERTA_V2,
    "distilbert": DISTILBERT,
    "electra": ELECTRA,
    "gpt2": GPT2,
    "llama": LLAMA,
    "mistral": MISTRAL,
    "modernbert": MODERNBERT,
    "mpnet": MPNET,
    "opt": OPT,
    "qwen2": QWEN2,
    "qwen3": QWEN3,
    "roberta": ROBERTA,
    "xlm-roberta": XLM_ROBERTA,
    "xlnet": XLNET,
}
ACTIVATIONS = ("gelu", "gelu_new", "gelu_pytorch_tanh", "relu", "silu")
ACTIVATION_FIELDS = ("hidden_act", "activation", "hidden_activation", "activation_function", "ff_activation")
FAMILIES: dict[str, Family] = {**BASE_FAMILIES, "axforge": AXFORGE}


def supported_architectures() -> tuple[str, ...]:
    """The `model_type`s that a base model may have."""
    return tuple(BASE_FAMILIES)


def ensure_supported(config: dict[str, Any], head: HeadKind | None = None) -> None:
    """Judge a config.json before any weights are loaded; `head` is what the job's task needs.

    Raises UnsupportedArchitecture when the engine has no anatomy for it, or none with such a head, ModelError
    when it is of a supported architecture but contradicts itself or is an encoder set up as a decoder.
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
    family = BASE_FAMILIES[model_type]
    if head is not None and head not in family.heads:
        raise headless(model_type, head)
    named = (config.get(name) for name in ACTIVATION_FIELDS)
    activation = next((name for name in named if name is not None), "gelu")
    if activation not in ACTIVATIONS:
        raise UnsupportedArchitecture(
            f"the base model's activation {activation!r} is not supported",
            remedy=f"give a model with one of: {', '.join(ACTIVATIONS)}",
            pointer="/base_model",
        )
    reason = family.refusal(config)
    if reason is not None:
        raise UnsupportedArchitecture(
            f"the base model {reason}",
            remedy=f"give a model of one of: {', '.join(ARCHITECTURES)}",
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


def headless(model_type: str, head: HeadKind) -> UnsupportedArchitecture:
    """Why models of a supported type do not serve a task that needs such a head."""
    able = [name for name, family in BASE_FAMILIES.items() if head in family.heads]
    return UnsupportedArchitecture(
        f"models of type {model_type!r} have no head for this task",
        remedy=f"choose another task, or a base model of one of: {', '.join(able)}",
        pointer="/task",
    )


def dense_sizes(config: Any, family: Family) -> dict[str, int]:
    """layers, heads, channels, head_size, hidden_size and vocabulary of the dense model."""
    hidden = config.hidden_size
    kept = getattr(config, "axforge", None)
    if kept is not None:
        hidden = kept.get("hidden_size", hidden)
        layers, heads, channels = len(kept["layers"]), kept["heads"], kept["channels"]
        head_size, vocabulary = kept["head_size"], kept["vocabulary"]
    else:
        layers, heads = config.num_hidden_layers, config.num_attention_heads
        # GPT-2 leaves out the width of the FFN where it is the usual one, others the size of a head.
        channels = getattr(config, family.channels_field) or 4 * hidden
        head_size = getattr(config, "head_dim", None) or hidden // heads
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
    hidden = _first(config, ("hidden_size", "n_embd", "dim", "d_model"), 768)
    heads = _first(config, ("num_attention_heads", "n_head", "n_heads"), 12)
    layers = _first(config, ("num_hidden_layers", "n_layer", "n_layers"), 12)
    kv_heads = _first(config, ("num_key_value_heads",), heads)
    sizes = {"hidden size": hidden, "number of heads": heads, "number of layers": layers}
    for name, size in sizes.items():
        if not isinstance(size, int) or size < 1:
            raise _broken(f"its {name} is {size!r}")
    if hidden % heads:
        raise _broken(f"its hidden size {hidden} is no multiple of its {heads} heads")
    if not isinstance(kv_heads, int) or kv_heads < 1 or heads % kv_heads:
        raise _broken(f"its {heads} heads cannot share {kv_heads!r} heads of keys and values")


def _first(config: dict[str, Any], names: tuple[str, ...], default: int) -> Any:
    """The value of the first of the names that is there."""
    return next((config[name] for name in names if config.get(name) is not None), default)


def _broken(what: str) -> ModelError:
    return ModelError(
        f"the base model's config.json makes no model: {what}",
        remedy="give the config.json that belongs to the weights",
        pointer="/base_model",
    )


def _unsupported(what: str) -> UnsupportedArchitecture:
    return UnsupportedArchitecture(
        what,
        remedy=f"give a model, with or without a head, of one of: {', '.join(ARCHITECTURES)}",
        pointer="/base_model",
    )
