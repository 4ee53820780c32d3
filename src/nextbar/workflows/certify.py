"""Use case: prove that a run used no future bar, and write the certificate beside the run."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Unpack

import cloudpickle
import numpy as np

from nextbar.config import CertifyConfig, TrainConfig, WalkForwardConfig
from nextbar.errors import ConfigError
from nextbar.evaluation import reads
from nextbar.evaluation.certificate import Certificate
from nextbar.evaluation.held import held_data
from nextbar.evaluation.refit import RefitTrial, try_refit
from nextbar.evaluation.stages import Finding, first_stage
from nextbar.evaluation.trials import Found, Key, Trial, begin, calendar_conflict, plan_trials, run_trial
from nextbar.evaluation.truncation import PanelSource, Source, Truncation
from nextbar.evaluation.walkforward import FoldTask
from nextbar.execution.engine import Outcome
from nextbar.execution.fresh import Answer
from nextbar.models.base import Model
from nextbar.models.registry import model_of
from nextbar.models.reproducibility import digest_text
from nextbar.runs.files import writable_folder
from nextbar.runs.ledger import Ledger
from nextbar.runs.load import load_run, load_runs
from nextbar.runs.openings import Opening
from nextbar.runs.run import Run
from nextbar.runs.siblings import write_certificate
from nextbar.runs.trial import trial_of
from nextbar.types import DateArray, JsonDict, Progress
from nextbar.workflows.documents import head
from nextbar.workflows.probe import refuse_unsteady
from nextbar.workflows.recorded import Place, Recorded, recall_file, recorded_tickers, refuse_changed
from nextbar.workflows.train import train
from nextbar.workflows.training import Experiment, make_plan, with_panel
from nextbar.workflows.universe import load_universe
from nextbar.workflows.walkforward import walk_forward

AT_ONCE = 64
"""Tickers of folds that are held in memory together: each sends up to a megabyte of evidence to each worker."""


@dataclass(frozen=True, kw_only=True)
class Certified:
    """What was certified.

    Attributes:
        certificates: One per run.
        skipped: Ticker → why it was not even trained.
        failed: Ticker or fold → traceback of an unexpected error.
        openings: Runs made here that have read bars which were held out.
    """

    certificates: list[Certificate]
    skipped: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    openings: Sequence[Opening] = ()


def certify(config: CertifyConfig, progress: Progress, model: Model | None = None) -> Certified:
    """Certify the run that a configuration names, or make one, as `train` and `walkforward` do, and certify it.

    A global model that cannot pass is not trained: the certificate says why. What is trained here counts as a trial
    once a report shows what it earned; held-out bars that it reads are an opening at once. ``model`` is given where the
    configuration names one of the user's own.
    """
    _check_reads(config.reads_allowed)
    tried = partial(
        certify_runs,
        progress=progress,
        seconds=config.certify_seconds,
        allow_reads=config.reads_allowed,
        db=config.db,
        features=config.features,
        panel_features=config.panel_features,
        model=model,
        engine=config.engine,
        jobs=config.jobs,
        scheduler=config.scheduler,
    )
    if config.artifact is not None:
        path = Path(config.artifact)
        (run,) = load_runs([path])
        recorded_tickers(run)  # refuses signals, which no command certifies
        if (kind := run.document.model) != config.model:
            raise ConfigError(f"{path} is a run of {kind}, not of {config.model}; use: nextbar certify {kind}")
        return Certified(certificates=tried([path]))
    own = config.run_config()
    if isinstance(own, WalkForwardConfig):
        walked = walk_forward(own, progress, counts=False, model=model)
        openings = _expect(own.ledger, [walked.run])
        return Certified(certificates=tried([walked.run.mark]), failed=dict(walked.failed), openings=openings)
    if (conflict := _global_conflict(own, model)) is not None:
        return Certified(certificates=[Certificate(name=f"{own.model} of {own.ticker}", reason=conflict)])
    trained = train(own, progress, counts=False, model=model)
    openings = _expect(own.ledger, trained.runs)
    certificates = tried([run.mark for run in trained.runs])
    return Certified(certificates=certificates, skipped=trained.skipped, failed=trained.failed, openings=openings)


def _expect(ledger: str | None, runs: Sequence[Run]) -> list[Opening]:
    """Let runs count once somebody looks at them; return those that have read held-out bars, which counts now."""
    book, found = Ledger(ledger), list[Opening]()
    for run in runs:
        book.expect(run.digest)
        found += book.enter_holdouts(trial_of(run.book, run.document), run.document)
    return found


def _global_conflict(config: TrainConfig, model: Model | None) -> str | None:
    """Say why a model of several tickers cannot be certified under its split; None if it can."""
    model = model or model_of(config.model, config)
    if model.per_ticker:
        return None
    experiment = Experiment.of(config, load_universe(config, most=config.max_tickers), model)
    return _conflict(make_plan(experiment).tasks, experiment.dates)


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
    at_once: int = AT_ONCE,
    **place: Unpack[Place],
) -> list[Certificate]:
    """Certify runs on disk, of the same bars and threads, and write each certificate beside its run.

    ``at_once`` is how many tickers of folds are held in memory together.
    """
    runs = [recall_file(load_run(path), **place) for path in paths]
    for folder in dict.fromkeys(path.parent for path in paths):
        writable_folder(folder)
    certificates = certify_recorded(runs, progress, seconds=seconds, allow_reads=allow_reads, at_once=at_once)
    return [_write(run, certificate) for run, certificate in zip(runs, certificates, strict=True)]


def certify_recorded(
    runs: Sequence[Recorded],
    progress: Progress,
    *,
    seconds: int,
    allow_reads: Sequence[str],
    at_once: int = AT_ONCE,
) -> list[Certificate]:
    """Certify runs that are ready to be run again; nothing is written."""
    for run in runs:
        refuse_changed(run, {**run.changed, **run.refit_changed})
    reasons = [_conflict(run.tasks, run.dates) for run in runs]
    able = {at: run for at, run in enumerate(runs) if reasons[at] is None}
    for run in list(able.values())[:1]:  # runs that are certified together have the same model
        refuse_unsteady(run, progress)
    tried = _try_functions(able, seconds, progress, reads_allowed=bool(allow_reads))
    found = _try_all(able, seconds, progress, at_once)
    again = _try_refits(able, progress)
    certificates = []
    for at, (run, reason) in enumerate(zip(runs, reasons, strict=True)):
        folds = [tried.get(at, Found()), *(found[key] for key in sorted(found) if key[0] == at)]
        folds.append(Found(findings=again.get(at, [])))
        certificates.append(_certificate(run, reason, folds, allow_reads))
    return certificates


def _certificate(
    recorded: Recorded, reason: str | None, found: Sequence[Found], allow_reads: Sequence[str]
) -> Certificate:
    """Put together all that was found out about one run."""
    each_once = {item.ticker: item for one in found for item in one.truncations}
    features = {ticker: digest for one in found for ticker, digest in one.features.items()}
    read = [item for one in found for item in one.reads]
    return Certificate(
        name=recorded.run.name,
        reason=reason,
        findings=[
            *([] if reason else _handed_on(recorded)),
            *(finding for one in found for finding in one.findings),
            *(item.finding(features.get(item.ticker)) for item in each_once.values()),
            *(item.finding(allow_reads) for item in read),
        ],
        truncations=list(each_once.values()),
        reads=read,
        allow_reads=allow_reads,
        refit=max((fit.refit.last for _, fit in recorded.run.document.fits if fit.refit), default=None),
    )


def _conflict(tasks: Iterable[FoldTask], dates: Mapping[str, DateArray]) -> str | None:
    return next(filter(None, (calendar_conflict(task.borders, dates) for task in tasks)), None)


def _handed_on(recorded: Recorded) -> list[Finding]:
    """Check that a walk-forward's parameters were searched for in the fold that used them, or in an earlier one."""
    if not recorded.tasks[0].out_of_sample or not recorded.tasks[0].model.searches:
        return []
    searched: dict[str, list[Any]] = {}
    later: str | None = None
    for number, fit in sorted(recorded.run.document.fits, key=lambda item: item[0]):
        if fit.has_searched:
            searched.setdefault(fit.name, []).append(fit.chosen)
        elif fit.chosen not in searched.get(fit.name, []):
            later = later or f"{fit.name} fold {number}"
    return [
        Finding(
            part="artifact",
            stage="search",
            ticker=recorded.run.stem,
            rows=len(recorded.tasks),
            column="params" if later else None,
            row=later,
            note=f"{later} used parameters that no earlier fold had searched for" if later else "",
        )
    ]


