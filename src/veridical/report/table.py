"""Columns that know what they hold, and tables of them for a page, a terminal and Markdown."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, Final, Literal

from veridical.report.formats import (
    DASH,
    NOT_MEASURED,
    Interval,
    finite,
    percent,
    plus_signed,
    points,
    signed,
)
from veridical.runtime.errors import UsageError, argument_error

Unit = Literal["text", "share", "points", "number", "difference", "pixels", "count"]

# How each unit writes a number, with the digits given or its own.
_WRITERS: Final[Mapping[str, Callable[[float, int | None], str]]] = {
    "text": lambda number, digits: f"{number:g}" if digits is None else signed(number, digits),
    "share": lambda number, digits: percent(number, 1 if digits is None else digits),
    "points": lambda number, digits: points(number, 1 if digits is None else digits),
    "number": lambda number, digits: signed(number, 3 if digits is None else digits),
    "difference": lambda number, digits: plus_signed(number, 4 if digits is None else digits),
    "pixels": lambda number, digits: f"{signed(number, 2 if digits is None else digits)} px",
    "count": lambda number, _digits: f"{number:,.0f}",
}
_EMPTY: Final = ("", DASH, NOT_MEASURED)


@dataclass(frozen=True)
class Column:
    """What one column of a table holds: its name in results, its heading, and how its numbers are read.

    unit: "share" is a fraction shown as percent, "points" a difference of fractions in percentage points with
    its sign, "number" has three decimals, "difference" four and its sign, "pixels" two, "count" none; "text"
    is ready text. better: where better lies, if anywhere. meaning: a sentence that explains it, for the list
    below the table. digits: decimals, where they are not the unit's.
    """

    key: str
    heading: str
    unit: Unit = "text"
    better: Literal["higher", "lower"] | None = None
    meaning: str = ""
    digits: int | None = None

    def cell(self, entry: object, digits: int | None = None) -> str:
        """An entry as text: 12.3% (11.0 to 13.6).

        entry: ready text, which is kept, or what `write_cell` takes.
        """
        digits = self.digits if digits is None else digits
        return entry if isinstance(entry, str) else write_cell(entry, self.unit, digits)

    @property
    def explanation(self) -> str:
        """The meaning, and in which direction better lies."""
        direction = f"{self.better.capitalize()} is better." if self.better else ""
        return f"{self.meaning} {direction}".strip()


@dataclass(frozen=True)
class Table:
    """Rows under columns; the first entry of a row is its name.

    columns: a plain text is the heading of a column of text. rows: entries as `Column.cell` takes them, one
    for each column or by the column's key, where what is missing is a dash. A cell "42% (40 to 44)" stands on
    a page as the value with its interval below. Columns without any entry are not drawn.
    """

    columns: Sequence[Column | str]
    rows: Sequence[Sequence[object] | Mapping[str, object]]
    caption: str = ""

    def __post_init__(self) -> None:
        if not self.columns:
            raise argument_error("Table.columns", list(self.columns), "one column or more")
        for row in self.rows:
            if not isinstance(row, Mapping) and len(row) != len(self.columns):
                raise argument_error(
                    "Table.rows", list(row), f"{len(self.columns)} cells: {[c.heading for c in self._all]}"
                )

    @property
    def _all(self) -> list[Column]:
        return [column if isinstance(column, Column) else Column(column, column) for column in self.columns]

    def drawn(self) -> tuple[list[Column], list[list[str]]]:
        """The columns that hold anything, and the rows' cells as text."""
        rows = []
        for row in self.rows:
            entries = [row.get(c.key) for c in self._all] if isinstance(row, Mapping) else row
            rows.append([column.cell(entry) for column, entry in zip(self._all, entries, strict=True)])
        # A table without rows keeps its columns: they say what would stand in it.
        held = [
            place
            for place in range(len(self.columns))
            if place == 0 or not rows or any(row[place] not in _EMPTY for row in rows)
        ]
        return [self._all[place] for place in held], [[row[place] for place in held] for row in rows]

    def transposed(self, heading: str = "") -> "Table":
        """Columns as rows, for a terminal or a phone: few things of which much is known."""
        columns, rows = self.drawn()
        cells = [[c.heading, *(row[place] for row in rows)] for place, c in enumerate(columns)]
        return Table([heading, *(row[0] for row in rows)], cells[1:], self.caption)

    def to_frame(self) -> Any:
        """A pandas DataFrame: numbers as numbers, an interval's ends in columns "... low" and "... high".

        Raises UsageError where pandas is not installed.
        """
        try:
            import pandas as pd
        except ImportError as error:
            hint = "pip install 'veridical[pandas]'."
            raise UsageError(f"pandas is not installed ({error}): {hint}") from error
        records = []
        for row in self.rows:
            entries = [row.get(c.key) for c in self._all] if isinstance(row, Mapping) else row
            record: dict[str, object] = {}
            for column, entry in zip(self._all, entries, strict=True):
                if column.unit == "text" or isinstance(entry, str):
                    record[column.heading] = entry
                    continue
                interval = Interval.read(entry)
                record[column.heading] = interval.value
                if interval.low is not None:
                    record[f"{column.heading} low"] = interval.low
                    record[f"{column.heading} high"] = interval.high
            records.append(record)
        return pd.DataFrame(records)

    def to_html(self) -> str:
        """The drawn cells as a plain HTML table, every text escaped."""
        columns, rows = self.drawn()
        head = "".join(f"<th>{escape(column.heading)}</th>" for column in columns)
        body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"

    def to_markdown(self) -> str:
        """A Markdown table, without the caption; upright strokes in cells are escaped."""
        columns, rows = self.drawn()
        lines = [[column.heading for column in columns], ["---"] * len(columns), *rows]
        return "\n".join(_markdown_line(line) for line in lines)


def write_number(number: object, unit: Unit, digits: int | None = None) -> str:
    """One number in a unit; a dash for what is not finite."""
    value = finite(number)
    return DASH if value is None else _WRITERS[unit](value, digits)


def write_cell(entry: object, unit: Unit, digits: int | None = None) -> str:
    """A value with its 95% interval as text: 12.3% (11.0 to 13.6).

    entry: {"value", "low", "high"}, the two intervals of a study (`main_interval` is shown), or a number. A
    share's interval that reaches beyond 0% or 100%, as few seeds' do, ends there.
    """
    interval = Interval.read(entry)
    value = write_number(interval.value, unit, digits)
    if interval.low is None or interval.high is None or interval.value is None:
        return value
    ends = [interval.low, interval.high]
    if unit == "share":
        ends = [min(1.0, max(0.0, end)) for end in ends]
    low, high = (write_number(end, unit, digits).removesuffix("%").removesuffix(" px") for end in ends)
    return f"{value} ({low} to {high})"


def write_points(entry: object) -> str:
    """A difference in points as running text, without a plus: 12.3 points (+11.0 to +13.6)."""
    value, _, rest = write_cell(entry, "points").partition(" ")
    words = f"{value.removeprefix('+')} points"
    return f"{words} {rest}" if rest else words


def explained(tables: Iterable[Table]) -> list[tuple[str, str]]:
    """(headings, explanation) of all drawn columns that have one, each explanation once."""
    headings: dict[str, dict[str, None]] = {}
    for column in (column for table in tables for column in table.drawn()[0] if column.explanation):
        headings.setdefault(column.explanation, {})[column.heading] = None
    return [("; ".join(names), explanation) for explanation, names in headings.items()]


def _markdown_line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
