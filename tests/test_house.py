"""The floors of docs/architecture.md, asserted from the imports themselves."""

import ast
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

import veridical

PACKAGE = Path(veridical.__file__).parent
TESTS = Path(__file__).parent

# From the ground up; a package imports only packages of lower floors.
FLOORS = {
    "runtime": 0,
    "attribution": 1,
    "metrics": 1,
    "data": 1,
    "models": 1,
    "jobs": 1,
    "report": 1,
    "attacks": 2,
    "training": 3,
    "faithfulness": 4,
    "studies": 5,
    "cli": 6,
}
# The axioms are checked with metrics: the one import between packages of a floor.
NEIGHBOURS = {("attribution.axioms", "metrics")}
# Outside the floors: the version, the lazy list of public names, and `python -m veridical`.
ROOT = {"_version", "__init__", "__main__"}

# What parsing a command line needs, so these must not wait for torch; `cli` is added below.
WITHOUT_TORCH = [
    "runtime.checking",
    "runtime.errors",
    "runtime.files",
    "runtime.options",
    "runtime.registry",
    "attacks.directions",
    "attribution.registry",
    "data.registry",
    "models.registry",
]
# Workers of a pool start in the time that these take.
JOBS = ["jobs.pool", "jobs.cluster"]


def modules() -> list[str]:
    """Names below `veridical.`, as `data.npz`; a package is its `__init__`."""
    paths = sorted(PACKAGE.rglob("*.py"))
    return [".".join(path.relative_to(PACKAGE).with_suffix("").parts) for path in paths]


def source_of(module: str) -> str:
    return (PACKAGE / (module.replace(".", "/") + ".py")).read_text(encoding="utf-8")


