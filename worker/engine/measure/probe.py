"""`python -m worker.engine.measure.probe`: one exported model, one runtime, nothing else in the process.

Two thread pools in one process disturb each other's timing, so every model that is measured gets a
process of its own. It answers requests (JSON lines on stdin) with JSON lines on stdout:

    {"do": "pass", "first": 0, "calls": 64, "repeats": 2, "warmup": 4}
                                        ->  {"ms": [time of every call], "waited": 0.01}
    {"do": "logits", "to": "file.npy"}  ->  {"rows": 500}
    {"do": "memory"}                    ->  {"peak_rss_bytes": 123}

`waited` is the share of the time that its threads were ready to run but given no processor.

The first line, `{"ready": true}`, says that the model is loaded; `{"error": {...}}` that it is not.
The process ends when its stdin closes, even in the middle of a computation.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import queue
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import numpy.typing as npt

from worker.engine.measure.inputs import BenchInputs, next_token_scores
from worker.engine.measure.process import others_busy, peak_rss_bytes, waited_ns

Call = Callable[[], npt.NDArray[np.float32]]
PAST = "past_key_values."  # of the inputs that hold a cache of keys and values
SETTLING_SECONDS = 5.0  # at most
SETTLING_STEP = 0.002
SETTLED_LOOKS = 3  # on end, at which no thread was busy


def main() -> int:
    arguments = _arguments()
    answers = _private_stdout()
    requests = _requests_until_eof(sys.stdin)
    try:
        inputs = BenchInputs.load(arguments.inputs)
        calls = _load(arguments, inputs)
        _settle()
        _answer(answers, {"ready": True})
        while True:
            answer = _serve(calls, inputs, requests.get())
            _settle()
            _answer(answers, answer)
    except Exception as error:  # the parent raises it, typed, with this cause
        _answer(answers, {"error": {"type": type(error).__name__, "message": str(error)}})
        return 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="probe")
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--runtime", choices=("onnxruntime", "torch", "torch-layers"), required=True)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--inputs", type=Path, required=True)
    parser.add_argument("--remote-code", action="store_true", help="only for folders we exported")
    return parser.parse_args()


def _private_stdout() -> TextIO:
    """A handle on stdout for answers only; what a library prints goes to stderr."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return answers


def _requests_until_eof(stream: TextIO) -> queue.SimpleQueue[dict[str, Any]]:
    """Requests as they come; the thread ends the process once the parent is gone."""
    requests: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()

    def read() -> None:
        for line in stream:
            requests.put(json.loads(line))
        os._exit(0)

    threading.Thread(target=read, daemon=True).start()
    return requests


def _answer(answers: TextIO, document: dict[str, Any]) -> None:
    with contextlib.suppress(BrokenPipeError):  # the reader thread sees the parent's end too
        answers.write(json.dumps(document) + "\n")
        answers.flush()


def _settle() -> None:
    """Return once this process's threads are idle, so that they take no time from the next model's turn.

    ONNX Runtime's and OpenMP's threads look for more work in a busy loop after a call, for 35 ms on one
    processor and for more than a second on another.
    """
    until, idle = time.monotonic() + SETTLING_SECONDS, 0
    while idle < SETTLED_LOOKS and time.monotonic() < until:
        time.sleep(SETTLING_STEP)
        idle = 0 if others_busy() else idle + 1


def _load(arguments: argparse.Namespace, inputs: BenchInputs) -> list[Call]:
    """One ready-made call for every batch: padding and transfers happen outside the timing."""
    match arguments.runtime:
        case "onnxruntime":
            return _onnx_calls(arguments, inputs)
        case "torch":
            return _torch_calls(arguments, inputs)
        case _:
            from worker.engine.measure.torch_layers import layer_calls

            return layer_calls(arguments.model, inputs, arguments.threads, arguments.device)


def _onnx_calls(arguments: argparse.Namespace, inputs: BenchInputs) -> list[Call]:
    import onnxruntime as ort

    provider = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}[arguments.device]
    if provider not in ort.get_available_providers():
        raise RuntimeError(f"onnxruntime has no {provider} here")
    options = ort.SessionOptions()
    options.intra_op_num_threads = arguments.threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    session = ort.InferenceSession(str(arguments.model), options, providers=[provider])
    wanted = {wanted.name: wanted for wanted in session.get_inputs()}
    outputs = [output.name for output in session.get_outputs()]
    asked = ["start_logits", "end_logits"] if "start_logits" in outputs else outputs[:1]

    def call(feed: dict[str, Any]) -> Call:
        return lambda: _joined(session.run(asked, feed))

    return [call(_onnx_feed(batch, wanted, inputs)) for batch in inputs.batches()]


