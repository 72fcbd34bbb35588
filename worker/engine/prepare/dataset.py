"""The job's data: read, mapped, checked, split, and kept as parquet files of one form."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
from numpy.typing import NDArray

from models.spec import Columns, DatasetSource
from worker.engine.errors import ColumnError, DatasetError, LabelError
from worker.engine.prepare.disk import disk_room
from worker.engine.prepare.files import DataFiles, find_files
from worker.engine.prepare.splitting import selection_size, stratified_sample, stratified_split
from worker.engine.prepare.tables import read_tables, write_table
from worker.engine.reporting import Reporter, SilentReporter
from worker.engine.tasks.base import Task
from worker.engine.tasks.columns import named_columns
from worker.engine.tasks.rows import Rows

RECORD = "dataset.json"
SPLITS = ("train", "selection", "holdout")
MIN_TRAINING_ROWS = 20


@dataclass(frozen=True)
class PreparedData:
    """Prepared rows in `folder`; each split is read only when it is asked for.

    `labels` are the names that label indices stand for, `columns` the mapping that was used,
    `holdout_origin` the split that judges (`carved` when it was taken out of the training rows),
    `digests` the sha256 of each file.
    """

    folder: Path
    labels: tuple[str, ...]
    columns: Columns
    rows: dict[str, int]
    holdout_origin: str
    digests: dict[str, str]

    @staticmethod
    def load(folder: Path) -> PreparedData:
        """What `prepare_dataset` left in `folder`. Raises FileNotFoundError when it did not finish."""
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        return PreparedData(
            folder=folder,
            labels=tuple(record["labels"]),
            columns=Columns(**record["columns"]),
            rows=record["rows"],
            holdout_origin=record["holdout_origin"],
            digests=record["digests"],
        )

    def train(self) -> Rows:
        """Rows to learn from."""
        return self._rows("train")

    def selection(self) -> Rows:
        """Rows that every decision of the search is judged on."""
        return self._rows("selection")

    def holdout(self) -> Rows:
        """The rows of the certificate. Nothing else may call this."""
        return self._rows("holdout")

    def _rows(self, split: str) -> Rows:
        table = pyarrow.parquet.read_table(self.folder / f"{split}.parquet")
        return Rows(table.to_pydict(), self.labels)


def prepare_dataset(
    source: DatasetSource,
    folder: Path,
    *,
    seed: int,
    task: Task,
    reporter: Reporter | None = None,
    hub_endpoint: str | None = None,
) -> PreparedData:
    """Read `source` and write train, selection and holdout rows into `folder`.

    The selection split is carved from the training rows, seeded and stratified; identical texts stay on
    one side. Holdout is the test split if it has labels, else the validation split, else carved from the
    training rows; only its columns and labels are looked at here.
    Raises SourceError, DatasetError, ColumnError, LabelError, DiskFull.
    """
    reporter = reporter or SilentReporter()
    with disk_room("the prepared data"):
        folder.mkdir(parents=True, exist_ok=True)
    files = find_files(source, folder, hub_endpoint=hub_endpoint)
    table = read_tables([files.root / name for name in files.train], files.train, source.format)
    if table.num_rows == 0:
        raise DatasetError(
            "the training split is empty", remedy="give a file with rows in it", pointer="/dataset"
        )
    columns = task.map_columns(table, source.columns)
    reporter.event("dataset.columns", _shown(columns), **columns.model_dump(), task=task.name)
    named = _complete(_read(task, table, columns, "training"), "training", reporter)
    labels = task.label_set(named, table, columns)
    train = task.numbered(named, labels, "training")
    origin, holdout = _find_holdout(source, files, columns, task, labels, reporter)
    if len(train) < MIN_TRAINING_ROWS:
        raise DatasetError(
            f"the training split has {len(train)} usable rows; at least {MIN_TRAINING_ROWS} are needed",
            remedy="give more training rows",
            pointer="/dataset",
        )
    if holdout is None:
        train, holdout = _carved(train, task, seed, reporter)
    train = _sampled(train, task, source.max_train_rows, seed, reporter)
    rest, picked = _split(train, task, seed)
    return _written(
        folder,
        {"train": train.take(rest), "selection": train.take(picked), "holdout": holdout},
        labels,
        columns,
        origin,
    )


def _find_holdout(
    source: DatasetSource,
    files: DataFiles,
    columns: Columns,
    task: Task,
    labels: tuple[str, ...],
    reporter: Reporter,
) -> tuple[str, Rows | None]:
    """The first candidate with labels, and its name. A candidate that the user named must have them."""
    for split, names in files.holdouts:
        table = read_tables([files.root / name for name in names], names, source.format)
        if _has(table, task.label_columns(columns)):
            rows = task.withheld(_read(task, table, columns, split), labels)
            if task.has_labels(rows):
                reporter.event(
                    "dataset.holdout", f"the {split} split judges the result", split=split, files=list(names)
                )
                return split, task.numbered(_complete(rows, split, reporter), labels, split)
        if source.holdout is not None:
            raise LabelError(
                f"the holdout {split!r} has no labels",
                remedy="name a split with labels in dataset.holdout",
                pointer="/dataset/holdout",
            )
        reporter.event("dataset.unlabelled", f"the {split} split has no labels and is left out", split=split)
    return "carved", None


def _has(table: pa.Table, names: Sequence[str]) -> bool:
    return all(table.column_names.count(name) == 1 for name in names)


def _read(task: Task, table: pa.Table, columns: Columns, split: str) -> Rows:
    """All rows of a split's table, which has every column. Raises ColumnError and LabelError."""
    for name in named_columns(columns):
        if not _has(table, [name]):
            raise ColumnError(
                f"the {split} split has no column {name!r}, or two of them; its columns are: "
                f"{', '.join(table.column_names)}",
                remedy="give all splits the same columns",
                pointer="/dataset/columns",
            )
    return task.read(table, columns)


