"""Class to position."""

import numpy as np
import pytest

from nextbar.decisions.policy import CLASS_TO_SIGNAL, classify, to_signal


def test_a_probability_at_the_threshold_is_class_one():
    """Proves >=, and that a row of thresholds gives one column each."""
    np.testing.assert_array_equal(classify([0.49, 0.5, 0.51], 0.5), [0, 1, 1])
    np.testing.assert_array_equal(classify(np.array([[0.4], [0.6]]), [0.4, 0.5]), [[1, 0], [1, 1]])


def test_up_is_long_and_down_is_flat():
    """Proves the policy, its dtype int8, and that no caller can change it."""
    signal = to_signal([0, 1, 1])
    np.testing.assert_array_equal(signal, [0, 1, 1])
    assert signal.dtype == np.int8
    with pytest.raises(TypeError):
        CLASS_TO_SIGNAL[0] = -1
