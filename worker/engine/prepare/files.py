"""Which files of a data set are the training rows and which the holdout."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from models.spec import DatasetSource
from worker.engine.errors import DatasetError, SourceError
from worker.engine.prepare.hub import HubRepository
from worker.engine.prepare.tables import SUFFIXES, format_of

POINTER = "/dataset"
SPLIT_NAMES: dict[str, tuple[str, ...]] = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing"),
}
_WORD = re.compile(r"[a-z]+")


@dataclass(frozen=True)
class DataFiles:
    """Names relative to `root`; `holdouts` in the order in which they are to be considered."""

    root: Path
    train: tuple[str, ...]
    holdouts: tuple[tuple[str, tuple[str, ...]], ...]


def find_files(source: DatasetSource, folder: Path, *, hub_endpoint: str | None = None) -> DataFiles:
    """The files of each split of a path or a hub repository (downloaded; `folder` keeps its commit).

    Raises SourceError where the source cannot be reached, DatasetError where it has no training file,
    or more than one that would do.
    """
    if source.path is not None:
        return _from_path(source, Path(source.path))
    if source.hub is not None:
        return _from_hub(source, folder, hub_endpoint)
    origin = "upload" if source.upload is not None else "uri"
    raise SourceError(
        f"dataset.{origin} is fetched by the service; the engine alone cannot",
        remedy="submit the job to a server, or give path or hub",
        pointer=f"{POINTER}/{origin}",
    )


def _from_path(source: DatasetSource, path: Path) -> DataFiles:
    if path.is_file():
        if source.train not in (None, path.name):
            raise DatasetError(
                f"dataset.train names {source.train!r}, but dataset.path is the file {path.name}",
                remedy="leave train out, or give the folder as path",
                pointer=f"{POINTER}/train",
            )
        siblings = _names(path.parent) if source.holdout is not None else []
        return DataFiles(path.parent, (path.name,), _named_holdout(source, siblings))
    if not path.is_dir():
        raise SourceError(
            "dataset.path is neither a file nor a folder on this machine",
            remedy="give a csv, jsonl or parquet file, or a folder of them",
            pointer=f"{POINTER}/path",
        )
    return _arranged(source, path, _names(path))


def _from_hub(source: DatasetSource, folder: Path, endpoint: str | None) -> DataFiles:
    assert source.hub is not None
    repository = HubRepository.pinned(
        source.hub,
        "dataset",
        source.revision,
        folder / "dataset_hub.json",
        endpoint=endpoint,
        pointer=POINTER,
    )
    every = repository.files([f"*{suffix}*" for suffix in SUFFIXES])
    names = [name for name in every if _is_data(name)]
    if not names:
        scripted = any(name.endswith(".py") for name in every)
        raise DatasetError(
            f"hub data set {source.hub!r} holds no csv, jsonl or parquet file"
            + (" but a loading script, which is never run" if scripted else ""),
            remedy="try revision refs/convert/parquet (the hub's own conversion), or upload the files",
            pointer=f"{POINTER}/hub",
        )
    names = _of_config(source, names)
    found = _arranged(source, Path(), names)
    wanted = [*found.train, *(name for _, files in found.holdouts for name in files)]
    return DataFiles(repository.snapshot(wanted), found.train, found.holdouts)


def _names(root: Path) -> list[str]:
    """Data files under `root`, relative; hidden ones and links that lead out of it are left out."""
    base = root.resolve()
    return sorted(
        path.relative_to(root).as_posix()
        for path in root.rglob("*")
        if path.is_file()
        and path.resolve().is_relative_to(base)
        and _is_data(path.relative_to(root).as_posix())
    )


def _is_data(name: str) -> bool:
    path = PurePosixPath(name)
    hidden = any(part.startswith((".", "__MACOSX")) for part in path.parts)
    # Single .json files of a folder are metadata more often than rows; jsonl says that it holds rows.
    return not hidden and format_of(name) is not None and not name.lower().endswith(".json")


def _of_config(source: DatasetSource, names: list[str]) -> list[str]:
    """Files of one hub configuration: those with a folder (or file name) called like it."""
    if source.config is not None:
        wanted = source.config.lower()
        of_it = [name for name in names if wanted in map(str.lower, _name_parts(name))]
        if not of_it:
            raise DatasetError(
                f"hub data set {source.hub!r} has no files of a configuration {source.config!r}",
                remedy=f"its folders are: {_folders(names)}",
                pointer=f"{POINTER}/config",
            )
        return of_it
    return names


def _name_parts(name: str) -> tuple[str, ...]:
    return (*PurePosixPath(name).parts[:-1], PurePosixPath(name).name.split(".")[0])


def _folders(names: Sequence[str]) -> str:
    return ", ".join(sorted({PurePosixPath(name).parent.as_posix() for name in names})[:20])


def _arranged(source: DatasetSource, root: Path, names: list[str]) -> DataFiles:
    """The splits among `names`, by the spec or by their names."""
    splits: dict[str, list[str]] = {split: [] for split in SPLIT_NAMES}
    for name in names:
        split = _split_of(name)
        if split is not None:
            splits[split].append(name)
    for split, files in splits.items():
        _one_folder(source, split, files)
    if source.train is not None:
        train = _by_name(source.train, "train", names)
    elif splits["train"]:
        train = tuple(splits["train"])
    elif len(names) == 1:
        train = tuple(names)
    else:
        found = f"it has {', '.join(names[:10])}" if names else "it has no csv, jsonl or parquet file"
        raise DatasetError(
            f"the data set has no training file: {found}",
            remedy="name a file train.csv, train.jsonl or train.parquet, or name it in dataset.train",
            pointer=f"{POINTER}/train",
        )
    if source.holdout is not None:
        return DataFiles(root, train, _named_holdout(source, names))
    candidates = ((split, tuple(splits[split])) for split in ("test", "validation"))
    return DataFiles(root, train, tuple((split, files) for split, files in candidates if files))


def _named_holdout(source: DatasetSource, names: list[str]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    if source.holdout is None:
        return ()
    return ((source.holdout, _by_name(source.holdout, "holdout", names)),)


def _by_name(wanted: str, field: str, names: list[str]) -> tuple[str, ...]:
    """Files called `wanted`: by name, by name without suffixes, or all parts of the split of that name."""
    exact = [name for name in names if name == wanted or PurePosixPath(name).name == wanted]
    stem = [name for name in names if PurePosixPath(name).name.split(".")[0] == wanted]
    parts = [name for name in names if _split_of(name) is not None and _split_of(name) == _split_word(wanted)]
    prefixed = [name for name in names if PurePosixPath(name).name.startswith(f"{wanted}-")]
    found = exact or stem or parts or prefixed
    if not found:
        raise DatasetError(
            f"the data set has no file {wanted!r}; it has {', '.join(names[:10]) or 'no data files'}",
            remedy=f"name one of its files in dataset.{field}",
            pointer=f"{POINTER}/{field}",
        )
    return tuple(found)


def _split_of(name: str) -> str | None:
    """The split that a file's name tells (first or last word), else the folders it is in."""
    path = PurePosixPath(name)
    words = _WORD.findall(path.name.lower().split(".")[0])
    for word in (*words[:1], *words[-1:], *map(str.lower, reversed(path.parts[:-1]))):
        split = _split_word(word)
        if split is not None:
            return split
    return None


def _split_word(word: str) -> str | None:
    return next((split for split, words in SPLIT_NAMES.items() if word.lower() in words), None)


def _one_folder(source: DatasetSource, split: str, files: list[str]) -> None:
    """Several files are parts of one split only if they lie together and share a format."""
    if source.train is not None:
        return
    places = {(PurePosixPath(name).parent.as_posix(), format_of(name)) for name in files}
    if len(places) > 1:
        raise DatasetError(
            f"the data set has more than one {split} split: {', '.join(files[:6])}",
            remedy="choose one with dataset.config (hub) or with dataset.train and dataset.holdout",
            pointer=f"{POINTER}/config" if source.hub is not None else f"{POINTER}/train",
        )
