"""The LSTM's target ``return`` and its ensembles, from training to saved files, certificates and figures."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import nextbar as nb
from nextbar.cli.main import main
from nextbar.datasets.sequences import volatility
from nextbar.models.lstm import keras
from nextbar.models.lstm_model import LSTM
from nextbar.types import JsonDict

SMALL: dict[str, Any] = {"epochs": 1, "sequence_length": 8, "batch_size": 128}
WINDOWS = nb.Windows(train_years=1, val_months=3, test_months=3, step_months=6)


pytestmark = pytest.mark.usefixtures("inline_module")


@pytest.fixture(scope="module")
def bars(market_bars: dict[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    return nb.bars({name: market_bars[name].rename(columns={"Adj": "Adj Close"}) for name in ("AAA", "BBB")})


def trained(bars: Any, **options: Any) -> nb.Run:
    return nb.train(bars, LSTM(**{**SMALL, **options}), warmup=60)


@pytest.fixture(scope="module")
def both(bars: Any) -> nb.Run:
    """Two networks that predict returns."""
    return trained(bars, target="return", ensemble=2)


@pytest.fixture(scope="module")
def several(bars: Any) -> nb.Run:
    """Two networks that predict closes."""
    return trained(bars, ensemble=2)


@pytest.fixture(scope="module")
def alone(bars: Any) -> nb.Run:
    """One network that predicts closes."""
    return trained(bars)


@pytest.fixture(scope="module", params=["both", "several"])
def run(request: pytest.FixtureRequest) -> nb.Run:
    found: nb.Run = request.getfixturevalue(request.param)
    return found


def details(run: nb.Run) -> JsonDict:
    return run.document.fits[0][1].details


def test_a_saved_one_predicts_the_same(run: nb.Run, bars: Any, tmp_path: Path) -> None:
    """Loaded from its files it gives the bits of the run's rows, and is reproduced from them."""
    old = nb.load_run(run.save(tmp_path)[-1])
    for ticker in bars:
        rows = run.rows[run.rows["ticker"] == ticker].dropna(subset="predicted_close").set_index("date")
        found = old.model(ticker).predict(bars[ticker]).loc[rows.index]
        np.testing.assert_array_equal(found["predicted_close"], rows["predicted_close"])
        np.testing.assert_array_equal(found["class"], rows["class"])
    assert nb.reproduce(old, bars).identical
    pd.testing.assert_frame_equal(old.figures, run.figures)


def test_plain_keras_and_the_metadata_give_the_price(both: nb.Run, bars: Any, tmp_path: Path) -> None:
    """With keras alone, and the words of the metadata, a window becomes the predicted close; several networks too."""
    run = both
    path = next(path for path in run.save(tmp_path) if path.suffix == ".keras")
    told = json.loads(path.with_name(f"{path.stem}_metadata.json").read_text())["folds"][0]["tasks"][0]["details"]
    table = run.trained("AAA").table("AAA", run.trained("AAA").bars_of("AAA", nb_history(bars["AAA"])))
    end = len(table.dates) - 1
    rows = table.features[end - SMALL["sequence_length"] + 1 : end + 1]
    returns = pd.Series(table.close).pct_change()
    close, unit = table.close[end], max(returns.iloc[-20:].std(ddof=1), 0.001)
    rules, scale = told["output"]["input"], told["output"]["scales"]["AAA"]
    window = np.empty_like(rows)
    for at, name in enumerate(table.columns):
        if name in rules["(column - close) / (close * volatility)"]:
            window[:, at] = (rows[:, at] - close) / (close * unit)
        elif name in rules["column / (close * volatility)"]:
            window[:, at] = rows[:, at] / (close * unit)
        else:
            window[:, at] = (rows[:, at] - scale["mean"][at]) / scale["deviation"][at]
    output = float(keras.models.load_model(path).predict(window[None].astype(np.float32), verbose=0)[0, 0])
    expected = run.model("AAA").predict(bars["AAA"]).iloc[-1]
    assert told["output"]["predicted_close"] == "close * (1 + output * volatility)"
    assert close * (1 + output * unit) * table.quote[end] == pytest.approx(expected["predicted_close"], rel=1e-6)


