"""Axes, colours and styles that the displays share."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import binom

# Okabe and Ito's colours, told apart by colour-blind readers too; their yellow is left
# out, as it is faint on white. B. Wong, "Points of view: Color blindness", Nature
# Methods 8 (2011), 441. https://doi.org/10.1038/nmeth.1618
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
REFERENCE_COLOR = "#595959"
BAND_COLOR = "#D9D9D9"

# Probability that a right model's value lies in the band drawn around the reference.
BAND_PROBABILITY = 0.95
BAND_LABEL = "95% sampling band"


def new_axes(ax: Any, caller: str) -> tuple[Any, Any]:
    """Return a figure and axes, those given or new ones."""
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError(
            f"{caller} needs matplotlib. Install it with `pip install skfunc[plot]`."
        ) from error
    if ax is None:
        figure, ax = plt.subplots(layout="constrained")
        return figure, ax
    return ax.figure, ax


def next_color(ax: Any) -> str:
    """Return the first colour that no line or bar on these axes has."""
    from matplotlib.colors import to_hex

    shown = [line.get_color() for line in ax.lines]
    shown += [patch.get_facecolor() for patch in ax.patches]
    used = {to_hex(color).upper() for color in shown}
    free = [color for color in COLORS if color not in used]
    return free[0] if free else COLORS[0]


def merge_style(
    artist: str, defaults: dict[str, Any], given: dict[str, Any] | None
) -> dict[str, Any]:
    """Return the defaults under a user's keywords, whose aliases (`c`) are known."""
    from matplotlib import cbook, collections, lines, patches

    kinds = {
        "line": lines.Line2D,
        "patch": patches.Patch,
        "collection": collections.Collection,
    }
    return {**defaults, **cbook.normalize_kwargs(given or {}, kinds[artist])}


def has_label(ax: Any, label: str) -> bool:
    """Return whether the legend of the axes has that label already."""
    return label in ax.get_legend_handles_labels()[1]


def legend_above(ax: Any, *, bottom: float | None = None) -> None:
    """Put the legend inside the axes, in room made for it above the data."""
    if not ax.get_legend_handles_labels()[1]:
        return
    legend = ax.legend(loc="upper center", ncols=2, frameon=False)
    shared = ax.get_shared_y_axes().get_siblings(ax)
    limits = np.array([sibling.dataLim.intervaly for sibling in shared])
    limits = limits[np.isfinite(limits).all(axis=1)]
    low, high = limits.min(), limits.max()
    low = low - 0.03 * (high - low) if bottom is None else bottom
    rows = (len(legend.get_texts()) + 1) // 2
    # A row of text and its spacing take a line and a half of the font.
    height = ax.get_window_extent().height / ax.figure.dpi * 72
    share = min(0.5, (1.5 * rows + 1) * legend.get_texts()[0].get_fontsize() / height)
    ax.set_ylim(low, low + (high - low) / (1 - share))


def effective_size(sample_weight: ArrayLike | None, n_samples: int) -> int:
    """Return Kish's number of equally weighted rows that vary as the weighted ones."""
    if sample_weight is None:
        return n_samples
    weights = np.asarray(sample_weight, dtype=np.float64)
    return max(1, round(float(weights.sum() ** 2 / (weights**2).sum())))


def binomial_band(probability: ArrayLike, n_samples: int) -> NDArray[np.float64]:
    """Return where a share of rows lies that has this probability: (2, ...)."""
    tail = (1 - BAND_PROBABILITY) / 2
    counts = [
        binom.ppf(level, n_samples, np.asarray(probability))
        for level in (tail, 1 - tail)
    ]
    return np.stack(counts) / n_samples


def estimator_name(estimator: Any, name: str | None) -> str:
    """Return the name given, or that of the estimator's class."""
    return type(estimator).__name__ if name is None else name


def check_one_target(shape: tuple[int, ...], display: str) -> None:
    """Raise unless the target has one dimension."""
    if len(shape) != 1:
        raise ValueError(
            f"{display} shows one target, of shape (n_samples,); got shape {shape}. "
            "For several, give the columns one by one to `from_predictions`."
        )
