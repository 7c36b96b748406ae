"""Stochastic equations: closed forms, orders of convergence, and torchsde."""

import math

import pytest
import torch
import torchsde

from skfunc.solvers import (
    FIXED_SDE_METHODS,
    TORCHSDE_METHODS,
    BrownianPath,
    SolverWarning,
    odeint,
    ou_weights,
    sdeint,
)

ONES = torch.ones(2, 3, dtype=torch.float64)


def path(shape, n_knots=1, seed=3, end=1.0):
    knots = torch.linspace(0, end, n_knots + 1, dtype=torch.float64)
    return BrownianPath(shape, knots, seed, dtype=torch.float64)


def zero(t, y):
    return torch.zeros_like(y)


class TestOrnsteinUhlenbeck:
    @pytest.mark.parametrize("n_steps", [1, 7])
    @pytest.mark.parametrize("rate", [0.0, 1.0, 5.0])
    def test_marginals(self, n_steps, rate):
        n, sigma, mean = 100_000, 0.8, 0.4
        y0 = torch.full((n,), 2.0, dtype=torch.float64)
        settings = {"method": "ou", "rate": rate, "mean": mean, "n_steps": n_steps}
        y = sdeint(zero, sigma, y0, [0.0, 1.0], noise=1, **settings).y[-1]
        expected = mean + (2.0 - mean) * math.exp(-rate)
        variance = sigma**2
        if rate:
            variance *= (1 - math.exp(-2 * rate)) / (2 * rate)
        assert abs(y.mean().item() - expected) < 4.5 * math.sqrt(variance / n)
        assert abs(y.var().item() / variance - 1) < 4.5 * math.sqrt(2 / n)

    def test_held_drift_moves_the_mean(self):
        settings = {"method": "ou", "rate": 2.0, "mean": ONES, "n_steps": 3}
        y = sdeint(lambda t, y: 3 * ONES, 0.0, 5 * ONES, [0, 1], noise=0, **settings).y
        limit = 1 + 3 / 2
        torch.testing.assert_close(y[-1], (limit + (5 - limit) * math.exp(-2)) * ONES)

    def test_weights_at_small_rates_approach_their_limit(self):
        limit = torch.tensor(ou_weights(0.0, 0.3))
        near = torch.tensor(ou_weights(1e-9, 0.3))
        torch.testing.assert_close(near, limit, rtol=1e-8, atol=0)

    @pytest.mark.parametrize(("rate", "h"), [(-1.0, 0.1), (1.0, 0.0)])
    def test_bad_weights(self, rate, h):
        with pytest.raises(ValueError, match="rate must be at least 0"):
            ou_weights(rate, h)

    @pytest.mark.parametrize(
        ("n_steps", "expected"), [(20, 3.539), (100, 3.4956), (500, 3.4873)]
    )
    def test_best_bound_with_a_gaussian_observation(self, n_steps, expected):
        """The least cost to go is a (y - b w)^2 / 2 + c, from the last step back."""
        theta, sigma, noise, y = 1.0, 0.8, 0.3, 1.5
        weights = ou_weights(theta, 1 / n_steps)
        a, b, c = noise**-2, 1.0, 0.5 * math.log(2 * math.pi * noise**2)
        for _ in range(n_steps):
            c += a * (b * sigma * weights.noise) ** 2 / 2
            gain = b * sigma * weights.control
            a *= weights.energy / (weights.energy + a * gain**2)
            b *= weights.decay
        bound = a * y**2 / 2 + c
        assert bound == pytest.approx(expected, abs=5e-4)
        total = noise**2 + sigma**2 * (1 - math.exp(-2 * theta)) / (2 * theta)
        evidence = 0.5 * (y**2 / total + math.log(2 * math.pi * total))
        assert evidence == pytest.approx(3.48529, abs=1e-5)
        assert bound > evidence


def order(errors):
    """Return the slope of log2 error against the number of halvings."""
    logs = torch.tensor(errors).log2()
    levels = torch.arange(len(errors), dtype=logs.dtype)
    levels = levels - levels.mean()
    return -(levels @ logs / levels.square().sum()).item()


