"""A run: its spec, folder and clock, and what its stages share, loaded when first needed."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from models.spec import JobSpec, Recipe
from worker.engine.anatomy import Anatomy, Shape, anatomy_of
from worker.engine.crew import Alone, Crew
from worker.engine.device import Device
from worker.engine.measure.inputs import BenchInputs
from worker.engine.measure.machine import describe
from worker.engine.prepare import PreparedData, load_model, load_tokenizer
from worker.engine.reporting import Reporter, Stage
from worker.engine.tasks import TASKS, Scorer, Split, Task
from worker.engine.training import TeacherCache, augmented
from worker.engine.workspace import Stopwatch, Workspace

LESSONS = 60_000  # rows, up to which disturbed copies are made
MOST_COPIES = 3  # of each training row
HIDDEN_STATES_BYTES = 256 << 20  # of the dense model's, kept for recovery: those of the last layers


class Run:
    """Handed from stage to stage. Everything here can be made again from the workspace."""

    def __init__(self, spec: JobSpec, workdir: Path, reporter: Reporter, crew: Crew | None = None) -> None:
        self.spec = spec
        self.reporter = reporter
        self.crew: Crew = crew or Alone()
        self.workspace = Workspace(workdir, spec.digest())
        self.stopwatch = Stopwatch(workdir, spec.budget.max_minutes * 60)
        self.threads = describe(spec.target.device, threads=spec.target.threads).threads

    @cached_property
    def device(self) -> Device:
        """Where this run trains: a GPU when there is one, whatever the target is."""
        return Device.pick("auto")

    @property
    def task(self) -> Task:
        return TASKS[self.spec.task]

    @cached_property
    def data(self) -> PreparedData:
        """The prepared data set; its holdout is opened by `certify` only."""
        return PreparedData.load(self.workspace.folder("prepare") / "data")

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        return load_tokenizer(self.dense_folder)

    @cached_property
    def scorer(self) -> Scorer:
        """The job's score on the selection split."""
        return Scorer(self.task, self.spec.metric, self.selection)

    @cached_property
    def train(self) -> Split:
        return self.encoded("train")

    @cached_property
    def selection(self) -> Split:
        return self.encoded("selection")

    def encoded(self, name: str) -> Split:
        """The train or selection rows as tokens."""
        rows = self.data.train() if name == "train" else self.data.selection()
        return self.task.encode(rows, self.tokenizer, max_length=self.max_length)

    @property
    def max_length(self) -> int:
        """Tokens at which longer examples are cut: as asked, but no more than the model has positions for."""
        prepared = self.workspace.result("prepare")
        assert prepared is not None
        return int(prepared["max_length"])

    @property
    def dense_folder(self) -> Path:
        """The dense model that everything is compared with, fine-tuned for the task."""
        return self.workspace.folder("baseline") / "model"

    def dense_model(self) -> PreTrainedModel:
        """A fresh copy of the dense model, in evaluation mode."""
        model, _ = load_model(self.dense_folder, self.task, labels=self.data.labels, seed=self.spec.seed)
        return model

    @cached_property
    def anatomy(self) -> Anatomy:
        """The dense model's anatomy, on the device."""
        model = self.dense_model()
        model.to(self.device.torch_device)
        return anatomy_of(model)

    @cached_property
    def lessons(self) -> Split:
        """What recovery trains on: the training rows, and disturbed copies of them if they are few."""
        copies = min(MOST_COPIES, max(0, LESSONS // len(self.train) - 1))
        fixed = self.tokenizer.all_special_ids
        return augmented(self.train, copies, fixed=fixed, seed=self.spec.seed) if copies else self.train

    @cached_property
    def teacher(self) -> TeacherCache:
        """What the dense model answers on the lessons, each row worked out once a process."""
        return TeacherCache(
            self.anatomy.model,
            self.lessons,
            range(self.anatomy.layers),
            device=self.device,
            max_bytes=HIDDEN_STATES_BYTES,
        )

    def shape(self, recipe: Recipe) -> Shape:
        return self.anatomy.shape(recipe)

    @property
    def quantizes(self) -> bool:
        """Whether the delivered file is int8: allowed, and the target's runtime can run it."""
        return "quantize" in self.spec.approximations and self.spec.target.runtime == "onnxruntime"

    def length(self) -> int:
        """Tokens of one sequence of the target, as MACs count them: the mean of the data's, rounded."""
        asked = self.spec.target.sequence_length
        return round(float(self.selection.sequence_lengths.mean())) if asked == "data" else asked

    @property
    def timing_seconds(self) -> float:
        """How long one comparison on the target may take: a fiftieth of the budget, 2 to 14 seconds."""
        return min(14.0, max(2.0, self.spec.budget.max_minutes * 60 / 50))

    def timed_inputs(self) -> BenchInputs:
        """Selection rows as the target meets them, for measurements before the certificate."""
        ids, types = token_rows(self.selection)
        return BenchInputs.sample(
            ids,
            batch_size=self.spec.target.batch_size,
            sequence_length=self.spec.target.sequence_length,
            pad_id=self.selection.pad_id,
            token_types=types,
            choices=self.selection.choices,
            seed=self.spec.seed,
        )

    def progress(
        self, stage: Stage, step: int, total: int | None = None, message: str = "", **metrics: float
    ) -> None:
        """Report a step, after asking whether to go on."""
        self.reporter.check()
        self.reporter.progress(stage, step, total, message, **metrics)


def bench_inputs(split: Split, *, batch_size: int) -> BenchInputs:
    """All rows of a split in their order, as a target with that batch size meets them."""
    ids, types = token_rows(split)
    return BenchInputs.in_order(
        ids, batch_size=batch_size, pad_id=split.pad_id, token_types=types, choices=split.choices
    )


def token_rows(split: Split) -> tuple[list[np.ndarray], list[np.ndarray] | None]:
    """Token ids and token types sequence by sequence, unpadded; no types where the tokenizer makes none."""
    cuts = split.offsets[1:-1]
    types = None if split.segments is None else np.split(split.segments, cuts)
    return np.split(split.ids, cuts), types
