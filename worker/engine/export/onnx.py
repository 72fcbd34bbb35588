"""ONNX export: the graph file, its int8 form, and a folder that runs with ONNX Runtime alone."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from tokenizers import Tokenizer
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from models.spec import Quantize
from worker.engine.anatomy import anatomy_of
from worker.engine.anatomy.families import reads_token_types
from worker.engine.anatomy.slicing import as_axforge
from worker.engine.approximations.quantize import Feed, Quantization
from worker.engine.export.axforge_decoder import AxforgeForCausalLM
from worker.engine.export.graph import layers_graph, model_graph
from worker.engine.export.graph_decoder import decoder_graph, decoder_layers_graph
from worker.engine.export.layer_stack import layer_stack
from worker.engine.export.modeling_axforge import AxforgeEncoder
from worker.engine.export.onnx_file import UnsavedGraph

GRAPH_FILE = "model.onnx"
TOKENIZER_FILE = "tokenizer.json"
LABELS_FILE = "labels.json"
SPAN_TRUNCATION = {"strategy": "only_second"}
"""Of a question and its context, the context is cut."""


def save_onnx_folder(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    *,
    quantize: Quantize | None = None,
    calibration: Iterable[Feed] = (),
    max_length: int,
) -> Path:
    """Write all that ONNX Runtime and the `tokenizers` library need; returns the graph's path.

    `calibration`: inputs for `quantize.calibration`. `labels.json` holds the label names by output index
    (none of a language model) and the names of the graph's inputs besides its cache; the tokenizer cuts at
    `max_length` tokens by itself.
    """
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / GRAPH_FILE
    if quantize is None:
        export_onnx(model, tokenizer, target)
    else:
        source = folder / f"dense-{GRAPH_FILE}"
        export_onnx(model, tokenizer, source)
        quantize_onnx(source, target, quantize, layers=_layers(model), calibration=calibration)
        source.unlink()
    save_tokenizer_and_labels(model, tokenizer, folder, max_length)
    return target


def save_tokenizer_and_labels(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path, max_length: int
) -> None:
    """Write what else a folder needs that is used without transformers; see `save_onnx_folder`."""
    kind = anatomy_of(model).kind
    truncation = SPAN_TRUNCATION if kind == "span" else {}
    _save_tokenizer(tokenizer, folder / TOKENIZER_FILE, max_length, truncation)
    outputs = 0 if kind == "causal" else model.config.num_labels
    labels = [model.config.id2label[index] for index in range(outputs)]
    document = {"labels": labels, "inputs": input_names(model, tokenizer)}
    (folder / LABELS_FILE).write_text(json.dumps(document, ensure_ascii=False, indent=2) + "\n")


def export_onnx(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, path: Path) -> None:
    """Write the fp32 graph of a dense or sliced model, weights inside the file.

    Inputs are int64, all their dimensions free, named as the tokenizer names them; outputs are float32. What
    dimensions there are depends on the head, see `graph_heads`; of a language model see `graph_decoder`.
    """
    _graph(model, input_names(model, tokenizer)).save(path)


def quantize_onnx(
    source: Path,
    target: Path,
    step: Quantize,
    *,
    layers: Sequence[int] | None = None,
    calibration: Iterable[Feed] = (),
) -> None:
    """Write the quantized form of the graph file `source`; see `approximations.quantize`."""
    Quantization().write(source, target, step, layers=layers, calibration=calibration)


def layer_stack_onnx(
    path: Path,
    *,
    hidden_size: int,
    head_size: int,
    layers: Sequence[tuple[int, int]],
    quantized: bool,
    first_token_only: bool = False,
    form: Mapping[str, Any] | None = None,
    layer_variants: Sequence[Mapping[str, Any]] = ({},),
) -> None:
    """Write a stack of encoder layers with random weights, in exactly the form of the real export.

    `layers` gives (heads, channels) of each layer; 0 means that the block was removed. `form` tells how
    the model computes, as `AxforgeConfig` does, and `layer_variants` what is its layers' own, in turns.
    Inputs are "hidden" float32 (batch, length, hidden_size) and "attention_mask" int64 (batch, length);
    the output is "output". With `first_token_only` the last of them works out one token only, as the
    last layer does of an export whose head reads no other.
    """
    modules, relative, config = layer_stack(hidden_size, head_size, layers, form or {}, layer_variants)
    if config.causal is None:
        reads_first = config.pooling == "first"
        graph = layers_graph(modules, config, relative, first_only=first_token_only and reads_first)
    else:
        graph = decoder_layers_graph(modules, config)
    if not quantized:
        graph.save(path)
        return
    source = path.with_suffix(".fp32.onnx")
    graph.save(source)
    quantize_onnx(source, path, Quantize())
    source.unlink()


def input_names(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """What the graph takes: ids and mask, and token types where both model and tokenizer have them."""
    has_types = reads_token_types(anatomy_of(model).form) and "token_type_ids" in tokenizer.model_input_names
    return ["input_ids", "attention_mask", *(["token_type_ids"] if has_types else [])]


def _layers(model: PreTrainedModel) -> list[int]:
    """The dense model's number of each layer that is left; of those with the same weights, of the first."""
    anatomy = anatomy_of(model)
    shares = anatomy.full_shape().shares
    return [shares.index(shares[part.index]) if shares else part.index for part in anatomy.parts]


def _graph(model: PreTrainedModel, inputs: Sequence[str]) -> UnsavedGraph:
    """In a function of its own: what else was copied of the model is gone before the file is written."""
    own = isinstance(model, AxforgeEncoder | AxforgeForCausalLM)
    uniform = model if own else as_axforge(model)
    if isinstance(uniform, AxforgeForCausalLM):
        return decoder_graph(uniform)
    return model_graph(cast(AxforgeEncoder, uniform), inputs)


def _save_tokenizer(
    tokenizer: PreTrainedTokenizerBase, path: Path, max_length: int, truncation: dict[str, Any]
) -> None:
    alone = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    alone.no_padding()
    alone.enable_truncation(max_length, **truncation)
    alone.save(str(path))
