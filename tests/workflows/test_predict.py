"""From a saved model to tomorrow's signal, on the bars of `market_db`; and what stands in the way."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from nextbar.config import CommonConfig, TrainConfig
from nextbar.errors import (
    ArtifactError,
    BadBarsError,
    FeatureError,
    NothingToTrainError,
    OutputError,
    UnknownTickerError,
)
from nextbar.features import spec
from nextbar.runs import journal
from nextbar.runs.load import load_run
from nextbar.types import Silent
from nextbar.workflows.certify import certify_runs
from nextbar.workflows.options import PredictConfig
from nextbar.workflows.predict import PredictSummary, keep, predict
from nextbar.workflows.reproduce import reproduce
from nextbar.workflows.score import decide
from nextbar.workflows.train import train
from nextbar.workflows.universe import load_universe

NOW = dt.datetime(2012, 6, 18, 13, 0, tzinfo=dt.UTC)
HOSTILE = ["../../x", "BRK.B", "^GSPC", "005930.KS", "'; DROP TABLE stock_prices; --", "a_b~c", ".."]


@pytest.fixture
def ask(market_db: Path, tmp_path: Path) -> Any:
    """Function that predicts with models, three days after the last bar of `market_db`."""

    def run(*models: Path, **changes: Any) -> PredictSummary:
        config = PredictConfig(db=str(market_db), journal=tmp_path / "journal.db")
        config = dataclasses.replace(config, **changes)
        summary = predict(models, config, now=NOW)
        keep(summary, config)
        return summary

    return run


def one(folder: Path, start: str) -> Path:
    (path,) = folder.glob(f"{start}*_metadata.json")
    return path


@pytest.mark.parametrize(
    ("fixture", "start"),
    [("trained_trees", "random_forest"), ("trained_trees", "xgboost"), ("trained_lstm", "lstm")],
)
def test_the_saved_model_repeats_its_test_days(
    request: pytest.FixtureRequest, market_db: Path, fixture: str, start: str
) -> None:
    """On the days of the test split the artifact gives exactly the values that training recorded."""
    run = load_run(one(request.getfixturevalue(fixture), start))
    saved, recorded = run.trained(), run.rows
    config = dataclasses.replace(saved.config, db=str(market_db))
    assert len(recorded) > 50
    for ticker, rows in recorded.groupby("ticker"):
        table = saved.table(str(ticker), load_universe(config).bars[str(ticker)])
        at = np.searchsorted(table.dates, rows["date"].to_numpy().astype("datetime64[D]"))
        value = saved.fitted.predict(table, at)
        if start == "lstm":
            assert (value * table.quote[at]).tolist() == rows["predicted_close"].tolist()
        else:
            assert value.tolist() == rows["probability"].tolist()
            assert saved.threshold(str(ticker)) == rows["threshold"].iloc[0]


def test_the_last_bar_is_predicted_and_journaled(ask: Any, trained_trees: Path, tmp_path: Path) -> None:
    """Both trees speak of the last bar there is, decide by the recorded threshold, and the journal holds the same."""
    summary = ask(*trained_trees.iterdir())
    assert [entry.kind for entry in sorted(summary.entries, key=lambda entry: entry.kind)] == ["rf", "xgb"]
    for entry in summary.entries:
        assert (entry.ticker, entry.date, entry.made) == ("AAA", "2012-06-15", NOW.isoformat())
        assert entry.predicted_class == entry.signal == int(entry.probability >= entry.threshold)
        assert entry.predicted_close is None
    assert journal.read(tmp_path / "journal.db") == summary.entries
    assert not summary.skipped
    assert not summary.notes


def test_a_repeated_prediction_is_told_and_counts_once(ask: Any, trained_trees: Path, market_db: Path) -> None:
    """A note says since when the journal holds one of the kind, the ticker and the day; score leaves others out."""
    summary = ask(one(trained_trees, "random_forest"))
    assert summary.notes == []
    (entry,) = summary.entries
    journal.append(summary.journal, [dataclasses.replace(entry, kind="xgb", model="older")])
    noted = "AAA: already noted on 2012-06-18 13:00 UTC"
    assert sorted(ask(*trained_trees.iterdir()).notes) == [
        f"{noted} by older; score counts only the first, unless it is given a model",
        f"{noted}; score counts only the first, unless it is given a model",
    ]
    lines = decide(CommonConfig(db=str(market_db)), summary.journal, now=NOW).lines
    assert [(line.entry.kind, line.state) for line in sorted(lines, key=lambda line: line.entry.kind)] == [
        (kind, state) for kind in ("rf", "xgb") for state in ("pending", "repeated")
    ]


def test_an_lstm_predicts_a_quoted_close(ask: Any, trained_lstm: Path, market_bars: dict[str, pd.DataFrame]) -> None:
    """The price is on the scale of the last quote, after a split too, and the signal compares the two."""
    summary = ask(one(trained_lstm, "lstm"))
    assert sorted(entry.ticker for entry in summary.entries) == ["AAA", "BBB"]
    for entry in summary.entries:
        assert entry.close == pytest.approx(market_bars[entry.ticker]["Close"].iloc[-1], rel=1e-12)
        assert entry.predicted_close == pytest.approx(entry.close, rel=0.5)
        assert entry.signal == int(entry.predicted_close > entry.close)
        assert entry.probability is entry.threshold is None


def test_the_future_changes_nothing(
    ask: Any, trained_trees: Path, market_bars: Any, make_database: Any, tmp_path: Path
) -> None:
    """A prediction from day t is the same whether or not later bars are in the database."""
    model = one(trained_trees, "random_forest")
    saved = load_run(model).trained()
    whole = load_universe(dataclasses.replace(saved.config, ticker="AAA")).bars["AAA"]
    table = saved.table("AAA", whole)
    db = make_database(tmp_path / "cut.db", {"AAA": market_bars["AAA"].iloc[:-9]})
    (entry,) = ask(model, db=str(db), max_age_days=14).entries
    at = np.searchsorted(table.dates, np.datetime64(entry.date))
    assert at == len(table.dates) - 10
    before, then = saved.fitted.predict(table, np.array([at - 1, at]))
    assert entry.probability == then != before


def test_a_day_that_is_not_over_is_refused(trained_trees: Path, market_db: Path, tmp_path: Path) -> None:
    """On the last bar's day there is no prediction before the close, nor from a bar of a day to come."""
    config = PredictConfig(ticker="AAA", db=str(market_db), journal=tmp_path / "journal.db")
    model = [one(trained_trees, "xgboost")]
    for hour in ("2012-06-14T22:00", "2012-06-15T12:00", "2012-06-15T20:20"):
        with pytest.raises(BadBarsError, match="the last bar is of 2012-06-15, a day that is not over on XNYS"):
            predict(model, config, now=dt.datetime.fromisoformat(f"{hour}+00:00"))
    assert predict(model, config, now=dt.datetime(2012, 6, 15, 21, tzinfo=dt.UTC)).entries


