"""Arguments, the report, and the methods of torchdiffeq."""

import json
import math

import pytest
import torch

from skfunc.solvers import (
    ADAPTIVE_METHODS,
    FIXED_METHODS,
    SolverReport,
    check_method,
    odeint,
)
from skfunc.solvers._torchdiffeq import (
    TORCHDIFFEQ_FIXED,
    TORCHDIFFEQ_METHODS,
    TORCHDIFFEQ_SCIPY,
)

ONES = torch.ones(2, 3, dtype=torch.float64)


def decay(t, y):
    return -y


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "rk5"}, "'rk5'.*dopri5.*torchdiffeq:dopri8"),
        ({"method": "torchdiffeq:nope"}, "torchdiffeq:nope"),
        ({"t": [0.0]}, r"at least two times, got \[0.0\]"),
        ({"t": [0.0, 1.0, 1.0]}, r"strictly.*\[0.0, 1.0, 1.0\]"),
        ({"t": [0.0, 1.0, 0.5]}, "strictly"),
        ({"t": [0.0, math.nan]}, "finite"),
        ({"t": torch.zeros(2, 2)}, r"one axis, got shape \(2, 2\)"),
        ({"y0": torch.ones(2, 3, dtype=torch.int64)}, "floating point.*int64"),
        ({"y0": [1.0]}, "floating point tensor, got list"),
        ({"row_ndim": 3}, "row_ndim must be between 0 and the 2 axes.*3"),
        ({"per_row": True, "row_ndim": 0}, "row_ndim >= 1"),
        ({"rtol": -1.0}, "rtol must be a number >= 0, got -1.0"),
        ({"atol": math.inf}, "atol"),
        ({"atol": "small"}, "atol.*small"),
        ({"rtol": 0, "atol": 0}, "both"),
        ({"n_steps": 0}, "n_steps must be an integer >= 1 or None, got 0"),
        ({"n_steps": 2.5}, "n_steps"),
        ({"max_nfe": 0}, "max_nfe"),
        ({"gradient": "magic"}, "'magic'.*backprop, checkpoint, adjoint"),
        ({"f": lambda t, y: y[:1]}, r"\(2, 3\).*got \(1, 3\)"),
        ({"f": lambda t, y: y.float()}, "float64.*float32"),
        ({"f": lambda t, y: 1.0}, "got float"),
        ({"method": "torchdiffeq:rk4", "per_row": True}, "per_row.*dopri5, tsit5"),
        ({"method": "torchdiffeq:rk4", "gradient": "checkpoint"}, "checkpoint.*rk4"),
    ],
)
def test_says_what_is_wrong(settings, message):
    arguments = {"f": decay, "y0": ONES, "t": [0.0, 1.0]} | settings
    f, y0, t = arguments.pop("f"), arguments.pop("y0"), arguments.pop("t")
    with pytest.raises(ValueError, match=message):
        odeint(f, y0, t, **arguments)


def test_check_method():
    for method in (*FIXED_METHODS, *ADAPTIVE_METHODS, *TORCHDIFFEQ_METHODS):
        assert check_method(method) == method
    with pytest.raises(ValueError, match="rk4"):
        check_method("")


@pytest.mark.parametrize("method", TORCHDIFFEQ_METHODS)
@pytest.mark.parametrize("t", [[0.0, 0.5, 1.0], [1.0, 0.5, 0.0]])
def test_every_method_of_torchdiffeq(method, t):
    calls = []
    # The high order that explicit Adams reaches is unstable on a decay.
    n_steps = 3 if method.endswith("explicit_adams") else 40

    def field(t, y):
        calls.append(t)
        return -y

    with torch.no_grad():
        solution = odeint(field, ONES, t, method=method, n_steps=n_steps)
    exact = torch.exp(t[0] - torch.tensor(t, dtype=torch.float64))
    tolerance = 3e-2 if method.endswith("euler") else 1e-3
    torch.testing.assert_close(
        solution.y, exact[:, None, None] * ONES, rtol=tolerance, atol=tolerance
    )
    assert solution.report.nfe == len(calls) > 0
    assert solution.report.method == method
    if method.removeprefix("torchdiffeq:") in TORCHDIFFEQ_FIXED:
        assert solution.report.n_steps == 2 * n_steps


