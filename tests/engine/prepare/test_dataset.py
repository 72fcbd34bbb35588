from __future__ import annotations

import errno
import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest

from models.spec import Columns, DatasetSource
from tests.engine.prepare.conftest import Events, Prepare, topic_rows, write_jsonl
from tests.engine.prepare.hub_server import FakeHub
from worker.engine.errors import ColumnError, DatasetError, DiskFull, LabelError, SourceError
from worker.engine.prepare import PreparedData, prepare_dataset
from worker.engine.tasks import TASKS


def folder_of(root: Path, **splits: list[dict[str, Any]]) -> Path:
    for name, rows in splits.items():
        write_jsonl(root / f"{name}.jsonl", rows)
    return root


def write_as(path: Path, rows: list[dict[str, Any]]) -> None:
    table = pa.Table.from_pylist(rows)
    if ".parquet" in path.name:
        pyarrow.parquet.write_table(table, path)
    elif ".csv" in path.name:
        sink = pa.BufferOutputStream()
        pyarrow.csv.write_csv(table, sink)
        content = sink.getvalue().to_pybytes()
        path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    else:
        write_jsonl(path, rows)


def all_texts(data: PreparedData) -> dict[str, list[str]]:
    splits = {"train": data.train(), "selection": data.selection(), "holdout": data.holdout()}
    return {name: list(rows["text"]) for name, rows in splits.items()}


@pytest.mark.parametrize("suffix", ["csv", "csv.gz", "jsonl", "jsonl.gz", "parquet"])
def test_every_format_gives_the_same_rows(suffix: str, tmp_path: Path, prepare: Prepare) -> None:
    source = tmp_path / "data"
    source.mkdir()
    write_as(source / f"train.{suffix}", topic_rows(200))
    write_as(source / f"test.{suffix}", topic_rows(40, offset=200))
    data = prepare(source)
    assert data.labels == ("money", "weather")
    assert data.rows == {"train": 150, "selection": 50, "holdout": 40}
    texts = all_texts(data)
    assert sorted(texts["train"] + texts["selection"]) == sorted(row["text"] for row in topic_rows(200))
    assert texts["holdout"] == [row["text"] for row in topic_rows(40, offset=200)]
    expected = [data.labels.index(row["label"]) for row in topic_rows(40, offset=200)]
    assert data.holdout()["label"] == expected


def test_what_is_written_can_be_read_back(tmp_path: Path, prepare: Prepare) -> None:
    data = prepare(folder_of(tmp_path / "data", train=topic_rows(100), test=topic_rows(20)))
    assert PreparedData.load(data.folder) == data


def test_same_seed_same_files_other_seed_other_split(tmp_path: Path, prepare: Prepare) -> None:
    source = folder_of(tmp_path / "data", train=topic_rows(200), test=topic_rows(20))
    first, again, other = (prepare(source, seed=s, into=i) for s, i in ((1, "a"), (1, "b"), (2, "c")))
    assert first.digests == again.digests
    assert first.digests["selection"] != other.digests["selection"]


def test_training_and_selection_never_open_the_holdout(tmp_path: Path, prepare: Prepare) -> None:
    data = prepare(folder_of(tmp_path / "data", train=topic_rows(100), test=topic_rows(20)))
    (data.folder / "holdout.parquet").write_bytes(b"poison")
    loaded = PreparedData.load(data.folder)
    assert len(loaded.train()) + len(loaded.selection()) == 100
    with pytest.raises(pa.ArrowInvalid):
        loaded.holdout()


def test_selection_shares_no_text_with_training(tmp_path: Path, prepare: Prepare) -> None:
    rows = topic_rows(100)
    doubled = rows + [{**row, "text": row["text"].upper()} for row in rows]
    texts = all_texts(prepare(folder_of(tmp_path / "data", train=doubled, test=topic_rows(20))))
    lowered = {name: {text.lower() for text in own} for name, own in texts.items()}
    assert lowered["selection"]
    assert not lowered["selection"] & lowered["train"]


