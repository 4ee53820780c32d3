"""Names of runs: given by promote, taken by predict and score, listed by runs; what is wrong with one is said."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import shlex
import shutil
from pathlib import Path
from threading import Thread
from typing import Any

import pandas as pd
import pytest

from nextbar.cli.main import main
from nextbar.config import CommonConfig
from nextbar.errors import ArtifactError, ConfigError, NothingToTrainError, Remark
from nextbar.runs import names
from nextbar.runs.files import parquet_bytes
from nextbar.runs.journal import ENVIRONMENT, Entry, append
from nextbar.runs.load import list_runs, load_run
from nextbar.workflows.promote import promote
from nextbar.workflows.score import decide


@pytest.fixture
def models(trained_trees: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the trained trees in the folder `models` of the working folder; the journal lies beside it."""
    monkeypatch.setenv(ENVIRONMENT, str(tmp_path / "journal.db"))
    monkeypatch.chdir(tmp_path)
    shutil.copytree(trained_trees, tmp_path / "models")
    return Path("models")


def stems(folder: Path) -> dict[str, str]:
    """Kind → stem of its run."""
    return {path.name[0]: path.name.removesuffix("_metadata.json") for path in folder.glob("*_metadata.json")}


def command(*arguments: object) -> int:
    with pytest.raises(SystemExit) as end:
        main([*map(str, arguments)])
    return int(end.value.code or 0)