@pytest.mark.parametrize(
    ("now", "calendar", "late"),
    [
        (NOW, "XNYS", False),  # Monday, half an hour before the market of the bar after Friday's opens
        (NOW + dt.timedelta(minutes=30), "XNYS", True),
        (NOW, "XTKS", True),  # Monday is over in Tokyo
        (dt.datetime(2012, 6, 17, 20, 0, tzinfo=dt.UTC), "XNYS", False),  # Sunday
    ],
)
def test_a_prediction_that_is_too_late_to_count_says_so(
    trained_trees: Path, market_db: Path, tmp_path: Path, now: dt.datetime, calendar: str, late: bool
) -> None:
    """By the calendar the next bar is known before it is ingested, and by the rule of `score` when it is too late."""
    config = PredictConfig(db=str(market_db), journal=tmp_path / "journal.db", calendar=calendar)
    notes = [note for note in predict([one(trained_trees, "xgboost")], config, now=now).notes if "is late" in note]
    told = f"AAA: the market of the next bar, 2012-06-18 on {calendar}, has opened already, so this prediction is late"
    assert notes == ([f"{told} and counts in no score; ingest newer bars and predict again"] if late else [])


def test_a_stale_bar_is_refused(ask: Any, trained_trees: Path) -> None:
    """The age limit counts calendar days, inclusively, and the message says what to do."""
    model = one(trained_trees, "xgboost")
    assert ask(model, max_age_days=3).entries
    with pytest.raises(BadBarsError, match=r"AAA: the last bar is of 2012-06-15, 3 days ago.*fetch newer bars"):
        ask(model, ticker="AAA", max_age_days=2)
    with pytest.raises(NothingToTrainError, match="no prediction: AAA: the last bar is of 2012-06-15"):
        ask(model, max_age_days=2)
    with pytest.raises(NothingToTrainError, match="no prediction: AAA: the last bar is of 2012-06-15") as told:
        ask(model, one(trained_trees, "random_forest"), max_age_days=2)
    assert str(told.value).count("the last bar is") == 1


