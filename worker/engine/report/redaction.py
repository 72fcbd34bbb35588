"""What a report may tell of a spec: what it takes to run it again, and nothing of machines or tokens."""

from __future__ import annotations

from typing import Any

from models.spec import JobSpec, Source


def public_name(source: Source) -> str:
    """How a source is called in public: by its hub name, or by the last part of its address."""
    if source.hub:
        return source.hub if source.revision is None else f"{source.hub}@{source.revision}"
    return str(source.upload or _last(source.uri or source.path or ""))


def public_spec(spec: JobSpec) -> dict[str, Any]:
    """The spec without defaults and without the user's `metadata`.

    Of paths and addresses the last name is left, as a path; so is what an upload was unpacked to. Whoever
    runs it again puts their own there.
    """
    document = spec.model_dump(
        mode="json", exclude_defaults=True, exclude={"metadata", "base_model", "dataset"}
    )
    dataset = spec.dataset.model_dump(mode="json", exclude_defaults=True, exclude={*_ORIGIN})
    return {
        **document,
        "base_model": _origin(spec.base_model),
        "dataset": {**_origin(spec.dataset), **dataset},
        "seed": spec.seed,
    }


_ORIGIN = ("hub", "revision", "upload", "uri", "path")


def _origin(source: Source) -> dict[str, Any]:
    if source.hub:
        return {"hub": source.hub} | ({} if source.revision is None else {"revision": source.revision})
    return {"path": public_name(source)}


def _last(address: str) -> str:
    return address.rstrip("/").rpartition("/")[2]