def test_a_name_predicts_and_is_listed(models: Path, market_db: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From promote to predict and runs: the runs that have the name, and no others; only whole files are left."""
    forest = stems(models)["r"]
    assert command("promote", models / f"{forest}.pkl", "--as", "production") == 0
    assert f"production means {forest} (a new name)" in capsys.readouterr().out
    asked = ["predict", "production", "--db", market_db, "--max-age-days", 99999, "--json"]
    assert command(*asked) == 0
    assert [one["model"] for one in json.loads(capsys.readouterr().out)["predictions"]] == [forest]
    assert {run["name"]: run["names"] for run in list_runs([models])[0]} == {
        stem: ["production"] if stem == forest else [] for stem in stems(models).values()
    }
    assert command("runs", models) == 0
    assert "(production)" in capsys.readouterr().out
    assert not list(models.glob(".*"))


def test_what_speaks_against_a_run_is_told(
    models: Path, capsys: pytest.CaptureFixture[str], make_certificate: Any
) -> None:
    """One line about runs without a certificate that is PASS and figures too good for skill; the name is given."""
    forest = stems(models)["r"]
    mark = models / f"{forest}_metadata.json"
    look = f"; look for a leak with: nextbar certify rf --artifact {mark}\n"
    for outcome, digest, said in (
        ("", None, "never certified"),
        ("PASS", "0" * 64, "its certificate is about other files"),
        ("INCOMPLETE", None, "its certificate is INCOMPLETE"),
        ("PASS", None, ""),
    ):
        if outcome:
            make_certificate(mark, outcome, digest)
        assert command("promote", mark, "--as", "production") == 0
        assert capsys.readouterr().err == (f"{forest}: {said}{look}" if said else "")
    assert command("promote", *models.glob("*_metadata.json"), "--as", "both", "--json") == 0
    (note,) = json.loads(capsys.readouterr().out)["notes"]
    assert note.startswith(f"{stems(models)['x']}: never certified; ")
    path = models / f"{forest}_predictions.parquet"
    rows = pd.read_parquet(path)
    rows["class"] = (rows["next_return"] > 0).astype(rows["class"].dtype)
    path.write_bytes(parquet_bytes(rows))
    document = json.loads(mark.read_text())
    document["files"][path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
    mark.write_text(json.dumps(document))
    make_certificate(mark, "PASS")
    assert command("promote", mark, "--as", "production") == 0
    assert capsys.readouterr().err.startswith(f"{forest}: SUSPICIOUS: such a high balanced accuracy on daily bars is")


@pytest.mark.parametrize("place", ["models", "mine", "."])
def test_the_command_that_predicts_is_told(
    place: str, models: Path, market_db: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it is printed, it predicts with the run, wherever its folder is."""
    if place == ".":
        monkeypatch.chdir(models)
    elif place != "models":
        models.rename(place)
    folder = Path(place)
    mark = folder / f"{stems(folder)['r']}_metadata.json"
    assert command("promote", mark, "--as", "production", "--json") == 0
    _, *asked = shlex.split(json.loads(capsys.readouterr().out)["command"])
    expected = {"models": "production", "mine": "mine/production", ".": str(Path.cwd() / "production")}
    assert asked == ["predict", expected[place]]
    assert command(*asked, "--db", market_db, "--max-age-days", 99999) == 0


def test_a_folder_with_the_name_of_runs_is_refused(
    models: Path, market_db: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What could mean both is not guessed; the name with its folder means the name."""
    forest = stems(models)["r"]
    Path("production").mkdir()
    assert command("promote", models / f"{forest}.pkl", "--as", "production") == 0
    asked = ["--db", market_db, "--max-age-days", 99999]
    assert command("predict", "production", *asked) == 2
    assert "give the name as models/production, or the folder as" in capsys.readouterr().err
    assert command("predict", "models/production", *asked) == 0


def test_a_name_means_the_last_runs_and_remembers_the_others(models: Path) -> None:
    """A name moves from run to run; several runs of a folder may have it."""
    own = stems(models)
    promote([models / f"{own['r']}_metadata.json"], "production")
    found = promote([models / f"{own['x']}.json", models / f"{own['r']}.pkl"], "production")
    assert (found.runs, found.before) == ([own["x"], own["r"]], [own["r"]])
    assert [one.runs for one in names.read_pointer(models / "production").promotions] == [found.before, found.runs]


@pytest.mark.parametrize("name", ["", "Production", "a b", "../x", "1st", "x" * 41, "a/b", "all_"])
def test_a_bad_name_is_refused(name: str, models: Path) -> None:
    """A name is a file name everywhere; nothing is written."""
    before = sorted(models.iterdir())
    with pytest.raises(ConfigError, match="at most 40 lower-case letters, digits and -"):
        promote([models / f"{stems(models)['r']}.pkl"], name)
    assert sorted(models.iterdir()) == before


def test_what_cannot_have_a_name_is_refused(models: Path, tmp_path: Path) -> None:
    """A run that is missing, a damaged one, runs of two folders, a name that is a folder."""
    own = stems(models)
    model = models / f"{own['r']}.pkl"
    with pytest.raises(ArtifactError, match="is missing"):
        promote([models / "xgboost_AAA_20200101_000000_metadata.json"], "production")
    shutil.copytree(models, tmp_path / "copy")
    with pytest.raises(ConfigError, match="a name means runs of one folder"):
        promote([model, tmp_path / "copy" / model.name], "production")
    (models / "taken").mkdir()
    with pytest.raises(ConfigError, match="is a file or a folder"):
        promote([model], "taken")
    model.write_bytes(b"changed")
    with pytest.raises(ArtifactError, match="is damaged or was changed"):
        promote([model], "production")
    assert not list(models.glob("*.name.json"))


def test_a_failed_certificate_is_told(
    models: Path, market_db: Path, capsys: pytest.CaptureFixture[str], make_certificate: Any
) -> None:
    """No name is given to such a run; its predictions come with a note, in Python with a remark."""
    mark = models / f"{stems(models)['r']}_metadata.json"
    told = f"{stems(models)['r']}: its certificate is FAIL: it may have used the future"
    asked = ["predict", mark, "--db", market_db, "--max-age-days", 99999]
    for outcome, code in (("PASS", 0), ("INCOMPLETE", 0), ("FAIL", 2)):
        make_certificate(mark, outcome)
        assert command("promote", mark, "--as", outcome.lower()) == code
        assert (told in capsys.readouterr().err) == bool(code)
        assert command(*asked, "--json") == 0
        found = json.loads(capsys.readouterr().out)
        assert (told in found["notes"], [one["refuted"] for one in found["predictions"]]) == (bool(code), [bool(code)])
        listed = {run["name"]: (run["certified"], run["refuted"]) for run in list_runs([models])[0]}
        assert listed[stems(models)["r"]] == (outcome == "PASS", outcome == "FAIL")
        assert listed[stems(models)["x"]] == (None, False)
    assert not (models / "fail.name.json").exists()
    assert command(*asked) == 0
    assert f"note: {told}\n" in capsys.readouterr().err
    for models_asked in (mark, models):
        assert command("predict", models_asked, "--db", market_db) == 2
        assert f"{told}\nnextbar: no prediction: AAA: the last bar is of" in capsys.readouterr().err
    assert command("runs", models) == 0
    assert "FAILED" in capsys.readouterr().out
    with pytest.warns(Remark, match=told):
        load_run(mark).model()
    mark.with_name(f"{stems(models)['r']}_certificate.json").write_text("{")
    assert command(*asked) == 0
    assert "its certificate cannot be read; certify it again or delete it" in capsys.readouterr().err


def test_a_run_that_is_gone_is_named(models: Path, market_db: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 2 and what to do, for a run that was deleted and for a name that nobody gave."""
    forest = stems(models)["r"]
    promote([models / f"{forest}_metadata.json"], "production")
    (models / f"{forest}_metadata.json").unlink()
    assert command("predict", "production", "--db", market_db) == 2
    told = capsys.readouterr().err
    assert f"production means {forest}, which is not in models any more" in told
    assert "nextbar promote RUN --as production" in told
    assert command("predict", "staging", "--db", market_db) == 2
    assert "names there: production);" in capsys.readouterr().err
    assert command("predict", "prodction", "--db", market_db) == 2
    assert "names there: production); nearest: production; give one" in capsys.readouterr().err
    assert command("promote", models / f"{stems(models)['x']}.json") == 2
    assert "--as" in capsys.readouterr().err


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        '{"schema_version": 1, "promotions": []}',
        '{"schema_version": 2, "promotions": [{"since": "2026-01-01T00:00:00+00:00", "runs": ["rf"]}]}',
        '{"schema_version": 1, "promotions": [{"since": "2026-01-01T00:00:00+00:00", "runs": ["../../etc/passwd"]}]}',
        '{"schema_version": 1, "promotions": [{"since": "2026-01-01", "runs": ["xgboost_A_20260101_000000"]}]}',
        '{"schema_version": 1, "promotions": [{"since": "2026-01-01T00:00:00+00:00", "runs": []}]}',
    ],
    ids=["no-json", "list", "nothing", "newer", "path", "no-zone", "no-run"],
)
def test_a_damaged_name_is_refused(content: str, models: Path) -> None:
    """The file may come from anyone; runs are listed all the same."""
    (models / "production.name.json").write_text(content)
    with pytest.raises(ArtifactError, match=r"production\.name\.json"):
        names.read_pointer(models / "production")
    assert len(list_runs([models])[0]) == 2


