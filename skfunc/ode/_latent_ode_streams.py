"""Streams of events: what users give, and the padded arrays inside."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from skfunc.ode._panel import check_times, check_windows

Array = NDArray[np.float64]


class EventStreams(Sequence[Any]):
    """Streams of events: when they happened, of which kind, and who was watching.

    Parameters
    ----------
    streams : sequence of array-like, or array-like of shape (n_events,)
        Times of shape (n,), not decreasing, for each stream; or pairs (times, kinds)
        with a label for every event. One array of numbers is one stream.
    windows : array-like of shape (n_streams, 2), optional
        From when to when each stream was watched. Default: the estimator's window.

    Attributes
    ----------
    times : list of ndarray of shape (n,)
        Of each stream.
    kinds : list of ndarray of shape (n,), or None
        Labels of the events.
    windows : ndarray of shape (n_streams, 2) or None
        Their own windows.

    See Also
    --------
    Panel : Series with values.

    Examples
    --------
    >>> from skfunc.ode import EventStreams
    >>> streams = EventStreams([[0.5, 2.0], []], windows=[(0, 3), (0, 10)])
    >>> len(streams), streams.times[0]
    (2, array([0.5, 2. ]))
    """

    def __init__(self, streams: Any, windows: ArrayLike | None = None) -> None:
        self.times, kinds = _read_streams(streams)
        labelled = [own for own in kinds if own is not None]
        self.kinds = labelled or None
        self.windows = None
        if windows is not None:
            self.windows = check_windows(windows, self.times, "stream")

    def __len__(self) -> int:
        return len(self.times)

    def __getitem__(self, index: Any) -> Any:
        """Return one stream, or the streams of a slice or an array."""
        if isinstance(index, (int, np.integer)):
            if self.kinds is None:
                return self.times[index]
            return self.times[index], self.kinds[index]
        chosen = np.arange(len(self))[index]
        windows = None if self.windows is None else self.windows[chosen]
        return EventStreams([self[i] for i in chosen], windows)


@dataclass(frozen=True)
class PaddedStreams:
    """Events of several streams as arrays, padding last.

    Attributes
    ----------
    times : ndarray of shape (streams, slots)
        In order; padding repeats the last time of a row.
    kinds : ndarray of int of shape (streams, slots)
        Positions of the kinds; -1 for padding.
    windows : ndarray of shape (streams, 2)
        From when to when each stream was watched.
    """

    times: Array
    kinds: NDArray[np.intp]
    windows: Array

    def __len__(self) -> int:
        return len(self.times)

    def __getitem__(self, rows: slice) -> PaddedStreams:
        """Return the streams of a slice."""
        return PaddedStreams(self.times[rows], self.kinds[rows], self.windows[rows])

    @property
    def real(self) -> NDArray[np.bool_]:
        """Tell events from padding, (streams, slots)."""
        return self.kinds >= 0

    def mask(self, n_kinds: int) -> NDArray[np.bool_]:
        """Tell the kind of every event, (streams, slots, kinds)."""
        return self.kinds[:, :, None] == np.arange(n_kinds)


def as_streams(streams: Any) -> EventStreams:
    """Return what a user gives as streams."""
    return streams if isinstance(streams, EventStreams) else EventStreams(streams)


def padded_streams(
    streams: EventStreams, kinds: NDArray[Any], windows: Array
) -> PaddedStreams:
    """Return streams as arrays, with the positions of their kinds.

    Raises
    ------
    ValueError
        If an event is of a kind that is not among `kinds`, or outside of its window.
    """
    windows = check_windows(windows, streams.times, "stream")
    slots = max(1, max(len(own) for own in streams.times))
    moments = np.tile(windows[:, :1], (1, slots))
    positions = np.full((len(streams), slots), -1, dtype=np.intp)
    for i, own in enumerate(streams.times):
        n = len(own)
        moments[i, :n] = own
        moments[i, n:] = own[-1] if n else windows[i, 0]
        if streams.kinds is None:
            if len(kinds) > 1:
                raise ValueError("the model knows kinds of events; streams has none")
            positions[i, :n] = 0
            continue
        labels = streams.kinds[i]
        known = np.isin(labels, kinds)
        if not known.all():
            unknown = labels[~known].tolist()[0]
            raise ValueError(
                f"stream {i} has an event of kind {unknown!r}; known are "
                f"{kinds.tolist()}"
            )
        positions[i, :n] = np.searchsorted(kinds, labels)
    return PaddedStreams(moments, positions, windows)


def _read_streams(streams: Any) -> tuple[list[Array], list[NDArray[Any] | None]]:
    """Return the times of every stream, and its kinds or None.

    Raises
    ------
    ValueError
        If the streams are none, or one is neither times nor a pair (times, kinds).
    """
    if hasattr(streams, "to_numpy"):
        streams = streams.to_numpy()
    if not isinstance(streams, (list, tuple, np.ndarray)) or not len(streams):
        raise ValueError(
            "streams must be a list with an array of event times for each stream; got "
            f"{streams!r}"
        )
    if all(np.ndim(part) == 0 for part in streams):
        streams = [streams]
    times, kinds = [], []
    for i, stream in enumerate(streams):
        own: Any = None
        if isinstance(stream, tuple) and len(stream) == 2 and np.ndim(stream[0]) == 1:
            stream, own = stream[0], np.asarray(stream[1])
        try:
            moments = np.asarray(stream, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise ValueError(f"stream {i} has times that are no numbers") from error
        if moments.ndim != 1 or (own is not None and own.shape != moments.shape):
            raise ValueError(
                f"stream {i} must be an array of times of shape (n,), or a pair "
                "(times, kinds) of such"
            )
        check_times(f"the times of stream {i}", moments)
        times.append(moments)
        kinds.append(own)
    if len({own is None for own in kinds}) > 1:
        raise ValueError("either all streams have kinds of events, or none has")
    return times, kinds
