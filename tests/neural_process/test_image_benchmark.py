"""The benchmark of images: its masks, its scores, and that a training goes on."""

import importlib
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

import skfunc

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"

pytestmark = pytest.mark.skipif(
    not (BENCHMARKS / "image_completion.py").exists(),
    reason="needs the benchmarks folder",
)


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module


@pytest.fixture
def images():
    waves = np.sin(np.linspace(0, 6, 36) + np.arange(30)[:, None])
    return (0.5 * waves).astype(np.float32)


def test_masks_are_nested(script):
    module = script("image_completion")
    X = np.random.default_rng(0).random((5, 36))
    few, more, every = (module.mask(X, n, 0) for n in (4, 10, 36))
    assert (np.isfinite(few).sum(1) == 4).all()
    assert (np.isfinite(more).sum(1) == 10).all()
    assert not (np.isfinite(few) & np.isnan(more)).any()
    np.testing.assert_array_equal(every, X)


def test_training_goes_on_and_is_scored(script, images, tmp_path, capsys):
    training, module = script("_image_training"), script("image_completion")
    completer = skfunc.ImageCompleter(
        image_shape=(1, 6, 6),
        hidden_size=8,
        n_layers=2,
        batch_size=4,
        min_std=0.05,
        random_state=0,
    )
    file = tmp_path / "folder" / "waves.pt"
    first = training.train(completer, images, 0.2, file)
    longer = first.seconds + 0.2
    second = training.train(completer, images, longer, file)
    assert 0 < first.steps < second.steps
    # No time is left: the same network again.
    third = training.train(completer, images, longer, file)
    assert third.steps == second.steps and third.seconds == second.seconds
    squares, logs = module.unseen_scores(third.completer, images[:3], 20)
    masked = module.mask(images[:3], 20, 0)
    filled, std = third.completer.transform(masked, return_std=True)
    for i in range(3):
        gone = np.isnan(masked[i])
        truth = images[i, gone]
        assert squares[i] == pytest.approx(np.mean((filled[i, gone] - truth) ** 2))
        expected = stats.norm.logpdf(truth, filled[i, gone], std[i, gone]).mean()
        assert logs[i] == pytest.approx(expected)
    assert "CPU-s" in capsys.readouterr().out
    path = tmp_path / "figure.png"
    script("_image_figure").draw_figure(
        third.completer, images, (5, None), module.mask, path
    )
    assert path.stat().st_size > 1000


def test_means_of_neighbours(script):
    module = script("image_completion")
    level = np.where(np.random.default_rng(0).random((3, 64)) < 0.4, 5.0, np.nan)
    np.testing.assert_allclose(module.neighbour_means(level), 5.0)
