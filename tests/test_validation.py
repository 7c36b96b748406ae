"""Checks of parameters, and what their errors tell."""

import numpy as np
import pytest

from skfunc._validation import (
    check_image_shape,
    check_integer,
    check_option,
    check_real,
    check_shape,
    check_sizes,
    check_weights,
)


class TestOption:
    @pytest.mark.parametrize("value", ["auto", True, False])
    def test_valid(self, value):
        check_option("early_stopping", value, ("auto", True, False))

    @pytest.mark.parametrize("value", ["never", 1, 0.0, None, ["auto"], np.zeros(2)])
    def test_error_names_parameter_value_and_options(self, value):
        with pytest.raises(ValueError, match="early_stopping=") as caught:
            check_option("early_stopping", value, ("auto", True, False))
        assert repr(value) in str(caught.value)
        assert "'auto'" in str(caught.value)


class TestInteger:
    @pytest.mark.parametrize("value", [1, 7, np.int64(3), np.uint8(2)])
    def test_valid(self, value):
        checked = check_integer("n_members", value)
        assert type(checked) is int and checked == value

    @pytest.mark.parametrize(
        "value", [0, -1, 2.0, True, np.True_, "3", None, [1], np.nan]
    )
    def test_invalid(self, value):
        with pytest.raises(ValueError, match="n_members must be an integer"):
            check_integer("n_members", value)

    def test_lower_bound(self):
        assert check_integer("n_augment", 0, low=0) == 0
        with pytest.raises(ValueError, match="n_augment .* at least 0; got -1"):
            check_integer("n_augment", -1, low=0)


class TestReal:
    @pytest.mark.parametrize("value", [0, 1, 0.5, np.float32(0.25), np.int8(1)])
    def test_valid(self, value):
        checked = check_real("alpha", value, 0, 1)
        assert type(checked) is float and checked == value

    @pytest.mark.parametrize(
        "value", [-0.1, 1.1, np.nan, np.inf, "1", None, True, np.True_, [0.5], 1j]
    )
    def test_invalid(self, value):
        with pytest.raises(ValueError, match="alpha must be a number in"):
            check_real("alpha", value, 0, 1)

    def test_exclusive_ends(self):
        for value in (0.0, 1.0):
            with pytest.raises(ValueError, match=r"fraction .* \(0, 1\)"):
                check_real("fraction", value, 0, 1, inclusive=False)

    def test_infinity_is_no_number_even_without_bounds(self):
        with pytest.raises(ValueError, match="alpha"):
            check_real("alpha", np.inf)


class TestSizes:
    @pytest.mark.parametrize(
        ("value", "sizes"),
        [(8, (8,)), ([8, 4], (8, 4)), ((1,), (1,)), (np.array([2, 3]), (2, 3))],
    )
    def test_valid(self, value, sizes):
        assert check_sizes("hidden_layer_sizes", value) == sizes

    @pytest.mark.parametrize("value", [(), [], "12", None, 2.5, {8}, True])
    def test_invalid(self, value):
        with pytest.raises(ValueError, match="hidden_layer_sizes must be"):
            check_sizes("hidden_layer_sizes", value)

    @pytest.mark.parametrize("value", [(8, 0), (8, 2.0), [8, "4"], (8, None)])
    def test_error_names_the_entry(self, value):
        with pytest.raises(ValueError, match=r"hidden_layer_sizes\[1\]"):
            check_sizes("hidden_layer_sizes", value)

    def test_empty_where_allowed(self):
        assert check_sizes("hidden_layer_sizes", (), allow_empty=True) == ()


class TestImageShape:
    def test_valid(self):
        assert check_image_shape(None, 12) is None
        assert check_image_shape((3, 2, 2), 12) == (3, 2, 2)
        assert check_image_shape([1, 3, 4], 12) == (1, 3, 4)

    def test_product_is_told(self):
        with pytest.raises(ValueError, match="multiplies to 18, but X has 12 features"):
            check_image_shape((2, 3, 3), 12)

    @pytest.mark.parametrize("value", [(3, 4), (1, 1, 3, 4), 12])
    def test_three_entries(self, value):
        with pytest.raises(ValueError, match="channels, height, width"):
            check_image_shape(value, 12)

    def test_positive_entries(self):
        with pytest.raises(ValueError, match=r"image_shape\[0\]"):
            check_image_shape((0, 3, 4), 12)


class TestShape:
    def test_valid(self):
        check_shape("X_mean_", np.zeros((2, 3)), (2, 3))
        check_shape("X_mean_", np.zeros(3, dtype=np.float32), (3,))

    @pytest.mark.parametrize(
        "value",
        [
            np.zeros(2),
            np.zeros((3, 1)),
            np.zeros(3, dtype=int),
            np.array([0.0, np.nan, 0.0]),
            np.array([0.0, np.inf, 0.0]),
            [0.0, 0.0, 0.0],
            None,
        ],
    )
    def test_invalid(self, value):
        with pytest.raises(ValueError, match="X_mean_"):
            check_shape("X_mean_", value, (3,))


class TestWeights:
    X = np.zeros((4, 2))

    def test_none_is_one_each(self):
        np.testing.assert_array_equal(check_weights(None, self.X), np.ones(4))

    def test_valid(self):
        weights = check_weights([0, 1, 2, 0.5], self.X)
        assert weights.dtype == np.float64
        np.testing.assert_array_equal(weights, [0, 1, 2, 0.5])

    def test_negative_names_the_row(self):
        with pytest.raises(ValueError, match="not be negative; row 2"):
            check_weights([1, 1, -0.5, -1], self.X)

    def test_all_zero(self):
        with pytest.raises(ValueError, match="(?i)sample.weight.* zero|non-zero"):
            check_weights(np.zeros(4), self.X)

    @pytest.mark.parametrize(
        "weights", [[1, 2, 3], [1, 1, 1, np.nan], [1, 1, 1, np.inf], np.ones((4, 2))]
    )
    def test_unfit(self, weights):
        with pytest.raises(ValueError):
            check_weights(weights, self.X)
