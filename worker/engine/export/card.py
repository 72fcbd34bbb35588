"""The model card: what was measured, what was done, and how the files are loaded."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from models.spec import Certificate, ExportName, TaskName
from worker.engine.export.snippets import Format, snippet
from worker.engine.measure.table import comparison_rows, constraint_rows

CARD_FILE = "README.md"
PIPELINE_TAGS: dict[TaskName, str] = {
    "text-classification": "text-classification",
    "multi-label-classification": "text-classification",
    "regression": "text-classification",
    "token-classification": "token-classification",
    "question-answering": "question-answering",
    "multiple-choice": "multiple-choice",
    "causal-lm": "text-generation",
}
"""What the Hugging Face hub calls each task."""
WITHOUT_LABELS: tuple[TaskName, ...] = ("question-answering", "multiple-choice", "causal-lm")


@dataclass(frozen=True)
class CardFacts:
    """What the card says beyond the certificate; nothing of it is made up or guessed.

    `base_model` and `dataset` are names as the user gave them, never a path of the host. `license`
    is an SPDX identifier as the Hugging Face hub writes it, or None if it is not known.
    `attributions` are sentences that the licences of model and data ask for.
    """

    name: str
    base_model: str
    dataset: str
    labels: Sequence[str]
    task: TaskName = "text-classification"
    license: str | None = None
    attributions: Sequence[str] = ()


def write_card(folder: Path, certificate: Certificate, facts: CardFacts, export: ExportName) -> Path:
    """Write README.md for an exported folder; returns its path.

    The measured file is the one of the certificate's runtime; for the other formats the card says so.
    """
    path = folder / CARD_FILE
    path.write_text(card_text(certificate, facts, export), encoding="utf-8")
    return path


def card_text(certificate: Certificate, facts: CardFacts, export: ExportName) -> str:
    """The card as Markdown, with the hub's front matter (YAML; JSON values are YAML too)."""
    form: Format = "torch_export" if export == "torch_export" else "onnx"
    if export == "safetensors":
        form = "remote_code" if certificate.loadable == "remote_code" else "native"
    parts = [
        _front_matter(certificate, facts, form),
        f"# {facts.name}",
        f"{_code(facts.base_model)}, fine-tuned on {_code(facts.dataset)} and optimized by axforge.",
        "## Measured",
        _measured(certificate, export),
        _table(
            ("", "dense", "optimized", ""),
            [(row.label, row.dense, row.optimized, row.ratio) for row in comparison_rows(certificate)],
        ),
        *(f"* {note}" for note in certificate.notes),
        *_constraints(certificate),
        "## What was done",
        _steps(certificate),
        "## How to load it",
        *_needed(certificate, export),
        f"```python\n{snippet(facts.task, form)}```",
        *_labels(facts),
        *_licence(facts),
    ]
    return "\n\n".join(parts) + "\n"


def _front_matter(certificate: Certificate, facts: CardFacts, form: Format) -> str:
    entries: dict[str, object] = {"pipeline_tag": PIPELINE_TAGS[facts.task], "tags": ["axforge"]}
    libraries: dict[Format, str] = {"onnx": "onnx", "torch_export": "pytorch"}
    entries["library_name"] = libraries.get(form, "transformers")
    entries["metrics"] = [certificate.dense.metric.name]
    if facts.license is not None:
        entries["license"] = facts.license
    lines = (f"{name}: {json.dumps(value)}" for name, value in entries.items())
    return "\n".join(["---", *lines, "---"])


def _measured(certificate: Certificate, export: ExportName) -> str:
    measured = "onnx" if certificate.runtime == "onnxruntime" else "safetensors"
    text = (
        f"On {certificate.holdout_rows} examples that took no part in training or search, in fresh "
        f"processes, dense and optimized in turns: {certificate.runtime} on {certificate.device}. "
        "The interval is of the paired difference."
    )
    if export != measured:
        text += f" These are the figures of the {measured} export, not of the files in this folder."
    return text


def _constraints(certificate: Certificate) -> list[str]:
    rows = constraint_rows(certificate)
    if not rows:
        return []
    return [f"Verdict: **{certificate.verdict}**", _table(("constraint", "required", "measured", ""), rows)]


def _steps(certificate: Certificate) -> str:
    names = [step.approximation for step in certificate.recipe.steps]
    if not names:
        return "Nothing was approximated: no candidate was better than the dense model."
    counts = {name: names.count(name) for name in names}
    lines = (f"* `{name}`" + (f", {count} steps" if count > 1 else "") for name, count in counts.items())
    return "\n".join(lines) + f"\n\nSeed {certificate.seed}; job spec sha256 `{certificate.spec_digest}`."


def _needed(certificate: Certificate, export: ExportName) -> list[str]:
    """What has to be installed beside the library that loads such folders."""
    in_torch = export == "safetensors" and certificate.runtime == "torch"
    if not in_torch or certificate.recipe.quantization() is None:
        return []
    version = certificate.versions.get("torchao")
    return [
        f"The weights are int8 by torchao: `pip install torchao{f'=={version}' if version else ''}` first."
    ]


def _labels(facts: CardFacts) -> list[str]:
    if facts.task in WITHOUT_LABELS:
        return []
    return ["## Labels", ", ".join(map(_code, facts.labels))]


def _licence(facts: CardFacts) -> list[str]:
    lines = [f"* {line}" for line in facts.attributions]
    if facts.license is not None:
        lines.insert(0, f"* Licence: {facts.license}")
    return ["## Licence and attribution", "\n".join(lines)] if lines else []


def _code(text: str) -> str:
    """As inline code; a user's own text may hold what would end it."""
    return f"`{' '.join(text.replace('`', chr(39)).split())}`"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
