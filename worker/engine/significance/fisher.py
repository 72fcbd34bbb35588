"""Fisher information of heads and FFN channels: how much the loss bends when one is scaled to zero."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from worker.engine.anatomy import Anatomy, Gates, Shape
from worker.engine.anatomy.heads import logits_of
from worker.engine.device import Device, Precision
from worker.engine.significance.base import GRADIENT_PASS, Estimator, Material
from worker.engine.significance.elements import Element
from worker.engine.tasks import Batch, Split, Task
from worker.engine.tasks.evaluate import affordable


@dataclass(frozen=True)
class FisherInformation:
    """Per-sample gradients of the loss with respect to gates of value 1 on heads and channels.

    `heads` (rows, layers, heads) and `channels` (rows, layers, channels), dense indices; zero where
    the model no longer has the element. `sharing[n]`: the layers with the weights of layer n, whose gates
    close together; itself alone where that is not told. `hidden` (rows, dimensions), of gates on the residual
    stream, which close everywhere at once; None where they were not asked for.
    """

    heads: np.ndarray
    channels: np.ndarray
    sharing: Sequence[tuple[int, ...]] = ()
    hidden: np.ndarray | None = None

    def channel_scores(self, layer: int) -> np.ndarray:
        """Diagonal Fisher of each channel of a layer, shape (channels,) (Kwon et al. 2022, eq. 5)."""
        scores: np.ndarray = 0.5 * np.mean(np.square(self.by_channel(layer)), axis=0)
        return scores

    def hidden_scores(self) -> np.ndarray:
        """The same of each hidden dimension, (dimensions,)."""
        scores: np.ndarray = 0.5 * np.mean(np.square(self.by_dimension), axis=0)
        return scores

    def by_channel(self, layer: int) -> np.ndarray:
        """Gradients of the channels of a layer, (rows, channels)."""
        return self._together(self.channels, layer)

    def of(self, element: Element) -> float:
        """Second-order estimate of the loss change, 1/2 mean_s (sum_i g_si)^2 over the element's gates.

        It is the quadratic form of the empirical Fisher matrix with the removal direction (all gates of
        the element from 1 to 0), so correlations inside the element count (Kwon et al. 2022, section 4.2).
        """
        return float(0.5 * np.mean(np.square(self.along(element))))

    def along(self, element: Element) -> np.ndarray:
        """Gradient of each row's loss along the element's gates: their sum, (rows,)."""
        if element.kind == "head":
            along: np.ndarray = self._together(self.heads, element.layer)[:, element.number]
        elif element.kind == "attention":
            along = self._together(self.heads, element.layer).sum(axis=1)
        elif element.kind == "ffn":
            along = self._together(self.channels, element.layer).sum(axis=1)
        elif element.kind == "hidden_group":
            along = self.by_dimension[:, list(element.channels)].sum(axis=1)
        elif element.kind == "group":
            along = self._together(self.channels, element.layer)[:, list(element.channels)].sum(axis=1)
        else:
            along = self.heads[:, element.layer].sum(axis=1) + self.channels[:, element.layer].sum(axis=1)
        return along

    @property
    def by_dimension(self) -> np.ndarray:
        """Gradients of the hidden dimensions, (rows, dimensions)."""
        if self.hidden is None:
            raise ValueError("no gradients of hidden dimensions were taken")
        return self.hidden

    def _together(self, gradients: np.ndarray, layer: int) -> np.ndarray:
        """Of one gate for each element of a layer and of those that share its weights: (rows, elements)."""
        layers = self.sharing[layer] if self.sharing else (layer,)
        summed: np.ndarray = gradients[:, list(layers)].sum(axis=1)
        return summed


class Fisher(Estimator):
    name = "fisher"
    source = "Kwon et al. 2022, section 4.2"
    measures = "second-order loss change by the empirical Fisher matrix of the gates"

    def weigh(self, material: Material) -> FisherInformation:
        material.count(GRADIENT_PASS)
        return fisher_information(
            material.anatomy,
            material.shape,
            material.rows,
            material.task,
            material.device,
            batch_size=material.batch_size,
            hidden=material.hidden,
            precision=material.precision,
        )


def fisher_information(
    anatomy: Anatomy,
    shape: Shape,
    split: Split,
    task: Task,
    device: Device,
    *,
    batch_size: int = 32,
    hidden: bool = False,
    precision: Precision = "fast",
) -> FisherInformation:
    """Gate gradients of every row of `split` for the model masked to `shape`, in the order of its batches.

    `hidden`: also of the dimensions of the residual stream. The model is put on the device; its weights get
    no gradients.
    """
    anatomy.model.to(device.torch_device)
    anatomy.model.eval()
    anatomy.model.requires_grad_(False)
    heads: list[torch.Tensor] = []
    channels: list[torch.Tensor] = []
    dimensions: list[torch.Tensor] = []
    for batch in split.batches(affordable(batch_size, split)):
        gated = anatomy.gated(len(batch.rows), hidden=hidden)
        with anatomy.masked(shape), gated as gates, device.autocast(precision):
            logits = logits_of(anatomy.model(**device.put(batch.inputs)))
            loss = task.losses(logits.float(), batch).sum()
            by_head, by_channel, by_dimension = _gradients(loss, gates)
        heads.append(_by_row(by_head.float().cpu(), batch))
        channels.append(_by_row(by_channel.float().cpu(), batch))
        if by_dimension is not None:
            dimensions.append(_by_row(by_dimension.float().cpu(), batch))
    return FisherInformation(
        _kept(torch.cat(heads).numpy(), [layer.heads for layer in shape.layers]),
        _kept(torch.cat(channels).numpy(), [layer.channels for layer in shape.layers]),
        [shape.sharing(layer) for layer in range(len(shape.layers))],
        _without(torch.cat(dimensions).numpy(), shape.hidden_gone) if hidden else None,
    )


def _gradients(loss: torch.Tensor, gates: Gates) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Of the loss with respect to the gates; zeros for gates that nothing is left to use."""
    wanted = [gates.heads, gates.channels, *([] if gates.hidden is None else [gates.hidden])]
    if loss.requires_grad:
        given = torch.autograd.grad(loss, wanted, allow_unused=True, materialize_grads=True)
    else:
        given = tuple(torch.zeros_like(gate) for gate in wanted)
    return given[0], given[1], given[2] if len(given) == 3 else None


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


def _without(gradients: np.ndarray, gone: tuple[int, ...]) -> np.ndarray:
    """(rows, dimensions) with zeros at those that are gone."""
    gradients[:, list(gone)] = 0.0
    return gradients
