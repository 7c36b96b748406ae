"""Missing pixels are filled, seen ones kept, and draws hang together."""

import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.exceptions import NotFittedError
from sklearn.impute import KNNImputer

import skfunc
from skfunc.neural_process import _image_completer
from skfunc.neural_process._image_completer import _edges
from skfunc.neural_process._images import ImageTasks, as_points, as_rows, coordinates
from skfunc.neural_process._training import MetaTraining
from skfunc.training import StreamTrainer

VARIANTS = ("anp", "cnp", "convcnp", "lbanp", "np", "tnp")
SHAPE = (1, 8, 8)


@pytest.fixture(scope="module")
def digits():
    """Return whole images to learn from, others, and those with a third to be seen."""
    X = load_digits().data
    unseen = np.random.default_rng(0).random((200, 64)) > 0.33
    return X[:1000], X[1000:1200], np.where(unseen, np.nan, X[1000:1200])


@pytest.fixture(scope="module")
def small():
    """Return what makes a small completer."""
    defaults = {
        "image_shape": SHAPE,
        "hidden_size": 16,
        "n_layers": 2,
        "n_heads": 2,
        "max_iter": 5,
        "n_exemplars": 100,
        "random_state": 0,
        "device": "cpu",
    }
    return lambda **changes: skfunc.ImageCompleter(**(defaults | changes))


@pytest.fixture(scope="module")
def fitted(small, digits):
    """Return a completer of every variant, hardly trained, by name."""
    return {name: small(variant=name).fit(digits[0]) for name in VARIANTS}


@pytest.fixture(scope="module")
def trained(small, digits):
    """Return one that was trained for a while."""
    return small(max_iter=150, n_exemplars=500).fit(digits[0])


def test_completions_beat_mean_images(trained, digits):
    train, whole, masked = digits
    filled, std = trained.transform(masked, return_std=True)
    missing = np.isnan(masked)
    error = (filled - whole)[missing]
    mean_image = (train.mean(0) - whole)[missing]
    assert np.mean(error**2) < 0.5 * np.mean(mean_image**2)
    # Nats a pixel, beside the mean image with one deviation for all pixels.
    density = stats.norm.logpdf(error, scale=std[missing]).mean()
    spread = (train - train.mean(0)).std()
    assert density > stats.norm.logpdf(mean_image, scale=spread).mean() + 0.3
    inside = np.abs(error) < 1.645 * std[missing]
    assert 0.8 < inside.mean() < 0.98


def test_more_pixels_say_more(trained, digits):
    _, whole, _ = digits
    keys = np.random.default_rng(1).random(whole.shape)
    asked = keys > 0.8
    errors = []
    for share in (0.0, 0.1, 0.3, 0.7):
        filled = trained.transform(np.where(keys < share, whole, np.nan))
        errors.append(np.mean((filled - whole)[asked] ** 2))
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.4 * errors[0]


def test_completions_beat_nearest_neighbours(trained, digits):
    train, whole, masked = digits
    missing = np.isnan(masked)
    neighbours = KNNImputer(n_neighbors=5).fit(train).transform(masked)
    errors = [
        np.mean((filled - whole)[missing] ** 2)
        for filled in (trained.transform(masked), neighbours)
    ]
    assert errors[0] < errors[1]


def test_exemplars(small, digits):
    train = digits[0][:60].copy()
    train[:30, 3] = np.nan
    stored = small(n_exemplars=20).fit(train).prior_.network().exemplars.images
    kept = np.asarray(stored) * 16 + 8
    # Drawn from the images without gaps.
    assert kept.shape == (20, 64)
    agree = (np.abs(kept[:, None] - train[None]).max(-1) < 1e-5).sum(axis=1)
    assert (agree == 1).all()
    for model in (small(n_exemplars=0).fit(train), small().fit(train[:31])):
        assert model.prior_.network().exemplars is None
        assert np.isfinite(model.transform(digits[2][:2])).all()


