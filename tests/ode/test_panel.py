"""Series with times of their own: what is taken, and what is refused."""

import numpy as np
import pandas as pd
import pytest

from skfunc.ode import Panel, to_panel
from skfunc.ode._panel import is_ragged, padded, padded_rows

LONG = pd.DataFrame(
    {
        "who": ["b", "a", "b", "a", "a"],
        "when": [2.0, 1.0, 1.0, 0.5, 0.5],
        "x": [1.0, 2.0, np.nan, 4.0, 5.0],
        "y": [np.nan, 1.0, 2.0, 3.0, np.nan],
    }
)


def test_long_table():
    panel = to_panel(LONG, id="who", time="when", value_columns=["x", "y"])
    assert panel.ids.tolist() == ["b", "a"]
    np.testing.assert_array_equal(panel.times[0], [1, 2])
    np.testing.assert_array_equal(panel.values[0], [[np.nan, 2], [1, np.nan]])
    # Rows of one time stay in the table's order.
    np.testing.assert_array_equal(panel.times[1], [0.5, 0.5, 1])
    np.testing.assert_array_equal(panel.values[1], [[4, 3], [5, np.nan], [2, 1]])


def test_dates_become_days():
    frame = LONG.assign(when=pd.to_datetime(["1970-01-03", *["1970-01-01"] * 4]))
    panel = to_panel(frame, id="who", time="when", value_columns="x")
    np.testing.assert_array_equal(panel.times[0], [0, 2])
    frame.loc[2, "when"] = pd.NaT
    with pytest.raises(ValueError, match="the time of row 2 is missing"):
        to_panel(frame, id="who", time="when", value_columns="x")


def test_parts_of_a_panel():
    panel = to_panel(LONG, id="who", time="when", value_columns=["x"])
    times, values = panel[1]
    assert (len(panel), len(times), values.shape) == (2, 3, (3, 1))
    assert panel[::-1].ids.tolist() == ["a", "b"]
    assert panel[np.array([False, True])].ids.tolist() == ["a"]


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ([], "at least one series"),
        ([([0, 1], [1, 2]), 3.0], "series 1 must be a pair"),
        ([([0, 1], [1, 2, 3])], "series 0 has 2 times, 3 values"),
        ([([0], [1]), ([1, 0.5], [1, 2])], "series 1 must not decrease; position 1"),
        ([([0, np.nan], [1, 2])], "times of series 0 must be finite"),
        ([([0, 1], [1, np.inf])], "series 0 has infinite values"),
        ([([0], [[1, 2]]), ([0], [1])], "series 1 has 1 channels, series 0 has 2"),
        ([([[0]], [1])], "times of shape"),
    ],
)
def test_refused(pairs, message):
    with pytest.raises(ValueError, match=message):
        Panel(pairs)


def test_what_is_ragged():
    assert is_ragged([([0.0, 1.0], [1.0, 2.0])])
    assert is_ragged(Panel([([0.0], [1.0])]))
    for table in (np.zeros((2, 2)), [[1, 2], [3, 4]], [(1, 2), (3, 4)], LONG, []):
        assert not is_ragged(table)


def test_rows_and_panels_pad_alike():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(6, 10))
    rows[rng.uniform(size=rows.shape) < 0.5] = np.nan
    rows[2] = np.nan
    times = np.array([0.0, 1.0, 1.0, 2.0, 5.0])
    pairs = [(times, row.reshape(5, 2)) for row in rows]
    by_rows, by_panel = padded_rows(rows, times, 2), padded(Panel(pairs))
    for name in ("times", "values", "mask"):
        np.testing.assert_array_equal(getattr(by_rows, name), getattr(by_panel, name))
    # Nothing is left of slots that hold nothing.
    assert by_rows.mask.any(axis=2).sum() == by_rows.mask.any(axis=2).sum(axis=1).sum()
    assert not by_rows.mask[2].any()
