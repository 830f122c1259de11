"""An audit: planted truths are told, every number stands on an interval, and what is missing is named."""

import json
import shlex
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import veridical
from veridical.attribution.method import dataset_maps, predict_classes
from veridical.attribution.registry import ATTRIBUTIONS
from veridical.cli.commands import COMMANDS
from veridical.cli.options import parse_options
from veridical.data.dataset import from_examples
from veridical.report import Interval
from veridical.runtime.errors import DataError, UsageError
from veridical.studies import audit_answers
from veridical.studies.alignment import Alignment, AlignmentOptions
from veridical.studies.attack import Attack
from veridical.studies.audit import Audit, AuditOptions, AuditReport
from veridical.studies.audit_answers import _crossing
from veridical.studies.audit_page import CONTROL, QUESTIONS, audit_panels, judge
from veridical.studies.sanity import Sanity
from veridical.studies.study import StudyResult, read_duration
from veridical.training.subject import load_subject

pytestmark = pytest.mark.usefixtures("quick_parts")

QUIET: dict[str, Any] = {"workers": 1, "progress": False}


@pytest.fixture(scope="module")
def audited(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> StudyResult:
    """The natural run that reads a masked patch, by three explanations."""
    return Audit(options_for(trained, tmp_path_factory.mktemp("audit"))).run()


def options_for(trained: Path, out: Path, **changes: Any) -> AuditOptions:
    values: dict[str, Any] = {
        "run": str(trained / "natural-0"),
        "out": str(out),
        "attribution": ["input-gradient", "gradient-x-input", "captum:GuidedBackprop"],
        "examples": 24,
        "attacked": 8,
        "steps": 6,
        "repeats": 2,
        "protocol": ["paper-fast"],
        "shares": [0.5],
        "radius": 0.1,
        "gallery": 3,
        **QUIET,
        **changes,
    }
    return AuditOptions(**values)


def parse_command(line: str) -> None:
    """Take a command line apart as the program does; anything that it would refuse ends the test."""
    program, name, *arguments = shlex.split(line)
    assert program == "veridical"
    parse_options(COMMANDS[name].options(), arguments, prog=name)


def answer(result: StudyResult, question: str, attribution: str | None = None) -> dict[str, Any]:
    (one,) = (
        one
        for one in result.results["answers"]
        if (one["question"], one["attribution"]) == (question, attribution)
    )
    return dict(one)


def test_every_question_is_answered_for_every_explanation_by_its_interval(audited: StudyResult) -> None:
    names = list(audited.config["attributions"])
    assert names[-1] == CONTROL
    expected = {(name, one) for name, q in QUESTIONS.items() for one in (names if q.each else [None])}
    answers = audited.results["answers"]
    assert {(one["question"], one["attribution"]) for one in answers} == expected
    assert len(answers) == len(expected)
    for one in answers:
        assert one["verdict"] == judge(Interval.read(one["value"]), one["threshold"])
        if one["command"] is not None:
            for line in one["command"].split(" && "):
                parse_command(line)
    assert audited.results["left_out"] == {}
    assert set(audited.results["evidence"]) == set(names)
    for one in names:
        assert audited.results["disagreement"][one][one]["value"] == pytest.approx(1.0)


def test_planted_truths_are_told(audited: StudyResult) -> None:
    # The patch tells the class, the masks mark it, and the natural model reads it.
    assert answer(audited, "accuracy")["verdict"] == "holds"
    assert answer(audited, "localisation", "gradient-x-input")["verdict"] == "holds"
    # A map of noise is evidence of nothing and lies nowhere.
    for question in ("deletion", "insertion", "road", "adversarial", "localisation", "completeness"):
        assert answer(audited, question, CONTROL)["verdict"] in ("fails", "undecided"), question
    assert answer(audited, "localisation", CONTROL)["verdict"] == "fails"
    # A gradient passes two ReLUs that change nothing; guided backpropagation does not.
    assert answer(audited, "invariance", "input-gradient")["verdict"] == "holds"
    assert answer(audited, "invariance", "captum:GuidedBackprop")["verdict"] == "fails"
    # It cannot be climbed, so it is not attacked, and that is said.
    assert answer(audited, "stability", "captum:GuidedBackprop")["verdict"] == "not measured"


def test_images_can_be_explored_by_class_and_worst_first(audited: StudyResult) -> None:
    (panel,) = (one for one in audit_panels(audited) if one.title == "Images and their maps")
    gallery: Any = panel.illustrations[0].figure
    shown, controls = audited.results["images"], gallery.controls(gallery.rows)
    counts = Counter(one["label"] for one in shown)
    assert controls["labels"] == sorted(counts.items())
    by_rank = [shown[controls["ranks"].index(rank)]["score"] for rank in range(len(shown))]
    assert by_rank == sorted(one["score"] for one in shown)
    assert len(set(by_rank)) > 1
    assert controls["overlay"]


def test_the_page_says_it_all_and_no_single_score(
    audited: StudyResult, check_page: Callable[[Path], None]
) -> None:
    check_page(audited.folder / "report.html")
    page = (audited.folder / "report.html").read_text(encoding="utf-8")
    for words in ("Can this audit be trusted?", "no stronger change was found", "Limits", "EU AI Act"):
        assert words in page
    assert "complies with" not in page
    (table,) = Audit.tables(audited).values()
    _, rows = table.drawn()
    # What nobody asked for is no row.
    unasked = ["depends-smoothed", "in-domain-deletion", "in-domain-removal", "diffroar"]
    assert f"Not measured of any: {', '.join(unasked)}." in page
    assert [row[0] for row in rows] == [name for name in QUESTIONS if name not in unasked]
    assert any("fails" in cell for row in rows for cell in row)
    (sentence,) = (one for one in Audit.findings(audited) if one.startswith("captum:GuidedBackprop"))
    assert "invariance" in sentence.partition("fails")[2]


def test_a_model_that_is_used_to_missing_patches_is_asked_on_request(trained: Path, tmp_path: Path) -> None:
    given = {"attribution": ["gradient-x-input"], "attacked": 4, "budget": 1e-9, "finetune": 2.0}
    options = options_for(trained, tmp_path, **given)
    result = Audit(options).run()
    value = answer(result, "in-domain-deletion", "gradient-x-input")["value"]
    assert value["low"] > 0
    assert answer(result, "in-domain-deletion", CONTROL)["value"] is not None
    assert result.results["fine_tuned"]["value"] > 0.8


def test_thresholds_are_the_callers_and_are_recorded(trained: Path, tmp_path: Path) -> None:
    given = {"thresholds": {"accuracy": 0.0, "localisation": 0.999}, "budget": 1e-9}
    result = Audit(options_for(trained, tmp_path, attribution=["input-gradient"], **given)).run()
    assert result.results["thresholds"]["localisation"] == 0.999
    assert answer(result, "localisation", "input-gradient")["verdict"] == "fails"
    with pytest.raises(UsageError, match="thresholds: expected questions"):
        Audit(options_for(trained, tmp_path / "other", thresholds={"accurate": 0.5}))


def test_an_interrupted_audit_leaves_a_page_that_names_what_is_missing_and_goes_on(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few: dict[str, Any] = {"examples": 8, "attacked": 2, "steps": 2, "repeats": 1, "shares": []}
    options = options_for(trained, tmp_path / "out", attribution=["input-gradient"], **few)
    with monkeypatch.context() as patch:

        def stop(*_: Any, **__: Any) -> None:
            raise KeyboardInterrupt

        patch.setattr(Sanity, "run", stop)
        with pytest.raises(KeyboardInterrupt):
            Audit(options).run()
    partial = Audit.read(tmp_path / "out")
    assert set(partial.results["left_out"]) == {"sanity-input-gradient"}
    assert answer(partial, "depends-on-model", "input-gradient")["verdict"] == "not measured"
    assert answer(partial, "stability", "input-gradient")["value"] is not None
    assert "What is missing" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    whole = Audit(options).run()
    assert whole.results["left_out"] == {}
    assert answer(whole, "depends-on-model", "input-gradient")["value"] is not None
    same = ("stability", "deletion", "accuracy")
    for question in same:
        name = "input-gradient" if QUESTIONS[question].each else None
        assert answer(whole, question, name) == answer(partial, question, name)


def refuse(model: nn.Module, inputs: Tensor, target: Tensor) -> Tensor:
    """An attribution that cannot be had of any model."""
    del model, inputs, target
    raise UsageError("no maps of this model")


def test_an_explanation_that_cannot_be_had_leaves_the_others(trained: Path, tmp_path: Path) -> None:
    options = options_for(
        trained,
        tmp_path,
        attribution=["input-gradient", f"{__name__}:refuse"],
        trust_code=True,
        attacked=4,
        steps=2,
    )
    result = Audit(options).run()
    refused = f"{__name__}:refuse"
    assert "no maps of this model" in result.results["left_out"][f"maps of {refused}"]
    assert answer(result, "deletion", refused)["verdict"] == "not measured"
    for question in ("deletion", "stability", "completeness"):
        assert answer(result, question, "input-gradient")["value"] is not None
    assert answer(result, "accuracy")["value"] is not None


def test_a_budget_leaves_out_what_it_has_no_time_for(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(0, 10**6, 45))
    monkeypatch.setattr(time, "monotonic", lambda: float(next(clock)))
    options = options_for(trained, tmp_path, attribution=["input-gradient"], attacked=4, steps=2, budget=2.0)
    result = Audit(options).run()
    assert "budget of 2 min" in result.results["left_out"]["sanity-input-gradient"]
    assert answer(result, "deletion", "input-gradient")["value"] is not None


def test_a_flag_is_raised_where_the_model_hides_its_gradients(trained: Path, tmp_path: Path) -> None:
    options = options_for(
        trained,
        tmp_path,
        run=None,
        model=f"{__name__}:make_rounding",
        data=str(trained / "patches.npz"),
        attribution=["input-gradient"],
        trust_code=True,
        attacked=12,
    )
    result = Audit(options).run()
    raised = {one["name"] for one in result.results["flags"] if one["raised"]}
    assert {"zero-gradient", "black-box attack stronger", "maps of zeros"} <= raised


def test_a_flag_is_raised_where_classes_are_in_another_order(audited: StudyResult) -> None:
    flags = {one["name"]: one["raised"] for one in audited.results["flags"]}
    assert flags["classes in another order"] is False
    draw = np.random.default_rng(0)
    labels = np.arange(200) // 20
    order = np.roll(np.arange(10), 3)
    wrong = np.where(draw.random(200) < 0.3, draw.integers(0, 10, 200), labels)
    raised = {
        "as they are": audit_answers._order_flag(wrong, labels, 10),
        "exchanged": audit_answers._order_flag(order[wrong], labels, 10),
        # Ten classes of ten images can be exchanged to suit any guess, but not one that is asked again.
        "guessed": audit_answers._order_flag(draw.integers(0, 10, 200), labels, 10),
    }
    assert {name: one["raised"] for name, one in raised.items()} == {
        "as they are": False,
        "exchanged": True,
        "guessed": False,
    }
    right = (wrong[1::2] == labels[1::2]).mean()
    assert f"reads {100 * right:.0f}% of the other half right" in raised["exchanged"]["text"]


def test_some_right_images_are_attacked_where_the_first_are_misread(trained: Path, tmp_path: Path) -> None:
    natural = load_subject(AuditOptions(run=str(trained / "natural-0"), out="."))
    test = natural.data.test
    right = (predict_classes(natural.model, test) == test.labels).numpy()
    # All that are read right first, but for the last three of the first six.
    order = [*np.flatnonzero(right)[:3], *np.flatnonzero(right)[3:6]]
    labels = test.labels[order].clone()
    labels[:3] = (labels[:3] + 1) % natural.data.num_classes
    arrays = {"x": test.images[order].permute(0, 2, 3, 1).numpy(), "y": labels.numpy()}
    path = tmp_path / "misread.npz"
    both: dict[str, Any] = {f"{key}_{part}": one for part in ("train", "test") for key, one in arrays.items()}
    np.savez(path, **both, classes=np.array(natural.data.classes))
    options = options_for(
        trained, tmp_path / "out", data=str(path), attacked=None, examples=6, attribution=["input-gradient"]
    )
    for wanted, counted in ((2, 5), (4, 6), (1, 4)):
        audit = Audit(options)
        assert audit._count_attacked(wanted) == counted
    assert Audit(options).attacked == 6  # as many as there are, where 32 are wanted
    assert Audit(replace(options, attacked=2)).attacked == 2


class Rounding(nn.Module):
    """Reads the mean of the image, rounded to a grey level, so that its gradient is 0 everywhere."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(20.0))
        self.register_buffer("centres", torch.linspace(0.2, 0.35, classes))

    def forward(self, inputs: Tensor) -> Tensor:
        mean = (inputs.mean(dim=(1, 2, 3)) * 255).round() / 255
        centres = self.get_buffer("centres")
        return -self.scale * (mean[:, None] - centres).abs() + 0 * inputs.sum(dim=(1, 2, 3))[:, None]


def make_rounding(num_classes: int) -> nn.Module:
    return Rounding(num_classes)


@pytest.mark.parametrize(
    ("value", "low", "high", "verdict"),
    [
        (0.6, 0.55, 0.65, "holds"),
        (0.6, 0.5, 0.7, "undecided"),
        (0.4, 0.3, 0.49, "fails"),
        (0.6, None, None, "undecided"),
        (None, None, None, "not measured"),
    ],
)
def test_a_verdict_is_of_the_interval_alone(
    value: float | None, low: float | None, high: float | None, verdict: str
) -> None:
    assert judge(Interval(value, low, high), 0.5) == verdict


def test_a_frame_has_a_row_for_each_answer_with_its_numbers(audited: StudyResult) -> None:
    pytest.importorskip("pandas")
    frame = audited.to_frame()
    assert len(frame) == len(audited.results["answers"])
    (row,) = frame[(frame["question"] == "accuracy")].to_dict("records")
    value = answer(audited, "accuracy")["value"]
    assert (row["value"], row["value low"], row["value high"]) == (
        value["value"],
        value["low"],
        value["high"],
    )
    assert row["holds above"] == 0.8


def test_results_are_plain_json(audited: StudyResult) -> None:
    text = (audited.folder / "result.json").read_text(encoding="utf-8")
    assert json.loads(text)["study"] == "audit"
    assert all(np.isfinite(audited.arrays[f"saliency/{CONTROL}"]).flatten())


def test_results_are_of_the_schema_that_ships(audited: StudyResult) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    schema = AuditReport.schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    document = json.loads((audited.folder / "result.json").read_text(encoding="utf-8"))
    assert [str(one) for one in validator.iter_errors(document)] == []
    # It says no to what is missing, and to what it does not know.
    for broken in ({"answers": None}, {"score": 1.0}):
        assert not validator.is_valid({**document, "results": {**document["results"], **broken}})
    assert not validator.is_valid({name: value for name, value in document.items() if name != "results"})


def own_map(model: nn.Module, inputs: Tensor, target: Tensor) -> Tensor:
    """An attribution of a researcher's own: the gradient of the logit, by hand."""
    points = inputs.clone().requires_grad_(True)
    logits = model(points).gather(1, target[:, None])
    (gradient,) = torch.autograd.grad(logits.sum(), points)
    return gradient


def test_a_model_data_and_an_attribution_in_memory_are_audited_and_left_as_they_were(
    trained: Path, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3))
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    split = veridical.load(trained / "patches.npz").test
    pairs = [(image / 255, int(label)) for image, label in zip(split.images, split.labels, strict=True)]
    loader: Any = torch.utils.data.DataLoader(pairs, batch_size=7)  # type: ignore[arg-type]
    result = veridical.audit(
        model,
        loader,
        {"mine": own_map, "input-gradient": "input-gradient"},
        out=tmp_path / "audit",
        examples=12,
        attacked=4,
        budget=1e-9,
        progress=False,
    )
    assert model.training
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert "mine" not in ATTRIBUTIONS
    # The same map by another name has the same answers.
    for question in ("deletion", "completeness", "single-deletion", "invariance"):
        assert (
            answer(result, question, "mine")["value"] == answer(result, question, "input-gradient")["value"]
        )
    assert result.results["disagreement"]["mine"]["input-gradient"]["value"] == pytest.approx(1.0)
    assert "train mode" in str(result.results["remarks"])
    with pytest.raises(DataError, match="Normalize"):
        veridical.audit(model, [(image / 128 - 1, 0) for image in split.images], out=tmp_path / "no")


def test_a_model_in_memory_is_its_code_and_constants_too_and_data_are_their_content(
    trained: Path, tmp_path: Path
) -> None:
    """Neither weights alone nor a folder's name tell what is audited."""
    data = veridical.load(trained / "patches.npz")
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 3)).eval()
    few: dict[str, Any] = {"examples": 4, "attacked": 2, "steps": 2, "repeats": 1, "progress": False}
    answers = []
    for place, mean in enumerate((0.0, 0.9)):
        model = veridical.Normalized(network, mean, 0.01)
        out = tmp_path / f"model-{place}"
        result = veridical.audit(model, data, ["input-gradient"], out=out, budget=1e-9, **few)
        answers.append(answer(result, "accuracy")["value"]["value"])
        right = (model(data.test.batch(slice(None))[0]).argmax(1) == data.test.labels).double().mean()
        assert answers[-1] == pytest.approx(float(right))
    wrong = replace(data.test, labels=(data.test.labels + 1) % 3)
    other = from_examples(list(zip(wrong.images, wrong.labels.tolist(), strict=True)))
    with pytest.raises(UsageError, match="another run"):
        veridical.audit(network, other, ["input-gradient"], out=tmp_path / "model-0", budget=1e-9, **few)
    assert "input-gradient" in ATTRIBUTIONS
    with pytest.raises(UsageError, match="not taken"):
        veridical.audit(network, data, {"input-gradient": own_map}, out=tmp_path / "taken")
    assert "input-gradient" in ATTRIBUTIONS


