"""The file of rows: appended to at once, one row per cell, the last one counts."""

from __future__ import annotations

import csv
import fcntl
import io
from contextlib import contextmanager
from pathlib import Path

KEY = ("task", "dataset", "split", "model", "label", "max_train")
FIGURES = (
    "n_train",
    "n_test",
    "n_features",
    "rmse",
    "nll",
    "nll_gauss",
    "crps",
    "cov90",
    "accuracy",
    "log_loss",
    "ece",
    "fit_s",
    "cpu_s",
)
COLUMNS = (*KEY, "status", *FIGURES, "versions")


class RowFile:
    """Rows in a csv file that several runs may append to at the same time.

    Parameters
    ----------
    path : path-like
        The file; made with its folder at the first row.
    more_figures : sequence of str
        Columns beside `COLUMNS`, of numbers.
    """

    def __init__(self, path, more_figures=()):
        self.path = Path(path)
        self.figures = (*FIGURES, *more_figures)
        self.columns = (*COLUMNS, *more_figures)

    def append(self, row: dict) -> None:
        """Write one row to disk."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self._locked("a") as file:
            writer = csv.DictWriter(file, self.columns, lineterminator="\n")
            if file.tell() == 0:
                writer.writeheader()
            writer.writerow({name: _text(row.get(name, "")) for name in self.columns})

    def read(self) -> list[dict]:
        """Return the latest row of every cell, figures as numbers."""
        if not self.path.exists():
            return []
        with self._locked("r") as file:
            latest = {row_key(row): row for row in csv.DictReader(file)}
        return [
            {
                name: _value(text) if name in self.figures else text
                for name, text in row.items()
            }
            for row in latest.values()
        ]

    def done(self, failures: bool = True) -> set[tuple]:
        """Keys of the cells that have a row, with or without the failed ones."""
        return {
            row_key(row) for row in self.read() if failures or row["status"] == "ok"
        }

    def compact(self) -> None:
        """Drop the rows that a later one replaced."""
        if not self.path.exists():
            return
        with self._locked("r+") as file:
            latest: dict[tuple, dict] = {}
            for row in csv.DictReader(file):
                latest[row_key(row)] = row
            text = io.StringIO()
            writer = csv.DictWriter(text, self.columns, lineterminator="\n")
            writer.writeheader()
            writer.writerows(latest.values())
            file.seek(0)
            file.truncate()
            file.write(text.getvalue())

    @contextmanager
    def _locked(self, mode):
        with open(self.path, mode, newline="") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if mode == "a":
                file.seek(0, io.SEEK_END)
            yield file


def row_key(row: dict) -> tuple:
    """Return what identifies the cell of a row, as text."""
    return tuple(str(row[name]) for name in KEY)


def _text(value) -> str:
    return format(value, ".6g") if isinstance(value, float) else str(value)


def _value(text: str) -> float:
    return float(text) if text else float("nan")
