"""What every study does on the command line: a bar for each stage, then tables, findings and the page."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from veridical.cli.terminal import print_table, say, stage_jobs

if TYPE_CHECKING:
    from veridical.studies.study import Study


def run_study(study: type[Study[Any]], options: Any) -> int:
    """Run a study, or continue it; print what came out. Errors are raised."""
    with stage_jobs(shown=options.progress) as progress:
        result = study(options).run(progress)
    for title, table in study.tables(result).items():
        print_table(table, title)
    for line in study.findings(result):
        say(line)
    say(f"report: {result.folder / 'report.html'}")
    return 0
