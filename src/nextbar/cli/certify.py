"""`nextbar certify lstm|rf|xgb`."""

from __future__ import annotations

from collections.abc import Callable

import typer
from rich.table import Table

from nextbar.cli.console import err, out, print_json, progress
from nextbar.cli.options import SPELLINGS, command_of
from nextbar.cli.tables import plural
from nextbar.config import CertifyConfig
from nextbar.evaluation.evidence import Finding
from nextbar.pipelines.certify import COLUMNS, Certificate, Certified, certify

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    context_settings=SPELLINGS,
    help="Prove that a model saw no future: change the bars behind each border, run again, compare every bit.",
)
EXIT_NO = 1
FAILURES_SHOWN = 12
KINDS = {"rf": "Random Forests", "xgb": "XGBoost models", "lstm": "the LSTM"}
TEXT = """Train {1} as `nextbar train {0}` does, then prove that no future was seen.

A certificate lies beside each artifact: what was changed, and the digests of both sides. Exit code 1 if anything moved,
if a feature function reads something, or if too little was tried.

\b
Examples:
  nextbar certify {0} --ticker AAPL
  nextbar certify {0} --ticker AAPL --walkforward
  nextbar certify {0} --artifact models/NAME_metadata.json"""


def show(certified: Certified, as_json: bool) -> None:
    """Tables, what moved first, and where the certificates lie; exits with 1 if the answer is no."""
    certificates = certified.certificates
    if as_json:
        print_json([{**each.to_json(), "path": each.path and str(each.path)} for each in certificates])
    else:
        for certificate in certificates:
            _show_one(certificate)
    for reason in certified.skipped.values():
        err.print(f"skipped {reason}", markup=False, highlight=False)
    for name, trace in certified.failed.items():
        err.print(f"failed {name}: please report this\n{trace}", markup=False, highlight=False)
    failed = sum(not certificate.passed for certificate in certificates)
    err.print(f"{len(certificates) - failed} of {len(certificates)} certified", highlight=False)
    if failed:
        raise typer.Exit(EXIT_NO)


def _show_one(certificate: Certificate) -> None:
    if certificate.findings:
        out.print(_table(certificate))
    if certificate.truncations:
        fewest = min(certificate.truncations, key=lambda each: each.tried)
        out.print(f"{fewest.ticker}: {fewest.extent}", markup=False, highlight=False)
    if certificate.reason is not None:
        out.print(f"FAIL {certificate.name}: {certificate.reason}", markup=False, highlight=False)
    for finding in certificate.failures[:FAILURES_SHOWN]:
        out.print(_sentence(finding), markup=False, highlight=False)
    if (more := len(certificate.failures) - FAILURES_SHOWN) > 0:
        out.print(f"… and {plural(more, 'more ticker')}, see the certificate", markup=False, highlight=False)
    if certificate.path is not None:
        out.print(str(certificate.path), markup=False, highlight=False)


def _table(certificate: Certificate) -> Table:
    """Stage × part."""
    verdicts = certificate.table()
    shown = [name for name in COLUMNS if any(name in row for row in verdicts.values())]
    table = Table(title=f"{certificate.name}: {certificate.verdict}", title_style="bold")
    for name in ("stage", *shown):
        table.add_column(name)
    for stage, row in verdicts.items():
        table.add_row(stage, *(row.get(name, "") for name in shown))
    return table


def _sentence(finding: Finding) -> str:
    """What moved, in words."""
    where = f"{finding.verdict} {finding.ticker}, {finding.stage}"
    if finding.note:
        return f"{where} ({finding.part}): {finding.note}"
    bars = f"before {finding.border}" if finding.part == "rescaled past" else f"from {finding.border} on"
    return f"{where}: {finding.column} moved in row {finding.row} when bars {bars} were changed ({finding.way})"


def _runner(kind: str) -> Callable[[CertifyConfig, bool], None]:
    def run(config: CertifyConfig, as_json: bool) -> None:
        with progress() as shown:
            certified = certify(config, shown)
        show(certified, as_json)

    run.__doc__ = TEXT.format(kind, KINDS[kind])
    return run


for _kind in KINDS:
    app.command(_kind)(command_of(CertifyConfig, _runner(_kind), model=_kind))
