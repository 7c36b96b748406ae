"""Columns of categories: read as indicators, whatever their order."""

import pickle

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.model_selection import cross_val_score

import skfunc
from skfunc.neural_process._categories import (
    MOST_INDICATORS,
    check_encodings,
    encode_categories,
    find_categories,
)

pd = pytest.importorskip("pandas")

OFFSET = {"north": 0.0, "south": 2.0, "west": -2.0}


def table(n=120, seed=0):
    """Rows whose target depends on a number and on categories."""
    rng = np.random.default_rng(seed)
    region = rng.choice(list(OFFSET), n)
    grade = rng.choice(["a", "b"], n)
    frame = pd.DataFrame(
        {
            "size": rng.normal(size=n),
            "region": region,
            "grade": pd.Categorical(grade, categories=["b", "a", "never"]),
            "new": rng.uniform(size=n) < 0.5,
        },
        index=rng.permutation(n),
    )
    y = frame["size"] + frame["region"].map(OFFSET) + 1.0 * frame["new"]
    y = y + 0.05 * rng.normal(size=n)
    return frame, y.to_numpy()


def test_levels_are_indicators_and_numbers_stay():
    frame = pd.DataFrame(
        {"x": [1.5, np.nan, 3.0], "c": ["b", "a", "b"], "flag": [True, False, True]}
    )
    encodings = find_categories(frame)
    assert encodings == [None, {"levels": ["b", "a"], "rest": False}, None]
    np.testing.assert_array_equal(
        encode_categories(frame, encodings),
        [[1.5, 1.0, 1.0, 0.0], [np.nan, 0.0, 0.0, 1.0], [3.0, 1.0, 1.0, 0.0]],
    )


@pytest.mark.parametrize(
    "column",
    [
        pd.Series(["u", "v", None, "v"], dtype=object),
        pd.Series(["u", "v", None, "v"], dtype="string"),
        pd.Series(["u", "v", None, "v"], dtype="category"),
        pd.Series(["u", "v", np.nan, "v"], dtype=object),
        pd.Series([3, 1, None, 1], dtype="Int64").astype("category"),
    ],
)
def test_a_missing_category_is_a_level(column):
    frame = pd.DataFrame({"c": column})
    encodings = find_categories(frame)
    assert encodings[0]["levels"][-1] is None
    np.testing.assert_array_equal(
        encode_categories(frame, encodings),
        [[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]],
    )


@pytest.mark.parametrize(
    "values",
    [
        np.arange(4.0),
        np.array([1, 2.0, None, True], dtype=object),
        pd.array([1, 2, None, 4], dtype="Int64"),
        pd.array([True, False, None, True], dtype="boolean"),
    ],
)
def test_columns_of_numbers_are_no_categories(values):
    assert find_categories(pd.DataFrame({"x": values})) is None
    mixed = pd.DataFrame({"x": values, "c": list("abab")})
    encodings = find_categories(mixed)
    assert encodings[0] is None
    numbers = encode_categories(mixed, encodings)[:, 0]
    assert numbers.dtype == np.float64
    assert np.isnan(numbers).sum() == pd.isna(pd.Series(values)).sum()


def test_what_is_no_frame_has_no_categories():
    assert find_categories(np.array([["a"], ["b"]], dtype=object)) is None
    assert find_categories([["a"], ["b"]]) is None


def test_rare_levels_share_an_indicator():
    levels = [f"level {k}" for k in range(30)]
    counts = np.arange(30, 0, -1)
    frame = pd.DataFrame({"c": np.repeat(levels, counts)})
    [encoding] = find_categories(frame)
    assert encoding == {"levels": levels[: MOST_INDICATORS - 1], "rest": True}
    rows = encode_categories(frame, [encoding])
    assert rows.shape == (len(frame), MOST_INDICATORS)
    np.testing.assert_array_equal(rows.sum(axis=1), 1.0)
    assert rows[:, -1].sum() == counts[MOST_INDICATORS - 1 :].sum()
    with_gap = pd.concat([frame, pd.DataFrame({"c": [None]})])
    [encoding] = find_categories(with_gap)
    assert len(encoding["levels"]) == MOST_INDICATORS - 1
    assert encoding["levels"][-1] is None
    assert encode_categories(with_gap, [encoding])[-1].argmax() == MOST_INDICATORS - 2