def test_what_makes_no_audit_is_refused_before_anything_is_done(trained: Path, tmp_path: Path) -> None:
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"attribution": ["random"]}, "beside the random map"),
        ({"levels": []}, "levels"),
        ({"levels": [0.0]}, "levels"),
        ({"thresholds": {"accuracy": float("nan")}}, "finite"),
    ]
    for place, (changes, message) in enumerate(wrong):
        with pytest.raises(UsageError, match=message):
            Audit(options_for(trained, tmp_path / str(place), **changes))
        assert not (tmp_path / str(place)).exists()


def test_stability_is_told_at_every_radius_and_where_half_is_lost(audited: StudyResult) -> None:
    entry = audited.results["stability"]["input-gradient"]
    radii = [one["radius"] for one in entry["radii"]]
    assert radii == pytest.approx([0.05, 0.1, 0.4])
    kept = [one["topk_intersection"]["value"] for one in entry["radii"]]
    own = answer(audited, "stability", "input-gradient")["value"]
    assert own["value"] == pytest.approx(kept[1])
    assert kept[1] < kept[0] < 1
    # A shift forgiven, a map holds at least as still; noise of the same size moves it less.
    for one in entry["radii"][:2]:
        assert one["windowed_topk_intersection"]["value"] >= one["topk_intersection"]["value"]
        assert one["noise"]["value"] >= one["topk_intersection"]["value"]
    lost = entry["half_lost"]["value"]
    if lost is not None:
        first = next(place for place, share in enumerate(kept) if share <= 0.5)
        assert ([0.0, *radii][first]) < lost <= radii[first]


