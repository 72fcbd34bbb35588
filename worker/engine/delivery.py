"""Delivery: a model as the file that the target's runtime loads, scored as that file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedModel

from models.spec import Calibration, Loadable, Recipe
from worker.engine.export.onnx import GRAPH_FILE, save_onnx_folder
from worker.engine.export.safetensors import save_folder, save_int8_folder
from worker.engine.measure.files import loaded_bytes
from worker.engine.measure.probing import ModelFile, probe
from worker.engine.origin import Origin, bench_inputs
from worker.engine.run import Run
from worker.engine.tasks import Split


@dataclass(frozen=True)
class Delivered:
    """A file in the target's runtime, its bytes, and what it answers on the selection split.

    `logits` (rows, outputs), or (tokens, outputs) of heads that answer by token, in the order of the split;
    `metric` is the job's, on them.
    """

    recipe: Recipe
    file: ModelFile
    size_bytes: int
    logits: NDArray[np.float32]
    metric: float


def deliver(
    run: Run, model: PreTrainedModel, recipe: Recipe, folder: Path, origin: Origin | None = None
) -> Delivered:
    """Export `model` for the target (quantized where `recipe` says so) and score the file itself.

    It goes with the tokenizer of `origin`, by default that which the search begins with.

    Rows go through the runtime in batches of the target's size, as the certificate does it: what
    dynamic int8 answers depends on its batch.
    """
    origin = origin or run.origin
    write_target_file(run, model, recipe, folder, origin)
    file = target_file(run, folder)
    inputs = bench_inputs(origin.selection, batch_size=run.spec.target.batch_size)
    with probe(file, inputs, threads=run.threads) as running:
        logits = running.logits()
    metric = origin.scorer.score(origin.scorer.marks(logits))
    return Delivered(recipe, file, loaded_bytes(file), logits, metric)


def write_target_file(
    run: Run, model: PreTrainedModel, recipe: Recipe, folder: Path, origin: Origin | None = None
) -> None:
    """Write what the target's runtime loads into `folder`; `origin` as in `deliver`."""
    if run.spec.target.runtime == "torch":
        write_torch(run, model, recipe, folder, origin)
    else:
        write_onnx(run, model, recipe, folder, origin)


def write_torch(
    run: Run, model: PreTrainedModel, recipe: Recipe, folder: Path, origin: Origin | None = None
) -> Loadable:
    """Write the safetensors folder, in int8 where `recipe` says so and torch is the target's runtime."""
    tokenizer = (origin or run.origin).tokenizer
    if recipe.quantization() is None or run.spec.target.runtime != "torch":
        return save_folder(model, tokenizer, folder)
    return save_int8_folder(model, tokenizer, folder)


def write_onnx(
    run: Run, model: PreTrainedModel, recipe: Recipe, folder: Path, origin: Origin | None = None
) -> None:
    """Write the ONNX folder, quantized where `recipe` says so."""
    origin = origin or run.origin
    quantize = recipe.quantization()
    calibration = None if quantize is None else quantize.calibration
    save_onnx_folder(
        model,
        origin.tokenizer,
        folder,
        quantize=quantize,
        calibration=() if calibration is None else calibration_feeds(origin.train, calibration),
        max_length=run.max_length,
    )


def calibration_feeds(train: Split, calibration: Calibration) -> Iterator[dict[str, NDArray[np.int64]]]:
    """Training rows drawn by the step's seed, as inputs of an exported graph, a row at a time."""
    generator = np.random.default_rng(calibration.seed)
    rows = np.sort(generator.permutation(len(train))[: calibration.rows])
    inputs = bench_inputs(train.select(rows), batch_size=1)
    for batch in inputs.batches():
        yield inputs.stacked(batch)


def target_file(run: Run, folder: Path) -> ModelFile:
    """What `write_target_file` wrote to `folder`, as a probe loads it."""
    target = run.spec.target
    if target.runtime == "torch":
        return ModelFile(folder, "torch", target.device, remote_code=True)
    return ModelFile(folder / GRAPH_FILE, "onnxruntime", target.device)
