"""Finished attacks side by side: what compares, what a page shows and says, and the commands that do it."""

import hashlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from veridical.cli.main import main
from veridical.report import Verdict
from veridical.runtime.errors import RunError, UsageError
from veridical.runtime.files import pack_arrays, read_json, write_json
from veridical.studies.attack import Attack
from veridical.studies.attack_page import (
    MEASURES,
    PAPER_NUMBERS,
    attack_table,
    attack_verdict,
    name_attacks,
    paired_table,
    paper_numbers,
    robustness_scatter,
    write_attack_page,
)
from veridical.studies.study import StudyResult

from .conftest import options_for

CLAIM = "the 95% intervals do not overlap"
COUNT, SIDE = 12, 6


def interval(value: float | None, half: float | None = 0.02, n: int = COUNT) -> dict[str, Any]:
    if value is None or half is None:
        return {"value": value, "low": None, "high": None, "n": n}
    return {"value": value, "low": value - half, "high": value + half, "n": n}


def an_attack(
    topk: float | None = 0.31,
    tau: float | None = 0.18,
    *,
    accuracy: float | None = 0.92,
    half: float | None = 0.02,
    arrays: dict[str, Any] | None = None,
    results: dict[str, Any] | None = None,
    **config: Any,
) -> StudyResult:
    """A finished attack of 12 images of 6 x 6, of which 10 pixels are compared."""
    random = np.random.default_rng(0)
    maps = np.tile(np.arange(1.0, 37.0).reshape(SIDE, SIDE), (COUNT, 1, 1))
    moved = maps.copy()
    moved[:, -1, -4:], moved[:, 0, :4] = maps[:, 0, :4], maps[:, -1, -4:]  # 4 of the top 10 move
    label = np.arange(COUNT) % 3
    plain: dict[str, Any] = {
        "run": {"objective": "natural", "recipe": "fast", "model": {"name": "mlp"}, "robust": None},
        "data": {"name": "stripes", "split": "test"},
        "examples": COUNT,
        "norm": "linf",
        "radii": [0.1],
        "protocol": {
            "name": "paper-fast",
            "k": 10,
            "steps": 3,
            "step_size": 0.01,
            "climbs": [{}],
            "judge_nodes": {"nodes": 10, "rule": "gauss-legendre"},
            "final_nodes": {"nodes": 100, "rule": "right"},
        },
        "evaluation": {"radius": 0.1, "pgd_steps": 3, "pgd_step_size": 0.03},
        "attribution": {"method": "IntegratedGradients"},
        "attack": {"direction": "topk", "k": 10},
    }
    values = {"natural_accuracy": accuracy, "adversarial_accuracy": 0.01, "topk_intersection": topk}
    values |= {"kendall_tau": tau, "spearman": 0.3, "windowed_topk_intersection": 0.6}
    measured = {name: interval(value, half) for name, value in values.items()} | {
        "mass_centre_shift": interval(1.5, half, 11),
        "examples": COUNT,
        "correctly_classified": COUNT,
        "not_found": interval(0.0),
        "natural_accuracy_of_all": interval(0.9, n=30),
        "gradient_evaluations": {"explanation": 1234},
        "notes": ["A note."],
    }
    kept: dict[str, Any] = {
        "index": np.arange(COUNT),
        "label": label,
        "predicted": label,
        "kendall_tau": np.linspace(-0.2, 0.9, COUNT),
        "topk_intersection": np.full(COUNT, 0.6),
        "spearman": np.linspace(0, 1, COUNT),
        "windowed_topk_intersection": np.ones(COUNT),
        "image": random.random((COUNT, 1, SIDE, SIDE)),
        "perturbed": random.random((COUNT, 1, SIDE, SIDE)),
        "saliency": maps,
        "perturbed_saliency": moved,
        "trace": np.linspace(1, 0.2, 5)[None] + np.linspace(-0.1, 0.1, COUNT)[:, None],
        "classes": np.array(["cat", "dog", "eel"]),
    }
    document = {
        "config": {**plain, **config},
        "results": {**measured, **(results or {})},
        "environment": {"run": "/runs/a", "torch": "2.9"},
    }
    return StudyResult(Path("a"), document, {**kept, **(arrays or {})})


