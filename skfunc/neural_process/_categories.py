"""Categories of a DataFrame as indicators of their levels."""

from __future__ import annotations

import numbers
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.validation import check_array, check_X_y, validate_data

Array = NDArray[np.float64]
# What a column of categories is read by: {"levels": list of str or None, "rest": bool}.
# None among the levels stands for a missing value; the rest is any other level.
Encoding = dict[str, Any]

# Indicators of a column at most; rarer levels share the last one. On tables of 200 to
# 300 rows, ten were as good as twenty, and five worse.
MOST_INDICATORS = 10


def checked_table(
    estimator: Any, X: Any, y: Any = "no_validation", *, reset: bool, **options: Any
) -> Any:
    """Check rows that may have gaps, and categories if they are a DataFrame's.

    Parameters
    ----------
    estimator : estimator
        Gets `categories_` with `reset` where there are categories; without, it has them
        where its fit saw some.
    X, y, reset, **options
        As of scikit-learn's `validate_data`.

    Returns
    -------
    ndarray, or a tuple of two
        Rows of numbers, NaN where a value is missing; and targets where given.

    Raises
    ------
    ValueError
        If the fit saw categories and X is no DataFrame, or anything else is not as
        `validate_data` wants it.
    """
    options |= {"dtype": np.float64, "ensure_all_finite": "allow-nan"}
    encodings = find_categories(X) if reset else None
    if encodings is not None:
        estimator.categories_ = encodings
    if not hasattr(estimator, "categories_"):
        return validate_data(estimator, X, y, reset=reset, **options)
    if not _is_frame(X):
        raise ValueError(
            "the fit read categories of a DataFrame; give a DataFrame with the same "
            f"columns, not {type(X).__name__}"
        )
    # Names and number of columns are those that the user has.
    validate_data(estimator, X, y, reset=reset, skip_check_array=True)
    rows = encode_categories(X, estimator.categories_)
    if isinstance(y, str):
        return check_array(rows, estimator=estimator, **options)
    return check_X_y(rows, y, estimator=estimator, **options)


def find_categories(X: Any) -> list[Encoding | None] | None:
    """Return how the columns of a DataFrame are read.

    Neither the order of rows nor that of levels matters: levels count by their
    frequency, those of one frequency by their text.

    Parameters
    ----------
    X : array-like or DataFrame
        Rows as the user has them. Columns of strings, categories, or objects that are
        not all numbers are categories.

    Returns
    -------
    list or None
        For each column its encoding, or None for one of numbers. None alone if no
        column holds categories, or X is no DataFrame.
    """
    if not _is_frame(X):
        return None
    encodings: list[Encoding | None] = [None] * X.shape[1]
    for place, dtype in enumerate(X.dtypes):
        if getattr(dtype, "kind", "O") == "O":
            levels = _levels_of(X.iloc[:, place], _is_categorical(dtype))
            encodings[place] = None if levels is None else _encoding_of(levels)
    return encodings if any(encodings) else None


def encode_categories(X: Any, encodings: Sequence[Encoding | None]) -> Array:
    """Return rows of numbers, with indicators in the place of categories.

    Parameters
    ----------
    X : DataFrame
        Rows with the columns that the encodings were found for.
    encodings : sequence
        As of `find_categories`.

    Returns
    -------
    ndarray of shape (n, n_columns)
        NaN where a number is missing. A level that is not known is one of the rest; of
        a column without a rest, all indicators are zero.

    Raises
    ------
    ValueError
        If a column of numbers holds something else.
    """
    numeric = [place for place, known in enumerate(encodings) if known is None]
    parts = []
    if numeric:
        frame = X.iloc[:, numeric]
        parts.append(
            check_array(frame, dtype=np.float64, ensure_all_finite=False)
            if len(frame)
            else np.empty(frame.shape)
        )
    for place, known in enumerate(encodings):
        if known is not None:
            parts.append(_indicators(X.iloc[:, place], known))
    return np.hstack(parts)


def check_encodings(encodings: Any, n_features: int) -> None:
    """Raise ValueError unless they are encodings of so many columns."""
    if not isinstance(encodings, list) or len(encodings) != n_features:
        raise ValueError(f"categories_ must be a list of {n_features} entries")
    for known in encodings:
        if known is None:
            continue
        if not isinstance(known, dict) or set(known) != {"levels", "rest"}:
            raise ValueError("categories_ has an entry without 'levels' and 'rest'")
        levels = known["levels"]
        if not isinstance(levels, list) or not all(
            level is None or isinstance(level, str) for level in levels
        ):
            raise ValueError("categories_ has levels that are not text")


def _is_frame(X: Any) -> bool:
    """Return whether X is a DataFrame, without importing what may not be installed."""
    return all(hasattr(X, name) for name in ("dtypes", "columns", "iloc"))


def _is_categorical(dtype: Any) -> bool:
    return hasattr(dtype, "categories")


def _level(value: Any) -> str:
    """Return the text of a level; equal numbers of any type have one text."""
    if isinstance(value, numbers.Real):
        return repr(float(value))
    return str(value)


def _levels_of(column: Any, is_categorical: bool = True) -> list[str | None] | None:
    """Return the level of every row; None alone for a column of numbers."""
    values = column.to_numpy(dtype=object)
    missing = column.isna().to_numpy(dtype=bool)
    if not is_categorical and all(
        isinstance(value, numbers.Real) for value in values[~missing]
    ):
        return None
    return [
        None if gap else _level(value)
        for value, gap in zip(values, missing, strict=True)
    ]


def _encoding_of(levels: list[str | None]) -> Encoding:
    counts = Counter(levels)
    # A missing value is a level that is never merged with others.
    gap: list[str | None] = [None] if counts.pop(None, 0) else []
    ranked = sorted(counts, key=lambda level: (-counts[level], str(level)))
    room = MOST_INDICATORS - len(gap)
    has_rest = len(ranked) > room
    return {"levels": ranked[: room - has_rest] + gap, "rest": has_rest}


def _indicators(column: Any, known: Encoding) -> Array:
    places = {level: place for place, level in enumerate(known["levels"])}
    rest = len(places)
    found = _levels_of(column)
    assert found is not None
    # Positions beyond the indicators are cut off: nothing is known of such rows.
    nowhere = rest + 1
    positions = np.array(
        [places.get(level, nowhere if level is None else rest) for level in found],
        dtype=np.intp,
    )
    indicators = np.zeros((len(found), rest + 2))
    indicators[np.arange(len(found)), positions] = 1.0
    return indicators[:, : rest + known["rest"]]
