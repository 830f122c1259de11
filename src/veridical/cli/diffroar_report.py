"""Overlay the curves of finished DiffROAR measurements on one page.

examples:
  veridical diffroar-report runs/dr-natural runs/dr-l2 runs/dr-linf --out runs/diffroar.html

The first is the one that the others are compared with. All must have retrained the same networks on the same
images in the same way: otherwise their numbers do not compare.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from veridical.runtime.checking import POSITIONAL, Checked, FilePath
from veridical.runtime.errors import argument_error


@dataclass(frozen=True)
class Options(Checked):
    """Finished measurements, and where the page goes.

    Args:
        folders: Folders that `veridical diffroar` wrote, in the order of the page; the flag may be left out.
        out: The page, a file that ends in .html.
        titles: A name for each of them; None takes attribution and model, as far as they differ.
    """

    folders: list[FilePath] = field(metadata=POSITIONAL)
    out: FilePath
    titles: list[str] | None = None


def run(options: Options) -> int:
    """Write the page, print a table of each and what it shows. Errors are raised."""
    from veridical.cli.terminal import diffroar_table, say
    from veridical.report.diffroar_words import headline
    from veridical.studies.diffroar_report import named, read_measured, sections, write_measured_report

    page = Path(options.out)
    if page.suffix.lower() not in (".html", ".htm") or page.is_dir():
        raise argument_error("out", options.out, "the name of a file that ends in .html")
    found = named([read_measured(folder) for folder in options.folders], options.titles)
    data = next(iter(found.values())).config["data"]["name"]
    page.parent.mkdir(parents=True, exist_ok=True)
    written = write_measured_report(
        page,
        found,
        title="Which explanations mark what a network can learn from?",
        lead=f"{len(found)} measurements of DiffROAR on {data}, with the same networks retrained.",
    )
    for name, measured in found.items():
        diffroar_table(name, measured.results)
    for section in sections(found):
        say(headline(section))
    say(f"report: {written}")
    return 0
