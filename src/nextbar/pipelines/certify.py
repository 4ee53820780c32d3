"""Use case: prove that a run saw no future, and lay the certificate beside it."""

from __future__ import annotations

import hashlib
import json
import pickle
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Unpack

from nextbar.artifacts.load import read_metadata
from nextbar.artifacts.metadata import common
from nextbar.artifacts.store import write_bytes
from nextbar.config import CertifyConfig, TrainConfig, WalkForwardConfig
from nextbar.datasets.assemble import Bars, clean_bars
from nextbar.errors import ArtifactError, ConfigError, OutputError
from nextbar.evaluation import reads
from nextbar.evaluation.certificate import (
    HOLE,
    RESCALED,
    WAYS,
    Baseline,
    Case,
    Trial,
    begin,
    calendar_conflict,
    model_cuts,
    plan_trials,
    run_trial,
)
from nextbar.evaluation.evidence import FIXED_FROM, PARTS, Finding, digest_table
from nextbar.evaluation.reads import Job, Reads
from nextbar.evaluation.truncation import Truncation
from nextbar.execution.engine import Outcome
from nextbar.execution.fresh import Answer, run_fresh
from nextbar.features.spec import FeatureSpec
from nextbar.market.access import DataAccessLayer
from nextbar.market.frames import NUMBERS, market_frame
from nextbar.models.reproducibility import cores, digest_text
from nextbar.pipelines.recorded import Place, Recorded, RecordedFold, load_recorded
from nextbar.pipelines.reproduce import first_stage
from nextbar.pipelines.train import plan, train
from nextbar.pipelines.universe import load_universe
from nextbar.pipelines.walkforward import walk_forward
from nextbar.types import JsonDict, Progress

COLUMNS = ("artifact", *PARTS, "warm-up", "truncation", "reads")
ROWS = ("run", *FIXED_FROM)
"""Parts and stages, in the order in which people read them."""
VERDICTS = ("–", "PASS", "INCOMPLETE", "FAIL")
"""From the best to the worst."""
CANNOT_SEE = (
    "days of crises, prices and other constants that are written into the code of a feature or of its modules",
    "the clock and environment variables, where two calls do not differ by them",
    "data inside an installed package or in a folder of the system",
    "what a file that --allow-reads names knows about the future; with it, reads without an event are not looked for",
    "a leak on fewer days than the share that its truncation states",
    "code that means to deceive, such as one that looks for the bars in the caller's memory",
    "what happens inside train, which companies are in the list, and what the user has seen of the test days",
)
"""What no part of the certificate shows."""
SIDE_BY_SIDE = 2
"""Processes for a user's functions."""
AT_ONCE = 64
"""Tickers of cases that are held in memory together: each brings up to a megabyte of evidence to each worker."""


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """What changing the future showed about one run.

    Attributes:
        name: Stem of the run's files, or what would have been trained.
        reason: Why no change was tried at all; None otherwise.
        findings: Everything that was compared.
        truncations: How many days each ticker's features were tried on.
        reads: What a user's function reads besides its bars.
        allow_reads: What it may read.
        path: Where the certificate lies; None where nothing was trained.
    """

    name: str
    reason: str | None = None
    findings: list[Finding] = field(default_factory=list)
    truncations: list[Truncation] = field(default_factory=list)
    reads: list[Reads] = field(default_factory=list)
    allow_reads: Sequence[str] = ()
    path: Path | None = None

    @property
    def verdict(self) -> str:
        """PASS, FAIL, or INCOMPLETE: nothing moved, but too little was tried."""
        if self.reason is not None:
            return "FAIL"
        return max(("PASS", *(finding.verdict for finding in self.findings)), key=VERDICTS.index)

    @property
    def passed(self) -> bool:
        """Whether nothing moved, and enough was tried."""
        return self.verdict == "PASS"

    @property
    def failures(self) -> list[Finding]:
        """The first failure of each ticker: the first stage, in it the first border, and there the earliest row."""
        failed = [finding for finding in self.findings if not finding.passed]
        first: dict[str, Finding] = {}
        for finding in sorted(
            failed, key=lambda x: (x.verdict != "FAIL", ROWS.index(x.stage), COLUMNS.index(x.part), str(x.row))
        ):
            first.setdefault(finding.ticker, finding)
        return list(first.values())

    def table(self) -> dict[str, dict[str, str]]:
        """Stage → part → verdict, the worst of its findings; a dash where there was nothing to compare."""
        verdicts: dict[str, dict[str, str]] = {}
        for finding in sorted(self.findings, key=lambda finding: ROWS.index(finding.stage)):
            row = verdicts.setdefault(finding.stage, {})
            verdict = finding.verdict if finding.rows or not finding.passed else "–"
            row[finding.part] = max(verdict, row.get(finding.part, "–"), key=VERDICTS.index)
        return verdicts

    def to_json(self) -> JsonDict:
        """Verdict, table and findings."""
        return {
            "artifact": self.name,
            "verdict": self.verdict,
            "reason": self.reason,
            "ways": [*WAYS, RESCALED],
            "hole": HOLE,
            "truncation": [{**asdict(each), "share": each.share} for each in self.truncations],
            "reads": [asdict(each) for each in self.reads],
            "allow_reads": list(self.allow_reads),
            "cannot_see": list(CANNOT_SEE),
            "table": self.table(),
            "findings": [finding.to_json() for finding in self.findings],
        }


