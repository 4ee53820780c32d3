"""Tables that never cut a cell: on a narrow screen they become compact, and at last a block of lines per row."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from textwrap import wrap

from rich.box import HEAVY_HEAD, SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions
from rich.table import Column, Table
from rich.text import Text

from nextbar.cli.console import ENDLESS
from nextbar.scoring.metrics import NOTHING
from nextbar.words import listed

LEAST_TEXT = 16
"""Characters that a column of text keeps at least."""
GAP, INDENT = "   ", "  "


def right(*headings: str) -> list[Column]:
    """Make columns of numbers."""
    return [Column(heading, justify="right") for heading in headings]


def prose(heading: str) -> Column:
    """Make a column of text, which may break into lines."""
    return Column(heading, overflow="fold")


@dataclass
class Sheet:
    """A table as it is before the width of the screen is known; nothing in a cell is markup.

    Attributes:
        columns: Only those made by `prose` may break into lines. The first names a row.
        compact: Draw it without a frame wherever it is shown.
        spare: Columns that a narrow screen does without.
    """

    columns: Sequence[Column]
    title: str | None = None
    title_style: str = "italic"
    compact: bool = False
    spare: tuple[str, ...] = ()
    rows: list[tuple[list[str], str]] = field(default_factory=list)
    ends: set[int] = field(default_factory=set)

    def add(self, *cells: str, style: str = "") -> None:
        """Add a row; columns without a cell stay empty."""
        self.rows.append(([*cells, *[""] * (len(self.columns) - len(cells))], style))

    def end_section(self) -> None:
        """Draw a line under the last row."""
        self.ends.add(len(self.rows) - 1)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Table | Text]:
        """Draw the first form that fits: whole texts before broken ones, a frame before none."""
        endless = options.update(max_width=ENDLESS)
        looks = (True,) if self.compact else (False, True)
        for sheet, most, compact in [
            *((self, most, compact) for most in (None, LEAST_TEXT) for compact in looks),
            *([(self._without_spare(), LEAST_TEXT, True)] if self.spare else []),
        ]:
            least = sheet._table(compact=compact, most=most)
            if console.measure(least, options=endless).maximum <= options.max_width:
                yield sheet._table(compact=compact)
                if sheet is not self:
                    yield Text(f"A wider screen also shows {listed(self.spare)}.", style="dim")
                return
        yield from self._blocks(options.max_width)

    def _without_spare(self) -> Sheet:
        kept = [number for number, one in enumerate(self.columns) if str(one.header) not in self.spare]
        rows = [([cells[number] for number in kept], style) for cells, style in self.rows]
        return replace(self, columns=[self.columns[number] for number in kept], rows=rows)

    def _table(self, *, compact: bool, most: int | None = None) -> Table:
        columns = [
            Column(
                heading.replace(" ", "\n") if compact and number and "\n" not in heading else heading,
                justify=one.justify,
                no_wrap=one.overflow != "fold",
                overflow=one.overflow,
                max_width=most if one.overflow == "fold" else None,
            )
            for number, (one, heading) in enumerate((one, str(one.header)) for one in self.columns)
        ]
        title = None if self.title is None else Text(self.title, style=self.title_style)
        look = {"padding": (0, 1, 0, 0), "pad_edge": False} if compact else {}
        made = Table(*columns, title=title, box=SIMPLE_HEAD if compact else HEAVY_HEAD, **look)  # type: ignore[arg-type]
        for number, (cells, style) in enumerate(self.rows):
            made.add_row(*map(Text, cells), style=style, end_section=number in self.ends)
        return made

    def _blocks(self, width: int) -> Iterator[Text]:
        """Give each row as lines of heading and value."""
        headings = [str(one.header).replace("\n", " ") for one in self.columns]
        if self.title is not None:
            yield Text(self.title, style=self.title_style)
        for cells, style in self.rows:
            yield Text(cells[0].strip(), style=style or "bold")
            pairs = zip(headings[1:], cells[1:], strict=True)
            lines = _filled(
                [f"{heading} {value}" for heading, value in pairs if value.strip() not in ("", NOTHING)], width
            )
            yield from (Text(line, overflow="fold") for line in lines)


def _filled(parts: Iterable[str], width: int) -> Iterator[str]:
    """Put as many parts on a line as have room."""
    line = ""
    for part in parts:
        if cell_len(INDENT + part) > width:
            yield from filter(None, [line, *wrap(part, width, initial_indent=INDENT, subsequent_indent=2 * INDENT)])
            line = ""
            continue
        if line and cell_len(line + GAP + part) > width:
            yield line
            line = ""
        line = line + GAP + part if line else INDENT + part
    if line:
        yield line


def table_of(columns: Sequence[str | Column], rows: Iterable[Sequence[str]], *, title: str | None = None) -> Sheet:
    """Make a table of plain text."""
    made = Sheet([one if isinstance(one, Column) else Column(one) for one in columns], title)
    for row in rows:
        made.add(*row)
    return made


def narrow_table(headings: Sequence[str], rows: Iterable[Sequence[str]], *, title: str) -> Sheet:
    """Make a table without a frame, whose first column may break into lines."""
    first, *others = headings
    made = table_of([prose(first), *right(*others)], rows, title=title)
    made.compact = True
    return made