def test_draws_are_images(trained, digits):
    _, _, masked = digits
    # Of a blank image little is known, and its draws differ by more than noise.
    draws = trained.sample(np.full((1, 64), np.nan), 60, random_state=0, n_groups=32)
    assert draws.shape == (1, 64, 60)
    rows = draws[0].reshape(8, 8, 60)
    inner = rows[2:6, 2:6]
    neighbours = [
        np.corrcoef(inner[i, j], inner[i + 1, j])[0, 1]
        for i in range(3)
        for j in range(4)
    ]
    assert np.mean(neighbours) > 0.2
    # Draws of different images have nothing to do with each other.
    apart = np.corrcoef(rows[3, 3, :30], rows[3, 3, 30:])[0, 1]
    assert abs(apart) < 0.45
    assert trained.sample(masked[:2], 3, random_state=0).shape == (2, 64, 3)


def test_mean_of_draws_is_the_mean(trained, digits):
    # One pixel is missing: its draws are those of one Gaussian.
    masked = digits[1][:1].copy()
    masked[0, 27] = np.nan
    filled, std = trained.transform(masked, return_std=True)
    draws = trained.sample(masked, 500, random_state=0)[0, 27]
    assert abs(draws.mean() - filled[0, 27]) < 4 * std[0, 27] / np.sqrt(500)
    np.testing.assert_allclose(draws.std(), std[0, 27], rtol=0.1)


@pytest.mark.parametrize("name", VARIANTS)
def test_seen_pixels_are_kept(fitted, digits, name):
    masked = digits[2][:10]
    seen = ~np.isnan(masked)
    filled, std = fitted[name].transform(masked, return_std=True)
    np.testing.assert_array_equal(filled[seen], masked[seen])
    assert np.isfinite(filled).all()
    assert (std[seen] == 0).all() and (std[~seen] >= 16 * 1e-2).all()
    draws = fitted[name].sample(masked, 2, random_state=0)
    assert np.isfinite(draws).all()
    np.testing.assert_array_equal(draws[seen], np.stack([masked[seen]] * 2, axis=1))
    assert np.abs(draws[..., 0] - draws[..., 1])[~seen].min() > 0
    # Images without gaps, and none but gaps.
    np.testing.assert_array_equal(fitted[name].transform(digits[1][:2]), digits[1][:2])
    assert np.isfinite(fitted[name].transform(np.full((1, 64), np.nan))).all()


@pytest.mark.parametrize("name", VARIANTS)
def test_images_alone_and_together(fitted, digits, name, monkeypatch):
    masked = digits[2][:10]
    together = fitted[name].transform(masked, return_std=True)
    single = [fitted[name].transform(row[None], return_std=True) for row in masked]
    for i in range(2):
        alone = np.concatenate([parts[i] for parts in single])
        np.testing.assert_allclose(alone, together[i], rtol=1e-9, atol=1e-9)
    monkeypatch.setattr(_image_completer, "_CHUNK_NUMBERS", 1)
    assert len(list(fitted[name]._chunks(masked))) == 10
    np.testing.assert_allclose(fitted[name].transform(masked), together[0], rtol=1e-9)


@pytest.mark.parametrize("name", VARIANTS)
def test_file(fitted, digits, name, tmp_path):
    fitted[name].save(tmp_path / "completer.safetensors")
    again = skfunc.load(tmp_path / "completer.safetensors")
    for one, other in (
        (m.transform(digits[2], return_std=True), m.sample(digits[2][:2], 2, 0))
        for m in (fitted[name],)
    ):
        np.testing.assert_array_equal(one, again.transform(digits[2], return_std=True))
        np.testing.assert_array_equal(other, again.sample(digits[2][:2], 2, 0))


def test_file_that_does_not_fit_together(fitted):
    model = clone(fitted["cnp"])
    model.__dict__.update(vars(fitted["cnp"]))
    model._check_fitted_state()
    model.image_shape_ = (1, 4, 16)
    with pytest.raises(ValueError, match="image_shape_ is"):
        model._check_fitted_state()
    model.image_shape_, model.normals_ = SHAPE, np.zeros((2, 2))
    with pytest.raises(ValueError, match="normals_"):
        model._check_fitted_state()
    model.normals_, model.prior_ = fitted["cnp"].normals_, 3
    with pytest.raises(ValueError, match="no NeuralProcessPrior"):
        model._check_fitted_state()


