"""What the commands print: results on standard output, what was left out on standard error."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import to_builtins
from rich.table import Column

from nextbar.cli.console import note, out, say, whole
from nextbar.cli.tables import Sheet, prose, right, table_of
from nextbar.runs.labels import mentions
from nextbar.scoring.metrics import BASELINES, Detail, shown_metrics, without_rates
from nextbar.types import JsonDict
from nextbar.words import by_reason, listed, plural, said_once, utc_minute

if TYPE_CHECKING:  # a command imports what it needs and no more
    from nextbar.evaluation.certificate import Certificate
    from nextbar.runs.document import Comparison, Document, Prices, Skip
    from nextbar.runs.run import Run
    from nextbar.workflows.certify import Certified
    from nextbar.workflows.report import Report
    from nextbar.workflows.train import TrainSummary
    from nextbar.workflows.walkforward import WalkForwardResult

EXAMPLES = 3
"""Most tickers of a run or a trial that are named."""
RMSE = "RMSE % / persistence"
NAMED_RUNS = 3
"""Most runs whose files are named one by one."""
REASONS = 8
"""Most reasons why tickers were left out of a walk-forward that are printed."""
CERTIFIED = {True: "yes", False: "no", None: "–"}


def number(value: float | None, digits: int = 3) -> str:
    """Return a figure, or a dash where there is none."""
    return "–" if value is None else f"{value:.{digits}f}"


def _failures(failed: Mapping[str, str]) -> list[str]:
    return [
        line
        for trace, names in by_reason(failed.items()).items()
        for line in (f"failed {listed(names)}: please report this", *trace.splitlines())
    ]


def _skipped(skipped: Mapping[str, str]) -> list[str]:
    return [f"skipped {line}" for line in said_once(skipped.items())]


def training(summaries: Sequence[TrainSummary], *, verbose: bool = False) -> None:
    """Print figures, remarks and files; then what was left out and why."""
    runs = [run for summary in summaries for run in summary.runs]
    out.print(training_table(runs))
    say(*_price_lines((f"{model_name(run.document)}, {run.label}", run.document.price) for run in runs))
    say(*remark_lines([(model_name(summary.runs[0].document), summary.remarks) for summary in summaries]))
    say(*_refit_lines(runs))
    whole(*files_lines(runs, "model", verbose=verbose))
    for summary in summaries:
        _training_losses(summary)


def _refit_lines(runs: Sequence[Run]) -> list[str]:
    """Say up to which day models were fitted again."""
    days: dict[str, list[str]] = {}
    for run in runs:
        for _, fit in run.document.fits:
            if fit.refit is not None:
                days.setdefault(fit.refit.last, []).append(run.label)
    return [f"refit on all bars up to {day}, for predict: {listed(labels)}" for day, labels in days.items()]


def _training_losses(summary: TrainSummary) -> None:
    note(*_skipped(summary.skipped), *_failures(summary.failed))
    lost = len(summary.skipped) + len(summary.failed)
    counts = f"{len(summary.runs)} trained{f', {lost} left out' if lost else ''}, {summary.seconds:.0f} s"
    note(f"{model_name(summary.runs[0].document)}: {counts}" if summary.runs else counts)
    note(*suspicious_lines(summary.runs))
    if plain := summary.adjustments.get("none"):
        note(f"without an adjusted close: {plural(plain, 'ticker')}; splits and dividends look like price moves")


def suspicious_lines(runs: Sequence[Run]) -> list[str]:
    """Name the runs whose balanced accuracy is too high for skill, and not by the luck of few days."""
    from nextbar.evaluation.verdict import DAILY, SUSPICIOUS, SUSPICIOUS_SAID

    high = []
    for document in (run.document for run in runs):
        accuracy, days = document.pooled["balanced_accuracy"] or 0.0, float(document.pooled["n"] or 1)
        if (document.periods_per_year or 0) >= DAILY and accuracy > SUSPICIOUS + days**-0.5:
            high.append(f"{model_name(document)} {', '.join(document.tickers[:3])}")
    return [f"SUSPICIOUS: {listed(high)}: {SUSPICIOUS_SAID}"] if high else []


def files_lines(runs: Sequence[Run], noun: str, *, verbose: bool) -> list[str]:
    """Name the file of each run that other commands take, or count them; every file where that is asked for."""
    if verbose:
        return [str(path) for run in runs for path in run.files]
    folders = Counter(run.mark.parent for run in runs)
    if len(runs) > NAMED_RUNS:
        return [f"{plural(count, noun)} in {folder} (--verbose lists the files)" for folder, count in folders.items()]
    return [f"{run.mark}, {plural(len(run.files) - 1, 'file')} beside it" for run in runs]


def training_json(summary: TrainSummary) -> JsonDict:
    """Return a training command's result as JSON values."""
    runs = []
    for run in summary.runs:
        document, files = run.document, [str(path) for path in run.files]
        later = {"after_last_training_day": to_builtins(document.after_last_training_day)}
        metrics = without_rates(to_builtins(document.figures) | later)
        runs.append({"model": document.model, "ticker": run.label, "files": files, "metrics": metrics})
    return {**vars(summary), "runs": runs, "openings": [asdict(one) for one in summary.openings]}