def test_a_score_by_name_takes_what_the_name_meant_then(models: Path, market_db: Path, tmp_path: Path) -> None:
    """Predictions of a run count while it has the name, its refit's too; those before and after do not."""
    own = stems(models)
    first, second = (dt.datetime(2012, 6, day, 12, tzinfo=dt.UTC) for day in (6, 13))
    for when, kind in ((first, "r"), (second, "x")):
        names.promote(models, [own[kind]], "production", now=when)
    made = {5: own["r"], 7: own["r"] + "_refit", 8: own["x"], 12: own["r"], 14: own["x"]}
    base: dict[str, Any] = {"kind": "rf", "model_sha256": "", "model_made": "2012-01-01T00:00:00+00:00", "close": 1.0}
    base |= {"probability": 0.6, "predicted_close": None, "threshold": 0.5, "predicted_class": 1, "signal": 1}
    entries = [
        Entry(made=f"2012-06-{day:02}T20:00:00+00:00", ticker="AAA", date=f"2012-06-{day:02}", model=model, **base,
              majority=1, raw=False)
        for day, model in made.items()
    ]  # fmt: skip
    append(tmp_path / "journal.db", entries)
    found = decide(CommonConfig(db=str(market_db)), name="production")
    assert [line.entry.date[-2:] for line in found.lines] == ["07", "12", "14"]
    names.promote(models, [own["r"]], "other", now=dt.datetime(2013, 1, 1, tzinfo=dt.UTC))
    with pytest.raises(NothingToTrainError, match="while it had the name other"):
        decide(CommonConfig(db=str(market_db)), name="other")


def test_promotions_at_the_same_time_are_all_kept(models: Path) -> None:
    """Each adds its promotion to those of the others."""
    own = list(stems(models).values())
    names.promote(models, own, "production", now=dt.datetime.now(dt.UTC))
    several = [Thread(target=promote, args=([models / f"{own[0]}_metadata.json"], "production")) for _ in range(8)]
    for one in several:
        one.start()
    for one in several:
        one.join()
    assert len(names.read_pointer(models / "production").promotions) == 9
    assert not list(models.glob(".*"))
