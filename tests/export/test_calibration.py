"""Temperature, calibration error, abstention and prediction sets, on scores whose truth is known."""

import numpy as np
import pytest

from export import calibration
from export.calibration import Scored


def drawn(temperature: float, count: int = 20_000, classes: int = 10, seed: int = 0) -> Scored:
    """Logits whose softmax at `temperature` is the very distribution that the truth is drawn from."""
    random = np.random.default_rng(seed)
    logits = random.normal(0, 3, (count, classes))
    rising = calibration.softmax(logits, temperature).cumsum(axis=1)
    truth = (random.random((count, 1)) > rising).sum(axis=1).clip(max=classes - 1)
    return Scored(logits.astype(np.float32), truth)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_temperature_that_made_the_labels_is_found(temperature):
    """Anything else would be a fit to something other than the labels."""
    assert calibration.fit_temperature(drawn(temperature)) == pytest.approx(temperature, rel=0.05)


def test_a_temperature_can_be_taken_from_another_network_s_answers():
    """Where nobody knows the right answers, int8 is brought to where fp32 was."""
    logits = drawn(1.0).logits
    for factor in (0.4, 1.3, 3.0):
        found = calibration.fit_temperature_to(logits * factor, calibration.softmax(logits, 1.0))
        assert found == pytest.approx(factor, rel=0.02)


def test_calibration_error_vanishes_where_scores_are_the_truth_and_shows_where_they_are_not():
    """With the wrong temperature the same answers are over-confident."""
    scored = drawn(2.0)
    assert calibration.expected_calibration_error(calibration.softmax(scored.logits, 2.0), scored.truth) < 0.015
    assert calibration.expected_calibration_error(calibration.softmax(scored.logits, 1.0), scored.truth) > 0.1


def test_calibration_error_by_hand():
    """Two bins: 0.9 sure and right every time, 0.6 sure and right half of the time."""
    probabilities = np.array([[0.9, 0.1]] * 10 + [[0.6, 0.4]] * 10)
    truth = np.array([0] * 15 + [1] * 5)
    assert calibration.expected_calibration_error(probabilities, truth) == pytest.approx(0.5 * 0.1 + 0.5 * 0.1)


def test_top_k_counts_ties_for_the_right_class():
    """Shares of right answers, by hand."""
    logits = np.array([[3.0, 2, 1], [1, 2, 3], [2, 1, 3]])
    truth = np.array([0, 0, 0])
    assert calibration.top_k(logits, truth, 1) == pytest.approx(1 / 3)
    assert calibration.top_k(logits, truth, 2) == pytest.approx(2 / 3)
    assert calibration.top_k(logits, truth, 3) == 1


@pytest.mark.parametrize("precision", [0.7, 0.9])
def test_answers_above_the_threshold_are_right_often_enough(precision):
    """Chosen on some pictures, it must hold on others, and not abstain without need."""
    fitted, other = (calibration.softmax(drawn(1.5, seed=seed).logits, 1.5) for seed in (1, 2))
    below = calibration.abstain_below(fitted, drawn(1.5, seed=1).truth, precision)
    given = other.max(axis=1) >= below
    right = (other.argmax(axis=1) == drawn(1.5, seed=2).truth)[given].mean()
    assert right == pytest.approx(precision, abs=0.02)


def test_no_threshold_where_nothing_is_right_often_enough():
    """A guesser has no score to be trusted."""
    random = np.random.default_rng(0)
    probabilities = calibration.softmax(random.normal(size=(1000, 10)), 1.0)
    assert calibration.abstain_below(probabilities, random.integers(0, 10, 1000), 0.9) is None


def test_prediction_sets_hold_the_truth_as_often_as_asked():
    """The promise of split conformal prediction, with scores that are badly calibrated on purpose."""
    fitted, other = drawn(2.0, seed=3), drawn(2.0, seed=4)
    found = calibration.measure(fitted, other, 0.7, precision=0.9)
    assert found.conformal is not None
    assert [asked for asked, _, _ in found.conformal.measured] == [0.8, 0.9, 0.95]
    for asked, covered, size in found.conformal.measured:
        assert covered == pytest.approx(asked, abs=0.01)
        assert 1 < size < 10
    sizes = [size for _, _, size in found.conformal.measured]
    assert sizes == sorted(sizes)
    assert list(found.conformal.scores) == sorted(found.conformal.scores, reverse=True)
