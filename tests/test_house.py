"""Rules of the house that no linter knows."""

from __future__ import annotations

import ast
import re
import subprocess
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGES = ("app", "worker", "models", "migrations", "sdk", "bench", "deploy", "examples", "tests")
TOP_LEVEL = {
    *PACKAGES,
    *(".ci", "deploy", "docs", ".dockerignore", ".env.example", ".gitignore"),
    *("CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "NOTICE", "README.md"),
    *("Dockerfile", "Makefile", "constraints.txt", "docker-compose.yml", "pyproject.toml"),
}
GENERATED = {"sdk/src/axforge/_generated.py"}
LONGEST_FILE = 400
LONGEST_TEST = 500


def test_no_python_file_is_too_long_to_read() -> None:
    lengths = {
        name: len((ROOT / name).read_text().splitlines())
        for name in _tracked()
        if name.endswith(".py") and name not in GENERATED
    }
    limits = {name: LONGEST_TEST if "tests/" in name else LONGEST_FILE for name in lengths}
    assert {name: length for name, length in lengths.items() if length > limits[name]} == {}


def test_top_level_is_as_planned() -> None:
    assert {name.split("/")[0] for name in _tracked()} <= TOP_LEVEL


def test_no_file_names_a_path_of_somebodys_machine() -> None:
    local = re.compile(r"/(?:home|Users|root)/\w+|/work/\w+|/tmp/w\b|/opt/(?:wheels|pypi)")
    for name in _tracked():
        if name.endswith((".gz", ".safetensors", ".onnx")) or name == "tests/test_house.py":
            continue
        assert local.search((ROOT / name).read_text(errors="replace")) is None, name


def test_engine_imports_the_jobs_language_and_nothing_else_of_models() -> None:
    for path in sorted((ROOT / "worker" / "engine").rglob("*.py")):
        for module in _imported(path):
            if module.split(".")[0] == "models":
                assert module.startswith("models.spec"), f"{path.relative_to(ROOT)} imports {module}"


def test_every_make_target_that_the_documents_name_exists() -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    documents = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]
    command = re.compile(r"(?:`|^)make ([a-z][a-z0-9-]*)", re.MULTILINE)
    named = {target for path in documents for target in command.findall(path.read_text())}
    assert {"demo", "test", "check"} <= named
    assert named <= targets


def test_changelog_begins_with_the_current_version() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    versions = re.findall(r"^## \[(\d+\.\d+\.\d+)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert versions[0] == version
    assert f'"{version}"' in (ROOT / "sdk" / "src" / "axforge" / "_version.py").read_text()


def test_every_core_dependency_is_pinned() -> None:
    pinned = {
        _normal(line.split("==")[0])
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if line and not line.startswith("#")
    }
    for folder in (ROOT, ROOT / "sdk"):
        project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
        extras = {k: v for k, v in project.get("optional-dependencies", {}).items() if k != "gpu"}
        for requirement in sum(extras.values(), start=project["dependencies"]):
            name = _normal(re.split(r"[\[<>=!~; ]", requirement, maxsplit=1)[0])
            assert name in pinned or name.startswith("axforge"), requirement


def _tracked() -> list[str]:
    """Files under version control; in an unpacked archive, all of them."""
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False, text=True)
    if listing.returncode == 0:
        return [name for name in listing.stdout.split("\0") if name and (ROOT / name).is_file()]
    files = (path for package in PACKAGES for path in (ROOT / package).rglob("*") if path.is_file())
    return [str(path.relative_to(ROOT)) for path in files]


def _imported(path: Path) -> list[str]:
    modules = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            modules += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            modules.append(node.module)
    return modules


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
