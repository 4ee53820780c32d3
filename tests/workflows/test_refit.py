"""A refit: the model of a run fitted once more on all bars. The run stays as it is; predictions alone use the refit."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression

import nextbar as nb
from nextbar.cli.main import main
from nextbar.config import TrainConfig
from nextbar.datasets.samples import Splits
from nextbar.errors import ArtifactError
from nextbar.runs.extend import made_digests
from nextbar.runs.files import write_together
from nextbar.types import Silent
from nextbar.workflows.certify import certify_runs
from nextbar.workflows.options import PredictConfig
from nextbar.workflows.predict import predict
from nextbar.workflows.train import train

LAST = "2012-06-15"
NOW = dt.datetime(2012, 6, 18, 13, 0, tzinfo=dt.UTC)
SMALL: dict[str, Any] = {"epochs": 3, "sequence_length": 5, "ensemble": 2, "target": "return"}
MODELS = {
    "rf": nb.RandomForest(no_tune=True),
    "xgb": nb.XGBoost(no_tune=True),
    "rf-pooled": nb.RandomForest(no_tune=True, pooled=True),
    "xgb-pooled": nb.XGBoost(no_tune=True, pooled=True),
    "lstm": nb.LSTM(**SMALL),
    "lstm-close": nb.LSTM(epochs=2, sequence_length=5),
    "estimator": nb.Estimator(LogisticRegression(max_iter=500)),
    "estimator-pooled": nb.Estimator(LogisticRegression(max_iter=500), pooled=True),
}


pytestmark = pytest.mark.usefixtures("inline")


@pytest.fixture(scope="module")
def frames(market_bars: dict[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    return nb.bars({name: market_bars[name].rename(columns={"Adj": "Adj Close"}) for name in ("AAA", "BBB")})


def command(db: Path, folder: Path, **options: Any) -> nb.Run:
    """Train an XGBoost, or what the options say, of AAA as the command does, with a refit unless they say otherwise."""
    given = {"model": "xgb", "ticker": "AAA", "no_tune": True, "warmup": 60, "refit": True, **options}
    (run,) = train(TrainConfig(**given, db=str(db), save_dir=str(folder)), Silent()).runs
    return nb.load_run(run.mark)


def own(model: nb.Model) -> dict[str, Any]:
    """What loading a saved model of this kind needs besides."""
    return {"model": model} if model.kind == "estimator" else {}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.thorough) if name == "lstm" else name for name in MODELS]
)
def test_a_refit_is_kept_saved_loaded_and_made_again(
    name: str, frames: dict[str, pd.DataFrame], tmp_path: Path
) -> None:
    """Every kind: window up to the last bar, parameters, threshold and length of the run's fit; same bits from disk."""
    model = MODELS[name]
    run = nb.train(frames, model, warmup=60)
    again = nb.refit(run, frames)
    assert [fit.refit for _, fit in run.document.fits] == [None] * len(run.document.fits)
    for _, fit in again.document.fits:
        assert fit.refit is not None
        assert (fit.refit.last, fit.refit.seed) == (LAST, fit.seed)
        assert all(splits.val.rows == splits.test.rows == 0 for splits in fit.refit.splits.values())
        assert all(fit.refit.splits[key].train.first == part.train.first for key, part in fit.splits.items())
        assert model.rounds(fit.refit.details) == model.rounds(fit.details)
        assert fit.refit.digests.get("params") is None or fit.refit.digests["weights"] != fit.digests["weights"]
    assert nb.reproduce(again, frames).identical
    assert again.rows.equals(run.rows)
    assert again.figures.equals(run.figures)
    mark = next(path for path in again.save(tmp_path) if path.name.endswith("_metadata.json"))
    saved = nb.load_run(mark)
    ticker = saved.tickers[0]
    ours = again.model(ticker, refit=True).predict(frames[ticker])
    pd.testing.assert_frame_equal(
        saved.model(ticker, refit=True, trust=True, **own(model)).predict(frames[ticker]), ours, check_exact=True
    )
    assert not ours.equals(again.model(ticker).predict(frames[ticker]))
    assert nb.reproduce(saved, frames, **own(model)).identical