def page_of(folder: Path, attacks: dict[str, StudyResult], **options: Any) -> str:
    path = write_attack_page(folder / "page.html", attacks, title="Title", lead="Lead.", **options)
    return re.sub(r"\s+", " ", re.sub("&#39;", "'", path.read_text(encoding="utf-8")))


def verdict_of(first: StudyResult, other: StudyResult) -> Verdict:
    return attack_verdict({"Natural": first, "Robust": other})


def test_the_verdict_states_what_was_measured() -> None:
    said = verdict_of(an_attack(0.312, 0.178, accuracy=0.964), an_attack(0.724, 0.612, accuracy=0.903))
    (headline,) = said.headlines
    assert headline == (
        "The explanations of \u201cRobust\u201d hold better than those of \u201cNatural\u201d: "
        f"the share of kept pixels and the rank correlation are higher, and {CLAIM}."
    )
    for told in ("no pixel by more than 0.1", "keeps 31% of its 10 most", "\u201cRobust\u201d keeps 72%."):
        assert told in said.text[0]
    assert said.text[0].endswith("Two unrelated rankings of 36 pixels would share 28% by chance.")
    assert "is 0.18 for \u201cNatural\u201d and 0.61 for \u201cRobust\u201d." in said.text[1]
    assert said.text[2].endswith(f"On unchanged images the second is less accurate, and {CLAIM}.")
    (alt, _) = (one.alt for one in said.illustrations)
    assert alt == ("Top pixels kept (IN). Natural: 31.2% (29.2 to 33.2); Robust: 72.4% (70.4 to 74.4).")


@pytest.mark.parametrize(
    ("first", "other", "starts", "holds"),
    [
        ((0.50, 0.50), (0.53, 0.53), "This run shows no difference", "overlap"),
        ((0.5, 0.5), (0.54, 0.54), "This run shows no difference", "overlap"),  # they touch
        ((0.3, 0.5), (0.7, 0.52), "The explanations", "For the rank correlation the intervals overlap."),
        ((0.7, 0.7), (0.3, 0.3), "The explanations of \u201cRobust\u201d hold less well", "are lower"),
        ((0.3, 0.7), (0.7, 0.3), "The two measures disagree", "the rank correlation is lower"),
    ],
)
def test_headlines_claim_what_intervals_carry(
    first: tuple[float, float], other: tuple[float, float], starts: str, holds: str
) -> None:
    (text,) = verdict_of(an_attack(*first), an_attack(*other)).headlines
    assert text.startswith(starts)
    assert holds in text
    assert (CLAIM in text) == starts.startswith("The explanations")


def test_intervals_that_overlap_hide_no_difference_image_by_image() -> None:
    values = np.linspace(0.3, 0.7, COUNT)
    first = an_attack(0.5, 0.5, arrays={"topk_intersection": values, "kendall_tau": values})
    moved = {"topk_intersection": values + np.linspace(0.01, 0.03, COUNT), "kendall_tau": values}
    (text,) = verdict_of(first, an_attack(0.52, 0.5, arrays=moved)).headlines
    assert text.startswith("Image by image, on those that both classify correctly,")
    assert "Top pixels kept (IN) by +2.0" in text
    assert "tau" not in text
    assert "the share of kept pixels and the rank correlation the 95% intervals overlap" in text


@pytest.mark.parametrize(
    ("accuracy", "told"),
    [
        (0.95, f"On unchanged images the second is more accurate, and {CLAIM}."),
        (0.91, "The 95% intervals of their accuracies on unchanged images overlap."),
    ],
)
def test_accuracy_is_called_different_only_when_it_is(accuracy: float, told: str) -> None:
    first, other = an_attack(accuracy=0.9), an_attack(accuracy=accuracy)
    assert verdict_of(first, other).text[2].endswith(told)


@pytest.mark.parametrize("gap", [None, float("nan")])
def test_what_was_not_measured_is_said_and_not_compared(gap: float | None) -> None:
    said = verdict_of(an_attack(0.1, 0.1), an_attack(0.9, 0.9, half=gap))
    assert "cannot be compared" in said.headlines[0]
    assert CLAIM not in " ".join([*said.headlines, *said.text])
    said = verdict_of(an_attack(None, None), an_attack(0.7, 0.6))
    assert "the explanation of \u201cRobust\u201d keeps 70%" in said.text[0]
    assert "for \u201cNatural\u201d the most important pixels that stay were not measured" in said.text[0]