def training_table(runs: Sequence[Run]) -> Sheet:
    """Make a table of the test days, a row per run."""
    metrics = [metric.label for metric in shown_metrics(Detail.MAIN)]
    columns: list[str | Column] = [prose("model"), "ticker", "test days", "from", "to", *right(*metrics, RMSE)]
    title = f"Test days, {_periods(run.document.periods_per_year for run in runs)}: model / baseline"
    title += " (always long; 0.5 is a coin; persistence for price)"
    table = table_of(columns, map(_training_row, runs), title=title)
    table.spare = ("test days", "from", "to", RMSE)
    return table


def _training_row(run: Run) -> list[str]:
    document = run.document
    model, long = document.pooled, document.baselines["always_long"]
    days = run.rows.loc[run.rows["next_return"].notna(), "date"]  # a sale at the end of a ticker is no decision
    return [
        model_name(document),
        run.label,
        str(model["n"]),
        str(days.min().date()),
        str(days.max().date()),
        *(f"{metric.text(model)} / {metric.text(long)}" for metric in shown_metrics(Detail.MAIN)),
        _price(document.price) if document.price else "",
    ]


def _periods(counts: Iterable[float | None]) -> str:
    return " and ".join(f"{count:g}" for count in sorted({count for count in counts if count})) + " a year"


def _price(price: Prices) -> str:
    return f"{number(price.mean_price_rmse_percent, 2)} / {number(price.mean_persistence_rmse_percent, 2)}"


def _price_lines(named: Iterable[tuple[str, Prices | None]]) -> list[str]:
    """Return the errors of each model that predicts prices, in price units and on its target's scale."""
    return [
        f"{name}: average RMSE in price units {number(price.mean_price_rmse)}, persistence "
        f"{number(price.mean_persistence_rmse)}; {_scaled(price)}; RMSE / persistence {_price(price)} % of the close; "
        f"{price.skill}"
        for name, price in named
        if price is not None
    ]


def _scaled(price: Prices) -> str:
    """Return the error on the target's scale, with its unit where that is not the scaled close."""
    if price.return_mse is not None:
        return f"test MSE of returns in volatilities {price.return_mse:.3g}"
    return f"scaled test MSE {'–' if price.scaled_mse is None else format(price.scaled_mse, '.3g')}"


def model_name(document: Document) -> str:
    """Return the name that the user gave, if any, and the model, with its target where that is not the default."""
    target = document.config.get("target", "close") if document.model == "lstm" else "close"
    model = document.model if target == "close" else f"{document.model} {target}"
    return ", ".join(filter(None, [document.config.get("name"), model]))


def remark_lines(by_model: Sequence[tuple[str, Sequence[str]]]) -> list[str]:
    """Return each remark once; with the name of the model where it is not about all of them."""
    common = set.intersection(*(set(remarks) for _, remarks in by_model))
    shared = [f"note: {remark}" for remark in by_model[0][1] if remark in common]
    own = [f"note: {model}: {remark}" for model, remarks in by_model for remark in remarks if remark not in common]
    return [*shared, *own]


def walked(results: Sequence[WalkForwardResult], written: Sequence[Report], *, verbose: bool) -> None:
    """Print figures, remarks, files and verdicts; then what was left out of which fold and why."""
    walk_forwards([result.run for result in results], verbose=verbose)
    reports(written, verbose=verbose)
    for result in results:
        walk_forward_losses(result)


