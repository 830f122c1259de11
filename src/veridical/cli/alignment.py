r"""Measure how much of a run's maps lies where people look: on the sign, on the garment, on what tells.

examples:
  veridical alignment --run runs/natural runs/robust --data fashion-mnist --out runs/alignment
  veridical alignment --run runs/signs --data gtsrb --attribution input-gradient smoothgrad --out runs/boxes

On gtsrb it is the sign's bounding box, on fashion-mnist the garment, and on an .npz file with masks what they
mark. The region's share of the area stands beside every share. Runs that differ in the seed alone are one
model. An interrupted measurement is continued by the same command. DIR/report.html shows what came out,
DIR/result.json has the numbers.
"""

from __future__ import annotations

from veridical.runtime.study_config import AlignmentOptions as Options

__all__ = ["Options", "run"]


def run(options: Options) -> int:
    """Measure, or continue; write the results and the page, print what came out. Errors are raised."""
    from veridical.cli.terminal import print_table, say, stage_jobs
    from veridical.report import Table
    from veridical.studies.alignment import alignment_run
    from veridical.studies.alignment_report import read_alignment, write_alignment_report
    from veridical.studies.alignment_words import COLUMNS, headlines, rows

    with stage_jobs(shown=options.progress) as progress:
        alignment_run(options, progress)
    study = read_alignment(options.out)
    for name in study.config["attributions"]:
        print_table(Table(COLUMNS, rows(study, name)), f"{name}, inside {study.config['region']['words']}")
    for line in headlines(study):
        say(line)
    say(f"report: {write_alignment_report(study)}")
    return 0