def test_every_other_model_is_compared_with_the_first_and_one_alone_is_described() -> None:
    attacks = {str(place): an_attack(value, value) for place, value in enumerate((0.3, 0.5, 0.7))}
    first, second = attack_verdict(attacks).headlines
    assert "\u201c1\u201d hold better than those of \u201c0\u201d" in first
    assert "\u201c2\u201d hold better than those of \u201c0\u201d" in second
    (alone,) = attack_verdict({"Robust": an_attack(0.724)}).headlines
    assert alone == (
        "After the attack, explanations keep 72% of their most important pixels "
        "(95% interval 70.4% to 74.4%)."
    )
    assert not attack_verdict({"Robust": an_attack(None)}).headlines


OBJECTIVES = ("natural", "adversarial", "ig-norm", "ig-sum-norm")
DATA = ("mnist", "fashion-mnist", "gtsrb", "flowers17")


def test_every_network_has_its_numbers_and_three_natural_accuracies_are_published() -> None:
    assert set(PAPER_NUMBERS) == {(one, name) for one in DATA for name in OBJECTIVES}
    for (data, objective), numbers in PAPER_NUMBERS.items():
        # Fractions with the paper's digits.
        assert all(0 <= value < 1 and value == round(value, 4) for value in numbers)
        stated = {"natural_accuracy"} if objective != "adversarial" else set()
        published, recalled = (paper_numbers(data, objective, mark) for mark in ("published", "recalled"))
        assert (set(published), set(recalled)) == (stated, set(MEASURES) - stated)
        assert {**published, **recalled} == dict(zip(MEASURES, numbers, strict=True))


def test_what_the_paper_does_not_have_is_empty() -> None:
    assert paper_numbers("mnist-5k", "natural", "published") == {}
    assert paper_numbers("fashion-mnist", "input-gradient", "recalled") == {}


def test_measured_published_and_recalled_numbers_stand_apart(tmp_path: Path) -> None:
    fashion = {"name": "fashion-mnist", "split": "test"}
    missing = an_attack(0.7, data=fashion, results={"adversarial_accuracy": interval(None)})
    attacks = {"Natural": an_attack(data=fashion), "Robust": missing}
    heads, _, *lines = attack_table(attacks, literature=True).to_markdown().splitlines()
    measured, published, recalled, gaps = ([c.strip() for c in line.split("|")[1:6]] for line in lines[:4])
    assert measured == [
        "Natural",
        "92.0% (90.0 to 94.0)",
        "1.0% (0.0 to 3.0)",
        "31.0% (29.0 to 33.0)",
        "0.180 (0.160 to 0.200)",
    ]
    assert published == ["Natural (published)", "90.86%", *["\u2014"] * 3]
    assert recalled == ["Natural (recalled, unverified)", "\u2014", "0.01%", "39.01%", "0.4610"]
    assert gaps[2] == "\u2014"
    assert dict(zip(heads.split(" | "), lines[0].split(" | "), strict=True))["images"] == "12"
    assert len(attack_table(attacks).rows) == 2
    page = page_of(tmp_path, attacks)
    assert "Natural (recalled, unverified)" in page
    assert "Source: J. Chen" in page
    assert "Shift of the centre of mass of \u201cNatural\u201d is over 11 images." in page


@pytest.mark.parametrize(
    ("change", "rows"),
    [
        ({}, 3),
        ({"evaluation": {"radius": 0.2, "pgd_steps": 3, "pgd_step_size": 0.03}}, 1),
        ({"norm": "l2"}, 1),
        ({"attack": {"direction": "random"}}, 1),
        ({"attribution": {"method": "InputGradient"}}, 1),
        ({"data": {"name": "stripes", "split": "test"}}, 1),
    ],
)
def test_published_numbers_stand_beside_the_same_attack_only(change: dict[str, Any], rows: int) -> None:
    same: dict[str, Any] = {"data": {"name": "fashion-mnist", "split": "test"}}
    assert len(attack_table({"a": an_attack(**{**same, **change})}, literature=True).rows) == rows


