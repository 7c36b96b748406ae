"""Series with times of their own: what users give, and the padded arrays inside."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
# One series: its times, and its values of shape (times,) or (times, channels).
Pair = tuple[ArrayLike, ArrayLike]


class Panel(Sequence[tuple[Array, Array]]):
    """Series of different lengths, each with times of its own.

    Parameters
    ----------
    pairs : sequence of (times, values)
        Times of shape (n,), not decreasing; values of shape (n,) or (n, n_channels),
        NaN where nothing was observed.
    ids : array-like of shape (n_series,), optional
        What the series are called. Default: their positions.
    windows : array-like of shape (n_series, 2), optional
        From when to when each series was watched. A Poisson process counts what did
        not happen there. Default: the estimator's window.

    Attributes
    ----------
    times : list of ndarray of shape (n,)
        Of each series.
    values : list of ndarray of shape (n, n_channels)
        Of each series.
    n_channels : int
        Channels of every series.
    ids : ndarray of shape (n_series,)
        Their names.
    windows : ndarray of shape (n_series, 2) or None
        Their own windows.

    See Also
    --------
    to_panel : Make one of a long table.

    Examples
    --------
    >>> from skfunc.ode import Panel
    >>> panel = Panel([([0.0, 2.5], [1.0, 3.0]), ([1.0], [2.0])])
    >>> len(panel), panel.n_channels
    (2, 1)
    """

    def __init__(
        self,
        pairs: Sequence[Pair],
        ids: ArrayLike | None = None,
        windows: ArrayLike | None = None,
    ) -> None:
        self.times: list[Array] = []
        self.values: list[Array] = []
        for i, pair in enumerate(pairs):
            times, values = _check_pair(i, pair)
            self.times.append(times)
            self.values.append(values)
        if not self.times:
            raise ValueError("a panel needs at least one series; got none")
        self.ids = np.arange(len(self.times)) if ids is None else np.asarray(ids)
        if len(self.ids) != len(self.times):
            raise ValueError(f"{len(self.ids)} ids for {len(self.times)} series")
        self.windows = None
        if windows is not None:
            self.windows = check_windows(windows, self.times, "series")
        self.n_channels = self.values[0].shape[1]
        for i, values in enumerate(self.values):
            if values.shape[1] != self.n_channels:
                raise ValueError(
                    f"series {i} has {values.shape[1]} channels, series 0 has "
                    f"{self.n_channels}; use NaN for a channel that was not observed"
                )

    def __len__(self) -> int:
        return len(self.times)

    def __getitem__(self, index: Any) -> Any:
        """Return one series as (times, values), or a panel of several."""
        if isinstance(index, (int, np.integer)):
            return self.times[index], self.values[index]
        chosen = np.arange(len(self))[index]
        pairs = [(self.times[i], self.values[i]) for i in chosen]
        windows = None if self.windows is None else self.windows[chosen]
        return Panel(pairs, self.ids[chosen], windows)


def _check_pair(i: int, pair: Pair) -> tuple[Array, Array]:
    try:
        first, second = pair
    except (TypeError, ValueError):
        raise ValueError(
            f"series {i} must be a pair (times, values); got {type(pair).__name__}"
        ) from None
    times = np.asarray(first, dtype=np.float64)
    values = np.asarray(second, dtype=np.float64)
    if times.ndim != 1 or values.ndim not in (1, 2):
        raise ValueError(
            f"series {i} must have times of shape (n,) and values of shape (n,) or "
            f"(n, n_channels); got {times.shape} and {values.shape}"
        )
    if len(times) != len(values):
        raise ValueError(f"series {i} has {len(times)} times, {len(values)} values")
    check_times(f"the times of series {i}", times)
    if np.isinf(values).any():
        raise ValueError(f"series {i} has infinite values; use NaN for missing ones")
    return times, values.reshape(len(values), -1 if values.ndim == 2 else 1)


def check_times(name: str, times: Array) -> None:
    """Raise ValueError unless times are finite and never decrease."""
    if not np.isfinite(times).all():
        raise ValueError(f"{name} must be finite")
    falls = np.flatnonzero(np.diff(times) < 0)
    if len(falls):
        k = int(falls[0])
        raise ValueError(
            f"{name} must not decrease; position {k + 1} has {times[k + 1]:g} after "
            f"{times[k]:g}"
        )


def check_windows(windows: ArrayLike, times: Sequence[Array], what: str) -> Array:
    """Return a window for each of the series or streams, (rows, 2).

    Raises
    ------
    ValueError
        If one does not start before it ends, or does not hold its row's times.
    """
    checked = np.asarray(windows, dtype=np.float64)
    if checked.shape != (len(times), 2):
        raise ValueError(
            f"windows must be a pair (start, end) for each of the {len(times)} {what}; "
            f"got shape {checked.shape}"
        )
    for i, ((start, end), own) in enumerate(zip(checked, times, strict=True)):
        if not (np.isfinite(start) and start < end < np.inf):
            raise ValueError(
                f"the window of {what} {i} must start before it ends; got "
                f"({start:g}, {end:g})"
            )
        if len(own) and (own[0] < start or own[-1] > end):
            outside = own[0] if own[0] < start else own[-1]
            raise ValueError(
                f"{what} {i} has the time {outside:g}, outside of its window "
                f"({start:g}, {end:g})"
            )
    return checked


def to_panel(frame: Any, *, id: str, time: str, value_columns: Sequence[str]) -> Panel:
    """Make a panel of a long table, one row per observation.

    Parameters
    ----------
    frame : DataFrame
        The table, in any order; or a mapping of columns.
    id : str
        Column that says which series a row belongs to.
    time : str
        Column of times, numbers or dates; dates become days since 1970.
    value_columns : sequence of str
        Columns of the channels; NaN where a row does not observe one.

    Returns
    -------
    Panel
        One series per id, in the order in which ids first appear, sorted by time.

    Raises
    ------
    ValueError
        If a time is missing.

    Examples
    --------
    >>> import pandas as pd
    >>> from skfunc.ode import to_panel
    >>> frame = pd.DataFrame(
    ...     {"stay": ["b", "b", "a"], "hour": [3.0, 1.0, 2.0], "pulse": [70, 80, 75]}
    ... )
    >>> panel = to_panel(frame, id="stay", time="hour", value_columns=["pulse"])
    >>> list(panel.ids), panel.times[0].tolist()
    (['b', 'a'], [1.0, 3.0])
    """
    if isinstance(value_columns, str):
        value_columns = [value_columns]
    names = np.asarray(frame[id])
    moments = np.asarray(frame[time])
    if moments.dtype.kind == "M":
        missing = np.isnat(moments)
        since = moments - np.datetime64("1970-01-01")
        moments = since / np.timedelta64(1, "D")
        moments = np.where(missing, np.nan, moments)
    moments = moments.astype(np.float64)
    if not np.isfinite(moments).all():
        row = int(np.flatnonzero(~np.isfinite(moments))[0])
        raise ValueError(f"the time of row {row} is missing or infinite")
    columns = [np.asarray(frame[name], dtype=np.float64) for name in value_columns]
    values = np.stack(columns, axis=1)
    ids, first, series = np.unique(names, return_index=True, return_inverse=True)
    order = np.lexsort((moments, series))
    ends = np.cumsum(np.bincount(series, minlength=len(ids)))
    rows = np.split(order, ends[:-1])
    by_appearance = np.argsort(first)
    pairs = [(moments[rows[k]], values[rows[k]]) for k in by_appearance]
    return Panel(pairs, ids[by_appearance])


@dataclass(frozen=True)
class PaddedSeries:
    """Series as arrays, what was not observed left out and padding last.

    Attributes
    ----------
    times : ndarray of shape (rows, slots)
        In order; padding repeats the last time of a row.
    values : ndarray of shape (rows, slots, channels)
        Zero where nothing was observed.
    mask : ndarray of bool of shape (rows, slots, channels)
        What was observed.
    windows : ndarray of shape (rows, 2) or None
        From when to when each series was watched, where that was given.
    """

    times: Array
    values: Array
    mask: NDArray[np.bool_]
    windows: Array | None = None

    def __len__(self) -> int:
        return len(self.times)


def padded(panel: Panel) -> PaddedSeries:
    """Return a panel's observations as arrays."""
    kept = [np.isfinite(values).any(axis=1) for values in panel.values]
    slots = max(1, max(int(k.sum()) for k in kept))
    times = np.zeros((len(panel), slots))
    values = np.full((len(panel), slots, panel.n_channels), np.nan)
    for i, keep in enumerate(kept):
        n = int(keep.sum())
        times[i, :n] = panel.times[i][keep]
        times[i, n:] = times[i, n - 1] if n else 0.0
        values[i, :n] = panel.values[i][keep]
    mask = np.isfinite(values)
    return PaddedSeries(times, np.where(mask, values, 0.0), mask, panel.windows)


