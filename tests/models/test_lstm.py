"""The LSTM is keras's own network: same loss curve, same stopping, same file, only made faster."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from nextbar.datasets.sequences import Sequences
from nextbar.errors import BadBarsError, NothingToTrainError
from nextbar.models import lstm_kernel
from nextbar.models.lstm import build_lstm, epoch_orders, keras, keras_bytes, train_lstm
from nextbar.models.lstm_fitted import LstmSettings, TrainedLstm
from nextbar.models.lstm_kernel import predict_windows
from nextbar.models.reproducibility import digest_arrays

LENGTH, COLUMNS = 12, 3
SMALL = LstmSettings(units=(16, 8), epochs=3, batch_size=32, learning_rate=3e-3)
TF32 = lstm_kernel.jax.default_backend() != "cpu"
"""Whether products have ten bits of fraction, as on a GPU: results then agree to a thousandth."""
LOSSES, VALUES = (1e-3, 1e-3) if TF32 else (2e-5, 2e-6)
"""Tolerance of losses (relative) and of predictions (absolute)."""


def sequences(first: int, last: int, *, seed: int = 0, rows: int = 400) -> Sequences:
    """Windows ending at rows [first, last) of a noisy wave whose next value is the target."""
    noise = np.random.default_rng(seed).normal(0, 0.1, (rows + 1, COLUMNS))
    values = (np.sin(np.arange(rows + 1)[:, None] / [3, 5, 9]) + noise).astype(np.float32)
    return Sequences(features=values[:-1], target=values[1:, 0], ends=np.arange(first, last), length=LENGTH)


TRAIN, VAL = sequences(LENGTH - 1, 210), sequences(210, 300)  # 199 and 90 windows


def materialised(split: Sequences) -> np.ndarray:
    """[windows, length, columns], copied out one by one."""
    return np.stack([split.features[end - split.length + 1 : end + 1] for end in split.ends])


@pytest.fixture(scope="module")
def trained() -> TrainedLstm:
    return train_lstm(TRAIN, VAL, SMALL)


def predict(trained: TrainedLstm, part: Sequences) -> np.ndarray:
    return predict_windows(trained.weights, part.features, part.ends, part.length)


def digest(trained: TrainedLstm) -> str:
    return digest_arrays(trained.weights)


def losses_beside_keras_fit(batch_size: int) -> tuple[list[float], list[float]]:
    """Losses on train and validation, epoch by epoch: ours and those of keras.fit, same weights and order."""
    settings = LstmSettings(units=(16, 8), epochs=3, batch_size=batch_size, learning_rate=3e-3)
    history = train_lstm(TRAIN, VAL, settings).history
    model, next_order = build_lstm(COLUMNS, LENGTH, settings), epoch_orders(np.arange(len(TRAIN.ends)), settings.seed)
    windows, target = materialised(TRAIN), TRAIN.target[TRAIN.ends]
    theirs: list[float] = []
    for _ in history:
        order = next_order()
        told = model.fit(
            windows[order],
            target[order],
            batch_size=batch_size,
            shuffle=False,
            verbose=0,
            validation_data=(materialised(VAL), VAL.target[VAL.ends]),
        ).history
        theirs += [told["loss"][0], told["val_loss"][0]]
    return [loss for record in history for loss in (record.loss, record.val_loss)], theirs


def test_loss_curve_is_that_of_keras_fit():
    """Batches of 7, too small to be shared, and a short last one: the losses of keras.fit over copied windows."""
    ours, theirs = losses_beside_keras_fit(7)
    assert len(ours) == 6
    assert ours == pytest.approx(theirs, rel=LOSSES)


PROCESS = """
from importlib.util import module_from_spec, spec_from_file_location
spec = spec_from_file_location("here", {path!r})
here = module_from_spec(spec)
spec.loader.exec_module(here)
"""


def another_process(code: str, devices: int, **env: str) -> str:
    """What the code prints that has this module as ``here``, with so many CPU devices; it compiles for itself."""
    code = PROCESS.format(path=str(Path(__file__))) + code
    env = {**os.environ, "JAX_ENABLE_COMPILATION_CACHE": "0", "JAX_NUM_CPU_DEVICES": str(devices), **env}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env).stdout


@pytest.mark.thorough
@pytest.mark.parametrize("devices", [1, 2])
def test_loss_curve_does_not_depend_on_the_number_of_devices(devices):
    """Two devices share every batch of 128, cut into slices, and meet the losses of keras.fit, as one does."""
    code = "print(here.lstm_kernel.devices_for(128), here.json.dumps(here.losses_beside_keras_fit(128)))"
    used, _, losses = another_process(code, devices, JAX_PLATFORMS="cpu").partition(" ")
    ours, theirs = json.loads(losses)
    assert int(used) == devices
    assert len(ours) == 6
    assert ours == pytest.approx(theirs, rel=LOSSES)


@pytest.mark.thorough
def test_an_accelerator_takes_a_batch_whole(monkeypatch):
    """A batch in slices and the same batch at once have the same loss and gradients, to float tolerance."""
    asarray = lstm_kernel.jnp.asarray
    weights = tuple(map(asarray, build_lstm(COLUMNS, LENGTH, SMALL).get_weights()))
    rows = lstm_kernel.Rows(*(asarray(lstm_kernel.pad_rows(part)) for part in (TRAIN.features, TRAIN.target)))
    ends, share = asarray(TRAIN.ends[:64]), asarray(np.full(64, 1 / 64, np.float32))
    found = []
    for backend, width in (("cpu", 8), ("gpu", 1024)):
        monkeypatch.setattr(lstm_kernel.jax, "default_backend", lambda backend=backend: backend)
        assert lstm_kernel.slice_size() == width
        found.append(lstm_kernel._loss_and_gradient(weights, rows, ends, share, LENGTH))
    for sliced, whole in zip(*(lstm_kernel.jax.tree.leaves(one) for one in found), strict=True):
        np.testing.assert_allclose(sliced, whole, rtol=max(LOSSES, 1e-4), atol=1e-3 if TF32 else 1e-6)


@pytest.mark.parametrize(
    ("backend", "flags", "named"),
    [
        ("cpu", "", set()),
        ("gpu", "", {"xla_gpu_deterministic_ops", "xla_gpu_force_compilation_parallelism"}),
        ("gpu", "--xla_gpu_deterministic_ops=false", {"xla_gpu_force_compilation_parallelism"}),
    ],
)
def test_a_gpu_is_told_to_give_the_same_bits_unless_the_user_says_otherwise(backend, flags, named):
    """The options are for a GPU; one that XLA_FLAGS names is the user's; XLA knows all of them."""
    options = lstm_kernel.compiler_options(backend, flags)
    assert set(options) == named
    assert lstm_kernel.jax.jit(abs, compiler_options=options)(-1) == 1