class TestSplits:
    def test_test_split_judges_before_validation(self, tmp_path: Path, prepare: Prepare) -> None:
        source = folder_of(
            tmp_path / "data", train=topic_rows(100), dev=topic_rows(30), test=topic_rows(20, offset=500)
        )
        data = prepare(source)
        assert (data.holdout_origin, data.rows["holdout"]) == ("test", 20)

    @pytest.mark.parametrize("withheld", [None, -1])
    def test_validation_judges_where_test_labels_are_withheld(
        self, withheld: int | None, tmp_path: Path, prepare: Prepare, events: Events
    ) -> None:
        def numbered(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
            return [{**row, "label": int(row["label"] == "money")} for row in rows]

        test = [{**row, "label": withheld} for row in topic_rows(20)]
        source = folder_of(
            tmp_path / "data", train=numbered(topic_rows(100)), valid=numbered(topic_rows(30)), test=test
        )
        data = prepare(source)
        assert (data.holdout_origin, data.rows["holdout"]) == ("validation", 30)
        assert any(kind == "dataset.unlabelled" for kind, _, _ in events)

    def test_holdout_is_carved_where_there_is_none(
        self, tmp_path: Path, prepare: Prepare, events: Events
    ) -> None:
        file = write_jsonl(tmp_path / "data" / "rows.jsonl", topic_rows(1000))
        data = prepare(file)
        assert data.holdout_origin == "carved"
        assert data.rows["holdout"] == 150
        texts = all_texts(data)
        assert not set(texts["holdout"]) & {*texts["train"], *texts["selection"]}
        assert any(kind == "dataset.holdout" and more["split"] == "carved" for kind, _, more in events)

    def test_files_named_by_the_spec(self, tmp_path: Path, prepare: Prepare) -> None:
        source = folder_of(tmp_path / "data", alpha=topic_rows(100), beta=topic_rows(20), gamma=topic_rows(9))
        data = prepare(source, train="alpha", holdout="beta.jsonl")
        assert data.rows["holdout"] == 20

    def test_a_single_file_with_a_holdout_beside_it(self, tmp_path: Path, prepare: Prepare) -> None:
        source = folder_of(tmp_path / "data", alpha=topic_rows(100), beta=topic_rows(20))
        assert prepare(source / "alpha.jsonl", holdout="beta").rows["holdout"] == 20

    def test_parts_of_a_split_are_joined(self, tmp_path: Path, prepare: Prepare) -> None:
        write_jsonl(tmp_path / "data" / "train-00000-of-00002.jsonl", topic_rows(60))
        write_jsonl(tmp_path / "data" / "train-00001-of-00002.jsonl", topic_rows(60, offset=60))
        write_jsonl(tmp_path / "data" / "test-00000-of-00001.jsonl", topic_rows(20))
        data = prepare(tmp_path / "data")
        assert data.rows["train"] + data.rows["selection"] == 120

    def test_more_than_one_training_split(self, tmp_path: Path, prepare: Prepare) -> None:
        for config in ("a", "b"):
            write_jsonl(tmp_path / "data" / config / "train.jsonl", topic_rows(60))
        with pytest.raises(DatasetError, match="more than one train split"):
            prepare(tmp_path / "data")

    def test_no_training_file_among_several(self, tmp_path: Path, prepare: Prepare) -> None:
        source = folder_of(tmp_path / "data", alpha=topic_rows(100), beta=topic_rows(20))
        with pytest.raises(DatasetError, match=r"alpha\.jsonl, beta\.jsonl") as raised:
            prepare(source)
        assert raised.value.pointer == "/dataset/train"

    @pytest.mark.parametrize("wanted", ["nope", "../secret.jsonl", "/etc/passwd"])
    def test_a_named_file_that_the_folder_does_not_have(
        self, wanted: str, tmp_path: Path, prepare: Prepare
    ) -> None:
        write_jsonl(tmp_path / "secret.jsonl", topic_rows(30))
        source = folder_of(tmp_path / "data", train=topic_rows(100))
        with pytest.raises(DatasetError) as raised:
            prepare(source, holdout=wanted)
        assert raised.value.pointer == "/dataset/holdout"

    def test_a_link_out_of_the_folder_is_no_file_of_it(self, tmp_path: Path, prepare: Prepare) -> None:
        outside = write_jsonl(tmp_path / "outside.jsonl", topic_rows(100))
        (tmp_path / "data").mkdir()
        (tmp_path / "data" / "train.jsonl").symlink_to(outside)
        with pytest.raises(DatasetError, match="no csv, jsonl or parquet file"):
            prepare(tmp_path / "data")

    def test_a_sample_keeps_every_class(self, tmp_path: Path, prepare: Prepare) -> None:
        rows = topic_rows(970) + [{"text": f"rare {i}", "label": "food"} for i in range(30)]
        data = prepare(folder_of(tmp_path / "data", train=rows, test=topic_rows(20)), max_train_rows=200)
        assert data.rows["train"] + data.rows["selection"] == 200
        counts = np.bincount(np.concatenate([data.train()["label"], data.selection()["label"]]))
        assert counts.tolist() == [6, 97, 97]


class TestColumns:
    @pytest.mark.parametrize(
        ("names", "text", "pair", "label"),
        [
            (("sentence", "label", "idx"), "sentence", None, "label"),
            (("Utterance", "Intent"), "Utterance", None, "Intent"),
            (("whatever", "labels"), "whatever", None, "labels"),
            (("sentence1", "sentence2", "label", "idx"), "sentence1", "sentence2", "label"),
            (("question", "sentence", "label"), "question", "sentence", "label"),
            (("hypothesis", "premise", "label"), "premise", "hypothesis", "label"),
        ],
    )
    def test_guessed_and_told(
        self,
        names: tuple[str, ...],
        text: str,
        pair: str | None,
        label: str,
        tmp_path: Path,
        prepare: Prepare,
        events: Events,
    ) -> None:
        def row(number: int) -> dict[str, Any]:
            values = {name: f"{name} {number}" for name in names}
            return {**values, label: number % 2} | ({"idx": number} if "idx" in names else {})

        rows = [row(number) for number in range(60)]
        data = prepare(folder_of(tmp_path / "data", train=rows, test=rows[:10]))
        assert data.columns == Columns(text=text, text_pair=pair, label=label)
        assert data.train()["text"][0].startswith(text)
        assert ("text_pair" in data.train()) == (pair is not None)
        told = next(more for kind, _, more in events if kind == "dataset.columns")
        assert (told["text"], told["text_pair"], told["label"]) == (text, pair, label)

    def test_given_columns_win(self, tmp_path: Path, prepare: Prepare) -> None:
        rows = [
            {**row, "note": "x" + row["text"], "tone": "ab"[i % 2]} for i, row in enumerate(topic_rows(60))
        ]
        columns = Columns(text="note", label="tone")
        data = prepare(folder_of(tmp_path / "data", train=rows, test=rows[:9]), columns=columns)
        assert data.labels == ("a", "b")
        assert data.train()["text"][0].startswith("x")

    @pytest.mark.parametrize(
        ("names", "pointer"),
        [
            (("text", "coarse_label", "fine_label"), "/dataset/columns/label"),
            (("text", "other"), "/dataset/columns/label"),
            (("subject", "body", "label"), "/dataset/columns/text"),
            (("text", "sentence", "label"), "/dataset/columns/text"),
            (("label",), "/dataset/columns/text"),
        ],
    )
    def test_missing_or_ambiguous(
        self, names: tuple[str, ...], pointer: str, tmp_path: Path, prepare: Prepare
    ) -> None:
        rows = [{name: f"{name} {number % 2}" for name in names} for number in range(60)]
        with pytest.raises(ColumnError) as raised:
            prepare(folder_of(tmp_path / "data", train=rows))
        error = raised.value
        assert error.pointer == pointer
        assert all(name in error.message for name in names)

    def test_a_given_column_that_is_not_there(self, tmp_path: Path, prepare: Prepare) -> None:
        with pytest.raises(ColumnError, match="there is no column 'topic'; the columns are: text, label"):
            prepare(folder_of(tmp_path / "d", train=topic_rows(60)), columns=Columns(label="topic"))

    def test_a_holdout_of_other_columns(self, tmp_path: Path, prepare: Prepare) -> None:
        other = [{"body": row["text"], "label": row["label"]} for row in topic_rows(20)]
        with pytest.raises(ColumnError, match="test split has no column 'text'"):
            prepare(folder_of(tmp_path / "data", train=topic_rows(60), test=other))


class TestLabels:
    @pytest.mark.parametrize(
        ("values", "labels"),
        [
            ([10, 9, 2], ("2", "9", "10")),
            (["b", "a", "10"], ("10", "a", "b")),
            (["10", "9", "2"], ("2", "9", "10")),
            ([True, False], ("false", "true")),
            ([1.0, 0.0], ("0", "1")),
        ],
    )
    def test_order(
        self, values: list[Any], labels: tuple[str, ...], tmp_path: Path, prepare: Prepare
    ) -> None:
        rows = [{"text": f"row {i}", "label": values[i % len(values)]} for i in range(60)]
        assert prepare(folder_of(tmp_path / "data", train=rows, test=rows[:9])).labels == labels

    def test_names_of_a_hub_class_label(self, tmp_path: Path, prepare: Prepare) -> None:
        feature = {"names": ["zero", "a one"], "_type": "ClassLabel"}
        metadata = {"huggingface": json.dumps({"info": {"features": {"label": feature}}})}
        rows = [{"text": f"row {i}", "label": i % 2} for i in range(60)]
        table = pa.Table.from_pylist(rows).replace_schema_metadata(metadata)
        pyarrow.parquet.write_table(table, tmp_path / "train.parquet")
        data = prepare(tmp_path / "train.parquet")
        assert data.labels == ("zero", "a one")

    def test_one_class(self, tmp_path: Path, prepare: Prepare) -> None:
        with pytest.raises(LabelError, match="only the label 'weather'"):
            prepare(folder_of(tmp_path / "data", train=topic_rows(60, ["weather"])))

    def test_unseen_in_training(self, tmp_path: Path, prepare: Prepare) -> None:
        source = folder_of(tmp_path / "data", train=topic_rows(60), test=topic_rows(20, ["money", "food"]))
        with pytest.raises(LabelError, match="'food'") as raised:
            prepare(source)
        assert raised.value.pointer == "/dataset/columns/label"

    def test_scores_are_no_classes(self, tmp_path: Path, prepare: Prepare) -> None:
        rows = [{"text": f"row {i}", "label": i / 7} for i in range(60)]
        with pytest.raises(LabelError, match="fractions"):
            prepare(folder_of(tmp_path / "data", train=rows))

    def test_several_labels_a_row(self, tmp_path: Path, prepare: Prepare) -> None:
        rows = [{"text": f"row {i}", "label": [0, 1]} for i in range(60)]
        with pytest.raises(LabelError, match="not one label a row"):
            prepare(folder_of(tmp_path / "data", train=rows))

    def test_a_column_of_ids(self, tmp_path: Path, prepare: Prepare) -> None:
        rows = [{"text": f"row {i}", "label": i} for i in range(60)]
        with pytest.raises(LabelError, match="60 different labels"):
            prepare(folder_of(tmp_path / "data", train=rows))

    def test_a_named_holdout_without_labels(self, tmp_path: Path, prepare: Prepare) -> None:
        unlabelled = [{"text": row["text"]} for row in topic_rows(20)]
        with pytest.raises(LabelError) as raised:
            prepare(folder_of(tmp_path / "data", train=topic_rows(60), test=unlabelled), holdout="test")
        assert raised.value.pointer == "/dataset/holdout"


class TestBadRows:
    @pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
    def test_empty_file(self, suffix: str, tmp_path: Path, prepare: Prepare) -> None:
        source = tmp_path / "data"
        source.mkdir()
        if suffix == "parquet":
            pyarrow.parquet.write_table(pa.table({"text": [], "label": []}), source / "train.parquet")
        else:
            (source / f"train.{suffix}").write_bytes(b"")
        with pytest.raises(DatasetError, match="empty"):
            prepare(source)

    def test_too_few(self, tmp_path: Path, prepare: Prepare) -> None:
        with pytest.raises(DatasetError, match="at least 20"):
            prepare(folder_of(tmp_path / "data", train=topic_rows(12), test=topic_rows(9)))

    def test_rows_without_text_or_label_are_dropped_and_told(
        self, tmp_path: Path, prepare: Prepare, events: Events
    ) -> None:
        bad = [
            {"text": " ", "label": "money"},
            {"text": None, "label": "money"},
            {"text": "x", "label": None},
        ]
        data = prepare(folder_of(tmp_path / "data", train=topic_rows(60) + bad, test=topic_rows(9)))
        assert data.rows["train"] + data.rows["selection"] == 60
        told = next(more for kind, _, more in events if kind == "dataset.dropped_rows")
        assert (told["dropped"], told["rows"]) == (3, 63)

    def test_most_rows_are_bad(self, tmp_path: Path, prepare: Prepare) -> None:
        bad = [{"text": None, "label": "money"}] * 70
        with pytest.raises(DatasetError, match="70 of 130 rows"):
            prepare(folder_of(tmp_path / "data", train=topic_rows(60) + bad))

    @pytest.mark.parametrize(
        ("name", "content"),
        [
            ("train.jsonl", b'{"text": "a", "label": 1}\n{"text": "b", "lab'),
            ("train.jsonl", b'{"text": "a", "label": 1}\n{"text": "b", "label": "x"}\n'),
            ("train.csv", b"text,label\na,1\nb,1,2,3\n"),
            ("train.csv", b"text,label\n\xff\xfe,1\n"),
            ("train.csv.gz", b"\x1f\x8b\x08broken"),
            ("train.parquet", b"PAR1 no parquet PAR1"),
        ],
    )
    def test_damaged_file(self, name: str, content: bytes, tmp_path: Path, prepare: Prepare) -> None:
        (tmp_path / "data").mkdir()
        (tmp_path / "data" / name).write_bytes(content)
        with pytest.raises(DatasetError) as raised:
            prepare(tmp_path / "data")
        assert name in raised.value.message
        assert str(tmp_path) not in raised.value.message

    def test_a_path_that_is_not_there(self, tmp_path: Path, prepare: Prepare) -> None:
        with pytest.raises(SourceError) as raised:
            prepare(tmp_path / "absent")
        assert str(tmp_path) not in raised.value.message

    def test_full_disk(self, tmp_path: Path, prepare: Prepare, monkeypatch: pytest.MonkeyPatch) -> None:
        def no_room(*args: object, **options: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(pyarrow.parquet, "write_table", no_room)
        with pytest.raises(DiskFull) as raised:
            prepare(folder_of(tmp_path / "data", train=topic_rows(60), test=topic_rows(9)))
        assert str(tmp_path) not in raised.value.message
        assert not (tmp_path / "prepared" / "dataset.json").exists()


@pytest.mark.usefixtures("online")
class TestHub:
    def prepared(self, hub: FakeHub, folder: Path, **options: Any) -> PreparedData:
        source = DatasetSource(hub="owner/topics", **options)
        task = TASKS["text-classification"]
        return prepare_dataset(source, folder, seed=0, task=task, hub_endpoint=hub.endpoint)

    def topics(self, root: Path) -> Path:
        for config, count in (("small", 60), ("large", 200)):
            (root / config).mkdir(parents=True)
            write_as(root / config / "train-00000-of-00001.parquet", topic_rows(count))
            write_as(root / config / "test-00000-of-00001.parquet", topic_rows(20, offset=500))
        (root / "README.md").write_text("topics")
        return root

    def test_a_configuration_is_fetched(self, tmp_path: Path) -> None:
        with FakeHub({"datasets/owner/topics": self.topics(tmp_path / "repo")}).running() as hub:
            data = self.prepared(hub, tmp_path / "run", config="small")
        assert data.rows["train"] + data.rows["selection"] == 60
        assert data.rows["holdout"] == 20
        resolved = [path for path in hub.requests if "/resolve/" in path]
        assert resolved
        assert not any("large" in path for path in resolved)

    def test_a_configuration_must_be_chosen(self, tmp_path: Path) -> None:
        hub = FakeHub({"datasets/owner/topics": self.topics(tmp_path / "repo")})
        with hub.running(), pytest.raises(DatasetError) as raised:
            self.prepared(hub, tmp_path / "run")
        assert raised.value.pointer == "/dataset/config"
        assert "small" in raised.value.message

    def test_no_such_configuration(self, tmp_path: Path) -> None:
        hub = FakeHub({"datasets/owner/topics": self.topics(tmp_path / "repo")})
        with hub.running(), pytest.raises(DatasetError) as raised:
            self.prepared(hub, tmp_path / "run", config="huge")
        assert "large, small" in raised.value.remedy

    def test_scripts_are_never_run(self, tmp_path: Path) -> None:
        (tmp_path / "repo").mkdir()
        (tmp_path / "repo" / "topics.py").write_text("raise SystemExit")
        hub = FakeHub({"datasets/owner/topics": tmp_path / "repo"})
        with hub.running(), pytest.raises(DatasetError, match="never run"):
            self.prepared(hub, tmp_path / "run")
        assert not hub.downloads()

    def test_no_such_data_set(self, tmp_path: Path) -> None:
        with FakeHub({}).running() as hub, pytest.raises(SourceError) as raised:
            self.prepared(hub, tmp_path / "run")
        assert raised.value.pointer == "/dataset/hub"


def test_banking77_is_prepared_whole(banking77_path: Path, prepare: Prepare) -> None:
    data = prepare(banking77_path)
    assert len(data.labels) == 77
    assert data.rows["holdout"] == 3080
    assert data.rows["train"] + data.rows["selection"] == 10003
    assert set(data.selection()["label"]) == set(range(77))
