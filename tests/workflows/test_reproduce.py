"""`nextbar reproduce`: the same bits from the metadata alone, or the first stage that differs and what explains it."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from nextbar.cli.main import main
from nextbar.config import TrainConfig, WalkForwardConfig
from nextbar.errors import ArtifactError, UnknownTickerError
from nextbar.evaluation.stages import first_stage
from nextbar.execution.engine import engines_by
from nextbar.types import Silent
from nextbar.workflows.documents import environment
from nextbar.workflows.reproduce import Reproduction, environment_changes, reproduce
from nextbar.workflows.train import train
from nextbar.workflows.walkforward import walk_forward

SMALL: dict[str, Any] = {
    "n_iter": 1,
    "cv_splits": 2,
    "space": {"max_depth": [2, 3], "n_estimators": [10]},
    "epochs": 1,
    "sequence_length": 10,
}
Patch = pytest.MonkeyPatch
Again = Callable[..., Reproduction]


@pytest.fixture
def trained(inline: Any, market_db: Path, tmp_path: Path) -> Callable[..., Path]:
    """Function that trains and gives the path of the metadata."""

    def run(**options: Any) -> Path:
        config = TrainConfig(
            **{**SMALL, "model": "xgb", "db": str(market_db), "ticker": "AAA", "save_dir": str(tmp_path), **options}
        )
        return train(config, Silent()).runs[0].files[-1]

    return run


@pytest.fixture
def again(market_db: Path) -> Again:
    """Function that reproduces a run on `market_db`, or where ``db`` says."""
    return lambda path, **place: reproduce(path, Silent(), **{"db": str(market_db), **place})


def edit(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def copy_with(db: Path, target: Path, statement: str) -> str:
    shutil.copy(db, target)
    with sqlite3.connect(target) as connection:
        connection.execute(statement)
    connection.close()
    return str(target)


@pytest.mark.parametrize("options", [{"model": "xgb"}, {"model": "rf", "no_tune": True}, {"split_by": "date"}])
def test_same_bits(options: dict[str, Any], trained: Callable[..., Path], again: Again) -> None:
    """Trees come out as they were, searched or not."""
    assert again(trained(**options)) == Reproduction(identical=True, folds=1)


def test_a_failed_certificate_is_told(
    trained: Callable[..., Path], market_db: Path, make_certificate: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same bits are no reason to trust them; a certificate that cannot be read is told, too."""
    path, asked = trained(no_tune=True), ["--db", str(market_db), "--engine", "serial", "--json"]
    file = make_certificate(path, "FAIL")
    for said, refuted in (("its certificate is FAIL: it may have used", True), ("its certificate cannot be rea", None)):
        with pytest.raises(SystemExit) as end:
            main(["reproduce", str(path), *asked])
        out, err = capsys.readouterr()
        assert (json.loads(out)["refuted"], json.loads(out)["identical"], end.value.code) == (refuted, True, 0)
        assert err.count(said) == 1
        file.write_text("{")


def test_files_beside_the_metadata_are_checked(trained: Callable[..., Path], again: Again) -> None:
    """A model that was changed since is refused, whatever training again would give; one that is gone is not missed."""
    path = trained(no_tune=True)
    model = path.with_name(path.name.replace("_metadata", ""))
    content = model.read_bytes()
    model.write_bytes(content.replace(b"0", b"1", 1))
    with pytest.raises(ArtifactError, match="was changed"):
        again(path)
    model.unlink()
    assert again(path).identical


@pytest.mark.parametrize("name", ["model.pkl", "model.json"])
def test_another_file_of_a_run_is_no_metadata(tmp_path: Path, name: str, again: Again) -> None:
    """Told the model instead of its metadata, it says which file it wants."""
    (tmp_path / name).write_text("{}")
    with pytest.raises(ArtifactError, match=r"\*_metadata.json"):
        again(tmp_path / name)


def test_same_bits_of_a_global_model(trained: Callable[..., Path], again: Again) -> None:
    """The network of several tickers comes out as it was, epochs, scalers and all; so does what is saved of it."""
    path = trained(model="lstm", ticker="BBB,AAA,TINY", split_by="date")
    assert list(json.loads(path.read_text())["folds"][0]["tasks"][0]["splits"]) == ["BBB", "AAA"]
    assert again(path).identical
    edit(path, lambda document: document["folds"][0]["tasks"][0]["scalers"]["AAA"]["features"][0].__setitem__(0, -1.0))
    assert again(path).stage == "model"


def test_fresh_process(market_db: Path, tmp_path: Path, child_env: dict[str, str]) -> None:
    """Trained in one process and made again in another, through the command line."""

    def nextbar(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "nextbar", *arguments]
        return subprocess.run(command, cwd=tmp_path, env=child_env, capture_output=True, text=True, check=False)

    made = nextbar("train", "xgb", "--db", str(market_db), "--ticker", "^GSPC", "--no-tune", "--engine", "serial")
    assert made.returncode == 0, made.stderr
    (path,) = (tmp_path / "models").glob("*_metadata.json")
    made_again = nextbar("reproduce", str(path), "--db", str(market_db))
    assert (made_again.returncode, made_again.stdout) == (0, "bit-identical (1 fit)\n"), made_again.stderr


