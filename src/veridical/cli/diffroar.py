"""Commands of DiffROAR: one measurement, and the curves of several on one page."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from veridical.runtime.checking import POSITIONAL, Checked, FilePath
from veridical.runtime.errors import argument_error
from veridical.runtime.study_config import DiffRoarOptions


def diffroar(options: DiffRoarOptions) -> int:
    r"""Measure whether an attribution marks what a network can learn from: DiffROAR, by retraining.

    examples:
      veridical diffroar --run runs/natural --data fashion-mnist --attribution input-gradient \
          --levels 0.05 0.1 0.2 0.5 --repeats 5 --out runs/dr
      veridical diffroar --run runs/natural --dry-run --out runs/dr

    New networks are trained on images of which only the coordinates that the attribution marks most, or
    least, are left; the difference of their accuracies is DiffROAR. --dry-run predicts how long that
    takes. An interrupted measurement is continued by the same command. DIR/report.html shows what came
    out, DIR/result.json has the numbers; `veridical diffroar-report` puts several side by side.
    """
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


def _predict(options: DiffRoarOptions) -> int:
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


@dataclass(frozen=True)
class ReportOptions(Checked):
    """Finished measurements, and where the page goes.

    Args:
        folders: Folders that `veridical diffroar` wrote, in the order of the page; the flag may be left out.
        out: The page, a file that ends in .html.
        titles: A name for each of them; None takes attribution and model, as far as they differ.
        figure: File (.svg or .png) for the differences over the levels.
        markdown: Print one table as Markdown.
    """

    folders: list[FilePath] = field(metadata=POSITIONAL)
    out: FilePath
    titles: list[str] | None = None
    figure: FilePath | None = None
    markdown: bool = False


def report(options: ReportOptions) -> int:
    """Overlay the curves of finished DiffROAR measurements on one page.

    examples:
      veridical diffroar-report runs/dr-natural runs/dr-l2 runs/dr-linf --out runs/diffroar.html
      veridical diffroar-report runs/dr-* --out runs/diffroar.html --markdown --figure diffroar.svg

    The first is the one that the others are compared with. All must have retrained the same networks on
    the same images in the same way: otherwise their numbers do not compare.
    """
    from veridical.cli.terminal import print_results, say
    from veridical.studies.diffroar_page import (
        differences_figure,
        diffroar_headline,
        diffroar_table,
        write_diffroar_page,
    )
    from veridical.studies.diffroar_result import name_measurements, read_diffroar

    # Refused before the folders are read, which takes longer.
    page = Path(options.out)
    if page.suffix.lower() not in (".html", ".htm") or page.is_dir():
        raise argument_error("out", options.out, "the name of a file that ends in .html")
    measured = name_measurements([read_diffroar(folder) for folder in options.folders], options.titles)
    data = next(iter(measured.values())).config["data"]["name"]
    page.parent.mkdir(parents=True, exist_ok=True)
    written = write_diffroar_page(
        page,
        measured,
        title="Which explanations mark what a network can learn from?",
        lead=f"{len(measured)} measurements of DiffROAR on {data}, with the same networks retrained.",
    )
    if options.markdown:
        say(diffroar_table(measured).to_markdown())
    for name, one in measured.items():
        if not options.markdown:
            print_results(diffroar_table({name: one}), name)
        say(diffroar_headline(name, one))
    if options.figure is not None:
        differences_figure(measured).savefig(options.figure)
        say(f"figure: {options.figure}")
    say(f"report: {written}")
    return 0