@dataclass(frozen=True, kw_only=True)
class Certified:
    """Certificates; ticker → why it was not even trained; ticker or fold → traceback of an error that should not be."""

    certificates: list[Certificate]
    skipped: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)


def certify(config: CertifyConfig, progress: Progress) -> Certified:
    """Certify the run that a configuration names, or make one, as `train` and `walkforward` do, and certify it.

    A global model that cannot pass is not trained: the certificate says why. What is trained here becomes a trial
    when a report shows what it earned.

    Raises:
        NextbarError: As training does, or the artifact cannot be used.
    """
    place = Place(
        db=config.db, features=config.features, engine=config.engine, jobs=config.jobs, scheduler=config.scheduler
    )
    _check_reads(config.reads_allowed)
    tried = partial(certify_runs, progress=progress, seconds=config.certify_seconds, allow_reads=config.reads_allowed)
    if config.artifact is not None:
        path = Path(config.artifact)
        if (kind := read_metadata(path).get("model")) != config.model:
            raise ConfigError(f"{path} is a run of {kind}, not of {config.model}; use: nextbar certify {kind}")
        return Certified(certificates=tried([path], **place))
    own = config.run_config()
    if isinstance(own, WalkForwardConfig):
        walked = walk_forward(own, progress, counts=False)
        return Certified(certificates=tried([walked.files[-1]], **place), failed=walked.failed)
    if (conflict := _global_conflict(own)) is not None:
        return Certified(certificates=[Certificate(name=f"{own.model} of {own.ticker}", reason=conflict)])
    trained = train(own, progress, counts=False)
    certificates = tried([run.files[-1] for run in trained.runs], **place)
    return Certified(certificates=certificates, skipped=trained.skipped, failed=trained.failed)


def _global_conflict(config: TrainConfig) -> str | None:
    """Why a model of several tickers cannot be certified under its split."""
    if config.model != "lstm":
        return None
    universe = load_universe(config, most=config.max_tickers)
    tasks, _ = plan(config, universe)
    return next((calendar_conflict(task.borders, universe.dates()) for task in tasks), None)


def _check_reads(allowed: Sequence[str]) -> None:
    """Refuse a path that is not there: it is a spelling mistake. An address or the name of an event is no path."""
    for name in allowed:
        if "/" in name and " " not in name and "://" not in name and not Path(name).exists():
            raise ConfigError(
                f"--allow-reads {name}: there is no such file or folder; give one that the function reads"
            )