INSERT = "INSERT INTO stock_prices (ticker, date, open, high, low, close, adj_close, volume) "
OTHER_FIRST = (
    "the {} common bars cannot be compared, because prices are adjusted from the first stored bar, which is that of {} "
    "now"
)


def test_one_changed_bar(trained: Callable[..., Path], market_db: Path, tmp_path: Path, capsys: Any) -> None:
    """The ticker and the day of the bar are named, and nothing is trained for an answer that is known."""
    path = trained()
    change = "UPDATE stock_prices SET high = high * 1.01 WHERE ticker = 'AAA' AND date = '2011-05-17'"
    db = copy_with(market_db, tmp_path / "changed.db", change)
    with pytest.raises(SystemExit) as stop:
        main(["reproduce", str(path), "--db", db])
    assert stop.value.code == 1
    said = capsys.readouterr().out
    assert "AAA, first at stage bars" in said
    assert "AAA: bars changed: 2011-05-17\n" in said
    assert json.loads(path.read_text())["data"]["AAA"]["fingerprint"] in said


def test_later_bars_do_not_matter(trained: Callable[..., Path], market_db: Path, tmp_path: Path, again: Again) -> None:
    """A database that has grown since still holds the recorded days."""
    path = trained()
    later = INSERT + "VALUES ('AAA', '2030-01-02', 9, 9, 9, 9, 9, 9)"
    assert again(path, db=copy_with(market_db, tmp_path / "grown.db", later)).identical


@pytest.mark.parametrize(
    ("statement", "told"),
    [
        (
            "DELETE FROM stock_prices WHERE date = '2011-05-17'",
            "bars 640, now 639; bars gone: 2011-05-17; the other 639 are as recorded",
        ),
        (
            "DELETE FROM stock_prices WHERE date < '2010-03-01'",
            "bars 640, now 600; bars begin on 2010-03-01, not on 2010-01-04: 40 bars missing there; "
            + OTHER_FIRST.format(600, "2010-03-01"),
        ),
        (
            INSERT + "VALUES ('AAA', '2009-12-01', 70, 70, 70, 70, 70, 9)",
            OTHER_FIRST.format(640, "2009-12-01"),
        ),
        (
            "DELETE FROM stock_prices WHERE date > '2012-06-08'",
            (
                "bars 640, now 635; bars end on 2012-06-08, not on 2012-06-15: 5 bars missing there; "
                "the other 635 are as recorded"
            ),
        ),
        (
            "UPDATE stock_prices SET date = '2011-05-21' WHERE date = '2011-05-20'",
            "bars gone: 2011-05-20; bars new: 2011-05-21; the other 639 are as recorded",
        ),
        (
            "UPDATE stock_prices SET volume = volume + 1 WHERE date >= '2012-06-01' AND ticker = 'AAA'",
            f"bars changed: {', '.join(f'2012-06-0{day}' for day in (1, 4, 5, 6, 7, 8))} and 5 more up to 2012-06-15",
        ),
    ],
    ids=["gone", "later start", "earlier start", "earlier end", "moved", "changed"],
)
def test_days_that_differ_are_told(
    statement: str, told: str, trained: Callable[..., Path], market_db: Path, tmp_path: Path, again: Again
) -> None:
    """Bars that are missing, new or changed, by day; of many the first few and the last; and whether others differ."""
    other = copy_with(market_db, tmp_path / "other.db", statement)
    assert again(trained(), db=other).differences == [f"AAA: {told}"]


def test_every_changed_ticker_is_named(
    trained: Callable[..., Path], market_db: Path, tmp_path: Path, again: Again
) -> None:
    """A network of two tickers whose bars have changed on different days."""
    path = trained(model="lstm", ticker="AAA,BBB")
    days = "(ticker, date) IN (VALUES ('AAA', '2010-01-04'), ('BBB', '2011-12-30'))"
    other = copy_with(market_db, tmp_path / "other.db", f"UPDATE stock_prices SET volume = volume + 1 WHERE {days}")
    found = again(path, db=other)
    assert found.differences == ["AAA: bars changed: 2010-01-04", "BBB: bars changed: 2011-12-30"]


def test_recorded_version_explains(trained: Callable[..., Path], capsys: Any, again: Again, market_db: Path) -> None:
    """Equal bits in spite of another version are said to be so; other bits come with what may explain them."""
    path = trained()
    edit(path, lambda document: document["environment"]["versions"].update(numpy="1.0.0"))
    same = again(path)
    assert same.identical
    assert same.differences[0].startswith("numpy 1.0.0 → ")
    edit(
        path,
        lambda document: document["folds"][0]["tasks"][0]["digests"].update(weights="0" * 64, predictions="1" * 64),
    )
    with pytest.raises(SystemExit) as stop:
        main(["reproduce", str(path), "--db", str(market_db)])
    assert stop.value.code == 1
    said = capsys.readouterr().out
    assert "AAA fold 0, first at stage weights" in said
    assert "0" * 64 in said
    assert "numpy 1.0.0 → " in said


