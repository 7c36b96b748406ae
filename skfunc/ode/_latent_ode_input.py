"""How a latent ODE reads series, and what it scales them by."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils.validation import validate_data

from skfunc._moments import weighted_moments
from skfunc.base import FunctionEstimator
from skfunc.ode._panel import (
    PaddedSeries,
    Panel,
    check_times,
    is_ragged,
    padded,
    padded_rows,
)

Array = NDArray[np.float64]

# A value farther from its channel's mean than so many deviations is moved there.
_FARTHEST = 1e8
# Times at which series are drawn where training series shared none.
DRAWN_TIMES = 100


class SeriesInput(FunctionEstimator):
    """Series in units of the window and of the channels' scales."""

    times: ArrayLike | None
    n_channels: int
    window: tuple[float, float] | None
    context_end: float | None
    poisson: bool
    # Set by `LatentODE.fit_events` alone.
    event_kinds_: NDArray[Any] | None = None

    @property
    def _of_events(self) -> bool:
        """Tell whether the model was fitted to events alone."""
        return self.event_kinds_ is not None

    def _check_values(self) -> None:
        if self._of_events:
            raise ValueError(
                "the model was fitted to events without values, by fit_events"
            )

    def _read(self, X: Any, *, reset: bool, y: Any = "no_validation") -> PaddedSeries:
        """Return checked series in their own units; set what a fit learns of them.

        Labels that are given for a table are checked for its length.
        """
        if not reset:
            self._check_values()
        if is_ragged(X):
            panel = X if isinstance(X, Panel) else Panel(X)
            if reset:
                self.n_channels_ = panel.n_channels
                self.times_ = np.zeros(0)
                for name in ("n_features_in_", "feature_names_in_"):
                    if hasattr(self, name):
                        delattr(self, name)
            elif panel.n_channels != self.n_channels_:
                raise ValueError(
                    f"X has {panel.n_channels} channels; the model was fitted to "
                    f"{self.n_channels_}"
                )
            return padded(panel)
        if not reset and not hasattr(self, "n_features_in_"):
            raise ValueError(
                "the model was fitted to series with times of their own; give a Panel "
                "or a list of (times, values)"
            )
        checked = validate_data(
            self, X, y, reset=reset, dtype=np.float64, ensure_all_finite="allow-nan"
        )
        rows = checked[0] if isinstance(checked, tuple) else checked
        if reset:
            self.n_channels_ = int(self.n_channels)
            self.times_ = self._shared_times(rows.shape[1])
        return padded_rows(rows, self.times_, self.n_channels_)

    def _shared_times(self, n_columns: int) -> Array:
        n_channels = self.n_channels_
        if n_columns % n_channels:
            raise ValueError(
                f"X has {n_columns} columns, no multiple of n_channels={n_channels}; a "
                "column is (time index) * n_channels + channel"
            )
        n_times = n_columns // n_channels
        if self.times is None:
            return np.linspace(0.0, 1.0, n_times)
        times = np.asarray(self.times, dtype=np.float64)
        if times.shape != (n_times,):
            raise ValueError(
                f"times has shape {times.shape}; X has {n_columns} columns of "
                f"{n_channels} channels, which makes {n_times} times"
            )
        check_times("times", times)
        return times

    def _learn_scales(self, series: PaddedSeries) -> None:
        """Set the window, and each channel's mean and scale."""
        if not series.mask.any():
            raise ValueError("X holds no observation at all, only NaN")
        seen = series.times[series.mask.any(axis=2)]
        if series.windows is not None:
            seen = np.append(seen, series.windows)
        ends = self.times_ if len(self.times_) else seen
        if self.window is not None:
            self.window_ = np.asarray(self.window, dtype=np.float64)
        else:
            self.window_ = np.array([ends.min(), ends.max()])
            if self.window_[0] == self.window_[1]:
                # One time alone: any length will do.
                self.window_ = self.window_[0] + np.array([0.0, 1.0])
        if not len(self.times_):
            self.times_ = self._drawn_times()
        self.channel_observed_ = series.mask.any(axis=(0, 1))
        self.channel_mean_ = np.zeros(self.n_channels_)
        self.channel_scale_ = np.ones(self.n_channels_)
        for c in np.flatnonzero(self.channel_observed_):
            values = series.values[..., c][series.mask[..., c]][:, None]
            mean, scale = weighted_moments(values, np.ones(len(values)))
            self.channel_mean_[c], self.channel_scale_[c] = mean[0], scale[0]
        self.event_rates_ = None
        if self.poisson:
            counts = series.mask.sum(axis=(0, 1))
            watched = np.diff(self._windows(series)).sum()
            # A channel without events keeps a rate that it could have had.
            self.event_rates_ = np.maximum(counts, 0.5) / watched

    def _drawn_times(self) -> Array:
        """Return even times in the window."""
        return np.linspace(self.window_[0], self.window_[1], DRAWN_TIMES)

    def _inner(self, series: PaddedSeries) -> PaddedSeries:
        """Return series in units of the window and of the channels' scales."""
        times = self._inner_times(series.times)
        seen = series.mask.any(axis=2)
        times = np.where(seen, times, 0.0)
        early = seen & (times < 0)
        if early.any():
            i, k = np.argwhere(early)[0]
            raise ValueError(
                f"series {i} was observed at {series.times[i, k]:g}, before the "
                f"window's start {self.window_[0]:g}; give a window that holds all "
                "times"
            )
        if series.windows is not None:
            outside = self._windows(series)
            wide = (outside[:, 0] < 0) | (outside[:, 1] > 1 + 1e-12)
            if wide.any():
                i = int(np.flatnonzero(wide)[0])
                raise ValueError(
                    f"series {i} has the window {tuple(series.windows[i].tolist())}, "
                    f"outside of the model's {tuple(self.window_.tolist())}"
                )
        late = seen & (times > 1 + 1e-12)
        if self.poisson and late.any():
            i, k = np.argwhere(late)[0]
            raise ValueError(
                f"series {i} has an event at {series.times[i, k]:g}, after the "
                f"window's end {self.window_[1]:g}; give a window that holds all events"
            )
        with np.errstate(over="ignore"):
            values = (series.values - self.channel_mean_) / self.channel_scale_
        values = np.clip(values, -_FARTHEST, _FARTHEST)
        # Padding comes after all times, as a backward encoder needs no order there.
        return PaddedSeries(
            times, np.where(series.mask, values, 0.0), series.mask, series.windows
        )

    def _inner_times(self, times: Array) -> Array:
        start, end = self.window_
        # Halves first: the length of the widest windows would overflow.
        return (times / 2 - start / 2) / (end / 2 - start / 2)

    def _windows(self, series: PaddedSeries) -> Array:
        """Return the windows of series in units of the model's."""
        if series.windows is None:
            return np.tile([0.0, 1.0], (len(series), 1))
        return self._inner_times(series.windows)

    def _context_end(self) -> float:
        if self.context_end is None:
            return float("inf")
        return float(self._inner_times(np.array(float(self.context_end))))