def _try_functions(
    runs: Mapping[int, Recorded], seconds: int, progress: Progress, *, reads_allowed: bool
) -> dict[int, Found]:
    """Try the user's functions on each ticker of each run, in a process that has not imported them yet.

    Functions over all tickers are tried once, because runs that are certified together have the same bars.
    """
    tried = [([at], source) for at, run in runs.items() for source in _sources(run)]
    if over_all := [at for at, run in runs.items() if run.features.panel]:
        tried.append((over_all, _panel_source(runs[over_all[0]])))
    if not tried:
        return {}
    found, first = {at: Found() for several, _ in tried for at in several}, runs[tried[0][0][0]]
    path = [place for place in sys.path if place not in ("", str(Path.cwd()))]
    jobs = [cloudpickle.dumps((source, seconds, reads_allowed, path)) for _, source in tried]
    answers = dict[int, Answer]()
    progress.start("leave bars out", len(jobs))
    for answer in first.engine.fresh(reads.__name__, jobs, seconds=seconds + reads.GRACE):
        answers[answer.job] = answer
        progress.advance(1, tried[answer.job][1].ticker)
    progress.finish()
    for job, (several, source) in enumerate(tried):
        held = [name for own in source.functions for name in held_data(own)]
        for at in several:
            _note(found[at], source.ticker, answers[job], held)
    return found


