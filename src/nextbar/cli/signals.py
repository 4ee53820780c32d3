"""The commands about signals: make them, list them and score them; judge signals that were made elsewhere."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Column

from nextbar.cli import render
from nextbar.cli.console import note, out, print_json, say, show
from nextbar.cli.options import JsonOption, command
from nextbar.cli.tables import prose, right, table_of
from nextbar.config import CommonConfig, TrainConfig
from nextbar.errors import ConfigError
from nextbar.words import brief, listed, plural, utc_minute
from nextbar.workflows.options import PredictConfig

if TYPE_CHECKING:  # each command imports the workflow that it runs
    from nextbar.workflows.predict import PredictSummary
    from nextbar.workflows.score import Listing, ScoreSummary


@command(PredictConfig)
def predict(
    config: PredictConfig,
    as_json: bool,
    models: Annotated[
        list[Path], typer.Argument(help="Any file of each model, their folder, or a name that promote gave.")
    ],
) -> None:
    r"""Predict the next bar, and record the prediction in the journal.

    If a run has a refit, the refit predicts. Of several runs of one model and ticker, the newest predicts. No code in a
    model's files is run, so an untrusted model is safe to load; its predictions may still be wrong. Files of a model of
    your own may run code, so they are loaded only with --trust and --model.

    \b
    Examples:
      nextbar predict models/xgboost_AAPL_20260102_030405.json
      nextbar predict models/xgboost_* --out signals.csv
      nextbar predict models
      nextbar predict production
      nextbar predict models/lstm_all_20260102_030405.keras --ticker AAPL,MSFT
      nextbar predict models/estimator_logit_AAPL_20260102_030405.skops --trust --model my_models:make
    """
    from nextbar.workflows.predict import keep, predict

    summary = predict(models, config, now=dt.datetime.now(dt.UTC))
    show(
        as_json,
        lambda: {"predictions": summary.records(), "skipped": summary.skipped, "notes": summary.notes},
        lambda: _predictions(summary),
    )
    keep(summary, config)  # not before it is shown: the journal holds no prediction that nobody has seen
    told = f"{plural(len(summary.entries), 'prediction')} noted in {summary.journal}"
    note(told if config.out is None else f"{told}, and written to {config.out}")


_Contains = Annotated[str, typer.Option(help="Count only models whose file name contains this.")]
_As = Annotated[
    str | None,
    typer.Option(help="Count only predictions that a run made while it had this name (see: nextbar promote)."),
]
_Opens = Annotated[
    str, typer.Option(help="Time, in UTC, at which the market of the next bar opens; later predictions do not count.")
]
_Journal = Annotated[
    Path | None,
    typer.Option(help="Journal of predictions (default: NEXTBAR_JOURNAL, else a file in your state folder)."),
]


@command(CommonConfig, only=("db", "cost_bps", "risk_free", "periods_per_year"))
def score(
    config: CommonConfig,
    as_json: bool,
    *,
    model: _Contains = "",
    name: _As = None,
    opens: _Opens = "13:30",
    journal: _Journal = None,
) -> None:
    r"""Compare the predictions in the journal with what happened, in the table of a walk-forward.

    Of each kind of model the first prediction for a ticker and day counts, if it was made before the market of the next
    bar opened. This is the one test that cannot leak.

    If none counts yet and some wait for their next bar, a note says so, and the exit code is 0; if none can count any
    more, it is 2. The note also says since when no bar came, where the next one is overdue.

    \b
    Examples:
      nextbar score
      nextbar score --model xgboost_AAPL --json
      nextbar score --name production
      nextbar score --opens 00:00 --db data/tokyo.db
    """
    from nextbar.workflows.score import decide, score

    summary = score(decide(config, journal, opens=opening(opens), model=model, name=name), config)
    show(as_json, summary.to_json, lambda: _scores(summary))
    waits = "nothing is scored yet, because each prediction that can count waits for its next bar: "
    note(*filter(None, [f"{'' if summary.scored else waits}{summary.losses}"]))


def opening(text: str) -> dt.time:
    """Read the time at which a market opens."""
    try:
        return dt.time.fromisoformat(text)
    except ValueError as error:
        raise ConfigError(f"--opens expects a time such as 13:30, got {brief(text)}") from error


def _predictions(summary: PredictSummary) -> None:
    """Print the predictions and what was left out."""
    columns: list[str | Column] = ["ticker", prose("model"), "last bar", "age"]
    columns += right("close", "probability", "threshold", "predicted close", "signal", "trained to", "model's age")
    rows = [
        [
            one["ticker"],
            one["model"],
            one["date"],
            f"{one['bar_age_days']} d",
            render.number(one["close"], 2),
            render.number(one["probability"], 4),
            render.number(one["threshold"]),
            render.number(one["predicted_close"], 2),
            "long" if one["signal"] else "flat",
            one["trained_to"],
            f"{one['model_age_days']} d",
        ]
        for one in summary.records()
    ]
    out.print(table_of(columns, rows, title="The bar after the last one"))
    note(*(f"skipped {reason}" for reason in summary.reasons), *(f"note: {text}" for text in summary.notes))


def _scores(summary: ScoreSummary) -> None:
    """Print the table of a walk-forward, where a prediction counts."""
    if summary.scored:
        out.print(render.walk_forward_table([(kind, one.periods, one.figures) for kind, one in summary.scored.items()]))
    for kind, one in summary.scored.items():
        say(f"{kind}, predicted by: {listed([f'{model} ({count})' for model, count in one.models.items()])}")


@command(TrainConfig, only=("db", "raw", "max_gap_days", "cost_bps", "risk_free", "periods_per_year", "ledger", "name"))
def judge(
    config: TrainConfig,
    as_json: bool,
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="CSV or Parquet: date, ticker, and signal or probability.")
    ],
    threshold: Annotated[
        float, typer.Option(help="Probability from which a position is long.", rich_help_panel="Evaluation")
    ] = 0.5,
    output_dir: Annotated[
        Path | None,
        typer.Option(help="Save the run in this folder, for nextbar report and compare.", rich_help_panel="Output"),
    ] = None,
) -> None:
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
        files = [str(path) for path in report.files]
        print_json({"files": files, "verdict": report.runs[0].judgement.to_json(), **render.figures_json(document)})
        return
    render.figures_table([document])
    say(*(f"note: {remark}" for remark in document.remarks))
    render.reports([report])


@command(CommonConfig, only=("db",))
def journal(
    config: CommonConfig,
    as_json: bool,
    *,
    model: _Contains = "",
    name: _As = None,
    opens: _Opens = "13:30",
    journal: _Journal = None,
    csv: Annotated[
        Path | None, typer.Option("--csv", help="Write the list to this CSV file, too.", rich_help_panel="Output")
    ] = None,
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
    show(as_json, lambda: [line.to_json() for line in found.lines], lambda: _listing(found))
    if csv is not None:
        write_listing(found, csv)
        note(f"{plural(len(found.lines), 'prediction')} written to {csv}")


def _listing(found: Listing) -> None:
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
    if not found.lines:
        say(f"no prediction in {found.path}; make one: nextbar predict MODEL")
        return
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
    also says what the name meant before. A run whose certificate is FAIL gets no name. A note says which runs are
    SUSPICIOUS and which were never certified.

    \b
    Examples:
      nextbar promote models/xgboost_AAPL_20260102_030405.json --as production
      nextbar promote models/xgboost_*_metadata.json --as production
    """
    from nextbar.workflows.promote import promote

    promoted = promote(runs, name)
    show(as_json, promoted.to_json, lambda: say(*str(promoted).splitlines()))
    note(*promoted.notes)
