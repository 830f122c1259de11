r"""Check whether a run's explanations care what the network has learnt: weights, labels, data made random.

examples:
  veridical sanity --run runs/natural --data fashion-mnist \
      --attribution input-gradient captum:GuidedBackprop --out runs/sanity
  veridical sanity --run runs/natural --tests cascading independent --examples 500 --out runs/weights

An explanation that stays the same when the layers get fresh weights, or when the network was trained on
permuted labels, does not show what the network has learnt. labels and data each take a new training, and
one on true data beside them. An interrupted check is continued by the same command. DIR/report.html shows
what came out, DIR/result.json has the numbers.
"""

from __future__ import annotations

from veridical.runtime.study_config import SanityOptions as Options

__all__ = ["Options", "run"]


def run(options: Options) -> int:
    """Check, or continue; write the results and the page, print what came out. Errors are raised."""
    from veridical.cli.terminal import print_table, say, stage_jobs
    from veridical.report import Table
    from veridical.studies.sanity_report import read_sanity, write_sanity_report
    from veridical.studies.sanity_run import sanity_run
    from veridical.studies.sanity_words import VERDICT_COLUMNS, headlines, verdict_rows

    with stage_jobs(shown=options.progress) as progress:
        sanity_run(options, progress)
    check = read_sanity(options.out)
    if rows := verdict_rows(check.results):
        print_table(Table(VERDICT_COLUMNS, rows), "what remains of the maps")
    for line in headlines(check.results):
        say(line)
    for note in check.results["notes"]:
        say(f"note: {note}")
    say(f"report: {write_sanity_report(check)}")
    return 0
