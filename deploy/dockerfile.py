"""The Dockerfile as data: what a target's build stage does, and what its image is set to."""

from __future__ import annotations

import fnmatch
import json
import os
import shlex
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from dockerfile_parse import DockerfileParser


@dataclass
class Stage:
    """What stands between one FROM and the next."""

    name: str
    base: str
    instructions: list[tuple[str, str]] = field(default_factory=list)

    def of(self, kind: str) -> list[str]:
        """The values of all instructions of that kind."""
        return [value for name, value in self.instructions if name == kind]


@dataclass(frozen=True)
class Image:
    """A target: the stages it is made of, and the stage that its files were built in."""

    lineage: tuple[Stage, ...]
    build: tuple[Stage, ...]

    @property
    def build_steps(self) -> list[str]:
        """The commands that install it, in order, without what concerns Docker alone."""
        return [_command(value) for stage in self.build for value in stage.of("RUN")]

    @property
    def build_environment(self) -> dict[str, str]:
        """The variables that these see: ENV, and ARG with its default."""
        return _variables(self.build, ("ARG", "ENV"))

    @property
    def environment(self) -> dict[str, str]:
        """The variables that its processes see."""
        return _variables(self.lineage, ("ENV",))

    @property
    def command(self) -> list[str]:
        """CMD, in exec form."""
        return _words(self.last("CMD"))

    @property
    def health_check(self) -> list[str]:
        """The command of HEALTHCHECK, in exec form."""
        return _words(self.last("HEALTHCHECK").partition("CMD")[2])

    def last(self, kind: str) -> str:
        """The instruction of that kind that is in force."""
        return [value for stage in self.lineage for value in stage.of(kind)][-1]


def stages(path: Path) -> dict[str, Stage]:
    """All stages by name."""
    found: dict[str, Stage] = {}
    stage = Stage("", "")
    with path.open("rb") as file:
        parser = DockerfileParser(fileobj=file)
        for each in parser.structure:
            kind, value = each["instruction"], each["value"]
            if kind == "FROM":
                base, _, name = value.partition(" AS ")
                stage = found[name] = Stage(name, base)
            elif kind != "COMMENT":
                stage.instructions.append((kind, value))
    return found


def read(path: Path, target: str) -> Image:
    """The image that `docker build --target` makes of the Dockerfile."""
    known = stages(path)
    lineage = _lineage(known, target)
    copied = [value for value in lineage[-1].of("COPY") if value.startswith("--from=")]
    builder = copied[0].split()[0].removeprefix("--from=")
    return Image(lineage, _lineage(known, builder))


def allowed(root: Path) -> Iterator[str]:
    """The files that `.dockerignore` lets through, of those under version control."""
    lines = (root / ".dockerignore").read_text().splitlines()
    wanted = tuple(line[1:] for line in lines if line.startswith("!"))
    refused = [line.removeprefix("**/") for line in lines if line.startswith("**/")]
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=root, capture_output=True, text=True, check=True)
    for name in listed.stdout.split("\0"):
        parts = name.split("/")
        hidden = any(fnmatch.fnmatch(part, pattern) for part in parts for pattern in refused)
        if parts[0] in wanted and not hidden and (root / name).is_file():
            yield name


def _lineage(known: dict[str, Stage], name: str) -> tuple[Stage, ...]:
    stage = known[name]
    return (*(_lineage(known, stage.base) if stage.base in known else ()), stage)


def _variables(lineage: tuple[Stage, ...], kinds: tuple[str, ...]) -> dict[str, str]:
    variables: dict[str, str] = {}
    for stage in lineage:
        for kind, value in stage.instructions:
            if kind in kinds:
                for word in shlex.split(value):
                    name, _, text = word.partition("=")
                    variables[name] = os.path.expandvars(text)
    return variables


def _command(value: str) -> str:
    """A RUN without its mounts."""
    words = value.split()
    while words[0].startswith("--mount"):
        words.pop(0)
    return " ".join(words)


def _words(value: str) -> list[str]:
    words = json.loads(value)
    assert isinstance(words, list), "only the exec form works without a shell"
    return words
