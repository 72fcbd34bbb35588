"""Fisher information of heads and FFN channels: how much the loss bends when one is scaled to zero."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from worker.engine.anatomy import Anatomy, Gates, Shape
from worker.engine.anatomy.heads import logits_of
from worker.engine.device import Device
from worker.engine.significance.elements import Element
from worker.engine.tasks import Batch, Split, Task


@dataclass(frozen=True)
class FisherInformation:
    """Per-sample gradients of the loss with respect to gates of value 1 on heads and channels.

    `heads` (rows, layers, heads) and `channels` (rows, layers, channels), dense indices; zero where
    the model no longer has the element. `sharing[n]`: the layers with the weights of layer n, whose gates
    close together; itself alone where that is not told.
    """

    heads: np.ndarray
    channels: np.ndarray
    sharing: Sequence[tuple[int, ...]] = ()

    def channel_scores(self, layer: int) -> np.ndarray:
        """Diagonal Fisher of each channel of a layer, shape (channels,) (Kwon et al. 2022, eq. 5)."""
        scores: np.ndarray = 0.5 * np.mean(np.square(self._together(self.channels, layer)), axis=0)
        return scores

    def of(self, element: Element) -> float:
        """Second-order estimate of the loss change, 1/2 mean_s (sum_i g_si)^2 over the element's gates.

        It is the quadratic form of the empirical Fisher matrix with the removal direction (all gates of
        the element from 1 to 0), so correlations inside the element count (Kwon et al. 2022, section 4.2).
        """
        if element.kind == "head":
            along = self._together(self.heads, element.layer)[:, element.number]
        elif element.kind == "attention":
            along = self._together(self.heads, element.layer).sum(axis=1)
        elif element.kind == "ffn":
            along = self._together(self.channels, element.layer).sum(axis=1)
        elif element.kind == "group":
            along = self._together(self.channels, element.layer)[:, list(element.channels)].sum(axis=1)
        else:
            along = self.heads[:, element.layer].sum(axis=1) + self.channels[:, element.layer].sum(axis=1)
        return float(0.5 * np.mean(np.square(along)))

    def _together(self, gradients: np.ndarray, layer: int) -> np.ndarray:
        """Of one gate for each element of a layer and of those that share its weights: (rows, elements)."""
        layers = self.sharing[layer] if self.sharing else (layer,)
        summed: np.ndarray = gradients[:, list(layers)].sum(axis=1)
        return summed


def fisher_information(
    anatomy: Anatomy, shape: Shape, split: Split, task: Task, device: Device, *, batch_size: int = 32
) -> FisherInformation:
    """Gate gradients of every row of `split` for the model masked to `shape`, in the order of its batches.

    The model is put on the device; its weights get no gradients.
    """
    anatomy.model.to(device.torch_device)
    anatomy.model.eval()
    anatomy.model.requires_grad_(False)
    heads: list[torch.Tensor] = []
    channels: list[torch.Tensor] = []
    for batch in split.batches(batch_size):
        with anatomy.masked(shape), anatomy.gated(len(batch.rows)) as gates, device.autocast("fast"):
            logits = logits_of(anatomy.model(**device.put(batch.inputs)))
            loss = task.losses(logits.float(), batch).sum()
            by_head, by_channel = _gradients(loss, gates)
        heads.append(_by_row(by_head.float().cpu(), batch))
        channels.append(_by_row(by_channel.float().cpu(), batch))
    return FisherInformation(
        _kept(torch.cat(heads).numpy(), [layer.heads for layer in shape.layers]),
        _kept(torch.cat(channels).numpy(), [layer.channels for layer in shape.layers]),
        [shape.sharing(layer) for layer in range(len(shape.layers))],
    )


def _gradients(loss: torch.Tensor, gates: Gates) -> tuple[torch.Tensor, torch.Tensor]:
    """Of the loss with respect to the gates; zeros for gates that no block is left to use."""
    if not loss.requires_grad:
        return torch.zeros_like(gates.heads), torch.zeros_like(gates.channels)
    by_head, by_channel = torch.autograd.grad(
        loss, (gates.heads, gates.channels), allow_unused=True, materialize_grads=True
    )
    return by_head, by_channel


def _by_row(gradients: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Gradients of sequences (s, ...) summed over the sequences of each row, (b, ...)."""
    rows = gradients.new_zeros((len(batch.index), *gradients.shape[1:]))
    return rows.index_add_(0, batch.rows, gradients)


def _kept(gradients: np.ndarray, kept: list[tuple[int, ...]]) -> np.ndarray:
    """The gradients with zeros at what the shape has removed: (rows, layers, elements)."""
    for layer, indices in enumerate(kept):
        gone = np.ones(gradients.shape[2], dtype=bool)
        gone[list(indices)] = False
        gradients[:, layer, gone] = 0.0
    return gradients
