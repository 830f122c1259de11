"""What every result of a study can do in Python: tables, frames, figures, copies, notebooks."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from veridical.runtime.errors import RunError, UsageError
from veridical.runtime.options import Placement
from veridical.studies.alignment import Alignment, AlignmentOptions
from veridical.studies.attack import Attack
from veridical.studies.leakage import Leakage, LeakageOptions
from veridical.studies.sanity import Sanity, SanityOptions
from veridical.studies.shortcut import Shortcut, ShortcutStudyOptions
from veridical.studies.study import StudyResult


@pytest.fixture(scope="module")
def results(
    place: Path,
    aligned: AlignmentOptions,
    shortcuts: ShortcutStudyOptions,
    leaked: LeakageOptions,
    checked: SanityOptions,
) -> list[StudyResult]:
    """A finished one of every study that other tests need finished, too."""

    def read(study: Any, options: Placement) -> StudyResult:
        result: StudyResult = study.read(options.out)
        return result

    return [
        Attack.read(place / "natural-attack"),
        read(Alignment, aligned),
        read(Shortcut, shortcuts),
        read(Leakage, leaked),
        read(Sanity, checked),
    ]


def test_tables_are_frames_whose_numbers_are_those_of_the_result(results: list[StudyResult]) -> None:
    pytest.importorskip("pandas")
    for result in results:
        for title, table in result.tables().items():
            frame = result.to_frame(title)
            assert len(frame) == len(table.rows)
            for low in [name for name in frame.columns if str(name).endswith(" low")]:
                name = str(low).removesuffix(" low")
                known = frame[[name, low, f"{name} high"]].dropna()
                assert bool((known[low] <= known[name]).all())
                assert bool((known[name] <= known[f"{name} high"]).all())
    aligned = results[1]
    name = next(iter(aligned.tables()))
    first = next(iter(aligned.results["models"].values()))
    assert aligned.to_frame(name)["accuracy"][0] == pytest.approx(first["accuracy"]["seeds"]["value"])
    with pytest.raises(UsageError, match="title"):
        aligned.to_frame("no such table")


def test_figures_are_had_by_name_and_a_wrong_name_lists_them(results: list[StudyResult]) -> None:
    for result in results:
        figures = result.figures()
        assert figures
        assert all(isinstance(figure, Figure) for figure in figures.values())
        assert isinstance(result.figure(next(iter(figures))), Figure)
        with pytest.raises(UsageError, match="figure: expected one of"):
            result.figure("no such figure")


def test_results_show_themselves_in_notebooks_and_shells(results: list[StudyResult]) -> None:
    for result in results:
        shown = result._repr_html_()
        assert shown.count("<table>") == len(result.tables())
        assert "<script" not in shown
        assert len(repr(result)) < 300
        assert result.document["study"] in repr(result)
        assert result.to_dict() == json.loads((result.folder / "result.json").read_text(encoding="utf-8"))


def test_a_copy_is_read_as_the_original_and_has_no_jobs(results: list[StudyResult], tmp_path: Path) -> None:
    result = results[1]
    target = result.save(tmp_path / "copies" / "one")
    assert {path.name for path in target.iterdir()} == {"result.json", "examples.npz", "report.html"}
    assert Alignment.read(target).results == result.results


def test_what_is_missing_is_said(results: list[StudyResult], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(UsageError, match=r"veridical\[pandas\]"):
        results[0].to_frame()
    unknown = StudyResult(Path("nowhere"), {}, {})
    with pytest.raises(RunError, match="no known study"):
        unknown.tables()