def test_one_stale_ticker_does_not_stop_the_others(
    ask: Any, trained_lstm: Path, market_bars: Any, make_database: Any, tmp_path: Path
) -> None:
    """A ticker that ended is left out with its reason, unless it was asked for by name."""
    db = make_database(tmp_path / "m.db", {"AAA": market_bars["AAA"], "BBB": market_bars["BBB"].iloc[:-30]})
    model = one(trained_lstm, "lstm")
    summary = ask(model, db=str(db))
    assert [entry.ticker for entry in summary.entries] == ["AAA"]
    assert "BBB: the last bar is of 2012-05-04" in " ".join(summary.skipped.values())
    with pytest.raises(BadBarsError, match="BBB: the last bar"):
        ask(model, db=str(db), ticker="AAA,BBB")


def test_a_gap_too_short_a_history_and_a_foreign_ticker_are_refused(
    ask: Any, trained_trees: Path, market_bars: Any, make_database: Any, tmp_path: Path
) -> None:
    """Bars inside the warm-up predict nothing, and a model knows its own ticker alone."""
    db = make_database(tmp_path / "m.db", {"AAA": market_bars["AAA"].iloc[-199:]})
    with pytest.raises(BadBarsError, match="nothing can be predicted from the last of 199 bars"):
        ask(one(trained_trees, "xgboost"), db=str(db), ticker="AAA")
    with pytest.raises(ArtifactError, match="knows AAA, not BBB; train a model of it"):
        ask(one(trained_trees, "xgboost"), ticker="AAA,BBB")
    with pytest.raises(ArtifactError, match="knows AAA, not AAAB; nearest: AAA; train a model of it"):
        ask(one(trained_trees, "xgboost"), ticker="AAAB")


def test_a_ticker_that_no_model_of_a_folder_knows_is_named_alone(ask: Any, trained_trees: Path, tmp_path: Path) -> None:
    """Each ticker asked for needs a model among all that are given, not one model all tickers."""
    folder = Path(shutil.copytree(trained_trees, tmp_path / "models"))
    mark = next(folder.glob("xgboost*_metadata.json"))
    mark.write_text(mark.read_text().replace('"AAA"', '"ZZZ"'))
    with pytest.raises(ArtifactError, match=r"models of these 2 runs know AAA, ZZZ, not NOPE; train"):
        ask(folder, ticker="AAA,NOPE")
    assert {entry.ticker for entry in ask(folder, ticker="AAA").entries} == {"AAA"}


def test_revised_bars_are_told(
    ask: Any, trained_trees: Path, market_bars: Any, make_database: Any, tmp_path: Path
) -> None:
    """When the bars that the model saw have changed since, the prediction comes with a note."""
    frame = market_bars["AAA"].copy()
    frame.loc[frame.index[300], "Volume"] += 1
    db = make_database(tmp_path / "m.db", {"AAA": frame})
    assert "AAA: bars up to 2012-06-15 were revised" in ask(one(trained_trees, "xgboost"), db=str(db)).notes[0]