def padded_rows(rows: Array, times: Array, n_channels: int) -> PaddedSeries:
    """Return series on shared times, one per row, as arrays."""
    values = rows.reshape(len(rows), len(times), n_channels)
    mask = np.isfinite(values)
    seen: NDArray[np.bool_] = np.any(mask, axis=2)
    slots = max(1, int(seen.sum(axis=1).max()))
    order = np.argsort(~seen, axis=1, kind="stable")[:, :slots]
    values = np.take_along_axis(values, order[:, :, None], axis=1)
    mask = np.take_along_axis(mask, order[:, :, None], axis=1)
    own = times[order]
    last = np.maximum(seen.sum(axis=1) - 1, 0)
    final = np.where(np.any(seen, axis=1), own[np.arange(len(own)), last], times[0])
    padding = np.arange(slots) > last[:, None]
    own = np.where(padding, final[:, None], own)
    return PaddedSeries(own, np.where(mask, values, 0.0), mask)


def is_ragged(X: Any) -> bool:
    """Tell whether X is a panel or a list of (times, values), not a table."""
    if isinstance(X, Panel):
        return True
    if not isinstance(X, (list, tuple)) or not len(X):
        return False
    first = X[0]
    if not isinstance(first, tuple) or len(first) != 2:
        return False
    return all(np.ndim(part) >= 1 for part in first)