def test_half_is_lost_where_the_line_between_two_radii_crosses_it() -> None:
    assert _crossing([(0.1, 0.75), (0.2, 0.25)]) == pytest.approx(0.15)
    assert _crossing([(0.1, 0.25)]) == pytest.approx(0.1 * 0.5 / 0.75)
    assert _crossing([(0.1, 0.9), (0.2, 0.6)]) is None
    assert _crossing([(0.1, None)]) is None


def test_the_strongest_of_several_attacks_counts_image_by_image(trained: Path, tmp_path: Path) -> None:
    given: dict[str, Any] = {"attribution": ["input-gradient"], "attacked": 6, "shares": []}
    options = options_for(trained, tmp_path, protocol=["paper-fast", "strong"], **given)
    result = Audit(options).run()
    parts = [
        Attack.read(tmp_path / "parts" / name)
        for name in ("attack-input-gradient", "attack-strong-input-gradient")
    ]
    kept = [
        part.arrays["topk_intersection" if part.results["radius"] == 0.1 else "radius-0.1/topk_intersection"]
        for part in parts
    ]
    least = np.minimum(*kept)
    right = parts[0].arrays["predicted"] == parts[0].arrays["label"]
    value = answer(result, "stability", "input-gradient")["value"]
    assert value["value"] == pytest.approx(float(least[right].mean()))
    np.testing.assert_allclose(result.arrays["values/stability/input-gradient"][:6][right], least[right])
    assert len(answer(result, "stability", "input-gradient")["command"].split(" && ")) == 2


