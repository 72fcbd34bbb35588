"""Artifacts to disk: resumed where a transfer broke, kept only if the digest is right."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import httpx

from axforge.errors import ConnectionFailed, IntegrityError, UnsafeName
from axforge.retries import RetryPolicy
from axforge.transport import Transport

PARTIAL = httpx.codes.PARTIAL_CONTENT
BytesSeen = Callable[[int], None]


def target_path(folder: Path, name: str) -> Path:
    """Where the artifact `name` belongs under `folder`; raises `UnsafeName` if that is outside it."""
    parts = PurePosixPath(name).parts
    strange = "\\" in name or ":" in name or any(ord(character) < 32 for character in name)
    if not parts or strange or name.startswith("/") or ".." in name.split("/"):
        raise UnsafeName(f"the server names an artifact {name!r}, which does not stay in the folder")
    target = folder.joinpath(*parts)
    if not target.resolve().is_relative_to(folder.resolve()):
        raise UnsafeName(f"{name!r} leads out of the folder through a link")
    return target


def fetch(
    transport: Transport,
    address: str,
    target: Path,
    *,
    sha256: str,
    policy: RetryPolicy,
    on_bytes: BytesSeen | None = None,
) -> None:
    """Bring `target` to the content with digest `sha256`, going on from `<target>.part` if it is there.

    `on_bytes` is told the bytes present so far. Raises `IntegrityError` when what the server sends
    is something else (nothing is kept then), `ConnectionFailed` when it breaks off too often (the
    part is kept for the next call).
    """
    if target.is_file() and _digest(target) == sha256:
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    resumed = part.is_file() and part.stat().st_size > 0
    _fetch_with_retries(transport, address, part, sha256, policy, on_bytes)
    if _digest(part) != sha256 and resumed:
        part.unlink()  # what was left from an earlier call may be of another file
        _fetch_with_retries(transport, address, part, sha256, policy, on_bytes)
    found = _digest(part)
    if found != sha256:
        part.unlink()
        raise IntegrityError(f"{target.name}: the server announced sha256 {sha256}, but sent {found}")
    part.replace(target)


def _fetch_with_retries(
    transport: Transport,
    address: str,
    part: Path,
    sha256: str,
    policy: RetryPolicy,
    on_bytes: BytesSeen | None,
) -> None:
    attempt = 0
    while True:
        try:
            _append(transport, address, part, sha256, on_bytes)
            return
        except httpx.TransportError as error:
            wait = policy.wait_before(attempt, None)
            if wait is None:
                raise ConnectionFailed(f"the download broke off: {error}; call again to go on") from error
        transport.pause(wait)
        attempt += 1


def _append(transport: Transport, address: str, part: Path, sha256: str, on_bytes: BytesSeen | None) -> None:
    have = part.stat().st_size if part.is_file() else 0
    # Compressed bytes would not be those of the range or the digest.
    headers = {"Accept-Encoding": "identity"}
    if have:
        headers |= {"Range": f"bytes={have}-", "If-Range": f'"{sha256}"'}
    with transport.stream(address, headers=headers, accept=(416,)) as response:
        if response.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
            return  # nothing is left to send: the digest decides
        goes_on = response.status_code == PARTIAL and _starts_at(response, have)
        have = have if goes_on else 0
        with part.open("ab" if goes_on else "wb") as file:
            for chunk in response.iter_raw():
                file.write(chunk)
                have += len(chunk)
                if on_bytes is not None:
                    on_bytes(have)


def _starts_at(response: httpx.Response, offset: int) -> bool:
    return str(response.headers.get("content-range", "")).startswith(f"bytes {offset}-")


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