def test_nothing_is_journaled_when_a_model_fails(ask: Any, trained_trees: Path, tmp_path: Path) -> None:
    """All models predict, or the journal stays as it was."""
    folder = tmp_path / "models"
    shutil.copytree(trained_trees, folder)
    next(folder.glob("xgboost_*.meta.json")).unlink()
    with pytest.raises(ArtifactError, match="is missing"):
        ask(one(folder, "random_forest"), one(folder, "xgboost"))
    assert not (tmp_path / "journal.db").exists()


def test_predictions_are_not_given_without_the_journal(ask: Any, trained_trees: Path, tmp_path: Path) -> None:
    """A prediction that cannot be noted is an error: the journal is whole or it proves nothing."""
    (tmp_path / "text").write_text("no database")
    with pytest.raises(OutputError, match="the journal cannot be used"):
        ask(one(trained_trees, "xgboost"), journal=tmp_path / "text")


FEATURES = "import pandas as pd\ndef own(bars):\n    return pd.DataFrame({{'{name}': bars['Close'].diff({days})}})\n"


@pytest.fixture
def own_features(market_db: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inline: Any) -> Any:
    """A model trained with a function of the user's, and a function that rewrites that one."""
    monkeypatch.chdir(tmp_path)

    def write(name: str, days: int) -> None:
        (tmp_path / "own_columns.py").write_text(FEATURES.format(name=name, days=days))
        shutil.rmtree(tmp_path / "__pycache__", ignore_errors=True)
        sys.modules.pop("own_columns", None)

    write("Diff", 1)
    monkeypatch.syspath_prepend(str(tmp_path))
    config = TrainConfig(
        model="xgb", ticker="AAA", db=str(market_db), save_dir="m", no_tune=True, features="own_columns:own"
    )
    train(config, Silent())
    yield one(tmp_path / "m", "xgboost"), write
    sys.modules.pop("own_columns", None)


def test_code_named_by_a_file_is_not_run(ask: Any, own_features: Any) -> None:
    """A model with a feature function is predicted, reproduced and certified only when the user names it too."""
    model, _ = own_features
    sys.modules.pop("own_columns", None)
    for use in (ask, lambda path: reproduce(path, Silent()), lambda path: certify_runs([path], Silent())):
        with pytest.raises(FeatureError, match="if you trust that code, add: --features own_columns:own"):
            use(model)
    assert "own_columns" not in sys.modules
    assert ask(model, features="own_columns:own").entries


def test_changed_features_are_refused(ask: Any, own_features: Any, trained_trees: Path) -> None:
    """Another column, and another value in the same column, are told from what the model was trained on."""
    model, write = own_features
    write("Other", 1)
    with pytest.raises(FeatureError, match=r"was trained on the columns .*Diff; now they are .*Other; bring the old"):
        ask(model, features="own_columns:own")
    write("Diff", 2)
    with pytest.raises(FeatureError, match="was trained on other values of own_columns:own on the same bars"):
        ask(model, features="own_columns:own")
    with pytest.raises(FeatureError, match="leave --features out"):
        ask(one(trained_trees, "xgboost"), features="own_columns:own")


def test_models_with_and_without_own_features_are_asked_together(
    ask: Any, own_features: Any, trained_trees: Path
) -> None:
    """A named function is used where it belongs; where it is not named, that model alone is left out."""
    models = own_features[0], one(trained_trees, "xgboost")
    (reason,) = (found := ask(*models, all_runs=True)).skipped.values()
    assert len(found.entries) == 1
    assert "if you trust that code, add: --features own_columns:own" in reason
    assert len(ask(*models, features="own_columns:own", all_runs=True).entries) == 2


def test_the_recorded_end_is_not_the_last_bar(ask: Any, trained_trees: Path, tmp_path: Path) -> None:
    """A model that was trained up to some day predicts from the last bar there is, not from that day."""
    folder = Path(shutil.copytree(trained_trees, tmp_path / "models"))
    path = one(folder, "xgboost")
    metadata = json.loads(path.read_text())
    metadata["config"]["end"] = "2012-06-01"
    path.write_text(json.dumps(metadata))
    assert [entry.date for entry in ask(path).entries] == ["2012-06-15"]


def damaged(**changes: Any) -> Any:
    def change(metadata: dict[str, Any]) -> dict[str, Any]:
        return metadata | changes

    return change


