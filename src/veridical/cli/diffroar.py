"""The curves of several DiffROAR measurements on one page."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from veridical.runtime.checking import POSITIONAL, Checked, FilePath
from veridical.runtime.errors import argument_error


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
    from veridical.studies.diffroar import DiffRoar
    from veridical.studies.diffroar_page import (
        differences_figure,
        diffroar_headline,
        diffroar_table,
        write_diffroar_page,
    )
    from veridical.studies.diffroar_result import name_measurements

    # Refused before the folders are read, which takes longer.
    page = Path(options.out)
    if page.suffix.lower() not in (".html", ".htm") or page.is_dir():
        raise argument_error("out", options.out, "the name of a file that ends in .html")
    measured = name_measurements([DiffRoar.read(folder) for folder in options.folders], options.titles)
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
