"""What each head attends to: special tokens, the token itself, its neighbours, or other tokens.

The masses of Clark et al. 2019 ("What Does BERT Look At?", section 3), by which VTrans (Dutta et al. 2024)
tells the heads that it removes from those that it keeps. Attention maps are the library's own, of its plain
("eager") attention, since faster ones never hold a map; for the engine's own encoders see `_own_maps`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from worker.engine.anatomy import Anatomy
from worker.engine.device import Device
from worker.engine.export.axforge_attention import AxforgeAttention
from worker.engine.export.modeling_axforge import AxforgeEncoder
from worker.engine.reporting import Reporter
from worker.engine.tasks import Batch, Split

MASSES = ("special", "current", "adjacent", "other")
MAPS_BYTES = 256 << 20  # of the maps of one batch, those of all layers together


class NoMaps(Exception):
    """The model's class gives no attention maps."""


@dataclass(frozen=True)
class Attended:
    """Mean attention of each head over all queries, `masses` (layers, heads, 4) by dense index, in the order
    of `MASSES`; not a number where the model does not have the head. The four sum up to 1. `tokens`: how many
    queries there were, special tokens among them, padding not."""

    masses: NDArray[np.float64]
    tokens: int


@torch.no_grad()
def attended(
    anatomy: Anatomy,
    split: Split,
    special_ids: Collection[int],
    device: Device,
    *,
    reporter: Reporter | None = None,
) -> Attended:
    """What the model's heads attend to on the rows of `split`, each token as a query counting once.

    A key that is a special token counts as that, also for itself and for its neighbours. Computed in fp32.
    The model is put on the device, and left in the mode and with the attention that it had. Raises NoMaps,
    and Stopped between batches when `reporter` says so.
    """
    model, full = anatomy.model, anatomy.full_shape()
    totals = np.full((anatomy.layers, anatomy.heads, len(MASSES)), np.nan)
    layers = [index for index, layer in enumerate(full.layers) if layer.present and layer.heads]
    for index in layers:
        totals[index, list(full.layers[index].heads)] = 0.0
    specials = torch.tensor(sorted(special_ids), dtype=torch.long)
    tokens, was_training = 0, model.training
    model.to(device.torch_device).eval()
    with _plain_attention(model):
        for batch in split.batches(_rows_at_once(anatomy, split)):
            if reporter is not None:
                reporter.check()
            maps = _maps(model, batch, device)
            held = [tuple(each.shape[1:]) for each in maps]
            length = batch.mask.shape[1]
            if held != [(len(full.layers[index].heads), length, length) for index in layers]:
                raise NoMaps(
                    f"{type(model).__name__} gives attention maps of another form than its layers have"
                )
            special = torch.isin(batch.inputs["input_ids"].reshape(-1, length), specials) & batch.mask
            for index, of_layer in zip(layers, maps, strict=True):
                sums = mass_sums(of_layer, batch.mask.to(of_layer.device), special.to(of_layer.device))
                totals[index, list(full.layers[index].heads)] += sums.double().cpu().numpy()
            tokens += int(batch.mask.sum())
    model.train(was_training)
    return Attended(totals / tokens, tokens)


def mass_sums(maps: Tensor, mask: Tensor, special: Tensor) -> Tensor:
    """Sums over all real queries of a layer's maps (sequences, heads, length, length): (heads, 4).

    `mask` (sequences, length): which tokens are real; `special` which of these are special tokens.
    """
    content = (mask & ~special)[:, None, :].to(maps.dtype)
    queries = mask[:, None, :].to(maps.dtype)
    to_special = (maps * special[:, None, None, :]).sum(-1)
    current = maps.diagonal(dim1=-2, dim2=-1) * content
    adjacent = torch.zeros_like(current)
    adjacent[..., 1:] += maps.diagonal(-1, dim1=-2, dim2=-1) * content[..., :-1]
    adjacent[..., :-1] += maps.diagonal(1, dim1=-2, dim2=-1) * content[..., 1:]
    other = maps.sum(-1) - to_special - current - adjacent
    found = torch.stack([to_special, current, adjacent, other.clamp_min(0.0)], dim=-1)
    return (found * queries[..., None]).sum(dim=(0, 2))


def _maps(model: PreTrainedModel, batch: Batch, device: Device) -> tuple[Tensor, ...]:
    if isinstance(model, AxforgeEncoder):
        return _own_maps(model, device.put(batch.inputs))
    outputs = model(**device.put(batch.inputs), output_attentions=True)
    maps = getattr(outputs, "attentions", None)  # the engine's own decoders take the argument and give none
    if not maps or any(each is None for each in maps):
        raise NoMaps(f"{type(model).__name__} gives no attention maps")
    return tuple(each.float() for each in maps)


def _own_maps(model: AxforgeEncoder, inputs: dict[str, Tensor]) -> tuple[Tensor, ...]:
    """Of one of the engine's own encoders, which never hold a map either. Raises NoMaps for sparse heads."""
    maps: list[Tensor] = []

    def hook(module: Any, args: tuple[Any, ...]) -> None:
        if module.sparse:
            raise NoMaps("sparse heads of an exported model give no attention maps")
        query, key, mask = module.compared(*args)
        scores = query @ key.transpose(-1, -2) * module.scale
        maps.append((scores if mask is None else scores + mask).float().softmax(-1))

    with ExitStack() as undo:
        for module in model.modules():
            if isinstance(module, AxforgeAttention):
                undo.callback(module.register_forward_pre_hook(hook).remove)
        model(**inputs)
    return tuple(maps)


def _rows_at_once(anatomy: Anatomy, split: Split) -> int:
    """Rows whose maps take about `MAPS_BYTES`, at least one."""
    longest, sequences = int(split.sequence_lengths.max()), int(np.diff(split.row_starts).max())
    return max(1, MAPS_BYTES // (4 * anatomy.layers * anatomy.heads * longest**2 * sequences))


@contextmanager
def _plain_attention(model: PreTrainedModel) -> Iterator[None]:
    """While it lasts, the model's attention works out its maps."""
    before = model.config._attn_implementation
    model.config._attn_implementation = "eager"
    try:
        yield
    finally:
        model.config._attn_implementation = before