def test_the_page_shows_pictures_curves_training_notes_and_settings(tmp_path: Path) -> None:
    curve = [
        {"radius": 0.2, "adversarial_accuracy": interval(0.1), "topk_intersection": interval(0.3)},
        {"radius": 0.1, "adversarial_accuracy": interval(0.4), "topk_intersection": interval(0.6)},
    ]
    natural, robust = an_attack(results={"curve": curve}), an_attack(0.7, 0.6, results={"notes": ["Own."]})
    page = page_of(tmp_path, {"Natural": natural, "Robust": robust}, notes=["First."], gallery=4)
    assert page.count("6 of the 10 most important pixels stayed the same") == 8
    assert page.count("Natural: top pixels kept 60%, tau") == 4
    assert "Image 1, labelled cat" in page
    assert "Kendall\u2019s tau against attack iteration. Natural: from 1.00 at 1 to 0.20 at 5" in page
    assert "Histograms of Top pixels kept (IN). Natural: median 60%, 12 images" in page
    assert "Top pixels kept (IN) against attack radius. Natural: from 60.0% at 0.1 to 30.0% at 0.2." in page
    assert "Natural accuracy (NA) against attack radius" not in page
    for told in ("First.", "Natural: A note.", "Robust: Own.", "classifies 90.0% of all 30 test images"):
        assert told in page
    for told in ("the first 12 test images of stripes", "3 of 0.01", "1,234", "run.Robust.recipe"):
        assert told in page
    assert "pictures below, the number" not in page
    wrong = an_attack(arrays={"topk_intersection": np.full(COUNT, 0.9)})
    assert "In 8 of the pictures below, the number" in page_of(tmp_path, {"Natural": wrong})


@pytest.mark.parametrize("value", [0.0, float("inf"), None])
def test_results_that_do_not_vary_make_a_page(tmp_path: Path, value: float | None) -> None:
    everywhere = {"value": value, "low": value, "high": value, "n": 2}
    number = float("nan") if value is None else value
    usual = an_attack().results
    results: dict[str, Any] = {name: everywhere for name in usual if isinstance(usual[name], dict)}
    results |= {"curve": [{"radius": 0.0, **results}], "gradient_evaluations": {"explanation": 1}}
    results |= {"not_found": interval(None), "natural_accuracy_of_all": interval(0.9)}
    arrays: dict[str, Any] = {"trace": np.full((COUNT, 1), number)}
    arrays |= {name: np.full(COUNT, number) for name in ("kendall_tau", "topk_intersection")}
    page = page_of(tmp_path, {"Natural": an_attack(results=results, arrays=arrays)})
    words = set(re.sub("<style>.*</style>|<[^>]+>", " ", page).split())
    assert not {"nan", "inf", "None", "nan%"} & words


def test_the_scatter_has_a_point_for_each_measured_pair() -> None:
    missing = an_attack(results={"adversarial_accuracy": interval(None)})
    figure = robustness_scatter({"a": an_attack(), "b": an_attack(0.7), "c": missing})
    found = [axes.containers[0].lines[0].get_xydata().tolist() for axes in figure.axes]  # type: ignore[attr-defined]
    assert found == [[[0.01, 0.31]], [[0.01, 0.18]]]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "b"]


def taus(by_image: dict[int, float], wrong: tuple[int, ...] = (), **config: Any) -> StudyResult:
    index, values = np.array(list(by_image)), np.array(list(by_image.values()))
    arrays = {"index": index, "label": 0 * index, "predicted": np.isin(index, wrong).astype(np.int64)}
    measures = {"kendall_tau": values, "topk_intersection": values / 2, "spearman": values}
    return an_attack(
        arrays={**arrays, **measures, "windowed_topk_intersection": np.ones(len(index))}, **config
    )


