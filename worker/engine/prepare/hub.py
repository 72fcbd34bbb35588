"""Files of a Hugging Face hub repository, pinned to one commit, with its refusals told plainly."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import httpx2
from huggingface_hub import HfApi, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
    RevisionResolutionError,
)
from huggingface_hub.utils.tqdm import disable_progress_bars

from worker.engine.errors import SourceError
from worker.engine.prepare.disk import disk_room

HubKind = Literal["model", "dataset"]


@dataclass(frozen=True)
class HubRepository:
    """A repository at one commit. `pointer` is the spec field that it was named in."""

    name: str
    kind: HubKind
    commit: str
    endpoint: str | None
    pointer: str

    @staticmethod
    def pinned(
        name: str, kind: HubKind, revision: str | None, record: Path, *, endpoint: str | None, pointer: str
    ) -> HubRepository:
        """The commit that `revision` (default: the main branch) is at, looked up once.

        The answer is kept in the file `record`, so that a resumed run reads the same files even if the
        branch has moved. Raises SourceError.
        """
        asked = {"name": name, "revision": revision}
        if record.is_file():
            known = json.loads(record.read_text())
            if known["asked"] == asked:
                return HubRepository(name, kind, known["commit"], endpoint, pointer)
        with _told(name, revision, pointer):
            resolved = HfApi(endpoint=endpoint).resolve_revision(name, repo_type=kind, revision=revision)
        commit = str(resolved.resolved)
        with disk_room("the hub revision"):
            record.parent.mkdir(parents=True, exist_ok=True)
            record.write_text(json.dumps({"asked": asked, "commit": commit}))
        return HubRepository(name, kind, commit, endpoint, pointer)

    def files(self, patterns: Sequence[str]) -> list[str]:
        """Names of all files of the commit; where the hub is out of reach, those that an earlier download
        of `patterns` left on this machine. Raises SourceError.
        """
        try:
            api = HfApi(endpoint=self.endpoint)
            return sorted(api.list_repo_files(self.name, repo_type=self.kind, revision=self.commit))
        except (OfflineModeIsEnabled, httpx2.TransportError):
            folder = self.snapshot(patterns, local_only=True)
            return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
        except (HfHubHTTPError, HFValidationError) as error:
            raise _refused(error, self.name, self.commit, self.pointer) from error

    def file(self, name: str) -> Path | None:
        """One file, downloaded; None where the repository has none of that name. Raises SourceError."""
        try:
            with _told(self.name, self.commit, self.pointer), disk_room("a file of the hub"):
                return Path(
                    hf_hub_download(
                        self.name,
                        name,
                        repo_type=self.kind,
                        revision=self.commit,
                        endpoint=self.endpoint,
                    )
                )
        except _NoSuchFile:
            return None

    def snapshot(self, patterns: Sequence[str], *, local_only: bool = False) -> Path:
        """Folder with the files that match `patterns`, in the hub's cache of this machine.

        Raises SourceError, DiskFull.
        """
        disable_progress_bars()
        with _told(self.name, self.commit, self.pointer), disk_room("files of the hub"):
            return Path(
                snapshot_download(
                    self.name,
                    repo_type=self.kind,
                    revision=self.commit,
                    endpoint=self.endpoint,
                    allow_patterns=list(patterns),
                    local_files_only=local_only,
                )
            )


class _NoSuchFile(Exception):
    pass


@contextmanager
def _told(name: str, revision: str | None, pointer: str) -> Iterator[None]:
    """Turn what the hub client raises into SourceError; its own texts may hold URLs and local paths."""
    try:
        yield
    except RemoteEntryNotFoundError as error:
        raise _NoSuchFile(name) from error
    except (HfHubHTTPError, HFValidationError) as error:
        raise _refused(error, name, revision, pointer) from error
    except (OfflineModeIsEnabled, RevisionResolutionError, LocalEntryNotFoundError) as error:
        raise _unreachable(name, pointer) from error
    except httpx2.TransportError as error:
        raise _unreachable(name, pointer) from error


def _refused(error: Exception, name: str, revision: str | None, pointer: str) -> SourceError:
    """What the hub's answer means for the user."""
    match error:
        case GatedRepoError():
            message = f"hub repository {name!r} is gated and the worker has no access to it"
            remedy = "accept its terms on the hub and set HF_TOKEN on the worker, or upload the files"
        case RevisionNotFoundError():
            message = f"hub repository {name!r} has no revision {revision!r}"
            remedy = "give a commit, tag or branch that exists there"
            return SourceError(message, remedy=remedy, pointer=f"{pointer}/revision")
        case RepositoryNotFoundError() | HFValidationError():
            message = f"the hub has no repository {name!r}, or it is private"
            remedy = "check the spelling (owner/name); for a private one set HF_TOKEN on the worker"
        case HfHubHTTPError():
            message = f"the hub answered {error.response.status_code} for repository {name!r}"
            remedy = "try again later, or upload the files instead"
        case _:
            raise error
    return SourceError(message, remedy=remedy, pointer=f"{pointer}/hub")


def _unreachable(name: str, pointer: str) -> SourceError:
    return SourceError(
        f"the hub cannot be reached for repository {name!r}, and no copy of it is on the worker",
        remedy="check the worker's network (HF_ENDPOINT, HF_HUB_OFFLINE), or upload the files instead",
        pointer=f"{pointer}/hub",
    )