def test_walk_forward(inline: Any, market_db: Path, tmp_path: Path, again: Again) -> None:
    """Every fold comes out as it was, with the parameters of the first; a digest that differs names its fold."""
    config = WalkForwardConfig(
        **SMALL,
        model="xgb",
        db=str(market_db),
        ticker="AAA,BBB",
        output_dir=str(tmp_path),
        train_years=1,
        val_months=2,
        test_months=1,
        step_months=1,
    )
    path = walk_forward(config, Silent()).files[-1]
    same = again(path)
    assert same.identical
    assert same.folds > 2
    edit(path, lambda document: document["folds"][1]["tasks"][1]["digests"].update(splits="0"))
    differs = again(path)
    assert (differs.identical, differs.where, differs.stage) == (False, "BBB fold 1", "splits")


@pytest.mark.parametrize("content", ["{", "[]", '{"schema_version": 1}', '{"schema_version": 1, "config": {}}'])
def test_not_the_metadata_of_a_run(content: str, tmp_path: Path, again: Again) -> None:
    """What cannot be read is bad input, with the path in the message."""
    path = tmp_path / "xgboost_AAA_20260102_030405_metadata.json"
    path.write_text(content)
    with pytest.raises(ArtifactError, match="xgboost_AAA_20260102_030405_metadata"):
        again(path)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            lambda document: document["config"].update(weather=1),
            "does not know the recorded options weather; a newer nextbar",
        ),
        (lambda document: document["config"].update(warmup="many"), "warmup is 'many'"),
        (lambda document: document["config"].update(cv_splits=0), "--cv-splits expects at least 2, got 0"),
        (lambda document: document["data"]["AAA"].update(days={"soon": "ab"}, fingerprint="0"), "soon"),
        (lambda document: document["data"].clear(), "AAA"),
        (lambda document: document["folds"][0]["tasks"][0]["splits"]["AAA"].clear(), "train"),
        (lambda document: document.update(environment=None), "Expected `object`, got `null` - at `..environment`"),
    ],
)
def test_damaged_metadata_is_refused(
    change: Callable[[dict[str, Any]], None], told: str, trained: Callable[..., Path], tmp_path: Path, again: Again
) -> None:
    """Whatever is wrong inside is bad input that names the file and the fault, never a traceback."""
    path = trained()
    edit(path, change)
    with pytest.raises(ArtifactError, match=f"{path.name}.*{told}"):
        again(path)


def test_unknown_ticker(
    trained: Callable[..., Path], make_database: Any, make_bars: Any, tmp_path: Path, again: Again
) -> None:
    """Another database is not taken for the one that was recorded."""
    other = make_database(tmp_path / "other.db", {"ZZZ": make_bars(300)})
    with pytest.raises(UnknownTickerError, match="AAA"):
        again(trained(), db=str(other))


def test_engine_is_chosen_here(trained: Callable[..., Path], inline: Any, again: Again, market_db: Path) -> None:
    """A run from a cluster is made again where we say, by default here, with the threads that were recorded."""
    opened: list[dict[str, Any]] = []
    path = trained()
    edit(path, lambda document: document["config"].update(engine="dask", scheduler="tcp://gone:8786"))
    with engines_by(lambda **options: opened.append(options) or inline(**options)):
        assert again(path).identical
        assert opened[-1] == {"name": "loky", "jobs": None, "threads": 1, "scheduler": None}
        main_ends(["reproduce", str(path), "--db", str(market_db), "--engine", "serial", "--jobs", "1"], code=0)
        assert opened[-1] == {"name": "serial", "jobs": 1, "threads": 1, "scheduler": None}
        main_ends(["reproduce", str(path), "--db", str(market_db), "--engine", "abacus"], code=2)


def main_ends(command: list[str], *, code: int) -> None:
    with pytest.raises(SystemExit) as stop:
        main(command)
    assert (stop.value.code or 0) == code


def test_first_stage_in_order() -> None:
    """Stages are compared as they run; a stage that only one side has differs."""
    assert first_stage({"bars": "a", "weights": "b"}, {"bars": "a", "weights": "b"}, {}) is None
    assert first_stage({"predictions": "a", "bars": "b"}, {"predictions": "x", "bars": "y"}, {}) == "bars"
    assert first_stage({"bars": "a", "own": "b"}, {"bars": "a"}, {}) == "own"


def test_environment_changes() -> None:
    """Versions, processor and threads, each with both values."""
    now = environment(1)
    then = msgspec.structs.replace(now, cpu="A", threads=7, versions={**now.versions, "gone": "2"})
    assert environment_changes(then, now) == [f"cpu A → {now.cpu}", "threads 7 → 1", "gone 2 → absent"]
    assert environment_changes(now, then)[-1] == "gone absent → 2"