class TestStrongOrder:
    """Errors on one path for each entry, in root mean square over entries."""

    @pytest.mark.parametrize(
        ("method", "expected"),
        [("euler", 0.5), ("heun", 1.0), ("midpoint", 1.0), ("reversible_heun", 1.0)],
    )
    def test_geometric_brownian_motion(self, method, expected):
        a, b = -0.4, 0.7
        y0 = torch.ones(4_000, dtype=torch.float64)
        brownian = path(y0.shape)
        growth = a - (b**2 / 2 if method == "euler" else 0.0)
        exact = torch.exp(growth + b * brownian.increment(0.0, 1.0))
        errors = []
        for n_steps in (16, 32, 64, 128):
            y = sdeint(
                lambda t, y: a * y,
                lambda t, y: b * y,
                y0,
                [0.0, 1.0],
                noise=brownian,
                method=method,
                n_steps=n_steps,
            ).y[-1]
            errors.append((y - exact).square().mean().sqrt().item())
        assert order(errors) == pytest.approx(expected, abs=0.12)

    @pytest.mark.parametrize("method", FIXED_SDE_METHODS)
    def test_additive_noise(self, method):
        y0 = torch.zeros(300, dtype=torch.float64)
        brownian = path(y0.shape)

        def solve(n_steps, method):
            return sdeint(
                lambda t, y: torch.sin(y + t),
                0.5,
                y0,
                [0.0, 1.0],
                noise=brownian,
                method=method,
                n_steps=n_steps,
                rate=1.0,
                mean=1.0,
            ).y[-1]

        exact = solve(1024, "heun")
        errors = [
            (solve(n, method) - exact).square().mean().sqrt().item()
            for n in (16, 32, 64)
        ]
        assert order(errors) == pytest.approx(1.0, abs=0.2)
        assert errors[-1] < 0.02


class PeerSDE:
    noise_type = "diagonal"

    def __init__(self, sde_type):
        self.sde_type = sde_type

    def f(self, t, y):
        return torch.sin(y) * torch.cos(2 * t.to(y.dtype))

    def g(self, t, y):
        return 0.3 + 0.2 * torch.cos(y)


class PeerPath(torchsde.BaseBrownian):
    dtype, device = torch.float64, torch.device("cpu")
    shape, levy_area_approximation = (), "none"

    def __init__(self, brownian):
        self.brownian = brownian
        self.shape = brownian.shape

    def __call__(self, ta, tb=None, return_U=False, return_A=False):
        return self.brownian.increment(float(ta), float(tb))

    def __repr__(self):
        return "PeerPath()"


class TestTorchsde:
    y0 = torch.linspace(-1, 2, 10, dtype=torch.float64).reshape(5, 2)

    @pytest.mark.parametrize("method", ["euler", "heun", "midpoint", "reversible_heun"])
    def test_same_path_same_numbers(self, method):
        peer = PeerSDE("ito" if method == "euler" else "stratonovich")
        brownian = path((5, 2), 8)
        times = torch.tensor([0.0, 1.0], dtype=torch.float64)
        settings = {"method": method, "dt": 1 / 16}
        y_peer = torchsde.sdeint(peer, self.y0, times, PeerPath(brownian), **settings)
        settings = {"noise": brownian, "n_steps": 16}
        ours = sdeint(peer.f, peer.g, self.y0, times, method=method, **settings)
        torch.testing.assert_close(ours.y, y_peer, rtol=1e-12, atol=1e-12)
        by_name = f"torchsde:{method}"
        theirs = sdeint(peer.f, peer.g, self.y0, times, method=by_name, **settings)
        torch.testing.assert_close(theirs.y, y_peer, rtol=1e-10, atol=1e-10)
        assert theirs.report.method == by_name
        assert theirs.report.n_steps == 16

    @pytest.mark.parametrize("method", TORCHSDE_METHODS)
    def test_every_method_several_times_and_parts(self, method):
        y0 = (self.y0, torch.ones(5, dtype=torch.float64))

        def f(t, y):
            return -y[0], y[0].sum(dim=1) - y[1]

        settings = {"noise": 4, "n_steps": 40}
        times = [0.0, 0.7, 1.0]
        theirs = sdeint(f, 0.2, y0, times, method=method, **settings).y
        again = sdeint(f, 0.2, y0, times, method=method, **settings).y
        ours = sdeint(f, 0.2, y0, times, **settings).y
        drawn_by_torchsde = method.endswith(("srk", "log_ode"))
        for a, b, c in zip(theirs, ours, again, strict=True):
            assert torch.equal(a, c)
            assert a.shape == b.shape
            assert (a - b).abs().max() < (3.0 if drawn_by_torchsde else 0.05)

    def test_exact_transition_agrees_to_first_order(self):
        brownian = path((5, 2), 16)
        errors = []
        for n_steps in (16, 32, 64, 128):
            y = {}
            for method, f, rate in (
                ("ou", torch.sin, 1.0),
                ("torchsde:euler", lambda y: torch.sin(y) - y, 0.0),
            ):
                y[method] = sdeint(
                    lambda t, y, f=f: f(y),
                    0.3,
                    self.y0,
                    [0.0, 1.0],
                    noise=brownian,
                    method=method,
                    n_steps=n_steps,
                    rate=rate,
                ).y[-1]
            difference = y["ou"] - y["torchsde:euler"]
            errors.append(difference.square().mean().sqrt().item())
        assert order(errors) == pytest.approx(1.0, abs=0.25)


