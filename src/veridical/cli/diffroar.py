r"""Measure whether an attribution marks what a network can learn from: DiffROAR, by retraining.

examples:
  veridical diffroar --run runs/natural --data fashion-mnist --attribution input-gradient \
      --levels 0.05 0.1 0.2 0.5 --repeats 5 --out runs/dr
  veridical diffroar --run runs/natural --dry-run --out runs/dr

New networks are trained on images of which only the coordinates that the attribution marks most, or least,
are left; the difference of their accuracies is DiffROAR. --dry-run predicts how long that takes. An
interrupted measurement is continued by the same command. DIR/report.html shows what came out,
DIR/result.json has the numbers; `veridical diffroar-report` puts several side by side.
"""

from __future__ import annotations

from pathlib import Path

from veridical.runtime.study_config import DiffRoarOptions as Options

__all__ = ["Options", "run"]


def run(options: Options) -> int:
    """Measure, or continue; write the results and the page, print what came out. Errors are raised."""
    if options.dry_run:
        return _predict(options)
    from veridical.cli.terminal import print_table, say, stage_jobs
    from veridical.studies.diffroar_page import (
        REPORT,
        diffroar_headline,
        diffroar_table,
        write_diffroar_page,
    )
    from veridical.studies.diffroar_result import attribution_name, name_measurements, read_diffroar
    from veridical.studies.diffroar_run import diffroar_run

    with stage_jobs(shown=options.progress) as progress:
        diffroar_run(options, progress)
    measured = read_diffroar(options.out)
    found = name_measurements([measured])
    page = write_diffroar_page(
        Path(options.out) / REPORT,
        found,
        title=f"Does {attribution_name(measured)} mark what a network can learn from?",
        lead=f"DiffROAR of {options.run} on {measured.config['data']['name']}.",
    )
    for name, one in found.items():
        print_table(diffroar_table(found), name)
        say(diffroar_headline(name, one))
    for note in measured.results["notes"]:
        say(f"note: {note}")
    say(f"report: {page}")
    return 0


def _predict(options: Options) -> int:
    """Print how many retrainings there are and how long they take; nothing is written."""
    from veridical.cli.terminal import duration, say
    from veridical.studies.diffroar_run import predict

    found = predict(options)
    for shown, count in found.retrainings.items():
        what = {"images": "on unmasked images", "masks": "on masks alone"}[shown]
        say(f"{count} retrainings {what}, {duration(found.seconds_each[shown])} each")
    workers = f"{found.workers} at a time" if found.workers > 1 else "one after the other"
    say(f"rankings first: {duration(found.ranking_seconds)}")
    say(f"in total, {workers}: {duration(found.total_seconds)}")
    return 0
