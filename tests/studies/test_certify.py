"""The study of certificates on a small run: both bounds, what they hang on, and the page."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from veridical.runtime.errors import UsageError
from veridical.studies.certify import Certify, CertifyOptions
from veridical.studies.study import StudyResult

NAMES = ("input-gradient", "random")
# The most that 300 draws can certify of 64 pixels is 1.7 deviations.
RADII = [0.0, 0.05, 0.1, 0.8]


@pytest.fixture(scope="module")
def options(place: Path) -> CertifyOptions:
    return CertifyOptions(
        run=str(place / "natural"),
        out=str(place / "certified"),
        attribution=list(NAMES),
        sigma=[0.2],
        radius=RADII[1:],
        samples=300,
        examples=7,
        steps=4,
        attack_samples=8,
        gallery=2,
        workers=1,
        progress=False,
    )


@pytest.fixture(scope="module")
def study(options: CertifyOptions) -> StudyResult:
    return Certify(options).run()


def of(study: StudyResult, name: str, key: str) -> Any:
    return study.arrays[f"{name}/0.2/{key}"]


def test_the_attack_is_never_below_the_certificate(study: StudyResult) -> None:
    assert study.results["notes"] == []
    assert study.results["k"] == 6
    assert study.document["timing"]["jobs"] == 4
    for name in NAMES:
        for low, high in (("overlap_low", "overlap_high"), ("pixels_low", "pixels_high")):
            assert of(study, name, low).shape == (7, 4)
            assert (of(study, name, low) <= of(study, name, high)).all()
        for key in ("overlap_low", "pixels_low", "label"):
            assert (np.diff(of(study, name, key), axis=1) <= 0).all()
        assert (np.diff(of(study, name, "abstained"), axis=1) >= 0).all()
    gradient = study.results["attributions"]["input-gradient"]["0.2"]
    assert [point["radius"] for point in gradient] == RADII
    # Something holds, something is reached, and nothing is certified beyond what the draws can tell.
    assert gradient[1]["overlap_low"]["value"] > 0.1
    assert gradient[3]["overlap_found"]["value"] < gradient[0]["overlap_found"]["value"]
    assert gradient[3]["overlap_low"]["value"] == 0
    assert gradient[3]["gap"]["value"] == pytest.approx(gradient[3]["overlap_high"]["value"])


def test_uniform_noise_holds_less(options: CertifyOptions, study: StudyResult, tmp_path: Path) -> None:
    changes: dict[str, Any] = {"noise": "uniform", "steps": 0, "out": str(tmp_path / "uniform")}
    uniform = Certify(replace(options, **changes)).run()
    assert "smoothed by noise uniform in an l2 ball" in Certify.lead(uniform)
    assert "normal" not in " ".join(Certify.facts(uniform).values())
    for name in NAMES:
        # Of 64 values nearly the same distribution, but its theorem allows more of most probabilities.
        assert of(uniform, name, "overlap_low")[:, 1:].mean() <= of(study, name, "overlap_low")[:, 1:].mean()
    assert of(uniform, "random", "overlap_low")[:, 1].tolist() == [1] * 7


def test_a_map_that_looks_at_nothing_holds(study: StudyResult) -> None:
    assert study.config["attacks"] == {"input-gradient": "climb", "random": "random"}
    assert (of(study, "random", "overlap_low")[:, :3] == 1).all()
    assert (of(study, "random", "overlap_found") == 1).all()
    (finding,) = (line for line in Certify.findings(study) if line.startswith("random"))
    assert "within the l2 radius 0.1 at least 100.0%" in finding


def test_neither_batches_nor_jobs_change_a_result(
    options: CertifyOptions, study: StudyResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("veridical.studies.certify.STRETCH", 2)
    changes: dict[str, Any] = {"attribution": ["input-gradient"], "batch": 11, "out": str(tmp_path / "again")}
    again = Certify(replace(options, **changes)).run()
    assert again.document["timing"]["jobs"] == 4
    for key in ("overlap_low", "pixels_low", "abstained", "label", "votes", "overlap_high", "overlap_found"):
        assert np.array_equal(of(again, "input-gradient", key), of(study, "input-gradient", key)), key


def test_a_finished_study_is_not_measured_again(
    options: CertifyOptions, study: StudyResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Certify, "measure", staticmethod(lambda *_: pytest.fail("measured again")))
    monkeypatch.setattr(Certify, "write_page", classmethod(lambda _cls, result: result.folder))
    assert Certify(options).run().results == study.results


def test_certificates_alone(options: CertifyOptions, tmp_path: Path) -> None:
    changes: dict[str, Any] = {
        "attribution": ["integrated-gradients"],
        "steps": 0,
        "examples": 3,
        "radius": [0.02],
        "gallery": 0,
    }
    alone = Certify(replace(options, **changes, out=str(tmp_path / "alone"))).run()
    point = alone.results["attributions"]["integrated-gradients"]["0.2"][0]
    (table,) = alone.tables().values()
    assert point["overlap_high"]["value"] is None
    assert point["gap"]["value"] is None
    assert alone.config["attributions"]["integrated-gradients"]["nodes"] == 8
    assert "at most" not in " ".join(column.heading for column in table.drawn()[0])
    (finding,) = Certify.findings(alone)
    assert finding.endswith("of the top provably hold; nothing was attacked.")


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"level": 0.999}, "level"),
        ({"sigma": [0.1, 0.1]}, "sigma"),
        ({"radius": []}, "radius"),
        ({"examples": 1}, "examples"),
        ({"sigma": [0.0]}, "sigma"),
    ],
)
def test_what_cannot_be_certified_is_refused(options: CertifyOptions, change: Any, word: str) -> None:
    with pytest.raises(UsageError, match=word):
        Certify(replace(options, **change))


def test_the_page_shows_both_bounds(study: StudyResult, check_page: Callable[[Path], None]) -> None:
    page = study.folder / "report.html"
    text = page.read_text(encoding="utf-8")
    for part in (
        "How far does the top of the maps provably hold?",
        "at most, by the attack",
        "certified radius",
    ):
        assert part in text
    figure = study.figure("What holds over the radius: input-gradient")
    assert len(figure.axes[0].get_lines()) >= 2
    check_page(page)