def fitted(**changes: Any) -> Any:
    """Change the only fit."""

    def change(metadata: dict[str, Any]) -> dict[str, Any]:
        metadata["folds"][0]["tasks"][0] |= changes
        return metadata

    return change


def configured(**changes: Any) -> Any:
    return lambda metadata: metadata | {"config": metadata["config"] | changes}


@pytest.mark.parametrize(
    "change",
    [
        damaged(config={}),
        configured(surprise=1),
        configured(model="os"),
        configured(model="rf"),
        configured(max_gap_days=None),
        configured(warmup="200"),
        fitted(threshold={}),
        fitted(threshold={"AAA": {"threshold": "x"}}),
        fitted(threshold={"AAA": {"threshold": float("nan")}}),
        fitted(digests={}),
        damaged(tickers=["ZZZ"]),
        fitted(splits=None),
        fitted(splits={}),
        damaged(folds=[]),
        damaged(data={"AAA": {"bars": 1, "last": "'; DROP TABLE", "fingerprint": ""}}),
        damaged(created="yesterday"),
        damaged(features={"columns": ["Close"]}),
    ],
)
def test_metadata_that_makes_no_sense_is_refused(ask: Any, trained_trees: Path, tmp_path: Path, change: Any) -> None:
    """What stands in the metadata is checked before it is used; a traceback is no answer."""
    folder = tmp_path / "models"
    shutil.copytree(trained_trees, folder)
    path = one(folder, "xgboost")
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(ArtifactError):
        ask(path)


@pytest.mark.parametrize("symbol", ["ALL", "A,B", "all"])
def test_a_symbol_that_means_something_is_a_symbol(
    ask: Any, make_bars: Any, make_database: Any, tmp_path: Path, trained_trees: Path, symbol: str
) -> None:
    """A model of Allstate (ALL) or of a symbol with a comma is predicted alone, whatever else the database holds."""
    model = one(Path(shutil.copytree(trained_trees, tmp_path / "models")), "xgboost")
    text = model.read_text().replace('"AAA"', json.dumps(symbol))
    model.write_text(text)
    bars = {name: make_bars(320, seed=seed, start="2011-03-28") for seed, name in enumerate([symbol, "B", "A"])}
    db = make_database(tmp_path / "m.db", bars)
    assert [entry.ticker for entry in ask(model, db=str(db)).entries] == [symbol]
    assert [entry.ticker for entry in ask(model, db=str(db), ticker=symbol).entries] == [symbol]


def test_a_delisted_ticker_does_not_stop_the_others(
    ask: Any, trained_lstm: Path, market_bars: Any, make_database: Any, tmp_path: Path
) -> None:
    """One that the database does not hold any more is left out with its reason, unless it was asked for by name."""
    db = make_database(tmp_path / "m.db", {"AAA": market_bars["AAA"]})
    model = one(trained_lstm, "lstm")
    summary = ask(model, db=str(db))
    assert [entry.ticker for entry in summary.entries] == ["AAA"]
    (reason,) = summary.skipped.values()
    assert reason == f"BBB: {db} does not hold it (import its bars, or name another --db)"
    with pytest.raises(UnknownTickerError, match="BBB"):
        ask(model, db=str(db), ticker="AAA,BBB")


def test_an_unfinished_run_is_skipped_among_others(ask: Any, trained_trees: Path, tmp_path: Path) -> None:
    """What a killed training left without metadata has a reason and stops no other model; alone it is an error."""
    left = tmp_path / "xgboost_AAA_20240101_000000.json"
    left.write_text("{}")
    model = one(trained_trees, "random_forest")
    summary = ask(left, model, left.with_suffix(".meta.json"))
    assert [entry.kind for entry in summary.entries] == ["rf"]
    assert list(summary.skipped.values()) == [f"{left.stem}: its metadata is missing, the run was never finished"]
    with pytest.raises(ArtifactError, match="is missing"):
        ask(left, left.with_suffix(".meta.json"))


