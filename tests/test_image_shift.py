"""Benchmarks of images under corruption: corruptions, peers, rows and tables."""

import importlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from scipy.stats import binom, norm
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.datasets import load_digits

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
MODULES = ("_corruptions", "_image_peers", "_measure", "_models", "_rows", "_shift")

pytestmark = pytest.mark.skipif(
    not (BENCHMARKS / "digits_shift.py").exists(), reason="needs the benchmarks folder"
)


@pytest.fixture
def harness(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    modules = {name.strip("_"): importlib.import_module(name) for name in MODULES}
    return SimpleNamespace(
        **modules,
        digits_shift=importlib.import_module("digits_shift"),
        sde_images=importlib.import_module("sde_images"),
    )


@pytest.fixture
def digits():
    return load_digits().images[:100, None] / 16.0


def smooth_images(side, channels):
    """Random images that change within a few pixels, as natural ones do, in [0, 1]."""
    rng = np.random.default_rng(0)
    images = rng.normal(size=(20, channels, side, side))
    return norm.cdf(6.0 * gaussian_filter(images, 2.0, axes=(-2, -1)))


class TestCorruptions:
    def test_severity_0_changes_nothing(self, harness, digits):
        for kind in harness.corruptions.CORRUPTIONS:
            same = harness.corruptions.corrupt(digits, kind, 0)
            np.testing.assert_array_equal(same, digits)
            assert same is not digits

    @pytest.mark.parametrize("size", ["digits", (28, 1), (32, 3), (16, 3)])
    def test_damage_grows_within_the_range(self, harness, digits, size):
        images = digits if size == "digits" else smooth_images(*size)
        for kind in harness.corruptions.CORRUPTIONS:
            damage = []
            for severity in harness.corruptions.SEVERITIES:
                found = harness.corruptions.corrupt(images, kind, severity)
                assert found.shape == images.shape
                assert found.min() >= 0 and found.max() <= 1
                damage.append(np.mean((found - images) ** 2))
            assert np.all(np.diff(damage) > 0), kind

    def test_draws_are_those_of_seed_and_position(self, harness, digits):
        corrupt = harness.corruptions.corrupt
        for kind in harness.corruptions.CORRUPTIONS:
            first = corrupt(digits, kind, 3, seed=1)
            np.testing.assert_array_equal(first, corrupt(digits, kind, 3, seed=1))
            np.testing.assert_array_equal(
                first[:10], corrupt(digits[:10], kind, 3, seed=1)
            )
            differs = not np.array_equal(first, corrupt(digits, kind, 3, seed=2))
            assert differs == (kind in ("noise", "rotation"))

    def test_known_cases(self, harness):
        corrupt = harness.corruptions.corrupt
        grey = np.full((50, 1, 32, 32), 0.5)
        assert corrupt(grey, "noise", 1).std() == pytest.approx(0.06, rel=0.02)
        for kind in ("blur", "contrast", "rotation", "pixelate"):
            np.testing.assert_allclose(corrupt(grey, kind, 5), 0.5)
        np.testing.assert_allclose(corrupt(grey, "brightness", 2), 0.7)
        # A blur has the width that it says, on a side of 32 and on one of 8.
        for side, width in ((32, 2.4), (8, 1.2)):
            point = np.zeros((1, 1, 4 * side, side))
            point[0, 0, 2 * side, side // 2] = 1.0
            spread = corrupt(point, "blur", 5)[0, 0].sum(axis=1)
            offsets = np.arange(4 * side) - 2 * side
            assert np.sum(spread * offsets**2) ** 0.5 == pytest.approx(width, rel=0.02)
        # Half of 8 pixels a side: blocks of two.
        blocks = np.random.default_rng(0).random((3, 2, 8, 8))
        average = blocks.reshape(3, 2, 4, 2, 4, 2).mean(axis=(3, 5))
        np.testing.assert_allclose(
            corrupt(blocks, "pixelate", 4),
            average.repeat(2, axis=2).repeat(2, axis=3),
        )

    def test_rotations_go_both_ways(self, harness):
        bar = np.zeros((40, 1, 9, 9))
        bar[:, :, 4] = 1.0
        turned = harness.corruptions.corrupt(bar, "rotation", 5)
        kinds = np.unique(turned.round(6), axis=0)
        assert len(kinds) == 2
        np.testing.assert_allclose(kinds[0], kinds[1][:, ::-1], atol=1e-6)

    def test_what_is_no_corruption_is_told(self, harness, digits):
        with pytest.raises(ValueError, match="no corruption 'fog'"):
            harness.corruptions.corrupt(digits, "fog", 1)
        with pytest.raises(ValueError, match="severity"):
            harness.corruptions.corrupt(digits, "noise", 6)
        with pytest.raises(ValueError, match="shape"):
            harness.corruptions.corrupt(digits[:, 0], "noise", 1)


class TestPeers:
    def test_dropout_learns_and_repeats_itself(self, harness):
        X, y = load_digits(return_X_y=True)
        X, y = X[:300] / 16.0, y[:300]
        MCDropout = harness.image_peers.MCDropoutClassifier
        with harness.measure.one_thread():
            models = [
                MCDropout(max_iter=12, batch_size=32, dropout=rate).fit(
                    X[:200], y[:200]
                )
                for rate in (0.4, 0.4, 0.0)
            ]
        first, again, without = (model.predict_proba(X[200:]) for model in models)
        np.testing.assert_array_equal(first, again)
        np.testing.assert_allclose(first.sum(axis=1), 1.0, atol=1e-6)
        assert np.mean(models[0].classes_[first.argmax(axis=1)] == y[200:]) > 0.8
        models[2].n_passes = 1
        np.testing.assert_allclose(without, models[2].predict_proba(X[200:]), atol=1e-6)
        models[0].n_passes = 1
        assert np.abs(first - models[0].predict_proba(X[200:])).max() > 0.01

    def test_residual_networks_on_images_of_any_shape(self, harness):
        rng = np.random.default_rng(0)
        X, y = rng.random((20, 2 * 12 * 12)), np.arange(20) % 3
        ResNet = harness.image_peers.ResNetClassifier
        model = ResNet(
            image_shape=(2, 12, 12), state_size=4, n_members=2, max_iter=1
        ).fit(X, y)
        assert model.predict_proba(X).shape == (20, 3)


class Confident(ClassifierMixin, BaseEstimator):
    """Says the class by the mean intensity, more surely than it should."""

    def __init__(self, confidence=0.9, fails=False):
        self.confidence = confidence
        self.fails = fails

    def fit(self, X, y):
        if self.fails:
            raise ArithmeticError("lost\nits mind")
        self.classes_ = np.unique(y)
        return self

    def predict_proba(self, X):
        bright = X.mean(axis=1) > 0.5
        return np.where(
            bright[:, None] == [False, True], self.confidence, 1 - self.confidence
        )


@pytest.fixture
def images(harness):
    rng = np.random.default_rng(0)
    y = np.arange(80) % 2
    X = np.clip(rng.random((80, 64)) * 0.4 + 0.6 * y[:, None], 0, 1)
    return harness.shift.Images(X[:40], y[:40], X[40:], y[40:], (1, 8, 8))


class TestShift:
    def run(self, harness, images, rows, *models, split=0):
        for name, model in models:
            candidate = harness.shift.Candidate(name, "", lambda seed, m=model: m)
            harness.shift.run_candidate(candidate, "set", images, split, rows)

    def test_figures_are_those_of_the_condition(self, harness, images, tmp_path):
        rows = harness.rows.RowFile(tmp_path / "rows.csv", ["ece_floor"])
        self.run(harness, images, rows, ("A", Confident()))
        found = {row["dataset"]: row for row in rows.read()}
        assert len(found) == 31
        assert found["set"]["accuracy"] == 1
        assert found["set"]["log_loss"] == pytest.approx(-np.log(0.9), rel=1e-5)
        assert found["set"]["ece"] == pytest.approx(0.1)
        # Half of the rows are dark, and half of the range is added.
        assert found["set, brightness 5"]["accuracy"] == 0.5
        assert found["set, brightness 5"]["ece"] == pytest.approx(0.4)
        assert found["set, contrast 5"]["accuracy"] == 1

    def test_complete_rows_are_not_computed_again(self, harness, images, tmp_path):
        path = tmp_path / "rows.csv"
        rows = harness.rows.RowFile(path, ["ece_floor"])
        self.run(harness, images, rows, ("A", Confident()))
        text = path.read_text()
        self.run(harness, images, rows, ("A", Confident(fails=True)))
        assert path.read_text() == text
        path.write_text("\n".join(text.splitlines()[:-1]) + "\n")
        self.run(harness, images, rows, ("A", Confident()))
        assert len(rows.read()) == 31

    def test_tables_and_picture(self, harness, images, tmp_path):
        rows = harness.rows.RowFile(tmp_path / "rows.csv", ["ece_floor"])
        models = (("A", Confident()), ("SDEBNNClassifier", Confident(0.6)))
        for split in (0, 1):
            self.run(harness, images, rows, *models, split=split)
        self.run(harness, images, rows, ("B", Confident(fails=True)))
        assert "ArithmeticError: lost its mind" in rows.read()[-1]["status"]
        collect = harness.shift.collect
        shift = collect(rows.read(), "set", ["SDEBNNClassifier"], 40)
        assert shift.models == ["SDEBNNClassifier", "A"]
        assert shift.figures["ece"].shape == (2, 2, 6, 6)
        np.testing.assert_allclose(
            shift.figures["log_loss"][0, ..., 0], -np.log(0.6), rtol=1e-5
        )
        assert shift.figures["error"][0, 0, 2, 5] == 0.5
        report = harness.shift.report(shift)
        assert report.index("| SDEBNNClassifier ") < report.index("| A ")
        assert "**0.105**" in report
        assert "its floor" in report
        assert np.isfinite(shift.floor).all()
        assert "- B, split 0: failed: ArithmeticError: lost its mind" in report
        harness.shift.draw({"set": shift}, tmp_path / "picture.png")
        assert (tmp_path / "picture.png").stat().st_size > 10_000
        self.run(harness, images, rows, ("A", Confident()), split=2)
        shift = collect(rows.read(), "set", [], 40)
        assert shift.splits == ["0", "1"]
        assert "SDEBNNClassifier: 2 of 3 splits" in shift.left_out
        assert collect(rows.read(), "set", [], 41) is None
        assert collect(rows.read(), "another set", [], 40) is None

    def test_floor_of_the_calibration_error(self, harness):
        floor = harness.shift.calibration_floor
        assert floor(np.ones(50)) == 0.0
        # All rows in one bin: the mean absolute deviation of a binomial's share.
        share = binom(400, 0.9)
        expected = share.expect(lambda right: abs(right / 400 - 0.9))
        assert floor(np.full(400, 0.9)) == pytest.approx(expected, rel=0.1)
        # Ten times the rows, about a third of the floor.
        ratio = floor(np.full(4000, 0.9)) / expected
        assert ratio == pytest.approx(10**-0.5, rel=0.15)

    def test_members_of_equal_cost(self, harness):
        digits_shift = harness.digits_shift
        keys = ("model", "label", "dataset", "status", "cpu_s")
        one, eight = (
            ("ODENetClassifier", label)
            for label in (digits_shift.SINGLE, digits_shift.DEFAULT)
        )
        ours = (digits_shift.OURS, digits_shift.DEFAULT)
        values = [
            (*one, "digits", "ok", 2.0),
            (*eight, "digits", "ok", 9.0),
            (*ours, "digits", "ok", 11.0),
            (*ours, "digits", "ok", 13.0),
            (*ours, "digits, noise 1", "ok", 99.0),
        ]
        rows = [dict(zip(keys, value, strict=True)) for value in values]
        assert digits_shift.members_of_equal_cost(rows) == 11
        assert digits_shift.members_of_equal_cost(rows[:2]) is None

    def test_epochs_follow_from_the_cost_of_one(self, harness, images, monkeypatch):
        clock = [0.0]

        class Counting(Confident):
            def __init__(self, max_iter=1):
                super().__init__()
                self.max_iter = max_iter

            def fit(self, X, y):
                clock[0] += 0.05 * len(X) + 0.01 * len(X) * self.max_iter
                return super().fit(X, y)

        monkeypatch.setattr(harness.sde_images, "cpu_seconds", lambda: clock[0])
        epochs = harness.sde_images.epochs_within(Counting(), images, 10.0)
        assert epochs == 20
        assert harness.sde_images.epochs_within(Counting(), images, 1.0) == 1


def test_images_are_averaged_and_in_range(harness, tmp_path, monkeypatch):
    monkeypatch.setenv("SKFUNC_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="cifar10"):
        harness.sde_images.load("cifar10", 5, 3, 2)
    rng = np.random.default_rng(0)
    X = rng.integers(256, size=(8, 4, 4, 3), dtype=np.uint8)
    y = np.arange(8, dtype=np.uint8)
    (tmp_path / "images").mkdir()
    np.savez(
        tmp_path / "images" / "cifar10_10k2k.npz",
        X_train=X,
        y_train=y,
        X_test=X,
        y_test=y,
    )
    images = harness.sde_images.load("cifar10", 5, 3, 2)
    assert images.X.shape == (5, 12) and images.X_test.shape == (3, 12)
    assert images.image_shape == (3, 2, 2)
    corner = X[images.y, :2, :2].mean(axis=(1, 2)) / 255
    np.testing.assert_allclose(images.X.reshape(5, 3, 2, 2)[:, :, 0, 0], corner)
    with pytest.raises(ValueError, match="side 3"):
        harness.sde_images.load("cifar10", 5, 3, 3)
