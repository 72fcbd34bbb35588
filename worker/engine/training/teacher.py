"""The dense model as a teacher: what it answers on a split, worked out once and kept."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from worker.engine.anatomy import anatomy_of
from worker.engine.anatomy.heads import logits_of
from worker.engine.device import Device, Precision
from worker.engine.tasks.evaluate import affordable, unpadded
from worker.engine.tasks.split import Batch, Split
from worker.engine.training.attention import QUERY_AND_KEY, noted_queries

CACHE_BYTES = 1 << 30
LOGITS_BYTES = 512 << 20  # of the teacher's logits at least, kept whatever the states may take
SCALE_ROWS = 256  # from which the scale of the hidden states is told


@dataclass(frozen=True)
class Answers:
    """Of a batch: logits as a model gives them, fp32, 0 where there is padding; hidden[i] (tokens, width)
    bf16, without padding, row after row, the states after dense layer i; queries[i] (tokens, 2, width) bf16,
    likewise, the queries and keys of layer i."""

    logits: torch.Tensor
    hidden: dict[int, torch.Tensor]
    queries: dict[int, torch.Tensor] = field(default_factory=dict)


class TeacherCache:
    """Answers on the rows of `split`, each worked out when it is first asked for.

    A short training pays only for the rows that it comes to, and those that follow find them here.
    Hidden states of the last of `layers` are kept as far as `max_bytes` go; `layers` are these. Queries and
    keys of the last of `attention` are kept likewise, with as many bytes again. `seconds`: what working out
    answers that are kept has taken so far.
    """

    def __init__(
        self,
        teacher: PreTrainedModel,
        split: Split,
        layers: Sequence[int],
        *,
        device: Device,
        precision: Precision = "fast",
        attention: Sequence[int] = (),
        max_bytes: int = CACHE_BYTES,
    ) -> None:
        width, anatomy = teacher.config.hidden_size, anatomy_of(teacher)
        self.layers = _within(sorted(layers), len(split.ids) * width * 2, max_bytes)
        all_heads = anatomy.heads * anatomy.head_size
        self.attention = _within(sorted(attention), len(split.ids) * all_heads * 4, max_bytes)
        self._anatomy = anatomy
        self._teacher, self._split, self._device, self._precision = teacher, split, device, precision
        self._known = np.zeros(len(split), dtype=np.bool_)
        outputs = len(split.ids) if split.by_token else len(split)
        # A language model's logits are worked out anew each time where they are too many to be kept.
        self._keeps = 4 * outputs * self._outputs() <= max(max_bytes, LOGITS_BYTES)
        # Memory that was never written takes no page.
        self._logits = torch.empty((outputs if self._keeps else 0, self._outputs()))
        self._hidden = {
            layer: torch.empty((len(split.ids), width), dtype=torch.bfloat16) for layer in self.layers
        }
        self._queries = {
            layer: torch.empty((len(split.ids), 2, all_heads), dtype=torch.bfloat16)
            for layer in self.attention
        }
        self.seconds = 0.0
        self.variance = self._variance()

    def answers(self, batch: Batch) -> Answers:
        """On a batch of rows of the split."""
        if not self._keeps:
            return self._asked(batch)
        if len(missing := self.lacking(batch.index)):
            self._work_out(missing)
        places = self._split.flat_positions(batch.index)
        hidden = {layer: held[places] for layer, held in self._hidden.items()}
        queries = {layer: held[places] for layer, held in self._queries.items()}
        if not self._split.by_token:
            return Answers(self._logits[batch.index], hidden, queries)
        mask = batch.mask
        logits = self._logits.new_zeros((*mask.shape, self._logits.shape[1]))
        logits[mask] = self._logits[places]
        return Answers(logits, hidden, queries)

    def lacking(self, index: NDArray[np.int64]) -> NDArray[np.int64]:
        """Those of the rows at `index` that have not been worked out, of answers that are kept."""
        return index[~self._known[index]] if self._keeps else index[:0]

    def _work_out(self, index: NDArray[np.int64]) -> None:
        began = time.perf_counter()
        batch = self._split.batch(index)
        answers, places = self._asked(batch), self._split.flat_positions(index)
        self._logits[places if self._split.by_token else index] = unpadded(answers.logits, batch)
        for held, told in ((self._hidden, answers.hidden), (self._queries, answers.queries)):
            for layer, values in told.items():
                held[layer][places] = values
        self._known[index] = True
        self.seconds += time.perf_counter() - began

    @torch.no_grad()
    def _asked(self, batch: Batch) -> Answers:
        """The teacher's answers on a batch of any rows."""
        self._teacher.to(self._device.torch_device).eval()
        with self._device.autocast(self._precision), noted_queries(self._anatomy, self.attention) as noted:
            output = self._teacher(**self._device.put(batch.inputs), output_hidden_states=bool(self.layers))
        mask = batch.mask
        hidden = {layer: output.hidden_states[layer + 1].cpu()[mask].bfloat16() for layer in self.layers}
        queries = {
            layer: torch.stack([pair[name] for name in QUERY_AND_KEY], dim=2).cpu()[mask].bfloat16()
            for layer, pair in noted.items()
        }
        return Answers(logits_of(output).float().cpu(), hidden, queries)

    def _outputs(self) -> int:
        """How many logits a row or token has."""
        many = self._split.token_outputs and int(self._teacher.config.vocab_size)
        return self._split.choices or many or int(self._teacher.config.num_labels)

    def _variance(self) -> dict[int, torch.Tensor]:
        """Of each layer's states over tokens, (width,), from evenly spaced rows."""
        if not self.layers:
            return {}
        count = affordable(SCALE_ROWS, self._split)
        rows = np.unique(np.linspace(0, len(self._split) - 1, count).astype(np.int64))
        hidden = self.answers(self._split.batch(rows)).hidden
        return {layer: states.float().var(dim=0) for layer, states in hidden.items()}


def _within(layers: list[int], layer_bytes: int, max_bytes: int) -> list[int]:
    affordable = int(np.clip(max_bytes // max(1, layer_bytes), 0, len(layers)))
    return layers[len(layers) - affordable :]
