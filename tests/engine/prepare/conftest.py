from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.tiny_models import save_tiny_model

TOPICS = {
    "weather": ("rain", "sun", "wind", "cloud", "storm"),
    "money": ("bank", "loan", "card", "coin", "fee"),
    "food": ("bread", "soup", "rice", "fish", "cake"),
}


def topic_rows(
    count: int, topics: Sequence[str] = ("weather", "money"), offset: int = 0
) -> list[dict[str, Any]]:
    """Rows whose label follows from one word; all texts differ."""
    rows = []
    for number in range(offset, offset + count):
        topic = topics[number % len(topics)]
        word = TOPICS[topic][number // len(topics) % 5]
        rows.append({"text": f"tell me about {word} number {number}", "label": topic})
    return rows


def write_jsonl(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row) + "\n" for row in rows)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode(), mtime=0))
    else:
        path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    texts = [row["text"] for row in topic_rows(200, ("weather", "money", "food"))]
    return save_tiny_model(tmp_path_factory.mktemp("tiny") / "model", texts)


@pytest.fixture
def model_copy(tiny_model: Path, tmp_path: Path) -> Path:
    """A folder of one's own to damage."""
    import shutil

    return Path(shutil.copytree(tiny_model, tmp_path / "model"))


@pytest.fixture
def online(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The hub's client may ask the network (a local stand-in), with an empty cache."""
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub_cache"))


Events = list[tuple[str, str, dict[str, Any]]]


@pytest.fixture
def events() -> Events:
    return []


@pytest.fixture
def reporter(events: Events) -> Any:
    from worker.engine.reporting import SilentReporter

    class Recording(SilentReporter):
        def event(self, type: str, message: str, **data: Any) -> None:
            events.append((type, message, data))

    return Recording()


Prepare = Callable[..., Any]


@pytest.fixture
def prepare(tmp_path: Path, reporter: Any) -> Prepare:
    """prepare_dataset of a path, with options of the source."""
    from models.spec import DatasetSource
    from worker.engine.prepare import prepare_dataset
    from worker.engine.tasks import TASKS

    def call(path: Path, *, seed: int = 0, into: str = "prepared", **options: Any) -> Any:
        source = DatasetSource(path=str(path), **options)
        task = TASKS["text-classification"]
        return prepare_dataset(source, tmp_path / into, seed=seed, task=task, reporter=reporter)

    return call