@pytest.mark.parametrize("method", ["rk4", "dopri5", "scipy_solver"])
def test_gradients_of_torchdiffeq(method):
    rate = torch.tensor(-0.7, dtype=torch.float64, requires_grad=True)
    for gradient in ("backprop", "adjoint"):
        settings = {"method": "torchdiffeq:" + method, "gradient": gradient}
        settings |= {"rtol": 1e-9, "atol": 1e-9, "n_steps": 50, "params": [rate]}
        if gradient == "backprop" and method in TORCHDIFFEQ_SCIPY:
            with pytest.raises(ValueError, match="records no graph"):
                odeint(lambda t, y: rate * y, ONES, [0.0, 1.0], **settings)
            continue
        solution = odeint(lambda t, y: rate * y, ONES, [0.0, 1.0], **settings)
        (found,) = torch.autograd.grad(solution.y[-1].sum(), rate)
        assert found.item() == pytest.approx(6 * math.exp(-0.7), rel=1e-6)


@pytest.mark.parametrize("method", [*FIXED_METHODS, *ADAPTIVE_METHODS])
@pytest.mark.parametrize("per_row", [False, True])
@pytest.mark.parametrize("shape", [(0, 3), (2, 0)])
def test_no_rows_or_features(method, per_row, shape):
    y0 = torch.zeros(shape)
    solution = odeint(decay, y0, [0, 1, 2], method=method, per_row=per_row)
    assert solution.y.shape == (3, *shape)
    assert solution.report.nfe == 0
    json.dumps(solution.report.to_dict())


def test_tolerance_may_be_relative_or_absolute_alone():
    for settings in ({"rtol": 0.0, "atol": 1e-8}, {"rtol": 1e-8, "atol": 0.0}):
        for per_row in (False, True):
            y = odeint(decay, ONES, [0, 1], per_row=per_row, **settings).y[-1]
            torch.testing.assert_close(y, ONES * math.exp(-1), rtol=1e-6, atol=1e-6)


def test_report_is_json():
    for per_row in (False, True):
        report = odeint(decay, ONES, [0, 1], per_row=per_row).report
        found = json.loads(json.dumps(report.to_dict()))
        assert found["status"] == "success"
        assert found["nfe_max"] == report.nfe_max
        assert (found["nfe_per_row"] is None) is not per_row


def test_reports_of_chunks_merge():
    def report(nfe, rows, status):
        per_row = torch.tensor(rows)
        return SolverReport("dopri5", nfe, max(rows), per_row, 5, 1, status)

    first, second = report(20.0, [20, 20, 20], "success"), report(40.0, [40], "capped")
    merged = SolverReport.merge([first, second], [3, 1])
    assert merged.nfe == 25.0
    assert merged.nfe_max == 40
    assert merged.nfe_per_row.tolist() == [20, 20, 20, 40]
    assert merged.status == "capped"
    assert SolverReport.merge([first]).status == "success"
    with pytest.raises(ValueError, match="at least one"):
        SolverReport.merge([])
    with pytest.raises(ValueError, match="positive sum"):
        SolverReport.merge([first, second], [1])


@pytest.mark.parametrize("gradient", ["backprop", "checkpoint", "adjoint"])
@pytest.mark.parametrize("method", ["rk4", "dopri5", "torchdiffeq:rk4"])
def test_last_state_alone_is_that_of_all_states(method, gradient):
    if method.startswith("torchdiffeq") and gradient == "checkpoint":
        pytest.skip("torchdiffeq has no checkpoints")
    matrix = torch.tensor([[0.1, 1.0], [-1.0, 0.2]], dtype=torch.float64)
    matrix.requires_grad_(True)
    y0 = torch.tensor([[1.0, 2.0], [0.5, -1.0]], dtype=torch.float64)
    options = {"method": method, "gradient": gradient, "params": [matrix]}
    results = []
    for last_only in (False, True):
        solution = odeint(
            lambda t, y: y @ matrix, y0, [0.0, 0.5, 1.0], last_only=last_only, **options
        )
        assert solution.y.shape == (1 if last_only else 3, 2, 2)
        (g,) = torch.autograd.grad(solution.y[-1].square().sum(), matrix)
        results.append((solution.y[-1].detach(), g))
    for whole, last in zip(*results, strict=True):
        torch.testing.assert_close(last, whole, rtol=0, atol=0)