def certify_runs(
    paths: Sequence[Path],
    progress: Progress,
    *,
    seconds: int = CertifyConfig.certify_seconds,
    allow_reads: Sequence[str] = (),
    **place: Unpack[Place],
) -> list[Certificate]:
    """Certify runs that lie on disk and write each certificate beside its run.

    Args:
        paths: `*_metadata.json` or walk-forward `.json` files of runs with the same bars and threads.
        progress: Told about each trial.
        seconds: Most time for leaving bars out, a ticker.
        allow_reads: Files and folders that the user's function may read.
        **place: Where they are run again.

    Raises:
        ArtifactError: A file is not the metadata of a run, or its bars have changed since.
    """
    runs = [_load(path, place) for path in paths]
    reasons = {run.path: _conflict(run) for run in runs}
    able = [run for run in runs if reasons[run.path] is None]
    tried = _try_functions(able, seconds, progress, bool(allow_reads))
    jobs = _jobs(able, seconds)
    found = _try_all(jobs, progress) if jobs else {}
    certificates = [
        _certificate(
            run, reasons[run.path], [found[job.case.number] for job in jobs if job.run is run], tried, allow_reads
        )
        for run in runs
    ]
    for run, certificate in zip(runs, certificates, strict=True):
        _write(run, certificate)
    return certificates


@dataclass(frozen=True, kw_only=True)
class _Found:
    """What came out of one fold, or of a user's function.

    Attributes:
        findings: All comparisons.
        truncations: What leaving bars out showed.
        reads: What the function reads.
        features: Ticker → digest of its features.
    """

    findings: list[Finding] = field(default_factory=list)
    truncations: list[Truncation] = field(default_factory=list)
    reads: list[Reads] = field(default_factory=list)
    features: dict[str, str] = field(default_factory=dict)


def _certificate(
    run: Recorded, reason: str | None, folds: Sequence[_Found], tried: Mapping[Path, _Found], allow_reads: Sequence[str]
) -> Certificate:
    """All that was found out about one run."""
    own = tried.get(run.path, _Found())
    each_once = {item.ticker: item for fold in (own, *folds) for item in fold.truncations}
    features = {ticker: digest for fold in folds for ticker, digest in fold.features.items()}
    return Certificate(
        name=run.stem,
        reason=reason,
        findings=[
            *([] if reason else _handed_on(run)),
            *(finding for fold in folds for finding in fold.findings),
            *(item.finding(features.get(item.ticker)) for item in each_once.values()),
            *(item.finding(allow_reads) for item in own.reads),
        ],
        truncations=list(each_once.values()),
        reads=own.reads,
        allow_reads=allow_reads,
        path=run.path.with_name(f"{run.stem}_certificate.json"),
    )


def _try_functions(
    runs: Sequence[Recorded], seconds: int, progress: Progress, reads_allowed: bool
) -> dict[Path, _Found]:
    """Try the user's function on each ticker of each run, in a process that has not imported it yet."""
    tried = [(run, ticker) for run in runs if run.config.features is not None for ticker in run.bars]
    if not tried:
        return {}
    config, threads = tried[0][0].config, tried[0][0].threads
    path = [place for place in sys.path if place not in ("", str(Path.cwd()))]
    jobs = [
        Job(
            ticker=ticker,
            frame=run.bars[ticker].frame,
            spec=FeatureSpec.of(run.config),
            max_gap_days=run.config.max_gap_days,
            seconds=seconds,
            reads_allowed=reads_allowed,
            path=path,
        )
        for run, ticker in tried
    ]
    at_once = 1 if config.engine == "serial" else min(SIDE_BY_SIDE, cores(), config.jobs or SIDE_BY_SIDE)
    work, answers = [pickle.dumps(job) for job in jobs], dict[int, Answer]()
    progress.start("leave bars out", len(jobs))
    for answer in run_fresh(reads.__name__, work, at_once=at_once, seconds=seconds + reads.GRACE, threads=threads):
        answers[answer.job] = answer
        progress.advance(1, jobs[answer.job].ticker)
    progress.finish()
    found = {run.path: _Found() for run, _ in tried}
    for number, (run, ticker) in enumerate(tried):
        if (content := answers[number].content) is None:
            found[run.path].truncations.append(Truncation(ticker=ticker, reason=answers[number].reason))
            continue
        truncation, read = reads.answer_of(content)
        found[run.path].truncations.append(truncation)
        found[run.path].reads.append(read)
    return found


