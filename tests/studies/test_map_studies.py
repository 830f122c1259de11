"""What holds for every study of maps: its page, its continuation, and what it refuses."""

import json
from collections.abc import Callable
from dataclasses import replace
from html import escape
from pathlib import Path
from typing import Any

import pytest

from veridical.runtime.errors import RunError, UsageError
from veridical.studies import alignment
from veridical.studies.alignment import Alignment
from veridical.studies.leakage import Leakage
from veridical.studies.sanity import Sanity
from veridical.studies.shortcut import Shortcut
from veridical.studies.study import Study

Finished = tuple[type[Study[Any]], Any]
STUDIES: dict[str, type[Study[Any]]] = {
    "aligned": Alignment,
    "shortcuts": Shortcut,
    "leaked": Leakage,
    "checked": Sanity,
}


@pytest.fixture(params=STUDIES)
def finished(request: pytest.FixtureRequest) -> Finished:
    """Each study with the options that it was run by."""
    return STUDIES[request.param], request.getfixturevalue(request.param)


def test_the_page_shows_what_was_found_without_loading_anything(
    finished: Finished, check_page: Callable[[Path], None]
) -> None:
    kind, options = finished
    study = kind.read(options.out)
    path = kind.write_page(study)
    check_page(path)
    page = path.read_text(encoding="utf-8")
    for line in kind.findings(study):
        assert line.replace("'", "&#39;") in page
    for title, table in kind.tables(study).items():
        assert escape(title) in page
        for row in table.drawn()[1]:
            for cell in row:  # the interval stands below its value
                assert all(escape(part, quote=False) in page for part in cell.removesuffix(")").split(" ("))
    assert "data:image/png" in page
    assert not [part for part in ("src=", "href=") if f'{part}"http' in page]
    with pytest.raises(RunError, match=r"result\.json does not exist"):
        kind.read(Path(options.out).parent)


def test_the_same_options_find_it_finished_and_others_are_refused(
    finished: Finished, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, options = finished
    path = Path(options.out, "result.json")
    before = json.loads(path.read_text())
    path.unlink()
    monkeypatch.setattr(alignment, "STRETCH", 10)
    states: list[tuple[int, int]] = []
    again = kind(options).run(lambda _what, state: states.append((state.reused, state.total)))
    assert {reused for reused, _ in states} == {total for _, total in states}
    assert (again.results, again.config) == (before["results"], before["config"])
    with pytest.raises(UsageError, match=r"belongs to another run: .*seed"):
        kind(replace(options, seed=1)).run()


REFUSED: dict[str, list[tuple[dict[str, Any], str]]] = {
    "aligned": [
        ({"run": []}, "at least one folder"),
        ({"titles": ["one"]}, "2 names"),
        ({"titles": ["one", "one"]}, "different name"),
        ({"attribution": ["smoothgrad", "smoothgrad"]}, "different values"),
        ({"examples": 1}, "at least 2"),
        ({"batch": 0}, "batch"),
        ({"gallery": -1}, "gallery"),
        ({"attribution": ["nothing"]}, "input-gradient, input-gradient-loss"),
        ({"attribution": ["json:loads"]}, "trust_code"),
        ({"run": ["nowhere"]}, "not the folder of a run"),
    ],
    "shortcuts": [
        ({"rate": []}, "rate"),
        ({"objective": ["natural", "natural"]}, "objective"),
        ({"radius": [0.1, 0.1]}, "radius"),
        ({"seeds": 0}, "seeds"),
        ({"explained": 1}, "explained"),
        ({"size": 9}, "size and margin"),
        ({"rate": [1.5]}, "rate"),
    ],
    "leaked": [
        ({"objective": []}, "objective"),
        ({"position": ["top", "top"]}, "position"),
        ({"attribution": []}, "attribution"),
        ({"norm": ["linf", "l2"], "radius": [0.1]}, "one norm, or one for each"),
        ({"radius": []}, "one norm, or one for each"),
        ({"radius": [0.1, 0.1]}, "different radii"),
        ({"radius": [-0.1], "objective": ["natural"]}, "radius"),
    ],
    "checked": [
        ({"tests": ["weights"]}, "cascading"),
        ({"examples": 1}, "examples: expected an integer from 2"),
        ({"repeats": 0}, "repeats"),
        ({"attribution": ["saliency"]}, "captum:CLASS"),
        ({"run": "nowhere"}, "not the folder of a run"),
    ],
}


@pytest.mark.parametrize(
    ("name", "changes", "message"), [(name, *one) for name, refused in REFUSED.items() for one in refused]
)
def test_options_that_do_not_fit_are_refused(
    request: pytest.FixtureRequest, tmp_path: Path, name: str, changes: dict[str, Any], message: str
) -> None:
    finished = request.getfixturevalue(name)
    with pytest.raises((UsageError, RunError), match=message):
        STUDIES[name](replace(finished, out=str(tmp_path), **changes))
    assert not list(tmp_path.iterdir())  # nothing is made for options that do not fit