class TestParts:
    @pytest.mark.parametrize("method", FIXED_SDE_METHODS)
    def test_parts_are_one_flat_state(self, method):
        """But for "ou", whose transition is of the driven part alone."""

        def f(t, y):
            w, x = y
            return torch.sin(w), torch.tanh(x * w[:, :1])

        def flat(t, y):
            return torch.cat(f(t, y.split([3, 2], dim=1)), dim=1)

        w = torch.linspace(-1, 1, 12, dtype=torch.float64).reshape(4, 3)
        x = torch.ones(4, 2, dtype=torch.float64)
        brownian = path((4, 3), 10)

        class Padded(BrownianPath):
            def increment(self, start, end):
                noise = brownian.increment(start, end)
                return torch.nn.functional.pad(noise, (0, 2))

        settings = {"method": "heun" if method == "ou" else method, "n_steps": 50}
        y_w, y_x = sdeint(
            f, 0.3, (w, x), [0, 1], noise=brownian, **settings | {"method": method}
        ).y
        padded = Padded((4, 5), [0.0, 1.0], 0)
        together = torch.cat((w, x), dim=1)
        y = sdeint(flat, 0.3, together, [0, 1], noise=padded, **settings).y
        tolerance = 0.02 if method == "ou" else 1e-13
        torch.testing.assert_close(y_w, y[..., :3], rtol=0, atol=tolerance)
        torch.testing.assert_close(y_x, y[..., 3:], rtol=0, atol=tolerance)

    @pytest.mark.parametrize("method", ["euler", "heun", "midpoint"])
    def test_without_noise_it_is_odeint(self, method):
        def f(t, y):
            return torch.sin(y + t)

        settings = {"method": method, "n_steps": 9}
        ours = sdeint(f, 0.0, ONES, [0.0, 0.5, 2.0], noise=0, **settings).y
        expected = odeint(f, ONES, [0.0, 0.5, 2.0], **settings).y
        torch.testing.assert_close(ours, expected, rtol=1e-14, atol=0)

    def test_heun_of_the_follower_under_the_exact_transition(self):
        w0 = torch.full((1, 1), 0.5, dtype=torch.float64)
        rates = []
        for n_steps in (8, 16, 32):
            x = sdeint(
                lambda t, y: (torch.zeros_like(y[0]), -y[0] * y[1]),
                0.0,
                (w0, torch.ones_like(w0)),
                [0.0, 1.0],
                noise=0,
                method="ou",
                rate=1.0,
                n_steps=n_steps,
            ).y[1][-1]
            rates.append(abs(x.item() - math.exp(-0.5 * (1 - math.exp(-1)))))
        assert order(rates) == pytest.approx(2.0, abs=0.1)


class TestReproducible:
    @pytest.mark.parametrize("method", [*FIXED_SDE_METHODS, "adaptive_heun"])
    def test_seed(self, method):
        def solve(seed):
            return sdeint(
                lambda t, y: torch.sin(y), 0.4, ONES, [0, 1], noise=seed, method=method
            ).y

        assert torch.equal(solve(1), solve(1))
        assert not torch.allclose(solve(1), solve(2))

    @pytest.mark.parametrize("method", FIXED_SDE_METHODS)
    def test_row_does_not_depend_on_the_others(self, method):
        y0 = torch.linspace(-1, 1, 15, dtype=torch.float64).reshape(5, 3)

        def solve(rows):
            return sdeint(
                lambda t, y: torch.sin(y),
                0.4,
                y0[rows],
                [0.0, 1.0],
                noise=[100 + i for i in rows],
                method=method,
            ).y

        together = solve(list(range(5)))
        torch.testing.assert_close(
            together[:, 1:3], solve([1, 2]), rtol=1e-14, atol=1e-15
        )