def test_a_level_that_is_not_known_has_no_indicator_or_is_of_the_rest():
    few = find_categories(pd.DataFrame({"c": ["a", "b"]}))
    new = pd.DataFrame({"c": ["z", None, "a"]})
    np.testing.assert_array_equal(
        encode_categories(new, few), [[0.0, 0.0], [0.0, 0.0], [1.0, 0.0]]
    )
    many = find_categories(pd.DataFrame({"c": [f"{k}" for k in range(20)]}))
    rows = encode_categories(new, many)
    assert rows[0].argmax() == MOST_INDICATORS - 1
    assert rows[1].sum() == 0.0


def test_regression_knows_the_categories():
    frame, y = table()
    model = skfunc.NeuralProcessRegressor().fit(frame[:90], y[:90])
    assert model.score(frame[90:], y[90:]) > 0.95
    assert model.n_features_in_ == 4
    assert model.feature_names_in_.tolist() == ["size", "region", "grade", "new"]
    assert cross_val_score(model, frame, y, cv=2).min() > 0.9
    more = clone(model).fit(frame[:60], y[:60]).partial_fit(frame[60:90], y[60:90])
    assert more.score(frame[90:], y[90:]) > 0.9
    unseen = frame[90:].assign(region="east")
    assert np.isfinite(np.stack(model.predict(unseen, return_std=True))).all()


def test_classification_knows_the_categories():
    frame, y = table()
    labels = np.where(frame["region"] == "north", "yes", "no")
    model = skfunc.NeuralProcessClassifier().fit(frame[:90], labels[:90])
    assert model.score(frame[90:], labels[90:]) > 0.95


def test_neither_order_of_rows_nor_of_columns_matters():
    frame, y = table()
    expected = skfunc.NeuralProcessRegressor().fit(frame[:90], y[:90]).predict(frame)
    order = np.random.default_rng(1).permutation(90)
    columns = ["new", "grade", "size", "region"]
    other = skfunc.NeuralProcessRegressor().fit(frame[columns].iloc[order], y[order])
    np.testing.assert_array_equal(other.predict(frame[columns]), expected)


def test_pickles_saves_and_loads(tmp_path):
    frame, y = table()
    frame.loc[frame.index[:20], "region"] = None
    model = skfunc.NeuralProcessRegressor().fit(frame, y)
    expected = model.predict(frame)
    model.save(tmp_path / "model.safetensors")
    for again in (
        pickle.loads(pickle.dumps(model)),
        skfunc.load(tmp_path / "model.safetensors"),
    ):
        np.testing.assert_array_equal(again.predict(frame), expected)
        assert again.categories_ == model.categories_


def test_what_does_not_fit_is_refused():
    frame, y = table(30)
    model = skfunc.NeuralProcessRegressor().fit(frame, y)
    with pytest.raises(ValueError, match="give a DataFrame"):
        model.predict(frame.to_numpy())
    with pytest.raises(ValueError, match="feature names should match"):
        model.predict(frame[["new", "grade", "size", "region"]])
    with pytest.raises(ValueError, match="could not convert"):
        model.predict(frame.assign(size="large"))
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        skfunc.NeuralProcessRegressor().fit(frame, y[:-1])
    with pytest.raises(ValueError, match="could not convert"):
        skfunc.NeuralProcessRegressor("self").fit(frame, y)
    with pytest.raises(ValueError, match="infinity"):
        skfunc.NeuralProcessRegressor().fit(frame.assign(size=np.inf), y)
    # A later fit without categories knows of none.
    model.fit(frame[["size", "new"]], y)
    assert not hasattr(model, "categories_")


@pytest.mark.parametrize(
    "encodings",
    [
        "text",
        [None],
        [None, {"levels": ["a"]}],
        [None, {"levels": [1], "rest": False}],
        [None, {"levels": "ab", "rest": False}],
    ],
)
def test_encodings_of_a_file_are_checked(encodings):
    with pytest.raises(ValueError, match="categories_"):
        check_encodings(encodings, 2)
    check_encodings([None, {"levels": ["a", None], "rest": True}], 2)
