"""The commands about signals: judge those that were made elsewhere, and list the predictions that were made here."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nextbar.cli import render
from nextbar.cli.commands import JOURNAL_OPTIONS, opening
from nextbar.cli.console import note, out, print_json, say
from nextbar.cli.options import JsonOption, command_of, parameter
from nextbar.config import CommonConfig, TrainConfig
from nextbar.words import plural, utc_minute

if TYPE_CHECKING:  # each command imports the workflow that it runs
    from nextbar.workflows.score import Listing


def _judge(config: TrainConfig, as_json: bool, *, file: Path, threshold: float, output_dir: Path | None) -> None:
    r"""Score signals of any model, made anywhere, like those of nextbar's own: same rows, baselines, costs and verdict.

    The file is CSV or Parquet with the columns date, ticker and either signal (the position held from the close of that
    day, from -1 to 1) or probability (of a rise: long from --threshold on). The signals count in the trial ledger.
    Whether they have seen the future cannot be checked.

    \b
    Examples:
      nextbar judge signals.csv
      nextbar judge predictions.parquet --threshold 0.55 --cost-bps 10
      nextbar judge signals.csv --output-dir results --json
    """
    from nextbar.workflows.judge import check_threshold, judge_counted

    check_threshold(threshold)
    run, report, notes = judge_counted(file, config, threshold, output_dir)
    note(*notes)
    document = run.document
    if as_json:
        files, verdict = [str(path) for path in report.files], report.runs[0].judgement.to_json()
        print_json({"files": files, "verdict": verdict, **render.document_json(document)})
        return
    out.print(render.walk_forward_table([(render.model_name(document), document.periods_per_year, document.figures)]))
    say(*(f"note: {remark}" for remark in document.remarks))
    render.reports([report])


_FILE = typer.Argument(metavar="FILE", help="CSV or Parquet: date, ticker, and signal or probability.")
_FROM = typer.Option(help="Probability from which a position is long.", rich_help_panel="Evaluation")
_FOLDER = typer.Option(help="Save the run in this folder, for nextbar report and compare.", rich_help_panel="Output")
judge = command_of(
    TrainConfig,
    _judge,
    only=("db", "raw", "max_gap_days", "cost_bps", "risk_free", "periods_per_year", "ledger", "name"),
    more=[
        parameter("file", Annotated[Path, _FILE]),
        parameter("threshold", Annotated[float, _FROM], 0.5),
        parameter("output_dir", Annotated[Path | None, _FOLDER], None),
    ],
)


def _journal(
    config: CommonConfig,
    as_json: bool,
    *,
    model: str,
    name: str | None,
    opens: str,
    journal: Path | None,
    csv: Path | None,
) -> None:
    r"""List every prediction that was made, and say which counted in nextbar score and why.

    \b
    Examples:
      nextbar journal
      nextbar journal --model xgboost_AAPL --csv journal.csv
      nextbar journal --json
    """
    from nextbar.runs.journal import check_copy, journal_path
    from nextbar.workflows.score import decide, write_listing

    check_copy(csv, journal_path(journal), "--csv")
    found = decide(config, journal, opens=opening(opens), model=model, name=name)
    if as_json:
        print_json([line.to_json() for line in found.lines])
    else:
        listing(found)
    if csv is not None:
        write_listing(found, csv)
        note(f"{plural(len(found.lines), 'prediction')} written to {csv}")


_CSV = typer.Option("--csv", help="Write the list to this CSV file, too.", rich_help_panel="Output")
journal = command_of(
    CommonConfig, _journal, only=("db",), more=[*JOURNAL_OPTIONS, parameter("csv", Annotated[Path | None, _CSV], None)]
)


def listing(found: Listing) -> None:
    """Print two lines a prediction, so that nothing is cut: what was predicted, and whether it counted and why."""
    for line in found.lines:
        entry = line.entry
        probability, threshold = (render.number(one, 4) for one in (entry.probability, entry.threshold))
        about = f"probability of a rise {probability}, threshold {threshold}"
        if entry.predicted_close is not None:
            about = f"predicted close {render.number(entry.predicted_close, 2)} after {render.number(entry.close, 2)}"
        say(f"{entry.date} {entry.ticker} {'long' if entry.signal else 'flat'}, {about}, {entry.model}")
        earned = "" if line.row is None else f"; the next close was {100 * float(line.row['next_return']):+.2f} %"
        say(f"  {line.state}, made {utc_minute(entry.made)}: {line.why}{earned}")
    states = [line.state for line in found.lines]
    counts = [f"{states.count(state)} {state}" for state in dict.fromkeys(states)]
    note(f"{plural(len(states), 'prediction')} in {found.path}: {', '.join(counts)}")


def promote(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN…", help="Any file of each run; all runs in one folder.")],
    *,
    name: Annotated[str, typer.Option("--as", help="The name: lower-case letters, digits and -.")],
    as_json: JsonOption = False,
) -> None:
    r"""Give trained runs a name, for `predict production` and `score --name production`.

    The name means other runs as soon as it is given again. It is a small file beside the runs, NAME.name.json, which
    also says what the name meant before. A run whose certificate is FAIL gets no name.

    \b
    Examples:
      nextbar promote models/xgboost_AAPL_20260102_030405.json --as production
      nextbar promote models/xgboost_*_metadata.json --as production
    """
    from nextbar.workflows.promote import promote

    promoted = promote(runs, name)
    if as_json:
        print_json(promoted.to_json())
    else:
        say(*str(promoted).splitlines())