@pytest.mark.parametrize("variant", ["convcnp", "np", "tnp"])
def test_colours(small, variant):
    generator = np.random.default_rng(0)
    colour = generator.random((40, 3, 1))
    X = np.broadcast_to(colour, (40, 3, 20)).reshape(40, 60)
    model = small(image_shape=(3, 4, 5), variant=variant, max_iter=3).fit(X)
    masked = X[:4].copy()
    # One channel of a pixel: the others stay.
    masked[:, 7] = np.nan
    filled, std = model.transform(masked, return_std=True)
    assert (np.flatnonzero(std[0]) == [7]).all()
    np.testing.assert_array_equal(np.delete(filled, 7, 1), np.delete(X[:4], 7, 1))
    assert model.sample(masked, 2, random_state=0).shape == (4, 60, 2)


@pytest.mark.parametrize("shape", [None, (1, 12, 1), (2, 1, 6)])
@pytest.mark.parametrize("variant", ["convcnp", "tnp"])
def test_lines(small, shape, variant):
    X = np.random.default_rng(0).normal(size=(20, 12)).cumsum(axis=1)
    model = small(image_shape=shape, variant=variant).fit(X)
    assert model.prior_.n_features == 1
    masked = np.where(np.arange(12) % 3 == 0, np.nan, X)
    assert np.isfinite(model.transform(masked)).all()
    assert np.isfinite(model.sample(masked, 2, random_state=0)).all()


def test_learning_from_images_with_gaps(small, digits):
    train = digits[0][:50].copy()
    gaps = np.random.default_rng(0).random(train.shape) < 0.3
    train[gaps] = np.nan
    train[0] = np.nan
    model = small(max_iter=20).fit(train)
    assert np.isfinite(model.loss_curve_).all()
    with pytest.raises(ValueError, match="no image of X has two pixels"):
        model.fit(train[:1])


@pytest.mark.parametrize("is_padded", [False, True])
def test_tasks_of_images(is_padded):
    """Context and targets are other pixels of the same image, and were seen."""
    generator = np.random.default_rng(0)
    points = np.arange(6)[:, None, None] + np.arange(12)[None, :, None] / 100
    points = np.where(generator.random((6, 12, 1)) < 0.3, np.nan, points)
    source = ImageTasks(points, coordinates((1, 3, 4)), (0.0, 0.8), 5, is_padded)
    sizes, mixed = set(), set()
    for _ in range(50):
        batch = source.draw(4, generator, torch.float64)
        sizes.add(batch.context_x.shape[1])
        if is_padded:
            mixed.add(len(set(batch.context_mask.sum(1).tolist())))
        assert batch.target_x.shape[1] <= 5
        assert batch.target_mask.any(1).all()
        x, y, mask = batch.joined()
        for task in range(4):
            values = y[task][mask[task], 0].numpy()
            image, pixels = np.divmod(np.round(values * 100), 100)
            assert len(set(image)) == 1
            assert len(set(pixels)) == len(pixels)
            expected = source.x[pixels.astype(int)]
            np.testing.assert_array_equal(x[task][mask[task]], expected)
        assert not y[~mask].any() and not x[~mask].any()
    assert max(sizes) >= 6
    assert max(mixed) >= 3 if is_padded else {0, 1, 2, 3} <= sizes


def test_order_of_pixels():
    shape = (2, 2, 3)
    X = np.arange(24.0).reshape(2, 12)
    points = as_points(X, shape)
    np.testing.assert_array_equal(points[0, 4], [4, 10])
    np.testing.assert_array_equal(as_rows(points), X)
    np.testing.assert_array_equal(coordinates(shape)[4], [1.0, 0.0])
    np.testing.assert_array_equal(coordinates((1, 1, 3))[:, 0], [-1, 0, 1])


def test_groups_of_pixels():
    assert _edges(5, 5).tolist() == _edges(5, 64).tolist() == [0, 1, 2, 3, 4, 5]
    assert _edges(100, 1).tolist() == [0, 100]
    edges = _edges(784, 20)
    assert edges[0] == 0 and edges[-1] == 784
    assert (np.diff(edges) > 0).all() and np.diff(edges)[0] < np.diff(edges)[-1]