def _note(found: Found, ticker: str, answer: Answer, held: Sequence[str]) -> None:
    """Add what the process of one job found out."""
    if answer.content is None:
        found.truncations.append(Truncation(ticker=ticker, reason=answer.reason))
        return
    truncation, read = reads.answer_of(answer.content)
    found.truncations.append(truncation)
    found.reads.append(replace(read, held=held))


def _sources(recorded: Recorded) -> list[Source]:
    """Return the bars of each ticker with features, where functions of one ticker are the user's own."""
    spec, gap = replace(recorded.features, panel=()), recorded.config.max_gap_days
    tickers = {name: recorded.bars[name].frame for task in recorded.tasks for name in task.borders}
    own = tickers if spec.functions else {}
    return [Source(ticker=name, frame=frame, spec=spec, max_gap_days=gap) for name, frame in own.items()]


def _panel_source(recorded: Recorded) -> Source:
    """Return the bars of all tickers, with functions over all of them."""
    return PanelSource.of(recorded.features, {name: recorded.bars[name].frame for name in sorted(recorded.bars)})


def _cases(runs: Mapping[int, Recorded], seconds: int) -> list[Trial]:
    """List every fold; of a walk-forward the first, the middle and the last are tried as a whole."""
    cases: list[Trial] = []
    for at, run in runs.items():
        numbers = sorted({task.fold for task in run.tasks})
        some = {numbers[0], numbers[len(numbers) // 2], numbers[-1]}
        cases += [
            Trial(key=(at, place), task=task, whole=task.fold in some, seconds=seconds)
            for place, task in enumerate(run.tasks)
        ]
    return cases


def _try_all(runs: Mapping[int, Recorded], seconds: int, progress: Progress, at_once: int) -> dict[Key, Found]:
    """Return what came out of the first run of each fold and of all its trials."""
    if not (cases := _cases(runs, seconds)):
        return {}
    trials = {case.key: plan_trials(case, runs[case.key[0]].bars) for case in cases}
    progress.start("certify", len(cases) + sum(map(len, trials.values())))
    found: dict[Key, Found] = {}
    step = max(at_once // max(len(case.task.borders) for case in cases), 1)
    for at in range(0, len(cases), step):
        some = cases[at : at + step]
        found |= _try(runs, some, [trial for case in some for trial in trials[case.key]], progress)
    progress.finish()
    return found


def _try(
    runs: Mapping[int, Recorded], cases: Sequence[Trial], trials: Sequence[Trial], progress: Progress
) -> dict[Key, Found]:
    """Do the same for a few folds and their trials, which run in parallel."""
    engine = runs[cases[0].key[0]].engine
    features = runs[cases[0].key[0]].features
    wanted = [(runs[case.key[0]].bars, case.task.borders) for case in cases]
    plain = {name: own[name] for own, names in wanted for name in (own if features.panel else names)}
    bars = with_panel(features, plain, engine)
    n_jobs = engine.n_jobs(len(cases))
    first = [replace(case, task=replace(case.task, n_jobs=n_jobs)) for case in cases]
    found: dict[Key, Found] = {}
    baselines: dict[Key, Found] = {}

    def tell(trial: Trial, note: str) -> None:
        progress.advance(0, f"{trial.task.name}: {note}")

    for begun in engine.run(begin, first, bars, tell):
        key, base = begun.task.key, begun.result
        progress.advance(1, f"{begun.task.task.name}: as it is")
        if base is None:
            found[key] = Found(findings=[_broken(begun)])
        else:
            same = _as_recorded(begun.task, runs[key[0]], base.digests)
            found[key] = replace(base, findings=[same, *base.findings], evidence={}, known={})
            baselines[key] = base
    tried = [trial for trial in trials if trial.key in baselines]
    for outcome in engine.run(run_trial, tried, (bars, baselines), tell) if tried else ():
        trial = outcome.task
        progress.advance(1, f"{trial.task.name}: {trial.part}, {trial.way}")
        found[trial.key].findings.extend([_broken(outcome)] if outcome.result is None else outcome.result)
    return found


def _try_refits(runs: Mapping[int, Recorded], progress: Progress) -> dict[int, list[Finding]]:
    """Return what came out of the refits of each run with invented bars after their last day."""
    trials = [
        RefitTrial(run=at, task=task, digests=fit.refit.digests, last=np.datetime64(fit.refit.last, "D"))
        for at, run in runs.items()
        for fit, task in run.refit_tasks
        if fit.refit is not None
    ]
    if not trials:
        return {}
    found: dict[int, list[Finding]] = {}
    progress.start("certify refits", len(trials))
    shared = {trial.run: runs[trial.run].refit_bars for trial in trials}
    for outcome in runs[trials[0].run].engine.run(try_refit, trials, shared):
        progress.advance(1, outcome.task.task.name)
        failed = [outcome.task.finding(column="error", note=str(outcome.reason))]
        found.setdefault(outcome.task.run, []).extend(failed if outcome.result is None else outcome.result)
    progress.finish()
    return found


def _broken(outcome: Outcome[Trial, Any]) -> Finding:
    """Return the finding for a run that ended in an error: it does not pass, because its outcome is not known."""
    return outcome.task.finding(column="error", note=str(outcome.reason))


def _as_recorded(case: Trial, recorded: Recorded, now: Mapping[str, str]) -> Finding:
    """Check that the run that is certified is the recorded one; what a group has trained, `reproduce` compares."""
    fit = recorded.run.document.fits[case.key[1]][1]
    then, skip = fit.digests, dict(recorded.changed_rules)
    if fit.group is not None:
        skip |= dict.fromkeys(("epochs", "weights", "threshold", "predictions"), "trained in a group")
    stage = first_stage(then, now, skip)
    digests = tuple(digest_text(str(sorted(side.items()))) for side in (then, now))
    note = "" if stage is None else f"training again gives other bits from stage {stage} on; see nextbar reproduce"
    return case.finding(rows=len(now), column=stage, digests=digests, note=note)


def _write(recorded: Recorded, certificate: Certificate) -> Certificate:
    """Write the certificate beside the run, with the digest of the document that it is about; say where it lies."""
    run = recorded.run
    return replace(certificate, path=write_certificate(run.mark, run.stem, content_of(recorded, certificate)))


def content_of(recorded: Recorded, certificate: Certificate) -> JsonDict:
    """Return what the file of a certificate says, but for the digest of the document that it is about."""
    run = recorded.run
    about = head(recorded.config, threads=run.document.environment.threads, libraries=recorded.model.libraries)
    return {**about, "model": run.document.model, "certifies": {}, **certificate.to_json()}
