"""The residual stream: which modules read and write it, and what they compute when it is narrower.

A dimension that goes is taken from everything at once: the columns of embedding tables, the inputs of all
projections that read the stream, the outputs of all that write it, the norms, and what lies between a head's
two linear modules, which is as wide. Norms are taken over the dimensions that are left; a mask on their
outputs alone would leave the others in mean and variance (CoFi, Xia et al. 2022, has the same care).

A module of a layer is known by its part (`LayerParts`). One outside the layers is known by its path in the
exported model, and `ROLES` says for each path how it meets the stream.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from worker.engine.anatomy.families import module_at
from worker.engine.anatomy.shape import Shape, positions
from worker.engine.anatomy.vocabulary import word_parameters

if TYPE_CHECKING:
    from worker.engine.anatomy.base import Anatomy

Role = Literal["table", "norm", "writes", "reads", "both"]
ROLES: Mapping[str, Role] = {
    "embeddings": "table",
    "position_embeddings": "table",
    "projection": "writes",
    "relative.table": "table",
    "relative.norm": "norm",
    "final_norm": "norm",
    "head.dense": "both",
    "head.norm": "norm",
    "head.out": "reads",
}
"""By the path in the exported model. `table` and `norm`: the last axis of every parameter is of the stream;
`writes`: the outputs are; `reads`: the inputs are; `both`: outputs and inputs."""
BESIDE = ("distance_key", "vectors")
"""Parts by head that read something other than the stream: sinusoids, and nothing."""
WORD_SCORES = "head.out"  # of a language model
NORM = "LayerNorm"  # of the embeddings, by BERT's name
WEIGHTS = "stream_weights"

Place = Literal["norm", "input", "output"]


@dataclass(frozen=True, eq=False)
class Point:
    """Where the stream, or what a head holds between its modules, is weighted: in a norm, or what goes into
    or comes out of a module. `common`: it is the same for all examples."""

    module: nn.Module
    place: Place
    common: bool = False


@dataclass(frozen=True, eq=False)
class Narrowing:
    """Which dimensions stay of those that a model has: `kept` their positions, (left,), in ascending order,
    `factor` 1 for them and 0 for the others, (held,). `embeddings`: these are of the stream,
    not projected."""

    points: tuple[Point, ...]
    kept: Tensor
    factor: Tensor
    embeddings: bool


def narrowing(anatomy: Anatomy, shape: Shape) -> Narrowing | None:
    """From what the model has to what `shape` leaves; None where nothing goes."""
    held, kept = dimensions(anatomy, anatomy.full_shape()), dimensions(anatomy, shape)
    if held == kept:
        return None
    places = torch.tensor(positions(held, kept))
    factor = torch.zeros(len(held)).index_fill_(0, places, 1.0)
    embeddings = "embeddings" in roles(anatomy.form)
    return Narrowing(points(anatomy), places, factor.to(anatomy.model.device), embeddings)


def dimensions(anatomy: Anatomy, shape: Shape) -> tuple[int, ...]:
    """The dense model's dimensions that `shape` leaves, ascending."""
    gone = set(shape.hidden_gone)
    return tuple(index for index in range(anatomy.hidden_size) if index not in gone)


def points(anatomy: Anatomy) -> tuple[Point, ...]:
    """Where to weight the stream so that everything that reads it reads nothing of what has weight 0."""
    outside, form = anatomy.outside, anatomy.form
    found = [_start(anatomy)]
    for part in anatomy.parts:
        norms = (part.attention_norm, part.ffn_norm)
        # ModernBERT's first layer has an Identity for a norm.
        found += [
            Point(norm, "norm") for norm in norms if norm is not None and not isinstance(norm, nn.Identity)
        ]
    if "final_norm" in outside:
        found.append(Point(outside["final_norm"], "norm"))
    if "relative.norm" in outside:
        found.append(Point(outside["relative.norm"], "norm", common=True))
    elif "relative.table" in roles(form):
        # Models read the table as it is, so it is weighted where it is read.
        readers = {id(rows.linear): rows.linear for part in anatomy.parts for rows in part.by_head.values()}
        found += [Point(linear, "input", common=True) for linear in readers.values()]
    if "head.norm" in outside:
        found.append(Point(outside["head.norm"], "norm"))
    elif "head.dense" in outside:
        found.append(Point(outside["head.out"], "input"))
    return tuple(found)


def roles(form: Mapping[str, Any]) -> dict[str, Role]:
    """`ROLES` of a model that computes as `form` says: narrow embeddings, and biases by distance, are not of
    the stream."""
    relative = form.get("relative") or {}
    absent = set()
    if form.get("embedding_size"):
        absent.add("embeddings")
    if relative.get("kind") != "disentangled":
        absent.add("relative.table")
    return {name: role for name, role in ROLES.items() if name not in absent}


@contextmanager
def weighted(found: tuple[Point, ...], weights: Tensor) -> Iterator[None]:
    """While it lasts, the stream is weighted by (held,) or, per example, (batch, held).

    Combines with itself: weights inside weights are multiplied.
    """
    with ExitStack() as undo:
        for point in found:
            undo.enter_context(_weighted(point, weights))
        yield