def imports(source: str) -> Iterator[str]:
    """Full names of everything that a module imports, also inside functions and for type checkers alone."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own_imports(source: str) -> set[str]:
    """Packages, or modules of the root, that are imported from `veridical`."""
    return {name.split(".")[1] for name in imports(source) if name.startswith("veridical.")}


def violations(module: str, source: str) -> list[str]:
    """What a module imports although its floor does not allow it."""
    package = module.split(".", maxsplit=1)[0]
    return [
        f"{module} imports {other}"
        for other in sorted(own_imports(source) - {package, "_version"})
        if (module, other) not in NEIGHBOURS and not FLOORS.get(other, len(FLOORS)) < FLOORS[package]
    ]


def test_every_package_has_a_floor() -> None:
    assert {module.split(".")[0] for module in modules()} <= set(FLOORS) | ROOT


@pytest.mark.parametrize("package", [name for name in FLOORS if (PACKAGE / name).is_dir()])
def test_imports_only_run_down(package: str) -> None:
    found = [
        violation
        for module in modules()
        if module.split(".")[0] == package
        for violation in violations(module, source_of(module))
    ]
    assert found == []


@pytest.mark.parametrize(
    ("module", "source", "bad"),
    [
        ("data.npz", "from veridical.runtime.errors import DataError", False),
        ("data.npz", "from veridical.data.arrays import Arrays", False),
        ("data.npz", "import veridical.models", True),
        ("data.npz", "from veridical import training", True),
        ("data.npz", "from veridical import train", True),  # a public name hides where it lives
        ("data.npz", "def load():\n    from veridical.attacks.ball import Ball", True),
        ("report.page", "from veridical.metrics import kendall_tau", True),
        ("attribution.axioms", "from veridical.metrics.rank import kendall_tau", False),
        ("attribution.path", "from veridical.metrics.rank import kendall_tau", True),
        ("studies.demo", "from veridical.cli.main import main", True),
        ("runtime.files", "from veridical.data import load", True),
        ("jobs.run", "from veridical.runtime.files import write_json", False),
        ("jobs.run", "from veridical.models import build", True),
    ],
)
def test_the_rule_sees_what_it_should(module: str, source: str, bad: bool) -> None:
    assert bool(violations(module, source)) is bad


def test_nothing_imports_the_command_line() -> None:
    importers = {module for module in modules() if "cli" in own_imports(source_of(module))}
    assert {module for module in importers if not module.startswith("cli.")} == {"__main__"}


def test_the_report_imports_nothing_that_made_the_results() -> None:
    for module in modules():
        if module.startswith("report."):
            assert own_imports(source_of(module)) <= {"report", "runtime", "_version"}, module


def test_jobs_know_no_neural_networks() -> None:
    for module in modules():
        if module.startswith("jobs."):
            names = {name.split(".")[0] for name in imports(source_of(module))}
            assert not names & {"torch", "torchvision"}, module


def _python(code: str) -> str:
    """Run code in an interpreter of its own and return what it printed."""
    environment = os.environ | {"PYTHONPATH": str(PACKAGE.parent)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_what_parsing_needs_does_not_import_torch() -> None:
    names = WITHOUT_TORCH + JOBS + ["cli.main", "cli.commands", "cli.options", "cli.terminal"]
    names = [name.removesuffix(".__init__") for name in names]
    printed = _python(
        "import importlib, sys\n"
        f"for name in {names!r}:\n"
        "    importlib.import_module('veridical.' + name)\n"
        "    print(name, 'torch' in sys.modules)\n"
    )
    assert printed.split("\n")[:-1] == [f"{name} False" for name in names]


def test_help_imports_neither_torch_nor_any_other_heavy_package() -> None:
    printed = _python(
        "import sys\n"
        "from veridical.cli.main import main\n"
        "code = main(['--help'])\n"
        "heavy = {'torch', 'torchvision', 'numpy', 'scipy', 'matplotlib', 'jsonargparse', 'rich', 'jinja2'}\n"
        "print(code, sorted(heavy & set(sys.modules)))\n"
    )
    assert printed.endswith("0 []\n")
    assert "usage: veridical COMMAND" in printed


def test_no_file_is_a_drawer_for_anything() -> None:
    forbidden = {"util", "utils", "helper", "helpers", "misc", "common", "tools"}
    paths = [*PACKAGE.rglob("*.py"), *TESTS.rglob("*.py")]
    assert [str(path) for path in paths if path.stem in forbidden] == []


def test_tests_lie_in_plain_folders_under_unique_names() -> None:
    # With the same name twice, or with packages, pytest and mypy would mix them up.
    assert list(TESTS.rglob("__init__.py")) == []
    counts = Counter(path.name for path in TESTS.rglob("test_*.py"))
    assert [name for name, count in counts.items() if count > 1] == []


def test_no_imports_go_in_a_circle() -> None:
    """Also inside packages, and also imports inside functions, which only hide a circle."""
    graph = {
        module: {name for name in _imported_modules(module) if name != module}
        for module in modules()
        if not module.endswith("__init__")
    }
    done: set[str] = set()

    def follow(module: str, way: tuple[str, ...]) -> None:
        assert module not in way, " -> ".join((*way, module))
        if module not in done:
            for other in sorted(graph[module]):
                follow(other, (*way, module))
            done.add(module)

    for module in graph:
        follow(module, ())


def _imported_modules(module: str) -> Iterator[str]:
    """Modules of our own that a module imports, or imports names of; not what only its annotations need."""
    known = set(modules())
    tree = ast.parse(source_of(module))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = [ast.Pass()]
    for name in imports(ast.unparse(tree)):
        own = name.removeprefix("veridical.")
        for one in (own, own.rpartition(".")[0]):
            if own != name and one in known:
                yield one
                break


@pytest.mark.parametrize(
    "path", sorted((PACKAGE.parents[1] / "benchmarks").glob("*.py")), ids=lambda p: p.stem
)
def test_benchmarks_import_what_there_is(path: Path) -> None:
    known = {"veridical." + module for module in modules()}
    for name in imports(path.read_text(encoding="utf-8")):
        if name.startswith("veridical.") and name not in known:
            module, _, attribute = name.rpartition(".")
            assert hasattr(import_module(module), attribute), name