def test_localisation_is_what_the_study_of_alignment_measures(trained: Path, tmp_path: Path) -> None:
    given: dict[str, Any] = {"attribution": ["gradient-x-input"], "budget": 1e-9}
    result = Audit(options_for(trained, tmp_path / "audit", **given)).run()
    options = AlignmentOptions(
        run=[str(trained / "natural-0")],
        out=str(tmp_path / "alignment"),
        attribution=["gradient-x-input"],
        examples=24,
        batch=8,
        **QUIET,
    )
    (model,) = Alignment(options).run().results["models"].values()
    maps = model["maps"]["gradient-x-input"]
    for question, measure in (("localisation", "excess"), ("leakage", "mass")):
        value = answer(result, question, "gradient-x-input")["value"]
        assert value == pytest.approx(maps[measure]["examples"])


def test_maps_of_a_file_are_judged_by_what_can_be_asked_of_them(trained: Path, tmp_path: Path) -> None:
    """Maps by name and from a file have the same answers; nobody can ask a file about other images."""
    data = veridical.load(trained / "patches.npz")
    run = veridical.training.run.load(trained / "natural-0")
    maps = dataset_maps(run.model, data.test, veridical.InputGradient())
    np.savez(tmp_path / "maps.npz", attribution_test=maps.numpy())
    name = str(tmp_path / "maps.npz")
    few: dict[str, Any] = {"attacked": 2, "steps": 2, "repeats": 1}
    result = Audit(options_for(trained, tmp_path / "a", attribution=["input-gradient", name], **few)).run()
    for question in ("deletion", "road", "single-deletion", "completeness", "localisation", "adversarial"):
        assert answer(result, question, name)["value"] == answer(result, question, "input-gradient")["value"]
    for question in ("stability", "stability-to-noise", "depends-on-model", "invariance", "sensitivity"):
        assert answer(result, question, name)["verdict"] == "not measured"
    np.savez(tmp_path / "few.npz", attribution_test=maps[:5].numpy())
    with pytest.raises(UsageError, match="one for every test image"):
        Audit(options_for(trained, tmp_path / "b", attribution=[str(tmp_path / "few.npz")]))
    in_memory = veridical.audit(
        trained / "natural-0",
        attributions={"theirs": maps, "input-gradient": "input-gradient"},
        out=tmp_path / "c",
        examples=24,
        budget=1e-9,
        progress=False,
    )
    assert in_memory.answer("road", "theirs")["value"] == answer(result, "road", name)["value"]
    # A command that would not run is not given: no command line makes this audit.
    commands = [one["command"] for one in in_memory.results["answers"] if one["command"] is not None]
    assert not [line for line in commands if "theirs" in line or line.startswith("veridical audit")]


