"""Tiny language models with random weights, of every decoder family."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from tests.engine.export_models import CHANNELS, HEADS, HIDDEN, LAYERS, VOCABULARY

COMMON: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": HIDDEN,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "max_position_embeddings": 48,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
WIDE = {"intermediate_size": CHANNELS}
OWN: dict[str, dict[str, Any]] = {
    "gpt2": {"n_inner": CHANNELS},
    "opt": {"ffn_dim": CHANNELS},
    "llama": {**WIDE, "num_key_value_heads": 2},
    "mistral": {**WIDE, "num_key_value_heads": 2, "sliding_window": 4, "tie_word_embeddings": True},
    "qwen2": {
        **WIDE,
        "num_key_value_heads": 1,
        "use_sliding_window": True,
        "sliding_window": 5,
        "max_window_layers": 2,
    },
    "qwen3": {**WIDE, "num_key_value_heads": 2, "head_dim": 6, "tie_word_embeddings": True},
}
"""What the tiny configuration of each family has of its own."""
DECODERS = tuple(OWN)
TIED = ("gpt2", "opt", "mistral", "qwen3")
Feed = dict[str, np.ndarray]


def tiny_decoder(family: str, seed: int = 0, **own: Any) -> PreTrainedModel:
    """A dense language model whose weights are large enough that every element matters."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **{**COMMON, **OWN[family], **own}))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.15)
    return model.eval()


class OnnxDecoder:
    """A file that is fed in steps, its cache handed from one to the next."""

    def __init__(self, path: Path) -> None:
        self.session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        self.outputs = [output.name for output in self.session.get_outputs()]
        self.cache: Feed = {}
        self.mask = np.zeros((0, 0), dtype=np.int64)

    def begin(self, rows: int) -> OnnxDecoder:
        given = {each.name: each.shape for each in self.session.get_inputs() if each.name.startswith("past")}
        self.cache = {
            name: np.zeros((rows, shape[1], 0, shape[3]), dtype=np.float32) for name, shape in given.items()
        }
        self.mask = np.zeros((rows, 0), dtype=np.int64)
        return self

    def step(self, ids: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """The logits of the next tokens `ids` (rows, length), (rows, length, words)."""
        mine = np.ones(ids.shape, dtype=np.int64) if mask is None else mask.numpy()
        self.mask = np.concatenate([self.mask, mine], axis=1)
        feed = {"input_ids": ids.numpy(), "attention_mask": self.mask, **self.cache}
        answers = dict(zip(self.outputs, self.session.run(self.outputs, feed), strict=True))
        logits = torch.from_numpy(answers.pop("logits"))
        self.cache = {name.replace("present", "past_key_values"): value for name, value in answers.items()}
        return logits