def test_predictions_by_index_are_those_of_copied_windows(trained):
    """Windows gathered by index give what keras predicts for windows copied out."""
    model = build_lstm(COLUMNS, LENGTH, SMALL)
    model.set_weights(trained.weights)
    theirs = model.predict(materialised(VAL), verbose=0)[:, 0]
    np.testing.assert_allclose(predict(trained, VAL), theirs, atol=VALUES)


def test_training_stops_early_and_keeps_the_best_weights():
    """With a hopeless learning rate training stops after the patience; the best epoch's weights are what is left."""
    wild = LstmSettings(units=(8,), epochs=30, patience=2, learning_rate=0.1, seed=3)
    result = train_lstm(TRAIN, sequences(210, 300, seed=9), wild)
    losses = [record.val_loss for record in result.history]
    assert result.best_epoch == int(np.argmin(losses))
    assert len(losses) == result.best_epoch + 1 + wild.patience
    assert digest(result) == result.history[result.best_epoch].weights_sha256


def test_on_epoch_hears_the_history(trained):
    """The callback is told every epoch's number and losses, in order."""
    heard: list[tuple[int, float, float]] = []
    result = train_lstm(TRAIN, VAL, SMALL, on_epoch=lambda *told: heard.append(told))
    assert heard == [(number, record.loss, record.val_loss) for number, record in enumerate(result.history)]
    assert result.history == trained.history