def test_differences_are_paired_by_the_number_of_the_image() -> None:
    first = taus({0: 0.5, 1: 0.6, 2: 0.9, 3: 0.1}, wrong=(3,))
    second = taus({3: 0.9, 2: 0.8, 1: 0.4, 0: 0.6, 7: 0.0}, wrong=(0,))
    lines = paired_table({"a": first, "b": second}).to_markdown().splitlines()[2:]
    topk, tau = ([cell.strip() for cell in line.split("|")[2:-1]] for line in lines[:2])
    # Images 1 and 2: -0.2 and -0.1.
    assert tau[:2] == ["0.7500", "0.6000"]
    assert (tau[2].split()[0], topk[2].split()[0], tau[3]) == ("\u22120.1500", "\u22120.0750", "2")
    # An attack does not differ from itself.
    assert "| 0.0000 (0.0000 to 0.0000) |" in paired_table({"a": first, "b": first}).to_markdown()


@pytest.mark.parametrize(
    ("index", "radii", "told"),
    [(0, [0.2], "their radii differs"), (0, [0.1, 0.2], "one radius"), (1, [0.1], "no image of both")],
)
def test_what_does_not_pair_is_refused(index: int, radii: list[float], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        paired_table({"a": taus({0: 0.5}), "b": taus({index: 0.5}, radii=radii)})


@pytest.fixture
def attacks(place: Path) -> dict[str, StudyResult]:
    return name_attacks([Attack.read(place / f"{name}-attack") for name in ("natural", "adversarial")])


def test_attacks_of_several_protocols_may_have_other_images_and_other_k(tmp_path: Path) -> None:
    whole = an_attack(pictures=8)
    few = {name: values[:5] for name, values in whole.arrays.items() if name != "classes"}
    none = {name: few[name][:0] for name in ("image", "perturbed", "saliency", "perturbed_saliency")}
    protocol = {**whole.config["protocol"], "k": 7}
    other = an_attack(arrays={**few, **none}, protocol=protocol, pictures=0)
    attacks = {"Whole": whole, "Few": other}
    page = page_of(tmp_path, attacks, any_protocol=True)
    assert "k = 10 for \u201cWhole\u201d, 7 for \u201cFew\u201d" in page
    assert "image by image" not in page.lower()
    with pytest.raises(UsageError, match=r"their k differs, 10 and 7"):
        paired_table(attacks)
    with pytest.raises(UsageError, match=r"do not compare"):
        page_of(tmp_path, attacks)


def test_an_attack_of_before_a_measure_was_added_is_read_and_compared(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new, old, added = place / "natural-attack", tmp_path / "old", "kendall_tau_nonzero"
    attacked = Attack.read(new)
    examples = pack_arrays({name: array for name, array in attacked.arrays.items() if name != added})
    document = attacked.to_dict()
    document["results"] = {name: one for name, one in document["results"].items() if name != added}
    document["files"] = {"examples.npz": hashlib.sha256(examples).hexdigest()}
    old.mkdir()
    (old / "examples.npz").write_bytes(examples)
    write_json(old / "result.json", document)
    command = ["compare", "--attacks", str(new), str(old), "--out", str(tmp_path / "c"), "--markdown"]
    assert main(command) == 0
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines()]
    column = next(row for row in rows if row[0] == "| model").index("Rank correlation, nonzero pixels")
    cells = {row[0]: row[column] for row in rows if row[0].startswith("| Natural training (")}
    assert cells["| Natural training (old)"] == "\u2014"
    assert float(cells["| Natural training (natural-attack)"].split()[0]) < 1
    page = (tmp_path / "c" / "report.html").read_text(encoding="utf-8")
    assert len(paired_table({"new": attacked, "old": Attack.read(old)}).rows) == 4
    assert len(paired_table({"new": attacked, "again": attacked}).rows) == 5
    assert "Image by image" in page
    # What is there has to be whole.
    short = pack_arrays({**attacked.arrays, added: attacked.arrays[added][1:]})
    (old / "examples.npz").write_bytes(short)
    write_json(
        old / "result.json", {**document, "files": {"examples.npz": hashlib.sha256(short).hexdigest()}}
    )
    with pytest.raises(RunError, match=f"the array {added} is"):
        Attack.read(old)


def test_titles(attacks: dict[str, StudyResult]) -> None:
    natural, adversarial = attacks.values()
    assert list(attacks) == ["Natural training", "Adversarial training"]
    elsewhere = StudyResult(Path("again"), natural.document, natural.arrays)
    titles = ["Natural training (natural-attack)", "Natural training (again)", "Adversarial training"]
    assert list(name_attacks([natural, elsewhere, adversarial])) == titles
    assert list(name_attacks([natural, adversarial], ["a", "b"])) == ["a", "b"]
    by_run = name_attacks([natural, adversarial], with_protocol=True)
    assert list(by_run) == ["natural (paper-fast)", "adversarial (paper-fast)"]
    with pytest.raises(UsageError, match="2 names"):
        name_attacks([natural, adversarial], ["a"])
    with pytest.raises(UsageError, match="a different name"):
        name_attacks([natural, natural])


def test_training_logs_are_drawn_by_epoch(tmp_path: Path, attacks: dict[str, StudyResult]) -> None:
    page = page_of(tmp_path, attacks)
    course = r"against epoch\. Natural training: from (\S+) at 1 to (\S+) at 6"
    first, last = re.search("loss " + course, page).groups()  # type: ignore[union-attr]
    assert float(first) > float(last) > 0
    assert re.search("validation accuracy " + course, page)
    assert "part of the loss: perturbed loss against epoch. Adversarial training: from" in page
    elsewhere = {**attacks["Natural training"].document, "environment": {"run": str(tmp_path)}}
    moved = StudyResult(tmp_path, elsewhere, attacks["Natural training"].arrays)
    assert "against epoch" not in page_of(tmp_path, {"moved": moved})


def test_the_attack_command_writes_a_page_and_prints_the_numbers(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], check_page: Callable[[Path], None]
) -> None:
    arguments = ["attack", "--run", str(place / "natural"), "--out", str(tmp_path / "a"), "--examples", "6"]
    assert main([*arguments, "--steps", "2", "--radius", "0.05", "0.1", "--progress=false"]) == 0
    shown = capsys.readouterr().out
    assert "Kendall\u2019s tau (CO)" in shown
    assert f"report: {tmp_path / 'a' / 'report.html'}" in shown.replace("\n", "")
    page = (tmp_path / "a" / "report.html").read_text(encoding="utf-8")
    assert "Natural training" in page
    assert not re.search(r"(src|href)=\"http", page)
    check_page(tmp_path / "a" / "report.html")
    assert len(read_json(tmp_path / "a" / "result.json")["results"]["curve"]) == 2


