"""A run: its spec, folder and clock, and what its stages share, loaded when first needed."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from models.spec import LEARNED, JobSpec, Recipe, RecoveryOptions
from worker.engine.anatomy import Anatomy, Shape
from worker.engine.crew import Alone, Crew
from worker.engine.decision import Decision
from worker.engine.device import Device
from worker.engine.export.safetensors import torchao_installed
from worker.engine.measure.inputs import BenchInputs
from worker.engine.measure.machine import describe
from worker.engine.origin import Origin
from worker.engine.prepare import PreparedData
from worker.engine.recording import RecordingReporter
from worker.engine.reporting import Reporter, Stage
from worker.engine.tasks import TASKS, Scorer, Split, Task
from worker.engine.training import TeacherCache, augmented
from worker.engine.workspace import Stopwatch, Workspace, read_json, write_json

LESSONS = 60_000  # rows, up to which disturbed copies are made
MOST_COPIES = 3  # of each training row
VOCABULARY = "vocabulary"  # folder, in the baseline's, of the dense model with smaller vocabularies
HIDDEN_STATES_BYTES = 256 << 20  # of the dense model's, kept for recovery: those of the last layers


class Run:
    """Handed from stage to stage. Everything here can be made again from the workspace.

    `asked` is the job as the user wrote it, `spec` what is done of it: without approximations that its
    constraints forbid, and with what strategy `auto` has decided. `notes` tell of that.
    """

    def __init__(self, spec: JobSpec, workdir: Path, reporter: Reporter, crew: Crew | None = None) -> None:
        self.asked = spec
        self.crew: Crew = crew or Alone()
        self.workspace = Workspace(workdir, spec.digest())
        self._decision_file = workdir / "decision.json"
        self._follow(Decision.from_json(read_json(self._decision_file)))
        self.stopwatch = Stopwatch(workdir, spec.budget.max_minutes * 60)
        self.reporter: Reporter = RecordingReporter(reporter, self.workspace, self.stopwatch)
        self._origins: dict[str, Origin] = {}
        self.threads = describe(spec.target.device, threads=spec.target.threads).threads

    def decide(self, decision: Decision) -> None:
        """Keep what was decided for the user, and go by it from here on."""
        write_json(self._decision_file, decision.to_json())
        self._follow(decision)

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
    def dense(self) -> Origin:
        """The dense model, which everything is compared with, fine-tuned for the task."""
        return Origin(self, self.dense_folder)

    @property
    def origin(self) -> Origin:
        """What the search begins with: the dense model, with the vocabulary that the baseline left of it."""
        baseline = self.workspace.result("baseline")
        name = None if baseline is None else baseline["vocabulary"]
        return self.dense if name is None else self.with_vocabulary(name)

    def with_vocabulary(self, name: str) -> Origin:
        """The dense model with one of the vocabularies that the baseline tries."""
        if name not in self._origins:
            self._origins[name] = Origin(self, self.workspace.folder("baseline") / VOCABULARY / name, name)
        return self._origins[name]

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        return self.origin.tokenizer

    @property
    def scorer(self) -> Scorer:
        """The job's score on the selection split."""
        return self.origin.scorer

    @property
    def train(self) -> Split:
        return self.origin.train

    @property
    def selection(self) -> Split:
        return self.origin.selection

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

    @property
    def anatomy(self) -> Anatomy:
        """The anatomy, on the device, of the model that the search begins with."""
        baseline = self.workspace.result("baseline")
        uninformed = baseline is None or not baseline["start"]
        return self.origin.anatomy if uninformed else self.origin.informed_anatomy

    @cached_property
    def lessons(self) -> Split:
        """What recovery trains on: the training rows, and disturbed copies of them if they are few."""
        copies = min(MOST_COPIES, max(0, LESSONS // len(self.train) - 1)) if self.task.disturbs else 0
        fixed = self.tokenizer.all_special_ids
        return augmented(self.train, copies, fixed=fixed, seed=self.spec.seed) if copies else self.train

    @cached_property
    def teacher(self) -> TeacherCache:
        """What the dense model answers on the lessons, each row worked out once a process."""
        recovery = self.spec.recovery
        watched = isinstance(recovery, RecoveryOptions) and recovery.attention > 0
        return TeacherCache(
            self.anatomy.model,
            self.lessons,
            range(self.anatomy.layers),
            device=self.device,
            attention=range(self.anatomy.layers) if watched else (),
            max_bytes=HIDDEN_STATES_BYTES,
        )

    def shape(self, recipe: Recipe) -> Shape:
        return self.anatomy.shape(recipe)

    @property
    def quantizes(self) -> bool:
        """Whether the delivered file is int8: allowed, worth something on the target, and possible here."""
        if "quantize" not in self.spec.approximations or not self.spec.wants_int8:
            return False
        return self.spec.target.runtime == "onnxruntime" or torchao_installed()

    @property
    def may_thin_ffn(self) -> bool:
        """Whether FFN matrices may be of low rank: for size alone, since the latency table knows no ranks."""
        spec = self.spec
        return "low_rank_ffn" in spec.approximations and spec.focus == "size" and not self.bounds_speed

    @property
    def learns(self) -> bool:
        """Whether the strategy trains masks."""
        return self.asked.strategy in LEARNED

    @property
    def bounds_speed(self) -> bool:
        """Whether anything is asked of the model's time."""
        return self.spec.bounds_speed

    def length(self) -> int:
        """See `Origin.length`."""
        return self.origin.length()

    @property
    def timing_seconds(self) -> float:
        """How long one comparison on the target may take: a fiftieth of the budget, 2 to 14 seconds."""
        return min(14.0, max(2.0, self.spec.budget.max_minutes * 60 / 50))

    def timed_inputs(self) -> BenchInputs:
        """See `Origin.timed_inputs`."""
        return self.origin.timed_inputs()

    def progress(
        self, stage: Stage, step: int, total: int | None = None, message: str = "", **metrics: float
    ) -> None:
        """Report a step, after asking whether to go on."""
        self.reporter.check()
        self.reporter.progress(stage, step, total, message, **metrics)

    def _follow(self, decision: Decision) -> None:
        self.spec, self.notes = decision.applied(self.asked), decision.notes