def _onnx_feed(batch: dict[str, Any], wanted: dict[str, Any], inputs: BenchInputs) -> dict[str, Any]:
    """The graph's own inputs; `hidden` (layer stacks) is seeded noise of the batch's shape."""
    given = inputs.stacked(batch) if "input_ids" in wanted else batch
    feed: dict[str, Any] = {name: given[name] for name in wanted if name in given}
    for name in wanted:
        if name.startswith(PAST):  # nothing was read before: (batch, heads, 0, size)
            _, heads, _, size = wanted[name].shape
            feed[name] = np.zeros((len(batch["input_ids"]), heads, 0, size), dtype=np.float32)
    if "hidden" in wanted:
        hidden = int(wanted["hidden"].shape[-1])
        shape = (*batch["input_ids"].shape, hidden)
        feed["hidden"] = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    return feed


def _torch_calls(arguments: argparse.Namespace, inputs: BenchInputs) -> list[Call]:
    import inspect

    import torch

    from worker.engine.anatomy.heads import AUTO_CLASSES, kind_of, logits_of

    torch.set_num_threads(arguments.threads)
    config = json.loads((arguments.model / "config.json").read_text(encoding="utf-8"))
    kind = kind_of(config.get("architectures")) or "sequence"
    loader = AUTO_CLASSES[kind]
    model = loader.from_pretrained(
        arguments.model,
        trust_remote_code=arguments.remote_code,
        local_files_only=True,
        use_safetensors=True,
    )
    model = model.eval().to(arguments.device)
    taken = inspect.signature(model.forward).parameters
    uncached = {"use_cache": False} if kind == "causal" else {}

    def call(feed: dict[str, Any]) -> Call:
        def run() -> npt.NDArray[np.float32]:
            with torch.inference_mode():  # the copy to the host waits for the device
                return np.asarray(logits_of(model(**feed, **uncached)).float().cpu().numpy())

        return run

    return [
        call({n: torch.from_numpy(v).to(arguments.device) for n, v in batch.items() if n in taken})
        for batch in map(inputs.stacked, inputs.batches())
    ]


def _joined(outputs: list[npt.NDArray[np.float32]]) -> npt.NDArray[np.float32]:
    """One output, or several of one shape side by side in a new last dimension."""
    return np.asarray(outputs[0] if len(outputs) == 1 else np.stack(outputs, axis=-1))


def _kept(
    logits: npt.NDArray[np.float32], batch: dict[str, Any], inputs: BenchInputs
) -> npt.NDArray[np.float32]:
    """What is kept of a batch's logits: of a language model's what they say about the tokens that follow."""
    if not inputs.next_token:
        return logits
    return next_token_scores(logits, batch["input_ids"], batch["attention_mask"])


def _unpadded(logits: npt.NDArray[np.float32], batch: dict[str, Any]) -> npt.NDArray[np.float32]:
    """[rows, outputs] as they are; [sequences, length, outputs] as [tokens, outputs]."""
    return logits[batch["attention_mask"].astype(bool)] if logits.ndim == 3 else logits


def _serve(calls: list[Call], inputs: BenchInputs, request: dict[str, Any]) -> dict[str, Any]:
    match request["do"]:
        case "pass":
            return _timed(calls, **{key: request[key] for key in ("first", "calls", "repeats", "warmup")})
        case "logits":
            answers = zip(calls, inputs.batches(), strict=True)
            logits = np.concatenate(
                [_unpadded(_kept(call(), batch, inputs), batch) for call, batch in answers]
            )
            np.save(request["to"], logits)
            return {"rows": int(logits.shape[0])}
        case "memory":
            return {"peak_rss_bytes": peak_rss_bytes()}
        case unknown:
            raise ValueError(f"unknown request {unknown!r}")


def _timed(all_calls: list[Call], *, first: int, calls: int, repeats: int, warmup: int) -> dict[str, Any]:
    """Milliseconds of every call of `repeats` passes over `calls` from `first` on, after uncounted ones."""
    chosen = all_calls[first : first + calls]
    for index in range(warmup):
        chosen[index % len(chosen)]()
    milliseconds = []
    began, waited = time.perf_counter_ns(), waited_ns()
    for _ in range(repeats):
        for call in chosen:
            start = time.perf_counter_ns()
            call()
            milliseconds.append((time.perf_counter_ns() - start) / 1e6)
    share = max(0, waited_ns() - waited) / (time.perf_counter_ns() - began)
    return {"ms": milliseconds, "waited": share}


if __name__ == "__main__":
    sys.exit(main())