def nb_history(frame: pd.DataFrame) -> Any:
    from nextbar.datasets.prices import history_of, market_format

    return history_of(market_format("AAA", frame))


def test_the_first_network_is_the_one_alone(alone: nb.Run, several: nb.Run, bars: Any) -> None:
    """An ensemble has the network of that seed and others; its prediction is their mean; seeds do not repeat."""
    fitted, one = (found.trained("AAA").fitted for found in (several, alone))
    assert all((a == b).all() for a, b in zip(fitted.weight_sets[0], one.weights, strict=True))
    table = several.trained("AAA").table("AAA", several.trained("AAA").bars_of("AAA", nb_history(bars["AAA"])))
    rows = np.arange(400, 440)
    ends, outputs = fitted._outputs(table, rows)
    assert outputs.shape == (2, 40)
    assert (np.ptp(outputs, axis=0) > 0).all()
    expected = fitted.scalers["AAA"].price(outputs.mean(axis=0))
    np.testing.assert_array_equal(fitted.predict(table, ends), expected)
    assert len({network["seed"] for network in details(several)["networks"]}) == 2


def test_the_spread_between_seeds_stands_beside_the_skill(alone: nb.Run, several: nb.Run) -> None:
    """Each network's own skill: the first has that of the network alone; one network has no spread."""
    found = several.document.price
    assert len(found.network_skills) == 2
    assert found.network_skills[0] == pytest.approx(alone.document.price.mean_skill)
    assert alone.document.price.network_skills is None


def test_explained_variance_is_that_of_the_rows(both: nb.Run, bars: Any) -> None:
    """R² against zero and against the mean of train, computed again from rows and bars."""
    run = both
    model = run.trained("AAA")
    true, found, train_mean = [], [], []
    for ticker in bars:
        table = model.table(ticker, model.bars_of(ticker, nb_history(bars[ticker])))
        days = run.rows[(run.rows["ticker"] == ticker) & run.rows["next_return"].notna()]
        at, unit = np.searchsorted(table.dates, days["date"].to_numpy().astype("datetime64[D]")), volatility(table)
        true.append(days["next_return"].to_numpy() / unit[at])
        close = table.close[at] * table.quote[at]
        found.append((days["predicted_close"].to_numpy() / close - 1) / unit[at])
        splits = run.document.fits[0][1].splits[ticker]
        first = int(np.searchsorted(table.dates, np.datetime64(splits.train.first)))
        # The first window ends a window's length into train, the last a day before its end.
        rows = np.arange(first + SMALL["sequence_length"] - 1, first + splits.train.rows - 1)
        train_mean.append((table.close[rows + 1] / table.close[rows] - 1) / unit[rows])
    z, p, mean = np.concatenate(true), np.concatenate(found), np.concatenate(train_mean).mean()
    price, squared = run.document.price, ((z - p) ** 2).sum()
    assert price.return_mse == pytest.approx(((z - p) ** 2).mean(), rel=1e-6)
    assert price.r2_zero == pytest.approx(1 - squared / (z**2).sum(), abs=1e-6)
    assert price.r2_mean == pytest.approx(1 - squared / ((z - mean) ** 2).sum(), abs=1e-6)


def test_scaled_errors_of_the_two_targets_have_different_names(alone: nb.Run, both: nb.Run) -> None:
    """A figure of the one target is absent in a run of the other, so that nothing can compare them."""
    assert (alone.document.price.scaled_mse is None, alone.document.price.return_mse is None) == (False, True)
    assert (both.document.price.scaled_mse is None, both.document.price.return_mse is None) == (True, False)


