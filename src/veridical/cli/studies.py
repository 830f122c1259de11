"""What every study does on the command line: a bar for each stage, then tables, findings and the page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from veridical.cli.terminal import print_table, say, stage_jobs
from veridical.runtime.errors import UsageError

if TYPE_CHECKING:
    from veridical.studies.study import Study

TRUST = "--trust-code"


def run_study(study: type[Study[Any]], options: Any) -> int:
    """Run a study, or continue it; print what came out. Errors are raised."""
    planned = study(options)
    forecast = planned.forecast()
    if forecast is not None:
        say(forecast)
        return 0
    with stage_jobs(shown=options.progress) as progress:
        result = planned.run(progress)
    # Read back from the folder, so that the terminal shows what a page drawn later would.
    for title, table in study.tables(result).items():
        print_table(table, title)
    for line in study.findings(result):
        say(line)
    say(f"report: {result.folder / 'report.html'}")
    return 0


def own_study(arguments: Sequence[str]) -> tuple[type[Study[Any]], list[str]]:
    """Import the study that the first argument names, "module:Study"; return it and its own arguments."""
    from veridical.studies.study import load_study

    spec = next(iter(arguments), "")
    if not spec or spec.startswith("-"):
        raise UsageError(
            f"expected `veridical run module:Study {TRUST} [options]`, the study first. "
            "--help behind it shows its options."
        )
    rest = list(arguments[1:])
    study = load_study(spec, trust_code=TRUST in rest)
    if "trust_code" not in study.Options.__dataclass_fields__:
        rest = [argument for argument in rest if argument != TRUST]  # it was for the import alone
    return study, rest