@dataclass(frozen=True, kw_only=True)
class _Job:
    """One fold of a run, numbered among all that are certified together."""

    run: Recorded
    fold: RecordedFold
    case: Case


def _load(path: Path, place: Place) -> Recorded:
    run = load_recorded(path, **place)
    if run.changed:
        first, *others = run.changed
        more = f", and {len(others)} more tickers" if others else ""
        elsewhere = f"; {run.elsewhere}" if run.elsewhere else ""
        raise ArtifactError(f"{path}: bars have changed since ({first}{more}); restore them or train again{elsewhere}")
    return run


def _conflict(run: Recorded) -> str | None:
    return next(filter(None, (calendar_conflict(fold.task.borders, run.dates) for fold in run.folds)), None)


def _handed_on(run: Recorded) -> list[Finding]:
    """Whether a walk-forward's parameters were searched for in the fold that used them, or in an earlier one."""
    config = run.config
    if not isinstance(config, WalkForwardConfig) or run.model == "lstm" or config.no_tune or config.tune == "none":
        return []
    searched: dict[str, list[Any]] = {}
    later: str | None = None
    for fold in sorted(run.folds, key=lambda fold: fold.task.fold):
        if fold.task.search:
            searched.setdefault(fold.task.name, []).append(fold.params)
        elif fold.params not in searched.get(fold.task.name, []):
            later = later or f"{fold.task.name} fold {fold.task.fold}"
    return [
        Finding(
            part="artifact",
            stage="search",
            ticker=run.stem,
            rows=len(run.folds),
            column="params" if later else None,
            row=later,
            note=f"{later} used parameters that no earlier fold had searched for" if later else "",
        )
    ]