def test_seeds(small, digits):
    one, same, other = (small(random_state=s).fit(digits[0]) for s in (0, 0, 1))
    filled = one.transform(digits[2])
    np.testing.assert_array_equal(filled, same.transform(digits[2]))
    assert np.abs(filled - other.transform(digits[2])).max() > 1e-6
    draws = [one.sample(digits[2][:2], 2, seed) for seed in (0, 0, 1)]
    np.testing.assert_array_equal(draws[0], draws[1])
    assert np.abs(draws[0] - draws[2]).max() > 1e-3


def test_interruption(small, digits, monkeypatch):
    advance = StreamTrainer.advance

    def interrupted(self, batch):
        if self.step == 2:
            raise KeyboardInterrupt
        return advance(self, batch)

    monkeypatch.setattr(StreamTrainer, "advance", interrupted)
    model = small()
    with pytest.raises(KeyboardInterrupt):
        model.fit(digits[0])
    assert model.n_iter_ == 2
    assert np.isfinite(model.transform(digits[2])).all()


@pytest.mark.parametrize("error", [FloatingPointError, KeyboardInterrupt])
def test_failed_refit_keeps_the_earlier_fit(small, digits, monkeypatch, error):
    def fail(*args, **options):
        raise error("before anything was learned")

    model = small(max_iter=1).fit(digits[0][:50])
    before = dict(vars(model))
    with monkeypatch.context() as patched:
        patched.setattr(MetaTraining, "run", fail)
        with pytest.raises(error):
            model.fit(digits[0][50:90] * 2)
        fresh = small()
        with pytest.raises(error):
            fresh.fit(digits[0])
    with pytest.raises(NotFittedError):
        fresh.transform(digits[2])
    # So does what is refused before any training.
    with pytest.raises(ValueError, match="two pixels"):
        model.fit(np.full((3, 64), np.nan))
    with pytest.raises(ValueError, match="multiplies to 64"):
        model.fit(digits[0][:, :60])
    assert set(vars(model)) == set(before)
    assert all(vars(model)[name] is before[name] for name in before)


def test_frames(small, digits):
    frame = pd.DataFrame(digits[2], columns=[f"pixel{i}" for i in range(64)])
    model = small().set_output(transform="pandas").fit(frame.iloc[:50])
    filled = model.transform(frame)
    assert list(filled.columns) == list(frame.columns)
    assert not filled.isna().any().any()


def test_verbose(small, digits, capsys):
    small(max_iter=100, verbose=True).fit(digits[0])
    assert "step 100: loss" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"image_shape": (1, 8, 7)}, "multiplies to 56, but X has 64"),
        ({"image_shape": (8, 8)}, "image_shape must be"),
        ({"variant": "vae"}, "variant"),
        ({"objective": "elbo"}, "needs a latent"),
        ({"context_share": 0.5}, r"context_share must be \(least, greatest\)"),
        ({"context_share": (0.5, 0.2)}, r"context_share must be \(least, greatest\)"),
        ({"context_share": (0.5, 1.2)}, r"in \[0, 1\]"),
        ({"context_share": (-0.5, 0.2)}, "context_share"),
        ({"target_size": 0}, "target_size"),
        ({"max_iter": 0}, "max_iter"),
        ({"n_exemplars": -1}, "n_exemplars"),
        ({"n_draws": 0}, "n_draws"),
        ({"min_std": 0.0}, "min_std"),
    ],
)
def test_parameters(small, digits, changes, text):
    with pytest.raises(ValueError, match=text):
        small(**changes).fit(digits[0])


def test_images_that_do_not_fit(fitted, small, digits):
    model = fitted["convcnp"]
    with pytest.raises(NotFittedError):
        small().transform(digits[2])
    with pytest.raises(ValueError, match="63 features"):
        model.transform(digits[2][:, 1:])
    with pytest.raises(ValueError, match="infinity"):
        model.transform(np.where(np.isnan(digits[2]), np.inf, 0.0))
    with pytest.raises(ValueError, match="n_samples"):
        model.sample(digits[2], 0)
    with pytest.raises(ValueError, match="n_groups"):
        model.sample(digits[2], n_groups=0)
    # All values alike: nothing to scale by.
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        flat = small().fit(np.full((5, 64), 3.0))
    assert np.isfinite(flat.transform(digits[2])).all()