def test_the_compare_command_puts_attacks_side_by_side(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = [str(place / "natural-attack"), str(place / "adversarial-attack")]
    figure = tmp_path / "scatter.svg"
    command = ["compare", "--attacks", *folders, "--out", str(tmp_path / "c"), "--figure", str(figure)]
    assert main([*command, "--markdown"]) == 0
    shown = capsys.readouterr().out
    assert "| Adversarial training | " in shown
    assert "| Kendall\u2019s tau (CO) | " in shown
    assert "explanations" in shown
    assert figure.read_text(encoding="utf-8").count("adversarial accuracy (AA)") == 2
    document = read_json(tmp_path / "c" / "result.json")
    assert list(document["results"]) == ["Natural training", "Adversarial training"]
    assert "Adversarial training" in (tmp_path / "c" / "report.html").read_text(encoding="utf-8")
    for given, told in (([], "at least two"), ([place / "natural"], "not a finished attack")):
        assert main(["compare", "--attacks", folders[0], *map(str, given), "--out", str(tmp_path / "d")]) > 0
        assert told in capsys.readouterr().err
        assert not (tmp_path / "d").exists()


def test_two_protocols_of_one_run_are_compared_on_request(
    place: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    Attack(options_for(place, "natural", protocol="paper", out=str(tmp_path / "paper"), examples=9)).run()
    folders = [str(tmp_path / "paper"), str(place / "natural-attack")]
    command = ["compare", "--attacks", *folders, "--out", str(tmp_path / "c"), "--markdown"]
    assert main(command) == 2
    assert re.search("do not compare: their (examples|protocol) differs", capsys.readouterr().err)
    assert main([*command, "--any-protocol"]) == 0
    assert "| measure | natural (paper) | natural (paper-fast) | difference |" in capsys.readouterr().out
    page = (tmp_path / "c" / "report.html").read_text(encoding="utf-8")
    assert "Robust predictions and robust explanations" in page
    assert "Image by image" in page
    assert "Image 1, labelled" not in page
