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
from worker.engine.prepare.columns import map_columns
from worker.engine.prepare.disk import disk_room
from worker.engine.prepare.files import DataFiles, find_files
from worker.engine.prepare.labels import hub_label_order, label_ids, label_names, label_set
from worker.engine.prepare.splitting import selection_size, stratified_sample, stratified_split
from worker.engine.prepare.tables import read_tables, write_table
from worker.engine.reporting import Reporter, SilentReporter
from worker.engine.tasks.base import Task
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
        return _read_rows(self.folder / "train.parquet")

    def selection(self) -> Rows:
        """Rows that every decision of the search is judged on."""
        return _read_rows(self.folder / "selection.parquet")

    def holdout(self) -> Rows:
        """The rows of the certificate. Nothing else may call this."""
        return _read_rows(self.folder / "holdout.parquet")


@dataclass(frozen=True)
class _Labelled:
    """Rows of one source split that have a text and a label, by name."""

    texts: list[str]
    pairs: list[str] | None
    names: list[str]

    def __len__(self) -> int:
        return len(self.texts)

    def at(self, index: NDArray[np.int64]) -> _Labelled:
        pairs = None if self.pairs is None else [self.pairs[i] for i in index]
        return _Labelled([self.texts[i] for i in index], pairs, [self.names[i] for i in index])


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
    columns = map_columns(table, source.columns)
    reporter.event("dataset.columns", _shown(columns), **columns.model_dump(), task=task.name)
    train = _labelled(table, columns, "training", reporter)
    labels = label_set(train.names, hub_label_order(table, str(columns.label)))
    origin, holdout = _find_holdout(source, files, columns, set(labels), reporter)
    if len(train) < MIN_TRAINING_ROWS:
        raise DatasetError(
            f"the training split has {len(train)} usable rows; at least {MIN_TRAINING_ROWS} are needed",
            remedy="give more training rows",
            pointer="/dataset",
        )
    if holdout is None:
        train, holdout = _carved(train, labels, seed, reporter)
    else:
        label_ids(holdout.names, labels, origin)
    train = _sampled(train, labels, source.max_train_rows, seed, reporter)
    rest, picked = _split(train, labels, seed)
    return _written(
        folder,
        {"train": train.at(rest), "selection": train.at(picked), "holdout": holdout},
        labels,
        columns,
        origin,
    )


def _find_holdout(
    source: DatasetSource, files: DataFiles, columns: Columns, known: set[str], reporter: Reporter
) -> tuple[str, _Labelled | None]:
    """The first candidate with labels, and its name. A candidate that the user named must have them."""
    for split, names in files.holdouts:
        table = read_tables([files.root / name for name in names], names, source.format)
        label = str(columns.label)
        found = label_names(table, label) if table.column_names.count(label) == 1 else []
        if "-1" not in known:  # the hub's sign for a withheld label
            found = [None if name == "-1" else name for name in found]
        if any(name is not None for name in found):
            reporter.event(
                "dataset.holdout", f"the {split} split judges the result", split=split, files=list(names)
            )
            return split, _labelled(table, columns, split, reporter, known)
        if source.holdout is not None:
            raise LabelError(
                f"the holdout {split!r} has no labels",
                remedy="name a split with labels in dataset.holdout",
                pointer="/dataset/holdout",
            )
        reporter.event("dataset.unlabelled", f"the {split} split has no labels and is left out", split=split)
    return "carved", None


def _labelled(
    table: pa.Table, columns: Columns, split: str, reporter: Reporter, known: set[str] | None = None
) -> _Labelled:
    """Rows with all their parts; others are counted, told and dropped, unless they are the most."""
    wanted = [name for name in (columns.text, columns.text_pair, columns.label) if name is not None]
    for name in wanted:
        if table.column_names.count(name) != 1:
            raise ColumnError(
                f"the {split} split has no column {name!r}, or two of them; its columns are: "
                f"{', '.join(table.column_names)}",
                remedy="give all splits the same columns",
                pointer="/dataset/columns",
            )
    names = label_names(table, str(columns.label))
    if known is not None and "-1" not in known:
        names = [None if name == "-1" else name for name in names]
    texts = _texts(table, str(columns.text), "text")
    pairs = None if columns.text_pair is None else _texts(table, columns.text_pair, "text_pair")
    kept = [
        row
        for row, name in enumerate(names)
        if name is not None and texts[row] is not None and (pairs is None or pairs[row] is not None)
    ]
    dropped = len(names) - len(kept)
    if dropped * 2 > len(names):
        raise DatasetError(
            f"{dropped} of {len(names)} rows of the {split} split lack a text or a label",
            remedy="check the column mapping in dataset.columns, and the file",
            pointer="/dataset/columns",
        )
    if dropped:
        reporter.event(
            "dataset.dropped_rows",
            f"{dropped} of {len(names)} rows of the {split} split lack a text or a label and are left out",
            split=split,
            dropped=dropped,
            rows=len(names),
        )
    return _Labelled(
        [str(texts[row]) for row in kept],
        None if pairs is None else [str(pairs[row]) for row in kept],
        [str(names[row]) for row in kept],
    )