def test_an_earlier_audit_stands_beside_this_one_image_by_image(trained: Path, tmp_path: Path) -> None:
    few: dict[str, Any] = {"attribution": ["input-gradient"], "budget": 1e-9}
    before = Audit(options_for(trained, tmp_path / "before", **few)).run()
    options = options_for(
        trained,
        tmp_path / "after",
        run=str(trained / "adversarial-0"),
        against=str(tmp_path / "before"),
        **few,
    )
    after = Audit(options).run()
    (row,) = (
        one
        for one in after.results["before"]
        if one["question"] == "deletion" and one["attribution"] != CONTROL
    )
    key = "values/deletion/input-gradient"
    difference = (after.arrays[key] - before.arrays[key]).mean()
    assert row["difference"]["value"] == pytest.approx(difference)
    assert row["before"] == answer(before, "deletion", "input-gradient")["value"]
    assert "Before and after" in (tmp_path / "after" / "report.html").read_text(encoding="utf-8")


def flat(model: nn.Module, inputs: Tensor, target: Tensor, *, create_graph: bool = False) -> Tensor:
    """The gradient of the logit, where the image is bright: an attribution that can be climbed."""
    points = inputs if inputs.requires_grad else inputs.clone().requires_grad_(True)
    logits = model(points).gather(1, target[:, None])
    (gradient,) = torch.autograd.grad(logits.sum(), points, create_graph=create_graph)
    return gradient * points