class TestAdaptive:
    def test_error_follows_the_tolerance(self):
        y0 = torch.ones(50, dtype=torch.float64)
        brownian = path(y0.shape, seed=7)
        exact = torch.exp(-0.4 + 0.7 * brownian.increment(0.0, 1.0))
        errors, steps = [], []
        for tolerance in (1e-1, 1e-2, 1e-3):
            solution = sdeint(
                lambda t, y: -0.4 * y,
                lambda t, y: 0.7 * y,
                y0,
                [0.0, 0.3, 1.0],
                noise=brownian,
                method="adaptive_heun",
                rtol=tolerance,
                atol=tolerance,
            )
            assert solution.report.status == "success"
            errors.append((solution.y[-1] - exact).square().mean().sqrt().item())
            steps.append(solution.report.n_steps)
        assert errors[2] < errors[1] < errors[0]
        assert steps[0] < steps[1] < steps[2]
        assert errors[2] < 0.02

    def test_steps_are_short_where_the_drift_is_fast(self):
        def f(t, y):
            return -250 * torch.exp(-(((t - 0.5) / 0.02) ** 2)) * (y - 3)

        settings = {"noise": 0, "method": "adaptive_heun", "rtol": 1e-4, "atol": 1e-4}
        solution = sdeint(f, 0.0, ONES, [0.0, 1.0], **settings)
        exact = 3 - 2 * math.exp(-5 * math.sqrt(math.pi) * math.erf(25))
        torch.testing.assert_close(solution.y[-1], exact * ONES, rtol=0, atol=1e-3)
        assert solution.report.n_steps < 400
        assert solution.report.n_rejected > 0

    def test_exhausted_evaluations_end_in_equal_steps(self):
        settings = {"noise": 0, "method": "adaptive_heun", "max_nfe": 30}
        with pytest.warns(SolverWarning, match="max_nfe=30.*equal steps"):
            solution = sdeint(
                lambda t, y: torch.sin(9 * y), 0.5, ONES, [0, 1], rtol=1e-6, **settings
            )
        assert solution.report.status == "capped"
        assert torch.isfinite(solution.y).all()


@pytest.mark.parametrize("method", ["euler", "reversible_heun", "adaptive_heun"])
def test_what_becomes_infinite_is_held(method):
    y0 = torch.tensor([[0.1], [40.0]], dtype=torch.float64)
    with pytest.warns(SolverWarning, match="held at their last value"):
        solution = sdeint(lambda t, y: y**3, 0.1, y0, [0, 1], noise=0, method=method)
    assert solution.report.status == "diverged"
    assert torch.isfinite(solution.y).all()
    # The other row goes its own way.
    assert 0 < (solution.y[-1, 0] - 0.1).abs().item() < 1


def test_torchsde_says_what_became_infinite():
    y0 = torch.full((2, 1), 40.0, dtype=torch.float64)
    settings = {"noise": 0, "method": "torchsde:heun"}
    with pytest.warns(SolverWarning, match="became infinite.$"):
        solution = sdeint(lambda t, y: y**3, 0.1, y0, [0, 1], **settings)
    assert solution.report.status == "diverged"


@pytest.mark.parametrize("method", [*FIXED_SDE_METHODS, "adaptive_heun"])
@pytest.mark.parametrize("shape", [(), (0, 3), (2, 0)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_states_without_axes_or_entries(method, shape, dtype):
    y0 = torch.ones(shape, dtype=dtype)
    y = sdeint(lambda t, y: -y, 0.1, y0, [0.0, 1.0], noise=0, method=method).y
    assert y.shape == (2, *shape) and y.dtype == dtype
    assert torch.isfinite(y).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "rk4"}, "'rk4'.*heun.*adaptive_heun.*torchsde:srk"),
        ({"t": [0.0]}, "at least two times"),
        ({"t": [1.0, 0.0]}, r"strictly increasing, got \[1.0, 0.0\]"),
        ({"y0": torch.ones(2, dtype=torch.int64)}, "floating point.*int64"),
        ({"y0": ()}, "empty tuple"),
        ({"y0": (ONES, ONES[:1])}, r"first axis.*\(2, 3\), \(1, 3\)"),
        ({"rate": -1.0}, "rate must be a number >= 0, got -1.0"),
        ({"method": "ou", "g": zero}, "'ou' needs g to be a number or a tensor"),
        ({"n_steps": 0}, "n_steps must be an integer >= 1"),
        ({"gradient": "magic"}, "'magic'.*backprop, checkpoint, adjoint"),
        ({"noise": path((3, 2))}, r"shape \(2, 3\).*got \(3, 2\)"),
        ({"noise": path((2, 3), end=0.5)}, "must reach from 0.0 to 1.0"),
        ({"noise": [1, 2, 3]}, "got 3 seeds"),
        ({"f": lambda t, y: y[:1]}, r"\(2, 3\).*got \(1, 3\)"),
        ({"f": lambda t, y: 1.0}, "tensor for each part.*float"),
        ({"g": lambda t, y: y[:, :2]}, r"noise of shape \(2, 3\).*\(2, 2\)"),
        ({"y0": (ONES, ONES), "f": lambda t, y: y[:1]}, "one slope for each part"),
    ],
)
def test_bad_arguments(settings, message):
    arguments = {"f": zero, "g": 1.0, "y0": ONES, "t": [0.0, 1.0], "noise": 0}
    with pytest.raises(ValueError, match=message):
        sdeint(**arguments | settings)
