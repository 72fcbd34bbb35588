"""`make bench-language-model`: a language model trained here, then made smaller and certified by perplexity.

    AXFORGE_BENCH_DATA=FOLDER python -m bench.language_model [ptb] [--architecture gpt2] [--strategy axformer]
        [--minutes 9] [--dry]

FOLDER holds `<text>/{train,validation,test}.jsonl.gz` with a column `text`. A tokenizer of 2,000 byte pairs
is learned from the training text; a model of four layers of width 128 begins at random weights, and the job
trains it (`fine_tune: true`) within its minutes. Written to bench/results/language_model.json: the
certificate as issued, by text and architecture (and strategy, if it trains masks), the minutes taken and the
machine. A dry run takes a few rows and a minute, whatever comes of it, and writes to out/bench-dry.
"""

from __future__ import annotations

import argparse
import gzip
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.main import data_folder
from bench.record import dry, machine, record
from models.spec import LEARNED, JobSpec
from worker.engine.measure.machine import usable_processors

RESULTS = Path(__file__).resolve().parent / "results" / "language_model.json"
VOCABULARY, LAYERS, WIDTH, HEADS, CHANNELS, BLOCK = 2000, 4, 128, 4, 512, 64
END = "<|endoftext|>"
MINUTES, DRY_MINUTES, DRY_ROWS = 9.0, 1.0, 2000


def main() -> int:
    """Run the job; exit 1 if it did not meet its constraints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("text", nargs="?", default="ptb")
    parser.add_argument("--architecture", default="gpt2", choices=("gpt2", "llama"))
    parser.add_argument("--strategy", default="axformer", choices=("axformer", *LEARNED))
    parser.add_argument("--minutes", type=float, default=MINUTES)
    parser.add_argument("--dry", action="store_true")
    arguments = parser.parse_args()
    results = dry(RESULTS) if arguments.dry else RESULTS
    minutes, rows = (DRY_MINUTES, DRY_ROWS) if arguments.dry else (arguments.minutes, None)
    data = data_folder(arguments.text)
    with tempfile.TemporaryDirectory(prefix="axforge-bench-") as folder:
        began = time.monotonic()
        save_model(Path(folder) / "model", arguments.architecture, texts(data / "train.jsonl.gz"))
        spec = job(Path(folder) / "model", data, minutes, rows, arguments.strategy)
        certificate = certified(spec, Path(folder) / "run")
        taken = round((time.monotonic() - began) / 60, 2)
    record("machine", machine() | {"threads": usable_processors()}, results)
    found = {"minutes": taken, "budget_minutes": minutes, "seed": spec.seed, "certificate": certificate}
    by_strategy = (arguments.strategy,) if arguments.strategy in LEARNED else ()
    record("/".join((arguments.text, arguments.architecture, *by_strategy)), found, results)
    print(
        json.dumps(
            {name: certificate[name] for name in ("dense", "optimized", "ratios", "verdict")}, indent=1
        )
    )
    return 0 if certificate["constraints_met"] or arguments.dry else 1


def job(
    model: Path, data: Path, minutes: float, rows: int | None = None, strategy: str = "axformer"
) -> JobSpec:
    """At most 10 % more perplexity, at a fifth of the size, 1.3 times faster; of that many training rows."""
    fewer = {} if rows is None else {"max_train_rows": rows}
    return JobSpec.model_validate(
        {
            "base_model": {"path": str(model)},
            "dataset": {"path": str(data), **fewer},
            "task": "causal-lm",
            "fine_tune": True,
            "constraints": {
                "accuracy": {"max_relative_drop": 0.1},
                "size": {"min_reduction": 5.0},
                "speed": {"min_speedup": 1.3},
            },
            "focus": "size",
            "strategy": strategy,
            "baseline": {"epochs": 3, "learning_rate": 0.003, "max_length": BLOCK},
            "budget": {"max_minutes": minutes},
        }
    )


def certified(spec: JobSpec, workdir: Path) -> dict[str, Any]:
    """The certificate of a whole run, as JSON."""
    from worker.engine.pipeline import run
    from worker.engine.reporting import SilentReporter

    certificate: dict[str, Any] = run(spec, workdir, SilentReporter()).certificate.model_dump(mode="json")
    return certificate


def texts(file: Path) -> Iterator[str]:
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)["text"]


def save_model(folder: Path, architecture: str, lines: Iterator[str]) -> None:
    """Random weights, and a byte-level tokenizer learned from the lines."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=[END], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(lines, trainer)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=END, eos_token=END).save_pretrained(folder)
    config = AutoConfig.for_model(
        architecture,
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        max_position_embeddings=2 * BLOCK,
        bos_token_id=0,
        eos_token_id=0,
        tie_word_embeddings=True,
        **{"n_inner" if architecture == "gpt2" else "intermediate_size": CHANNELS},
    )
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)


if __name__ == "__main__":
    raise SystemExit(main())