def _jobs(runs: Sequence[Recorded], seconds: int) -> list[_Job]:
    """Every fold; of a walk-forward the first, the middle and the last are tried as a whole."""
    jobs: list[_Job] = []
    for run in runs:
        numbers = sorted({fold.task.fold for fold in run.folds})
        some = {numbers[0], numbers[len(numbers) // 2], numbers[-1]}
        for fold in run.folds:
            case = Case(number=len(jobs), task=fold.task, whole=fold.task.fold in some, seconds=seconds)
            jobs.append(_Job(run=run, fold=fold, case=case))
    return jobs


def _try_all(jobs: Sequence[_Job], progress: Progress) -> dict[int, _Found]:
    """Number of the case → what came out of its first run and of all its trials."""
    trials = {job.case.number: _trials(job) for job in jobs}
    progress.start("certify", len(jobs) + sum(map(len, trials.values())))
    found: dict[int, _Found] = {}
    step = max(AT_ONCE // max(len(job.case.task.borders) for job in jobs), 1)
    for at in range(0, len(jobs), step):
        some = jobs[at : at + step]
        found |= _try(some, [trial for job in some for trial in trials[job.case.number]], progress)
    progress.finish()
    return found


def _try(jobs: Sequence[_Job], trials: Sequence[Trial], progress: Progress) -> dict[int, _Found]:
    """The same for a few cases and their trials, which run in parallel."""
    engine, by_number = jobs[0].run.engine, {job.case.number: job for job in jobs}
    bars = {name: job.run.bars[name] for job in jobs for name in job.case.task.borders}
    found = {number: _Found() for number in by_number}
    baselines: dict[int, Baseline] = {}
    lanes = engine.lanes(len(jobs))
    cases = [replace(job.case, task=replace(job.case.task, lanes=lanes)) for job in jobs]

    def tell(task: Case | Trial, note: str) -> None:
        progress.advance(0, f"{(task if isinstance(task, Case) else task.case).task.name}: {note}")

    for begun in engine.run(begin, cases, bars, tell):
        number = begun.task.number
        progress.advance(1, f"{begun.task.task.name}: as it is")
        if begun.result is None:
            found[number].findings.append(_broken(begun, begun.task, part="artifact"))
            continue
        baselines[number] = begun.result
        found[number].findings.extend([_as_recorded(by_number[number], begun.result), *begun.result.findings])
        found[number].truncations.extend(begun.result.truncations)
        tables = {ticker: table for (stage, ticker), table in begun.result.evidence.items() if stage == "features"}
        found[number].features.update({ticker: digest_table(table) for ticker, table in tables.items()})
    tried = [_with_bars(trial, by_number) for trial in trials if trial.case.number in baselines]
    for outcome in engine.run(run_trial, tried, (bars, baselines), tell) if tried else ():
        trial = outcome.task
        progress.advance(1, f"{trial.case.task.name}: {trial.part}, {trial.way}")
        broken = replace(_broken(outcome, trial.case, part=trial.part), way=trial.way, border=str(trial.cut))
        found[trial.case.number].findings.extend([broken] if outcome.result is None else outcome.result)
    return found


def _broken(outcome: Outcome[Any, Any], case: Case, *, part: str) -> Finding:
    """A run that ended in an error: whether it would have held is not known, so it does not pass."""
    return Finding(part=part, stage="run", ticker=case.task.name, column="error", note=str(outcome.reason))


def _as_recorded(job: _Job, baseline: Baseline) -> Finding:
    """Whether the run that is certified is the one that lies on disk."""
    stage = first_stage(job.fold.digests, baseline.digests, skip=job.run.changed_rules)
    recorded, now = (digest_text(str(sorted(side.items()))) for side in (job.fold.digests, baseline.digests))
    return Finding(
        part="artifact",
        stage="run",
        ticker=job.case.task.name,
        rows=len(baseline.digests),
        column=stage,
        digests=(recorded, now),
        note="" if stage is None else f"training again gives other bits from stage {stage} on; see nextbar reproduce",
    )


def _trials(job: _Job) -> list[Trial]:
    """Every change of the future, and the rescaled past where prices are adjusted."""
    trials = plan_trials(job.case, job.run.dates)
    cut = model_cuts(job.case.task.borders, job.run.dates).get("inside test")
    if cut is None or any(job.run.bars[name].adjustment != "forward" for name in job.case.task.borders):
        return trials
    return [*trials, Trial(case=job.case, part="rescaled past", cut=cut, way=RESCALED)]


def _with_bars(trial: Trial, jobs: Mapping[int, _Job]) -> Trial:
    """The trial; one of a rescaled past with the bars as they would be read had a vendor halved every ``adj_close``."""
    if trial.way != RESCALED:
        return trial
    run, names = jobs[trial.case.number].run, list(trial.case.task.borders)
    dates = run.dates
    with DataAccessLayer(run.config.db) as market:
        histories = market.get_histories(names)
    changed: dict[str, Bars] = {}
    for name, history in histories.items():
        numbers = history.numbers.copy()
        numbers[NUMBERS.index("adj_close"), history.days < trial.cut] *= 0.5
        span = dates[name][[0, -1]]
        frame = market_frame(
            replace(history, numbers=numbers), *span, adjust=True, quoted=True, quoted_volume=run.quoted_volume
        )
        changed[name] = clean_bars(name, frame)
    return replace(trial, bars=changed)


def _write(run: Recorded, certificate: Certificate) -> None:
    """The certificate beside the run, with the sha256 of the file that it speaks of."""
    digest = hashlib.sha256(run.path.read_bytes()).hexdigest()
    head = common(run.config, threads=run.threads) | {"model": run.model, "certifies": {run.path.name: digest}}
    document = json.dumps(head | certificate.to_json(), indent=1, allow_nan=False)
    assert certificate.path is not None
    try:
        write_bytes(certificate.path, document.encode())
    except OSError as error:
        raise OutputError(f"{certificate.path}: cannot be written ({error.strerror}); mend its rights") from error