@pytest.mark.parametrize(
    "options",
    [{"model": "rf"}, {"model": "xgb"}, pytest.param({"model": "lstm", **SMALL}, marks=pytest.mark.thorough)],
    ids=str,
)
def test_the_run_keeps_every_bit(options: dict[str, Any], market_db: Path, tmp_path: Path) -> None:
    """With `--refit` rows, model files, digests and figures are those of the same command without it."""
    options = {**options, "pooled": False}
    runs = [command(market_db, tmp_path / str(refit), refit=refit, **options) for refit in (False, True)]
    plain, with_refit = runs
    contents = [run.read_files() for run in runs]
    theirs = {suffix: content for suffix, content in contents[1].items() if not suffix.startswith("_refit")}
    assert len(theirs) < len(contents[1])
    keras = [suffix for suffix in theirs if suffix.endswith(".keras")]  # it holds the time of its making
    assert {**theirs, **dict.fromkeys(keras)} == {**contents[0], **dict.fromkeys(keras)}
    (_, fit), (_, ours) = plain.document.fits[0], with_refit.document.fits[0]
    assert fit.digests == ours.digests
    assert plain.document.figures == with_refit.document.figures


def test_the_refit_is_the_plain_fit_on_all_labelled_rows(
    frames: dict[str, pd.DataFrame], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last row that is fitted on is the bar before the last, whose label the last bar gives; a larger purge too."""
    seen: list[Splits] = []
    fit = nb.RandomForest.fit

    def spy(self: Any, panel: Any, request: Any) -> Any:
        seen.extend(panel)
        return fit(self, panel, request)

    monkeypatch.setattr(nb.RandomForest, "fit", spy)
    nb.refit(nb.train({"AAA": frames["AAA"]}, MODELS["rf"], warmup=60, purge=3), frames)
    first, again = seen
    days = frames["AAA"].index.to_numpy().astype("datetime64[D]")
    assert (again.train.dates[0], again.train.dates[-1]) == (first.train.dates[0], days[-2])
    assert len(again.train.y) == len(days) - 60 - 1
    assert first.train.dates[-1] < first.val.dates[0] < again.train.dates[-1]


def test_newer_bars_move_the_refit_alone(market_db: Path, frames: dict[str, pd.DataFrame], tmp_path: Path) -> None:
    """A run on older bars is fitted again on newer ones, beside it on disk; a second refit replaces the first."""
    run = command(market_db, tmp_path, refit=False, end="2012-03-30")
    before = run.read_files()
    early = nb.refit(run, {"AAA": frames["AAA"][:"2012-05-01"]})
    late = nb.refit(early, frames)
    assert [one.document.fits[0][1].refit.last for one in (early, late)] == ["2012-05-01", LAST]  # type: ignore[union-attr]
    saved = nb.load_run(run.mark)
    assert saved.document == late.document
    assert {suffix: saved.read_files()[suffix] for suffix in before} == before
    assert saved.sha256 == run.sha256 != early.refit_sha256 != late.refit_sha256
    assert nb.reproduce(saved, frames).identical
    assert saved.model("AAA").predict(frames["AAA"]).equals(run.model("AAA").predict(frames["AAA"]))
    assert [path.name for path in saved.files if not path.exists()] == []


def test_a_refit_that_is_replaced_half_leaves_a_whole_run(
    market_db: Path, frames: dict[str, pd.DataFrame], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that dies among the files of a second refit leaves the run without one; it can be made again."""
    one = {"AAA": frames["AAA"]}
    run = command(market_db, tmp_path)
    before = run.model("AAA").predict(one["AAA"])

    def die(contents: Any) -> None:
        if len(contents) == 1:  # the document without the earlier refit
            return write_together(contents)
        next(iter(contents)).write_bytes(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("nextbar.runs.extend.write_together", die)
        with pytest.raises(KeyboardInterrupt):
            nb.refit(run, one)
    left = nb.load_run(run.mark)
    pd.testing.assert_frame_equal(left.model("AAA").predict(one["AAA"]), before)
    assert [fit.refit for _, fit in left.document.fits] == [None]
    assert nb.reproduce(nb.refit(left, one), one).identical


def test_a_run_without_its_own_bars_is_not_fitted_again(frames: dict[str, pd.DataFrame]) -> None:
    """Bars of its days that have changed since are refused: its parameters were chosen on others."""
    run = nb.train({"AAA": frames["AAA"]}, MODELS["xgb"], warmup=60)
    changed = frames["AAA"].copy()
    changed.iloc[300, :4] *= 1.01
    with pytest.raises(ArtifactError, match=r"bars have changed since \(AAA: .*train again"):
        nb.refit(run, {"AAA": changed})


def test_what_has_no_model_is_refused(frames: dict[str, pd.DataFrame]) -> None:
    """A walk-forward keeps no model, signals have none, and a run without a refit says how to make one."""
    walk = nb.walk_forward(
        {"AAA": frames["AAA"]}, MODELS["xgb"], windows=nb.Windows(train_years=1, val_months=3), warmup=60
    )
    with pytest.raises(ArtifactError, match="a walk-forward keeps predictions and has no model to fit again"):
        nb.refit(walk, frames)
    run = nb.train({"AAA": frames["AAA"]}, MODELS["xgb"], warmup=60)
    with pytest.raises(
        ArtifactError,
        match=r"has no refit; make one with nextbar\.refit\(run, bars\), or train: nextbar train … --refit",
    ):
        run.model("AAA", refit=True)


def test_a_model_of_ones_own_says_whether_it_can(frames: dict[str, pd.DataFrame]) -> None:
    """A kind that does not say that its fit copes without validation is refused, not fitted."""

    class Own(nb.XGBoost):
        kind = "own"
        refits = False

    run = nb.train({"AAA": frames["AAA"]}, Own(no_tune=True), warmup=60)
    with pytest.raises(ArtifactError, match="only if its class has refits = True"):
        nb.refit(run, frames)


def change_rounds(document: dict[str, Any]) -> None:
    document["folds"][0]["tasks"][0]["details"]["best_iteration"] = 10**9


def drop_ticker(document: dict[str, Any]) -> None:
    document["folds"][0]["tasks"][0]["refit"]["splits"] = {}


def change_digest(document: dict[str, Any]) -> None:
    document["folds"][0]["tasks"][0]["refit"]["digests"]["weights"] = "0" * 64


@pytest.mark.parametrize(
    ("change", "message"), [(change_rounds, "trees or epochs"), (drop_ticker, "not of the tickers")]
)
def test_a_refit_that_cannot_be_is_refused(change: Any, message: str, market_db: Path, tmp_path: Path) -> None:
    """A document may come from anyone."""
    mark = command(market_db, tmp_path).mark
    document = json.loads(mark.read_text())
    change(document)
    mark.write_text(json.dumps(document))
    with pytest.raises(ArtifactError, match=message):
        nb.reproduce(nb.load_run(mark), nb.read_bars(market_db, ["AAA"]))


def test_a_refit_of_other_bits_is_named(market_db: Path, tmp_path: Path) -> None:
    """Reproduce compares refits, and says that it is the refit that differs."""
    run = command(market_db, tmp_path)
    bars = nb.read_bars(market_db, ["AAA"])
    assert str(nb.reproduce(run, bars)) == "bit-identical (1 fit, 1 refit)"
    document = json.loads(run.mark.read_text())
    change_digest(document)
    run.mark.write_text(json.dumps(document))
    found = nb.reproduce(nb.load_run(run.mark), bars)
    assert (found.identical, found.where, found.stage) == (False, "refit of AAA", "weights")


def test_a_certificate_says_what_the_refit_depends_on(market_db: Path, tmp_path: Path) -> None:
    """Bars after its last day are invented in five ways; nothing that was fitted moves."""
    run = command(market_db, tmp_path)
    (certificate,) = certify_runs([run.mark], Silent(), db=str(market_db), seconds=5)
    findings = [one for one in certificate.findings if one.part == "refit"]
    assert {one.way for one in findings} >= {"garbage", "drawn days", "reversed"}
    assert {"features", "train samples", "model", "run"} <= {one.stage for one in findings}
    assert certificate.passed
    assert f"refit: trained to {LAST}, it depends on bars up to that day only" in str(certificate)
    written = json.loads(run.sibling("_certificate.json").read_text())
    assert written["refit"]["trained_to"] == LAST
    nb.refit(run, nb.read_bars(market_db, ["AAA"]))
    assert nb.load_run(run.mark).certificate().verdict == "PASS"


@pytest.mark.parametrize("outcome", ["FAIL", "PASS"])
@pytest.mark.parametrize("first", ["", "refitted", "refit-certified"])
def test_a_refit_leaves_the_certificate_of_its_run(
    first: str, outcome: str, market_db: Path, tmp_path: Path, make_certificate: Any
) -> None:
    """A certificate is about the run without a refit: none is lost by one, however bad, and other files are others.

    One that names the document with an earlier refit is not lost with that.
    """
    run, bars = command(market_db, tmp_path, refit=False, end="2012-03-30"), nb.read_bars(market_db, ["AAA"])
    run = nb.refit(run, {"AAA": bars["AAA"][:"2012-05-01"]}) if first else run
    _, run_alone, _ = made_digests(run.mark, run.stem)
    make_certificate(run.mark, outcome, None if first == "refit-certified" else run_alone)
    with pytest.warns(nb.errors.Remark, match="says nothing about this refit"):
        nb.refit(run, bars)
    again = nb.load_run(run.mark)
    assert (again.certificate().verdict == "PASS", again.refuted()) == (outcome == "PASS", outcome == "FAIL")
    assert nb.verdict(again).reason.startswith("Its certificate is FAIL: ") is (outcome == "FAIL")
    document = json.loads(run.mark.read_text())
    document["pooled"]["days"] += 1
    run.mark.write_text(json.dumps(document, indent=1))
    assert nb.load_run(run.mark).certificate().verdict == ""  # type: ignore[union-attr]


def test_a_leak_into_the_refit_fails(frames: dict[str, pd.DataFrame]) -> None:
    """A feature that looks at the last bar there is moves the refit as soon as bars follow."""

    def of_the_last(bars: pd.DataFrame) -> pd.DataFrame:
        return pd.DataFrame({"ratio": bars["Close"] / bars["Close"].iloc[-1]}, index=bars.index)

    bars = {"AAA": frames["AAA"]}
    run = nb.refit(nb.train(bars, MODELS["rf"], features=of_the_last, warmup=60), bars)
    certificate = nb.certify(run, bars, seconds=5)
    assert {one.stage for one in certificate.findings if one.part == "refit" and not one.passed} >= {"features"}
    assert "refit: trained to" not in str(certificate)


def ask(db: Path, tmp_path: Path, *models: Path, **options: Any) -> list[dict[str, Any]]:
    config = PredictConfig(db=str(db), journal=tmp_path / "journal.db", **options)
    return predict(models, config, now=NOW).records()


def test_predict_takes_the_refit_and_counts_from_its_last_day(market_db: Path, tmp_path: Path) -> None:
    """Which one predicted stands in the journal; the age is that of the last day trained on, not that of the file."""
    run = command(market_db, tmp_path / "models")
    (refit,), (plain,) = (ask(market_db, tmp_path, run.mark, no_refit=no_refit) for no_refit in (False, True))
    assert (refit["model"], plain["model"]) == (f"{run.stem}_refit", run.stem)
    assert (refit["trained_to"], refit["model_age_days"]) == (LAST, 3)
    end = run.document.fits[0][1].splits["AAA"].train.last
    assert (plain["trained_to"], plain["model_age_days"]) == (end, (NOW.date() - dt.date.fromisoformat(end)).days)
    assert refit["model_sha256"] != plain["model_sha256"] == run.sha256
    bars = nb.read_bars(market_db, ["AAA"])["AAA"]
    for found, model in ((refit, run.model("AAA", refit=True)), (plain, run.model("AAA"))):
        assert found["probability"] == model.predict(bars)["probability"].iloc[-1]


@pytest.mark.parametrize(("shift", "told"), [(0.0, False), (0.5, True)])
def test_a_refit_that_is_long_on_other_days_is_told(shift: float, told: bool, market_db: Path, tmp_path: Path) -> None:
    """The threshold is the run's: where the refit is long much more or less often than its run, a note says so."""
    run = command(market_db, tmp_path)
    bars = nb.read_bars(market_db, ["AAA"])["AAA"]
    test = run.document.fits[0][1].splits["AAA"].test
    share = float(run.model("AAA", refit=True).predict(bars).loc[test.first : test.last, "signal"].mean())
    document = json.loads(run.mark.read_text())
    document["per_ticker"]["AAA"]["exposure"] = share + shift
    run.mark.write_text(json.dumps(document))
    summary = predict([run.mark], PredictConfig(db=str(market_db), journal=tmp_path / "j.db"), now=NOW)
    assert any("the run's figures say little about this refit" in note for note in summary.notes) == told


def test_the_newest_run_of_a_model_and_ticker_predicts(market_db: Path, tmp_path: Path) -> None:
    """Of two runs the older one predicts the ticker alone that the newer one does not know; all do if asked to."""
    folder = tmp_path / "models"
    older = command(market_db, folder, ticker="AAA,BBB", pooled=True, refit=False)
    document = json.loads(older.mark.read_text()) | {"created": "2012-01-01T00:00:00+00:00"}
    older.mark.write_text(json.dumps(document))
    newer = command(market_db, folder, refit=False)
    found = {one["ticker"]: one["model"] for one in ask(market_db, tmp_path, folder)}
    assert found == {"AAA": newer.stem, "BBB": older.stem}
    summary = predict([folder], PredictConfig(db=str(market_db), journal=tmp_path / "j.db"), now=NOW)
    assert "1 older run of the same model and ticker left out; --all-runs predicts with all of them" in summary.notes
    assert len(ask(market_db, tmp_path, folder, all_runs=True)) == 3


def test_predictions_of_a_refit_do_not_depend_on_later_bars(market_db: Path, tmp_path: Path) -> None:
    """The refit on bars up to a day gives the same files whatever the database holds after it."""
    early = command(market_db, tmp_path / "a", end="2012-03-30")
    assert early.document.fits[0][1].refit.last == "2012-03-30"  # type: ignore[union-attr]
    bars = {"AAA": nb.read_bars(market_db, ["AAA"])["AAA"][:"2012-03-30"]}
    alone = nb.refit(nb.train(bars, MODELS["xgb"], warmup=60), bars)
    ((_, fit),), ((_, own_fit),) = early.document.fits, alone.document.fits
    assert fit.refit.digests["weights"] == own_fit.refit.digests["weights"]  # type: ignore[union-attr]
    probabilities = [
        run.model("AAA", refit=True).predict(bars["AAA"])["probability"].to_numpy() for run in (early, alone)
    ]
    np.testing.assert_array_equal(*probabilities)


def test_the_command_writes_and_reproduces_a_refit(
    market_db: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`train --refit` lists the files, `reproduce` compares them."""
    arguments = ["--ticker", "AAA", "--no-tune", "--warmup", "60", "--refit", "--verbose", "--db", str(market_db)]
    with pytest.raises(SystemExit) as end:
        main(["train", "xgb", *arguments, "--save_dir", str(tmp_path)])
    assert not end.value.code
    out = capsys.readouterr().out
    assert "_refit.meta.json" in out
    assert f"refit on all bars up to {LAST}, for predict: AAA" in out
    (mark,) = tmp_path.glob("*_metadata.json")
    notes = json.loads(next(tmp_path.glob("*_refit.meta.json")).read_text())
    assert notes["best_iteration"] == json.loads(mark.read_text())["folds"][0]["tasks"][0]["details"]["best_iteration"]
    with pytest.raises(SystemExit) as end:
        main(["reproduce", str(next(tmp_path.glob("*_refit.json"))), "--db", str(market_db)])
    assert not end.value.code
    assert "bit-identical (1 fit, 1 refit)" in capsys.readouterr().out
