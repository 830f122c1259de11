"""`veridical diffroar` and `veridical diffroar-report` as commands, on dark and bright squares."""

import json
from pathlib import Path

import pytest

from veridical.cli.main import main
from veridical.faithfulness import forecast
from veridical.report.formats import duration


@pytest.fixture(scope="module")
def run(squares: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small trained MLP."""
    folder = tmp_path_factory.mktemp("trained")
    options = ["--data", str(squares), "--model", "mlp", "--model-options", '{"width": 8}', "--epochs", "4"]
    options += ["--objective", "natural", "--batch-size", "10", "--averaging", "0", "--progress=false"]
    assert main(["train", *options, "--out", str(folder / "run")]) == 0
    return folder / "run"


@pytest.fixture(autouse=True)
def _short_timing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forecast, "SECONDS", 0.01)


def command(run: Path, out: Path, *more: str) -> list[str]:
    options = ["--levels", "0.25", "0.5", "--repeats", "2", "--steps", "6", "--baselines", "random"]
    options += ["--no-control", "--workers", "1"]
    return ["diffroar", "--run", str(run), "--out", str(out), *options, *more]


def test_from_a_run_to_a_page_over_two_measurements(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = ("--store", str(tmp_path / "store"), "--no-progress")
    assert main(command(run, tmp_path / "gradient", *store)) == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    results = json.loads((tmp_path / "gradient" / "result.json").read_text())["results"]
    for point, judged in zip(results["curve"], results["verdicts"], strict=True):
        row = next(line for line in shown.out.splitlines() if line.split()[:1] == [f"{point['level']:.0%}"])
        assert f"{point['top']['value']:.1%}" in row
        assert judged["verdict"] in row
    page = (tmp_path / "gradient" / "report.html").read_text()
    assert "Does input-gradient mark what a network can learn from?" in page
    assert page.count("data:image/png") == 6 * (2 + 2 * 2) + 1

    assert main(command(run, tmp_path / "random", *store, "--attribution", "random", "--gallery", "2")) == 0
    folders = [str(tmp_path / name) for name in ("gradient", "random")]
    capsys.readouterr()
    assert main(["diffroar-report", *folders, "--out", str(tmp_path / "pages" / "both.html")]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"report: {tmp_path / 'pages' / 'both.html'}"
    both = (tmp_path / "pages" / "both.html").read_text()
    # The two images that both have: of each the image, the order, and both ends at two levels.
    assert both.count("data:image/png") == 2 * 2 * (2 + 2 * 2) + 1
    for name in ("input-gradient", "random"):
        assert f"{name}: from" in both


@pytest.mark.parametrize(
    ("argv", "code", "told"),
    [
        (["--folders", "HERE", "--out", "HERE/page.html"], 1, "result.json does not exist"),
        (["--out", "HERE/page.html"], 2, "folders"),
        (["HERE", "--out", "HERE"], 2, "ends in .html"),
    ],
)
def test_the_folders_may_come_with_a_flag_and_must_be_finished(
    argv: list[str], code: int, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["diffroar-report", *(one.replace("HERE", str(tmp_path)) for one in argv)]) == code
    assert told in capsys.readouterr().err


def test_a_dry_run_says_how_much_and_how_long_and_writes_nothing(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(run, tmp_path / "out", "--dry-run", "--control", "--workers", "2")) == 0
    starts = ["16 retrainings on unmasked images, ", "4 retrainings on masks alone, "]
    starts += ["rankings first: ", "in total, 2 at a time: "]
    for line, start in zip(capsys.readouterr().out.splitlines(), starts, strict=True):
        assert line.startswith(start)
    assert list(tmp_path.iterdir()) == []


def test_progress_shows_every_stage(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    more = ("--baselines", "[]", "--levels", "0.5", "--repeats", "1", "--progress")
    assert main(command(run, tmp_path / "out", *more)) == 0
    told = capsys.readouterr().err
    for words in ("ranking", "80/80", "retraining", "2/2"):
        assert words in told


def test_times_in_words() -> None:
    told = {0.04: "0.0 s", 9.94: "9.9 s", 40.2: "40 s", 99.6: "2 min", 5940.0: "99 min", 12e3: "3 h 20 min"}
    assert {seconds: duration(seconds) for seconds in told} == told