def test_code_of_the_callers_that_makes_a_graph_is_attacked(trained: Path, tmp_path: Path) -> None:
    names = [f"{__name__}:flat", f"{__name__}:own_map"]
    few: dict[str, Any] = {"attacked": 4, "steps": 2, "repeats": 1, "trust_code": True}
    result = Audit(options_for(trained, tmp_path, attribution=names, **few)).run()
    assert answer(result, "stability", names[0])["value"]["value"] is not None
    assert answer(result, "stability", names[1])["verdict"] == "not measured"


def test_how_much_is_asked_follows_from_what_the_model_costs(trained: Path, tmp_path: Path) -> None:
    free: dict[str, Any] = dict.fromkeys(("examples", "attacked", "steps", "repeats", "protocol", "shares"))
    study = Audit(options_for(trained, tmp_path, **free))
    # The network is a small one, and there are fewer images than would be asked for.
    assert study.examples == min(64, len(study.data.test))
    assert study.extent.steps == 20
    assert study.extent.protocols == ("paper-fast", "strong")
    assert study.radii == pytest.approx([0.025, 0.05, 0.1, 0.4])
    told = Audit(options_for(trained, tmp_path, dry_run=True)).forecast()
    assert told is not None
    assert "attack-input-gradient" in told
    assert not (tmp_path / "result.json").exists()


