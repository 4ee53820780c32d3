"""Networks trained side by side in one program are those that are trained one at a time."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nextbar.datasets.sequences import Sequences, View
from nextbar.errors import BadBarsError, NothingToTrainError
from nextbar.models.lstm import train_lstm
from nextbar.models.lstm_fitted import LstmSettings, TrainedLstm
from nextbar.models.lstm_group import Grouped, Network, program_bytes, train_together

LENGTH, COLUMNS = 12, 3
SETTINGS = LstmSettings(units=(8,), epochs=3, batch_size=32, patience=2, learning_rate=3e-3)


def sequences(first: int, last: int, *, seed: int = 0, rows: int = 400, view: bool = False) -> Sequences:
    """Windows ending at rows [first, last) of a noisy wave whose next value is the target."""
    random = np.random.default_rng(seed)
    noise = random.normal(0, 0.1, (rows + 1, COLUMNS))
    values = (np.sin(np.arange(rows + 1)[:, None] / [3, 5, 9]) + noise).astype(np.float32)
    shift, factor = (random.uniform(0.5, 1.5, (rows, COLUMNS)).astype(np.float32) for _ in range(2))
    seen = View(shift, factor) if view else None
    return Sequences(features=values[:-1], target=values[1:, 0], ends=np.arange(first, last), length=LENGTH, view=seen)


def network(last: int = 210, *, seed: int = 0, rows: int = 400, view: bool = False, **changes: Any) -> Network:
    """A network of its own size, data and seed."""
    settings = replace(SETTINGS, seed=seed, **changes)
    parts = [sequences(*ends, seed=seed, rows=rows, view=view) for ends in ((LENGTH - 1, last), (last, last + 90))]
    return Network(parts[0], replace(parts[0], ends=parts[1].ends), settings)


def losses(trained: TrainedLstm) -> np.ndarray:
    """[epochs, 2] losses on train and validation."""
    return np.array([(record.loss, record.val_loss) for record in trained.history])


def weights_of(found: Grouped) -> list[bytes]:
    return [b"".join(array.tobytes() for array in one.weights) for one in found.trained]


SIZES = [network(), network(150, seed=1), network(1300, seed=2, rows=1500), network(40, seed=3)]


@pytest.mark.parametrize(
    "view",
    [
        pytest.param(False, id="as they are"),
        pytest.param(True, id="seen from the last row", marks=pytest.mark.thorough),
    ],
)
@pytest.mark.parametrize("width", [None, *[pytest.param(width, marks=pytest.mark.thorough) for width in (3, 1)]])
def test_losses_are_those_of_one_network_at_a_time(width: int | None, view: bool) -> None:
    """Networks of different sizes, all at once, three at a time with places left over, or one: the same losses."""
    networks = [
        network(last, seed=seed, rows=rows, view=view)
        for seed, (last, rows) in enumerate(((210, 400), (150, 400), (1300, 1500), (40, 400)))
    ]
    found = train_together(networks, width=width)
    assert found.width == (width or 4)
    for one, trained in zip(networks, found.trained, strict=True):
        alone = train_lstm(*one)
        np.testing.assert_allclose(losses(trained), losses(alone), rtol=1e-3)
        assert trained.best_epoch == alone.best_epoch


def test_a_network_that_stops_is_frozen_while_others_go_on() -> None:
    """On given losses each network stops by its own patience and keeps the weights of its best epoch."""
    given = {0: [3.0, 1.0, 2.0, 2.0, 0.0], 1: [5.0, 4.0, 3.0, 2.0, 1.0], 2: [1.0, 2.0, 3.0, 0.0, 0.0]}
    seen: list[list[bytes]] = []

    def judge(networks: Sequence[Network], weights: Any) -> list[float]:
        seen.append([b"".join(np.asarray(array)[at].tobytes() for array in weights) for at in range(len(networks))])
        return [given[at][len(seen) - 1] for at in range(len(networks))]

    networks = [network(seed=seed, epochs=5) for seed in range(3)]
    found = train_together(networks, losses=judge)
    assert [len(one.history) for one in found.trained] == [4, 5, 3]
    assert [one.best_epoch for one in found.trained] == [1, 4, 0]
    for at, one in enumerate(found.trained):
        assert weights_of(found)[at] == seen[one.best_epoch][at]
        epochs = [moment[at] for moment in seen]
        last = len(one.history) - 1
        assert len(set(epochs[: last + 1])) == last + 1  # it moved in each of its epochs
        assert set(epochs[last:]) == {epochs[last]}  # and in no later one


def test_training_ends_when_all_have_stopped() -> None:
    """No epoch is run once every network has stopped."""
    told: list[tuple[int, int, int]] = []
    networks = [network(seed=seed, epochs=30) for seed in range(2)]
    train_together(networks, losses=lambda all_, _: [1.0] * len(all_), on_epoch=lambda *what: told.append(what))
    assert told == [(0, 2, 2), (1, 2, 2), (2, 0, 2)]


def test_another_learning_rate_is_that_of_its_network_alone() -> None:
    """Each network has its own learning rate."""
    networks = [network(), network(learning_rate=0.03)]
    for one, trained in zip(networks, train_together(networks).trained, strict=True):
        np.testing.assert_allclose(losses(trained), losses(train_lstm(*one)), rtol=1e-3)


def test_two_runs_give_the_same_bits() -> None:
    """The same networks and the same width give the same weights, bit for bit."""
    assert weights_of(train_together(SIZES)) == weights_of(train_together(SIZES))


@pytest.mark.thorough
def test_the_width_fits_the_memory_that_is_measured() -> None:
    """As many networks as the compiled program has room for, in parts of about the same size; at least one."""
    needed = [program_bytes(SIZES, width) for width in (1, 2, 3, 4)]
    assert needed == sorted(needed)
    short = [replace_epochs(one, 1) for one in SIZES]
    widths = [train_together(short, memory=memory).width for memory in (needed[3], needed[3] - 1, needed[1], 1)]
    assert widths == [4, 2, 2, 1]  # four in parts of at most three are two and two


def replace_epochs(one: Network, epochs: int) -> Network:
    return one._replace(settings=replace(one.settings, epochs=epochs))


@pytest.mark.parametrize(
    ("second", "error"),
    [
        (network()._replace(train=sequences(50, 50)), NothingToTrainError),
        (network()._replace(val=sequences(300, 401)), BadBarsError),
    ],
    ids=["no window", "beyond the rows"],
)
def test_networks_that_cannot_be_trained_together_are_refused(second: Network, error: type[Exception]) -> None:
    """Empty splits and windows beyond the rows are errors, as for one network."""
    with pytest.raises(error, match="LSTM"):
        train_together([network(), second])


@pytest.mark.thorough
def test_the_measurement_for_a_card_runs_anywhere(tmp_path: Path, child_env: dict[str, str]) -> None:
    """The command of the documentation measures every step, here small and on the CPU, and writes what it found."""
    script, out = Path(__file__).parents[2] / "benchmarks" / "gpu.py", tmp_path / "gpu.json"
    command = [sys.executable, str(script), "--tiny", "--folder", str(tmp_path), "--out", str(out)]
    ended = subprocess.run(command, capture_output=True, text=True, env=child_env, check=False)
    assert ended.returncode == 0, ended.stderr
    found = json.loads(out.read_text())
    assert found["device"] == "cpu"
    assert found["bits"]["same"] is True
    assert found["2 networks together, batch 32"]["mib"] > found["1 networks together, batch 32"]["mib"] > 0
    assert found["walk-forward, seconds"]["folds"] > found["walk-forward, seconds"]["timed"] == 2
    assert found["xgboost, seconds"]["cpu"] > 0