def walk_forwards(runs: Sequence[Run], *, verbose: bool = False) -> None:
    """Print figures, remarks and files of walk-forwards, or of openings."""
    documents = [run.document for run in runs]
    figures_table(documents)
    say(*_price_lines((model_name(one), one.price) for one in documents))
    say(*remark_lines([(model_name(one), one.remarks) for one in documents]))
    whole(*files_lines(runs, "walk-forward", verbose=verbose))


def walk_forward_losses(result: WalkForwardResult) -> None:
    """Print what was left out of which fold and why."""
    document = result.run.document
    note(*skip_lines(document.skipped))
    note(*_failures(result.failed))
    done, empty = plural(len(document.folds), "fold"), sum(fold.rows == 0 for fold in document.folds)
    done += f", {empty} of them without rows" if empty else ""
    resumed = f", {plural(result.resumed, 'fit')} resumed" if result.resumed else ""
    lost = f", a ticker left out {plural(len(document.skipped), 'time')}" if document.skipped else ""
    note(f"{model_name(document)}: {done}{resumed}{lost}, {document.seconds['wall']:.0f} s")


def skip_lines(skipped: Sequence[Skip]) -> list[str]:
    """Return the first reasons why tickers were left out, each once with its tickers and folds."""
    folds: dict[str, dict[int | None, None]] = {}
    for skip in skipped:
        folds.setdefault(skip.reason.removeprefix(f"{skip.ticker}: "), {})[skip.fold] = None
    reasons = by_reason((skip.ticker, skip.reason) for skip in skipped)
    lines = [f"skipped {_in_folds(list(folds[text]))}{listed(names)}: {text}" for text, names in reasons.items()]
    more = [f"… and {plural(len(lines) - REASONS, 'more reason')}, all in the result file"]
    return lines[:REASONS] + (more if len(lines) > REASONS else [])


def _in_folds(folds: Sequence[int | None]) -> str:
    if len(folds) > 1:
        return f"in {len(folds)} folds, the first {folds[0]}: "
    return "" if folds[0] is None else f"fold {folds[0]}: "


def run_json(run: Run, reports: Sequence[Report]) -> JsonDict:
    """Return a run on disk as JSON values, with its verdict and its pages, which are among these reports."""
    own = [(one, facts) for one in reports for facts in one.runs if facts.name == run.stem]
    verdict = own[0][1].judgement.to_json() if own else None
    pages = [str(path) for one, _ in own for path in one.files]
    files = [str(path) for path in run.files]
    return {"files": files, "verdict": verdict, "reports": pages, **figures_json(run.document)}


def figures_json(document: Document) -> JsonDict:
    """Return what tables show of a run as JSON values, without the folds, which are in its file."""
    found = without_rates(document.to_json())
    return {name: value for name, value in found.items() if name not in ("folds", "files", "paths")}


def figures_table(documents: Sequence[Document]) -> None:
    """Print the figures of runs beside their baselines."""
    out.print(walk_forward_table([(model_name(one), one.periods_per_year, one.figures) for one in documents]))


def walk_forward_table(results: Sequence[tuple[str, float | None, Comparison]]) -> Sheet:
    """Make a table of each model, the same signals executed later, and its baselines, on the same days and costs.

    Baselines that are the same for all models stand once, under them.
    """
    columns = [prose("row"), *right("days", *(metric.label for metric in shown_metrics(Detail.FULL)))]
    title = f"Out-of-sample days, net of costs, {_periods(periods for _, periods, _ in results)}"
    table = Sheet(columns, title, spare=("exposure", "turnover"))
    shared = _shared_baselines([figures for _, _, figures in results])
    for model, _, figures in results:
        table.add(f"{model}, {plural(len(figures.per_ticker or ()), 'ticker')}", *_figures(figures.model), style="bold")
        others: dict[str, Mapping[str, Any]] = {
            "one bar late": figures.one_bar_late,
            "at the next open": figures.next_open,
        }
        others |= {name: row for name, row in _baselines(figures).items() if name not in shared}
        for name, row in others.items():
            table.add(f"  {name}", *_figures(row))
        table.end_section()
    for name, row in shared.items():
        table.add(name, *_figures(row))
    return table