def _complete(rows: Rows, split: str, reporter: Reporter) -> Rows:
    """Rows with all their parts; others are counted, told and dropped, unless they are the most."""
    kept = rows.complete()
    dropped = len(rows) - len(kept)
    lack = "lack a text or a label"
    if dropped * 2 > len(rows):
        raise DatasetError(
            f"{dropped} of {len(rows)} rows of the {split} split {lack}",
            remedy="check the column mapping in dataset.columns, and the file",
            pointer="/dataset/columns",
        )
    if dropped:
        reporter.event(
            "dataset.dropped_rows",
            f"{dropped} of {len(rows)} rows of the {split} split {lack} and are left out",
            split=split,
            dropped=dropped,
            rows=len(rows),
        )
    return rows.take(kept)


def _carved(train: Rows, task: Task, seed: int, reporter: Reporter) -> tuple[Rows, Rows]:
    rest, picked = _split(train, task, seed + 1)
    reporter.event(
        "dataset.holdout",
        f"there is no labelled test or validation split: {len(picked)} training rows were set aside to judge",
        split="carved",
        rows=len(picked),
    )
    return train.take(rest), train.take(picked)


def _sampled(train: Rows, task: Task, most: int | None, seed: int, reporter: Reporter) -> Rows:
    if most is None or most >= len(train):
        return train
    reporter.event(
        "dataset.sample", f"{most} of {len(train)} training rows are used", rows=most, of=len(train)
    )
    return train.take(stratified_sample(task.strata(train), most, seed=seed))


def _split(rows: Rows, task: Task, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows left and rows picked; rows of the same text (letter case and outer blanks aside) together."""
    keys = task.texts(rows)
    places = {key: place for place, key in enumerate(dict.fromkeys(keys))}
    groups = np.fromiter((places[key] for key in keys), dtype=np.int64, count=len(keys))
    rest, picked = stratified_split(task.strata(rows), selection_size(len(rows)), seed=seed, groups=groups)
    if len(picked) == 0 or len(rest) == 0:
        raise DatasetError(
            "the training rows cannot be split into rows to learn from and rows to judge by",
            remedy="give more rows with different texts in each class",
            pointer="/dataset",
        )
    return rest, picked


def _written(
    folder: Path, splits: dict[str, Rows], labels: tuple[str, ...], columns: Columns, origin: str
) -> PreparedData:
    """Write the splits, and the record last: where it is, everything is."""
    digests = {}
    for name, rows in splits.items():
        path = folder / f"{name}.parquet"
        write_table(pa.table(dict(rows.parts)), path)
        digests[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    counts = {name: len(rows) for name, rows in splits.items()}
    prepared = PreparedData(folder, labels, columns, counts, origin, digests)
    record = {key: value for key, value in asdict(prepared).items() if key != "folder"}
    record["columns"] = columns.model_dump()
    with disk_room("the data set's record"):
        part = folder / f"{RECORD}.part"
        part.write_text(json.dumps(record, indent=1), encoding="utf-8")
        part.replace(folder / RECORD)
    return prepared


def _shown(columns: Columns) -> str:
    named = columns.model_dump(exclude_none=True)
    return ", ".join(f"{part} from column {_listed(value)}" for part, value in named.items())


def _listed(value: str | Sequence[str]) -> str:
    return repr(value) if isinstance(value, str) else ", ".join(map(repr, value))