def test_the_default_target_says_how_far_test_is_outside(alone: nb.Run, both: nb.Run) -> None:
    """A remark with the share of test rows, the error and that of persistence; the other target has none."""
    (remark,) = [text for text in alone.document.remarks if "--target return" in text]
    shares = details(alone)["test_share_outside_scaler"]
    rows = {ticker: alone.document.fits[0][1].splits[ticker].test.rows for ticker in shares}
    share = sum(shares[name] * rows[name] for name in shares) / sum(rows.values())
    price = alone.document.price
    errors = f"error {price.mean_price_rmse_percent:.1f} %, persistence {price.mean_persistence_rmse_percent:.1f} %"
    assert remark == f"{100 * share:.1f} % of the test rows lie outside the fitted range; {errors}; see --target return"
    assert not [text for text in both.document.remarks if "fitted range" in text]


def test_a_walk_forward_of_several_networks_is_one_trial(bars: Any, tmp_path: Path) -> None:
    """The ledger counts an ensemble once, by its own name, and its figures have the spread."""
    ledger = tmp_path / "ledger.db"
    for options in ({}, {"ensemble": 2}):
        run = nb.walk_forward(bars, LSTM(**SMALL, **options), windows=WINDOWS, warmup=60, ledger=ledger)
    assert len(run.document.price.network_skills) == 2
    assert nb.verdict(run, ledger=ledger).tries.count == 2


def test_the_commands_show_both(market_db: Path, tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    """Tables name the target; skill, R² and the spread between networks stand in words."""
    monkeypatch.chdir(tmp_path)
    small = ["--epochs", "1", "--sequence-length", "5", "--warmup", "60", "--batch-size", "128", "--ticker", "AAA,BBB"]
    with pytest.raises(SystemExit) as ended:
        main(["train", "lstm", "--db", str(market_db), *small, "--target", "return", "--ensemble", "2"])
    out = capsys.readouterr().out
    assert not ended.value.code
    assert "lstm return, 2 tickers: average RMSE in price units" in out
    for text in ("test MSE of returns in volatilities", "2 networks by themselves", "R² ", "against the mean of train"):
        assert text in out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": "price"}, "target expects one of close, return, got 'price'"),
        ({"target": None}, "target expects a value"),
        ({"ensemble": 0}, "ensemble expects at least 1, got 0"),
        ({"ensemble": 101}, "ensemble expects at most 100, got 101"),
        ({"ensemble": 2.5}, "ensemble expects a whole number, got 2.5"),
    ],
    ids=["another target", "no target", "no network", "too many networks", "half a network"],
)
def test_bad_values_are_refused(options: JsonDict, message: str) -> None:
    """What is expected, what came and the option's name."""
    with pytest.raises(nb.errors.ConfigError, match=message):
        LSTM(**options)


@pytest.fixture(scope="module")
def written(both: nb.Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Document of a saved run."""
    return both.save(tmp_path_factory.mktemp("saved"))[-1]


@pytest.mark.parametrize(
    "change",
    [
        lambda facts: facts.pop("output"),
        lambda facts: facts["output"]["scales"]["AAA"].pop("mean"),
        lambda facts: facts["output"]["scales"]["AAA"].update(deviation=[0.0] * 6),
        lambda facts: facts["output"]["scales"]["AAA"].update(mean=[0.0] * 5),
        lambda facts: facts["output"].update(scales={"AAA": [1.0, 2.0]}),
    ],
    ids=["no scale", "no mean", "zero deviation", "too few columns", "a list"],
)
def test_a_damaged_scale_is_refused(change: Any, written: Path, tmp_path: Path) -> None:
    """A document whose scale is missing or no scale is refused by name, before anything is predicted."""
    for path in written.parent.iterdir():
        shutil.copy(path, tmp_path)
    document = json.loads(written.read_text())
    change(document["folds"][0]["tasks"][0]["details"])
    (tmp_path / written.name).write_text(json.dumps(document))
    with pytest.raises(nb.errors.ArtifactError, match=r"metadata\.json"):
        nb.load_run(tmp_path / written.name).model("AAA")