def _baselines(figures: Comparison) -> dict[str, Mapping[str, Any]]:
    return {name: figures.baselines[key] for key, name in BASELINES.items() if key in figures.baselines}


def _shared_baselines(results: Sequence[Comparison]) -> dict[str, Mapping[str, Any]]:
    """Return the baselines whose figures are the same in all results, where there are several."""
    first, *others = [_baselines(one) for one in results]
    if not others:
        return {}
    shown = {name: _figures(row) for name, row in first.items()}
    return {
        name: first[name]
        for name, cells in shown.items()
        if all(name in one and _figures(one[name]) == cells for one in others)
    }


def _figures(row: Mapping[str, Any]) -> list[str]:
    row = without_rates(row)
    return [str(row["days"]), *(metric.text(row) for metric in shown_metrics(Detail.FULL))]


def reports(written: Sequence[Report], *, verbose: bool = True) -> None:
    """Print each run's verdict with its statements, then the pages."""
    runs = [*{run.name: run for one in written for run in one.runs}.values()]
    for run, label in zip(runs, mentions([one.run.described for one in runs]), strict=True):
        headline = f"{run.judgement.verdict.value}: {label}, {listed(run.about['tickers'])}"
        if run.suspicious:
            out.print(f"SUSPICIOUS: {run.suspicious}", markup=False, highlight=False, style="bold red")
        out.print(headline, markup=False, highlight=False, style="bold")
        say(*(f"  {statement}" for statement in run.judgement.statements))
    whole(*(path for one in written for path in one.files if verbose or path.suffix == ".html"))


def certificates(found: Sequence[Certificate]) -> None:
    """Print a table of stages and parts per certificate, and what moved first."""
    from nextbar.evaluation.certificate import COLUMNS

    for certificate in found:
        if certificate.findings:
            verdicts = certificate.table()
            shown = [name for name in COLUMNS if any(name in row for row in verdicts.values())]
            rows = [[stage, *(row.get(name, "") for name in shown)] for stage, row in _compared(verdicts)]
            table = table_of([prose("stage"), *shown], rows, title=f"{certificate.name}: {certificate.verdict}")
            table.title_style = "bold"
            out.print(table)
        say(*certificate.lines())


def _compared(verdicts: Mapping[str, Mapping[str, str]]) -> list[tuple[str, Mapping[str, str]]]:
    """Leave out stages that the run did not have, such as a search: nothing was compared there."""
    return [(stage, row) for stage, row in verdicts.items() if set(row.values()) != {"–"}]


def certified(found: Certified) -> None:
    """Print what was left out, and how many runs are certified."""
    note(*_skipped(found.skipped), *_failures(found.failed))
    passed = sum(certificate.passed for certificate in found.certificates)
    note(f"{passed} of {len(found.certificates)} certified")


def runs(found: Sequence[Mapping[str, Any]], folders: Sequence[Path]) -> None:
    """Print a table of runs, or which folders hold none."""
    if not found:
        say(f"no finished run in {listed([*map(str, folders)])}; make one: nextbar train xgb")
        return
    columns: list[str | Column] = [prose("run"), "date", "kind", "tickers"]
    columns += [*right("days", "bal. accuracy", "ROC-AUC", "Sharpe", "max drawdown"), "certified"]
    rows = [
        [
            " ".join([f"{run['label']}\n{Path(run['folder']) / run['name']}", *(f"({name})" for name in run["names"])]),
            utc_minute(run["created"]),
            run["kind"],
            ", ".join(run["tickers"]) if len(run["tickers"]) <= EXAMPLES else str(len(run["tickers"])),
            str(run["days"]),
            number(run["balanced_accuracy"]),
            number(run["roc_auc"]),
            number(run["sharpe"], 2),
            "–" if run["max_drawdown"] is None else f"{100 * run['max_drawdown']:.1f} %",
            "FAILED" if run["refuted"] else CERTIFIED[run["certified"]],
        ]
        for run in found
    ]
    out.print(table_of(columns, rows))
    for run in found:
        if run["missing"]:
            note(f"{run['name']} is not whole: {', '.join(run['missing'])} is missing; fetch it or train again")
    note(plural(len(found), "run"))