def cut(state: Mapping[str, Tensor], role: Role | None, kept: Tensor | None) -> dict[str, Tensor]:
    """The parameters of a module in that role, of the dimensions at the positions `kept` only."""
    if kept is None or role is None:
        return dict(state)
    return {name: _taken(value, _axes(value, role), kept) for name, value in state.items()}


def outside_parameters(anatomy: Anatomy, kept: Any) -> Any:
    """Of all modules that are in no layer, of a model with `kept` dimensions: a number, or a scalar tensor.

    Without the word embedding, and what is as long: the head of a language model.
    """
    held, used = anatomy.width(anatomy.full_shape()), roles(anatomy.form)
    total: Any = 0
    for name, module in anatomy.outside.items():
        if anatomy.kind == "causal" and name == WORD_SCORES:
            continue
        words = word_parameters(anatomy.model, module) if name == "embeddings" else set()
        for path, parameter in module.named_parameters():
            if path in words:
                continue
            role = used.get(name)
            axes = len(_axes(parameter, role)) if role else 0
            total = total + parameter.numel() // held**axes * kept**axes
    return total


def weighted_norm(norm: nn.Module, hidden: Tensor, weights: Tensor, scale: Tensor | None = None) -> Tensor:
    """What `norm` makes of `hidden` (..., width), each dimension counted as `weights` say, in float32.

    With mean = sum(w x) / sum(w) and variance = sum(w (x - mean)^2) / sum(w), the result w * norm(x) is that
    of a norm over the dimensions of weight 1 alone when the others have weight 0, and has a gradient
    in between. A norm that is no LayerNorm leaves out the mean (RMSNorm). `scale`: what the result is
    multiplied by in the place of w.
    """
    values, total = hidden.float(), weights.sum(-1, keepdim=True)
    if isinstance(norm, nn.LayerNorm):
        values = values - (weights * values).sum(-1, keepdim=True) / total
    variance = (weights * values.square()).sum(-1, keepdim=True) / total
    eps: Any = norm.eps if hasattr(norm, "eps") else norm.variance_epsilon
    normed = values * torch.rsqrt(variance + eps)
    for name, parameter in norm.named_parameters():
        normed = normed * parameter if name == "weight" else normed + parameter
    result: Tensor = (weights if scale is None else scale) * normed
    return result


def _start(anatomy: Anatomy) -> Point:
    """Where the stream begins."""
    if "projection" in anatomy.outside:
        return Point(anatomy.outside["projection"], "output")
    embeddings = anatomy.outside["embeddings"]
    norm = module_at(embeddings, anatomy.family.embedding_names.get(NORM, NORM))
    return Point(embeddings, "output") if norm is None else Point(norm, "norm")


@contextmanager
def _weighted(point: Point, weights: Tensor) -> Iterator[None]:
    # Norms are not linear: the innermost of several hooks takes all weights at once.
    stacked: list[Tensor] = point.module.__dict__.setdefault(WEIGHTS, [])

    def normed(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        if stacked[-1] is not weights:
            return None
        together = _aligned(stacked[0], args[0])
        for other in stacked[1:]:
            together = together * _aligned(other, args[0])
        return weighted_norm(module, args[0], together).to(output.dtype)

    def scaled_input(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (_scaled(args[0], weights), *args[1:])

    def scaled_output(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        return _scaled(output, weights)

    if point.place == "input":
        handle = point.module.register_forward_pre_hook(scaled_input)
    else:
        hook = normed if point.place == "norm" else scaled_output
        handle = point.module.register_forward_hook(hook)
    stacked.append(weights)
    try:
        yield
    finally:
        handle.remove()
        stacked.pop()


def _scaled(values: Tensor, weights: Tensor) -> Tensor:
    return values * _aligned(weights, values).to(values.dtype)


def _aligned(weights: Tensor, values: Tensor) -> Tensor:
    """(width,) or (batch, width) so that it multiplies (..., width) or (batch, ..., width).

    OPT hands its FFN the tokens of all examples after each other, (batch * length, width).
    """
    if weights.dim() == 1:
        return weights
    if values.dim() == 2 and len(values) > len(weights):
        return weights.repeat_interleave(len(values) // len(weights), 0)
    return weights.view(len(weights), *[1] * (values.dim() - 2), -1)


def _axes(parameter: Tensor, role: Role) -> tuple[int, ...]:
    """The axes of a parameter that count dimensions of the stream."""
    is_matrix = parameter.dim() == 2
    match role:
        case "table" | "norm":
            return (parameter.dim() - 1,)
        case "writes":
            return (0,)
        case "reads":
            return (1,) if is_matrix else ()
        case "both":
            return (0, 1) if is_matrix else (0,)


def _taken(value: Tensor, axes: tuple[int, ...], kept: Tensor) -> Tensor:
    for axis in axes:
        value = value.index_select(axis, kept.to(value.device))
    return value
