"""What a task is to the engine: how rows become features, what is lost on them, how they are scored."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from worker.engine.tasks.rows import Rows
from worker.engine.tasks.split import Split


class Task(ABC):
    """Stateless; one instance in `TASKS` serves every run."""

    name: ClassVar[str]
    metrics: ClassVar[tuple[str, ...]]

    @abstractmethod
    def encode(self, rows: Rows, tokenizer: PreTrainedTokenizerBase, *, max_length: int) -> Split:
        """Rows as token ids, cut at `max_length` tokens (special tokens included)."""

    @abstractmethod
    def losses(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The loss of each sample: (n, outputs) and (n,) to (n,), in fp32."""

    @abstractmethod
    def metric(self, name: str, logits: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
        """Score `name` (one of `metrics`) of (n, outputs) against (n,); higher is better."""