def test_nothing_is_timed_that_nobody_asked_the_cost_of(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To time a map of many nodes takes as long as to make it."""

    def refuse_to_time(_call: object) -> float:
        raise AssertionError

    monkeypatch.setattr("veridical.studies.audit._timed", refuse_to_time)
    few: dict[str, Any] = {"attribution": ["input-gradient"], "attacked": 2, "steps": 2, "repeats": 1}
    result = Audit(options_for(trained, tmp_path, examples=6, **few)).run()
    assert answer(result, "stability", "input-gradient")["value"] is not None


@pytest.mark.parametrize(
    ("given", "seconds"), [("90s", 90), ("10m", 600), ("2h", 7200), ("1.5 h", 5400), ("3", 180), (0.5, 30)]
)
def test_a_budget_is_a_time_as_people_write_it(given: float | str, seconds: float) -> None:
    assert read_duration(given) == pytest.approx(seconds)


@pytest.mark.parametrize("given", ["", "10 minutes ago", "-3m", 0, float("nan"), "0s"])
def test_other_budgets_are_refused(given: float | str) -> None:
    with pytest.raises(UsageError, match="budget"):
        read_duration(given)


def test_interrupted_among_its_own_steps_an_audit_shows_the_maps_it_has(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = options_for(trained, tmp_path, attribution=["input-gradient", "gradient-x-input"], attacked=2)
    whole = Audit.measure

    def measure(values: Any, context: Any) -> Any:
        if values["attribution"] == "gradient-x-input":
            raise KeyboardInterrupt
        return whole(values, context)

    with monkeypatch.context() as patch:
        # The interrupted one comes last.
        patch.setattr(Audit, "measure", staticmethod(measure))
        monkeypatch.setattr(Audit, "cases", _with_random_first)
        with pytest.raises(KeyboardInterrupt):
            Audit(options).run()
    partial = Audit.read(tmp_path)
    assert partial.results["left_out"]["maps of gradient-x-input"] == "interrupted"
    assert answer(partial, "deletion", "input-gradient")["value"] is not None
    assert answer(partial, "deletion", "gradient-x-input")["verdict"] == "not measured"


_cases = Audit.cases


def _with_random_first(study: Audit) -> list[Any]:
    return sorted(_cases(study), key=lambda case: case.group == "gradient-x-input")


@pytest.mark.slow
def test_a_network_that_learns_from_the_marked_patch_satisfies_diffroar(
    trained: Path, tmp_path: Path
) -> None:
    few: dict[str, Any] = {"attribution": ["gradient-x-input"], "attacked": 2, "steps": 2, "repeats": 1}
    result = Audit(options_for(trained, tmp_path, retrain=1, **few)).run()
    one = answer(result, "diffroar", "gradient-x-input")
    assert one["value"]["value"] > 0.2
    assert one["verdict"] == "undecided"  # one retraining has no interval


class Places(nn.Module):
    """Tells three bright places apart, smoothly, and looks nowhere else."""

    def __init__(self, side: int = 12) -> None:
        super().__init__()
        weight = torch.zeros(3, side, side)
        for label, (row, column) in enumerate(SQUARES):
            weight[label, row : row + 4, column : column + 4] = 1 / 16
        self.light = nn.Linear(side * side, 3, bias=False)
        self.light.weight.data = weight.flatten(1)

    def forward(self, inputs: Tensor) -> Tensor:
        light: Tensor = self.light(inputs.flatten(1))
        return 2 * light + light.square()


SQUARES = ((0, 0), (0, 8), (8, 4))


def squares(count: int) -> dict[str, np.ndarray]:
    """Images of 12 x 12 with a bright square in one of three places, which tells the class, and its mask."""
    generator = np.random.default_rng(0)
    images, labels = generator.integers(0, 40, (count, 12, 12)), np.arange(count) % 3
    masks = np.zeros(images.shape, dtype=bool)
    for place, label in enumerate(labels):
        row, column = SQUARES[label]
        masks[place, row : row + 4, column : column + 4] = True
    images[masks] = generator.integers(180, 256, int(masks.sum()))
    return {"x": images.astype(np.uint8), "y": labels, "mask": masks}


def whole_image(model: nn.Module, inputs: Tensor, target: Tensor) -> Tensor:
    """A map that shows the image and asks no model."""
    del model, target
    return inputs.clone()


def test_where_all_is_well_it_says_so_and_where_a_map_asks_no_model_it_says_that(tmp_path: Path) -> None:
    parts = {f"{name}_{part}": one for part in ("train", "test") for name, one in squares(30).items()}
    np.savez(tmp_path / "squares.npz", **parts)  # type: ignore[arg-type]
    few: dict[str, Any] = {
        "examples": 30,
        "attacked": 12,
        "steps": 6,
        "protocol": ["paper-fast"],
        "repeats": 2,
    }
    report = veridical.audit(
        Places(),
        tmp_path / "squares.npz",
        {
            "integrated-gradients": "integrated-gradients",
            "input-gradient": "input-gradient",
            "image": whole_image,
        },
        out=tmp_path / "audit",
        radius=0.05,
        progress=False,
        finetune=1.0,
        thresholds={"deletion": 0.02, "insertion": 0.02, "adversarial": 0.0},
        **few,
    )

    def verdicts(name: str) -> dict[str, str]:
        """Every verdict on an explanation, and on the model."""
        return {
            one["question"]: one["verdict"]
            for one in report.results["answers"]
            if one["attribution"] in (name, None)
        }

    not_asked = {"depends-smoothed", "diffroar"}
    # Half of the patches with a square's parts leave enough of it, and so do half of the pixels, imputed.
    insensitive = {"in-domain-removal", "road"}
    # What multiplies by the image shows bright squares with any weights.
    insensitive.add("depends-on-model")
    good = verdicts("integrated-gradients")
    assert {name for name, verdict in good.items() if verdict != "holds"} == not_asked | insensitive
    assert report.raised == []
    # The image itself shows where the squares are, and is the same whatever the model is.
    image = verdicts("image")
    assert {image[name] for name in ("deletion", "localisation", "leakage", "stability-to-noise")} == {
        "holds"
    }
    assert image["depends-on-model"] == "fails"
    assert image["complexity-rises"] != "holds"
    # A gradient has nothing of the image, and adds up to nothing in particular.
    assert verdicts("input-gradient")["depends-on-model"] == "holds"
    assert verdicts("input-gradient")["completeness"] == "fails"
