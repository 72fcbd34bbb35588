"""The dense model as a teacher: what it answers on a split, worked out once and kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from worker.engine.anatomy.heads import logits_of
from worker.engine.device import Device, Precision
from worker.engine.tasks.evaluate import unpadded
from worker.engine.tasks.split import Batch, Split

CACHE_BYTES = 1 << 30
SCALE_ROWS = 256  # from which the scale of the hidden states is told


@dataclass(frozen=True)
class Answers:
    """Of a batch: logits as a model gives them, fp32, 0 where there is padding; hidden[i] (tokens, width)
    bf16, without padding, row after row, the states after dense layer i."""

    logits: torch.Tensor
    hidden: dict[int, torch.Tensor]


class TeacherCache:
    """Answers on the rows of `split`, each worked out when it is first asked for.

    A short training pays only for the rows that it comes to, and those that follow find them here.
    Hidden states of the last of `layers` are kept as far as `max_bytes` go; `layers` are these.
    """

    def __init__(
        self,
        teacher: PreTrainedModel,
        split: Split,
        layers: Sequence[int],
        *,
        device: Device,
        precision: Precision = "fast",
        max_bytes: int = CACHE_BYTES,
    ) -> None:
        width = teacher.config.hidden_size
        self.layers = _within(sorted(layers), len(split.ids) * width * 2, max_bytes)
        self._teacher, self._split, self._device, self._precision = teacher, split, device, precision
        self._known = np.zeros(len(split), dtype=np.bool_)
        # Memory that was never written takes no page.
        self._logits = torch.empty((len(split.ids) if split.by_token else len(split), self._outputs()))
        self._hidden = {
            layer: torch.empty((len(split.ids), width), dtype=torch.bfloat16) for layer in self.layers
        }
        self.variance = self._variance()

    def answers(self, batch: Batch) -> Answers:
        """On a batch of rows of the split."""
        if len(missing := batch.index[~self._known[batch.index]]):
            self._work_out(missing)
        places = self._split.flat_positions(batch.index)
        hidden = {layer: held[places] for layer, held in self._hidden.items()}
        if not self._split.by_token:
            return Answers(self._logits[batch.index], hidden)
        mask = batch.mask
        logits = self._logits.new_zeros((*mask.shape, self._logits.shape[1]))
        logits[mask] = self._logits[places]
        return Answers(logits, hidden)

    @torch.no_grad()
    def _work_out(self, index: NDArray[np.int64]) -> None:
        batch = self._split.batch(index)
        self._teacher.to(self._device.torch_device).eval()
        with self._device.autocast(self._precision):
            output = self._teacher(**self._device.put(batch.inputs), output_hidden_states=bool(self.layers))
        mask, places = batch.mask, self._split.flat_positions(index)
        self._logits[places if self._split.by_token else index] = unpadded(
            logits_of(output).float().cpu(), batch
        )
        for layer in self.layers:
            self._hidden[layer][places] = output.hidden_states[layer + 1].cpu()[mask].bfloat16()
        self._known[index] = True

    def _outputs(self) -> int:
        """How many logits a row or token has."""
        return self._split.choices or int(self._teacher.config.num_labels)

    def _variance(self) -> dict[int, float]:
        """Of each layer's states over tokens, mean over channels, from evenly spaced rows."""
        if not self.layers:
            return {}
        rows = np.unique(np.linspace(0, len(self._split) - 1, SCALE_ROWS).astype(np.int64))
        hidden = self.answers(self._split.batch(rows)).hidden
        return {
            layer: float(states.float().var(dim=0).mean().clamp_min(1e-6)) for layer, states in hidden.items()
        }


def _within(layers: list[int], layer_bytes: int, max_bytes: int) -> list[int]:
    affordable = int(np.clip(max_bytes // max(1, layer_bytes), 0, len(layers)))
    return layers[len(layers) - affordable :]