def _texts(table: pa.Table, column: str, part: str) -> list[str | None]:
    """The column as strings; None where it is null or blank."""
    try:
        values = table.column(column).cast(pa.string()).to_pylist()
    except pa.ArrowException as error:
        kind = table.schema.field(column).type
        raise ColumnError(
            f"column {column!r} holds values of type {kind}, not text",
            remedy=f"name a column of strings in dataset.columns.{part}",
            pointer=f"/dataset/columns/{part}",
        ) from error
    return [value if value is not None and value.strip() else None for value in values]


def _carved(
    train: _Labelled, labels: Sequence[str], seed: int, reporter: Reporter
) -> tuple[_Labelled, _Labelled]:
    rest, picked = _split(train, labels, seed + 1)
    reporter.event(
        "dataset.holdout",
        f"there is no labelled test or validation split: {len(picked)} training rows were set aside to judge",
        split="carved",
        rows=len(picked),
    )
    return train.at(rest), train.at(picked)


def _sampled(
    train: _Labelled, labels: Sequence[str], most: int | None, seed: int, reporter: Reporter
) -> _Labelled:
    if most is None or most >= len(train):
        return train
    reporter.event(
        "dataset.sample", f"{most} of {len(train)} training rows are used", rows=most, of=len(train)
    )
    return train.at(stratified_sample(label_ids(train.names, labels, "training"), most, seed=seed))


def _split(rows: _Labelled, labels: Sequence[str], seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows left and rows picked; rows of the same text (letter case and outer blanks aside) together."""
    pairs = rows.pairs or [""] * len(rows)
    keys = [
        f"{a.strip().casefold()}\x00{b.strip().casefold()}" for a, b in zip(rows.texts, pairs, strict=True)
    ]
    places = {key: place for place, key in enumerate(dict.fromkeys(keys))}
    groups = np.fromiter((places[key] for key in keys), dtype=np.int64, count=len(keys))
    ids = label_ids(rows.names, labels, "training")
    rest, picked = stratified_split(ids, selection_size(len(rows)), seed=seed, groups=groups)
    if len(picked) == 0 or len(rest) == 0:
        raise DatasetError(
            "the training rows cannot be split into rows to learn from and rows to judge by",
            remedy="give more rows with different texts in each class",
            pointer="/dataset",
        )
    return rest, picked


def _written(
    folder: Path, splits: dict[str, _Labelled], labels: tuple[str, ...], columns: Columns, origin: str
) -> PreparedData:
    """Write the splits, and the record last: where it is, everything is."""
    digests = {}
    for name, rows in splits.items():
        path = folder / f"{name}.parquet"
        parts: dict[str, object] = {"text": rows.texts}
        if rows.pairs is not None:
            parts["text_pair"] = rows.pairs
        parts["label"] = label_ids(rows.names, labels, origin if name == "holdout" else name)
        write_table(pa.table(parts), path)
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


def _read_rows(path: Path) -> Rows:
    table = pyarrow.parquet.read_table(path)
    pairs = table.column("text_pair").to_pylist() if "text_pair" in table.column_names else None
    labels = table.column("label").to_numpy().astype(np.int64)
    return Rows(table.column("text").to_pylist(), pairs, labels)


def _shown(columns: Columns) -> str:
    pair = f", second text {columns.text_pair!r}" if columns.text_pair else ""
    return f"text from column {columns.text!r}{pair}, label from column {columns.label!r}"
