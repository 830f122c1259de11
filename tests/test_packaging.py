"""What is published: wheel and sdist, how they are cited and described, and the workflows that make them."""

import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parent.parent
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def read_yaml(name: str) -> Any:
    return yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    return out


def test_the_wheel_holds_the_package_and_nothing_else(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        metadata = archive.read(next(name for name in names if name.endswith(".dist-info/METADATA"))).decode()
    source = ROOT / "src"
    expected = {
        str(path.relative_to(source))
        for path in (source / "veridical").rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    info = f"veridical-{PROJECT['version']}.dist-info/"
    assert {name for name in names if not name.startswith(info)} == expected
    # What is read at run time, and what type checkers look for.
    data = {"py.typed", "report/templates/page.html", "studies/audit.schema.json"}
    assert {f"veridical/{name}" for name in data} <= names
    assert f"{info}licenses/LICENSE" in names
    assert f"\nVersion: {PROJECT['version']}\n" in metadata


def test_the_sdist_holds_what_tests_and_documents_need_and_no_data(built: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"README.md", "CHANGELOG.md", "CITATION.cff", "LICENSE", "Makefile", "constraints.txt"} <= names
    assert {"docs/claims.md", "tests/test_packaging.py", "src/veridical/__init__.py"} <= names
    assert not [name for name in names if name.endswith((".npz", ".safetensors")) or name.startswith("runs")]


def test_the_index_can_show_it(built: Path) -> None:
    command = [sys.executable, "-m", "twine", "check", "--strict", *map(str, built.iterdir())]
    subprocess.run(command, check=True, capture_output=True)


@pytest.mark.parametrize(
    ("schema", "files"),
    [
        ("vendor.github-workflows", ".github/workflows/*.yml"),
        ("custom.github-workflows-require-timeout", ".github/workflows/*.yml"),
        ("vendor.github-issue-forms", ".github/ISSUE_TEMPLATE/[br]*.yml"),
        ("vendor.github-issue-config", ".github/ISSUE_TEMPLATE/config.yml"),
        ("vendor.citation-file-format", "CITATION.cff"),
    ],
)
def test_files_for_other_programs_have_their_form(schema: str, files: str) -> None:
    found = [str(path) for path in ROOT.glob(files)]
    assert found
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema, *found]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


def test_workflows_are_safe_and_pinned() -> None:
    folder = str(ROOT / ".github" / "workflows")
    zizmor = str(Path(sys.executable).parent / "zizmor")
    command = [zizmor, "--offline", "--pedantic", "--no-progress", folder]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


def test_every_supported_python_is_tested() -> None:
    prefix = "Programming Language :: Python :: 3."
    minors = [int(line.removeprefix(prefix)) for line in PROJECT["classifiers"] if line.startswith(prefix)]
    assert PROJECT["requires-python"] == f">=3.{min(minors)}"
    matrix = read_yaml(".github/workflows/test.yml")["jobs"]["test"]["strategy"]["matrix"]["python"]
    assert matrix == [f"3.{minor}" for minor in minors]


def test_version_and_needs_are_the_same_everywhere() -> None:
    assert read_yaml("CITATION.cff")["version"] == PROJECT["version"]
    recipe = read_yaml("packaging/conda/recipe.yaml")
    assert recipe["context"]["version"] == PROJECT["version"]
    needed = dict(line.split(" ", 1) for line in recipe["requirements"]["run"])
    assert needed.pop("python") == PROJECT["requires-python"]
    other_names = {"torch": "pytorch", "matplotlib": "matplotlib-base"}
    for line in PROJECT["dependencies"]:
        found = re.fullmatch(r"([a-z0-9-]+)(\[[a-z]+\])?(>=.+)", line)
        assert found, line
        assert needed[other_names.get(found[1], found[1])] == found[3], line
    entries = [f"{name} = {target}" for name, target in PROJECT["scripts"].items()]
    assert recipe["build"]["python"]["entry_points"] == entries


def test_the_newest_version_has_notes() -> None:
    headings = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert PROJECT["version"] in headings