def test_two_folders_with_the_same_names_are_two_models(ask: Any, trained_trees: Path, tmp_path: Path) -> None:
    """A run counts once by each of its files and by each way to write its folder; a copy elsewhere is another."""
    model = one(trained_trees, "xgboost")
    copy = one(Path(shutil.copytree(trained_trees, tmp_path / "copy")), "xgboost")
    again = copy.parent / ".." / "copy" / copy.name
    assert len(ask(model, copy, again, *trained_trees.glob("xgboost*"), all_runs=True).entries) == 2


def test_other_values_of_built_in_features_are_told(
    ask: Any, trained_trees: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the indicators on the same bars are not those of training, the prediction comes with a note that says so."""
    real = spec.indicators
    monkeypatch.setattr(spec, "indicators", lambda close: {**real(close), "RSI": real(close)["RSI"] + 1e-9})
    (note,) = ask(one(trained_trees, "xgboost")).notes
    assert "features have other values than when xgboost_AAA" in note
    assert "nextbar reproduce tells" in note


def test_hostile_tickers_stay_inside(ask: Any, make_bars: Any, make_database: Any, tmp_path: Path, inline: Any) -> None:
    """Symbols that look like paths or SQL are trained, saved, predicted and journaled like others, and harm nothing."""
    root = tmp_path / "deep" / "er"
    root.mkdir(parents=True)
    bars = {name: make_bars(320, seed=seed, start="2011-03-28") for seed, name in enumerate(HOSTILE)}
    db = make_database(root / "m.db", bars)
    config = TrainConfig(model="xgb", db=str(db), save_dir=str(root / "models"), no_tune=True, warmup=60)
    runs = train(config, Silent()).runs
    assert sorted(run.label for run in runs) == sorted(HOSTILE)
    assert {path.parent for run in runs for path in run.files} == {root / "models"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["deep"]
    summary = ask(*(run.files[-1] for run in runs), db=str(db))
    assert sorted(entry.ticker for entry in summary.entries) == sorted(HOSTILE)
    again = [
        entry
        for name in HOSTILE
        for entry in ask(*(r.files[0] for r in runs if r.label == name), db=str(db), ticker=name).entries
    ]
    assert {entry.ticker: entry.probability for entry in again} == {e.ticker: e.probability for e in summary.entries}
    assert len(journal.read(tmp_path / "journal.db")) == 2 * len(HOSTILE)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["deep", "journal.db"]


def test_a_tree_is_predicted_without_keras(trained_trees: Path, market_db: Path, tmp_path: Path) -> None:
    """`nextbar predict` on a forest imports neither keras nor jax nor xgboost, nor what judges and draws."""
    code = f"""
import sys
from nextbar.cli.main import main
try:
    main(["predict", {str(one(trained_trees, "random_forest"))!r}, "--db", {str(market_db)!r},
          "--max_age_days", "99999", "--journal", {str(tmp_path / "j.db")!r}])
except SystemExit as end:
    assert not end.code, end.code
print(sorted({{"keras", "jax", "xgboost", "tensorflow", "torch", "arch", "plotly"}} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_places_are_tried_before_anything_is_predicted_or_certified(
    ask: Any, trained_trees: Path, market_db: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder without permission costs no work: neither journal nor CSV file nor certificate could be written."""
    run, failing = one(trained_trees, "xgboost"), lambda *_args, **_options: pytest.fail("worked")
    monkeypatch.setattr("nextbar.workflows.predict._runs", failing)
    monkeypatch.setattr("nextbar.workflows.certify.certify_recorded", failing)
    monkeypatch.setattr("nextbar.runs.files.os.access", lambda *_: False)
    with pytest.raises(OutputError, match=r"--out .*s.csv: cannot be written \(Permission denied\)"):
        ask(run, out=tmp_path / "s.csv")
    with pytest.raises(
        OutputError, match=r"journal.db: cannot be made \(Permission denied\); choose another --journal"
    ):
        ask(run)
    monkeypatch.setattr("nextbar.runs.files.Path.touch", lambda *_, **_options: Path("/proc/none").write_text(""))
    with pytest.raises(OutputError, match="cannot write there"):
        certify_runs([run], Silent(), db=str(market_db))