def test_other_rows_asked_for_do_not_change_the_bits_of_a_row(trained):
    """Asked alone, among a few, or shifted within a batch, a window's prediction has the same bits."""
    everything = predict(trained, sequences(LENGTH - 1, 400))
    for first, last in ((LENGTH - 1, 100), (100, 101), (133, 290), (399, 400)):
        part = predict(trained, sequences(first, last))
        np.testing.assert_array_equal(part, everything[first - LENGTH + 1 : last - LENGTH + 1])


def test_bytes_open_with_plain_keras(trained, tmp_path):
    """The saved bytes are an ordinary keras model that predicts the same and has the same weights."""
    path = tmp_path / "model.keras"
    path.write_bytes(keras_bytes([trained.weights], LENGTH))
    plain = keras.models.load_model(path)
    np.testing.assert_allclose(plain.predict(materialised(VAL), verbose=0)[:, 0], predict(trained, VAL), atol=VALUES)
    assert digest_arrays(plain.get_weights()) == digest(trained)


@pytest.mark.thorough
def test_two_processes_make_the_same_bits(trained):
    """The same seed and number of devices give the same weights, bit for bit, in another process."""
    code = "print(here.digest(here.train_lstm(here.TRAIN, here.VAL, here.SMALL)))"
    assert another_process(code, len(lstm_kernel.jax.devices())).strip() == digest(trained)


def test_another_seed_makes_other_weights(trained):
    """The seed decides the weights."""
    settings = LstmSettings(units=(16, 8), epochs=1, batch_size=32, seed=43)
    assert train_lstm(TRAIN, VAL, settings).history[0].weights_sha256 != trained.history[0].weights_sha256


def test_validation_does_not_touch_training():
    """Other validation prices change no weight of any epoch: they only decide where to stop."""
    digests = [
        [record.weights_sha256 for record in train_lstm(TRAIN, val, SMALL).history]
        for val in (VAL, sequences(210, 300, seed=5))
    ]
    assert digests[0] == digests[1]


@pytest.mark.parametrize(
    ("train", "val", "error"),
    [
        (sequences(50, 50), VAL, NothingToTrainError),
        (TRAIN, sequences(50, 50), NothingToTrainError),
        (sequences(LENGTH - 2, 100), VAL, BadBarsError),
        (sequences(300, 401), VAL, BadBarsError),
        (replace(TRAIN, target=TRAIN.target * np.nan), VAL, BadBarsError),
        (TRAIN, replace(VAL, length=LENGTH + 1), BadBarsError),
    ],
)
def test_windows_that_cannot_be_trained_on_are_refused(train, val, error):
    """Empty splits, windows beyond the rows, missing targets and unlike windows are errors, not quiet nonsense."""
    with pytest.raises(error, match="LSTM"):
        train_lstm(train, val, SMALL)


def test_folds_of_different_size_share_a_compiled_program(trained):
    """Another number of rows and windows, padded to the same size, compiles nothing: walk-forward pays once."""
    program = lstm_kernel.program_of(lstm_kernel.devices_for(SMALL.batch_size), LENGTH).run
    before = program._cache_size(), lstm_kernel._predict()._cache_size()
    other = train_lstm(sequences(LENGTH - 1, 205, rows=390), sequences(205, 290, rows=390), SMALL)
    assert digest(other) != digest(trained)
    assert (program._cache_size(), lstm_kernel._predict()._cache_size()) == before
