"""DDRM, and what every sampler that holds a linear problem shares. Moments are propagated exactly: no Monte Carlo."""

import math
from functools import cache
from itertools import pairwise

import pytest
import torch

from oracles import F64, SCHEDULES, Counted, MeanOnly, draws, mixture, normal, propagate, run, spd, time
from undrift import gaussian, grids, operators, schedules
from undrift.bridge import Path as BridgePath
from undrift.core import PerSample
from undrift.errors import FamilyError, GridError, PotentialError, ShapeError
from undrift.inverse.ddnm import DDNM
from undrift.inverse.ddrm import DDRM
from undrift.inverse.diffpir import DiffPIR
from undrift.inverse.repaint import RePaint
from undrift.laws import Point
from undrift.protocols import Sampler
from undrift.simulate import sample

D, A, Y = 4, draws((2, 4), 5), draws((1, 2), 6)
LOOK, MEAN, COV = operators.Matrix(A), draws((4,), 2), spd(4, 3)
VARIANCES = time([0.3, 0.7, 1.5, 1.1])
MAKES = {
    "ddrm": lambda look, y, noise: DDRM(look, y, noise),
    "ddrm-deterministic": lambda look, y, noise: DDRM(look, y, noise, eta=0.0),
    "ddrm-soft": lambda look, y, noise: DDRM(look, y, noise, eta_b=0.6),
    "ddnm": lambda look, y, noise: DDNM(look, y, noise),
    "ddnm-half": lambda look, y, noise: DDNM(look, y, noise, stochasticity=0.5),
    "diffpir": lambda look, y, noise: DiffPIR(look, y, noise, zeta=0.4),
    "repaint": lambda look, y, noise: RePaint(look, y, noise),
    "repaint-rounds": lambda look, y, noise: RePaint(look, y, noise, rounds=3, jump=2),
}
every = pytest.mark.parametrize("name", MAKES)


@cache
def exact(clock: str = "trigonometric") -> gaussian.Exact:
    return gaussian.Exact(gaussian.Path(SCHEDULES[clock]), normal(MEAN, COV))


def prior(path: gaussian.Path, d: int = D) -> tuple[torch.Tensor, torch.Tensor]:
    """Moments that generation starts from."""
    return torch.zeros(d, dtype=F64), path.schedule.sigma(time(1.0)).square() * torch.eye(d, dtype=F64)


# ---- what all of them share ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("noise", [0.05, 0.4, 3.0])
@every
def test_a_mask_and_functions_agree_with_the_matrix(name, noise):
    """Also A against Q A with Q orthogonal and y against Q y: another basis of U, the same problem, the same noise."""
    event, seen = (2, 2), torch.tensor([[True, False], [False, True]])
    turn = torch.linalg.qr(draws((2, 2), 8))[0]
    rows = torch.eye(4, dtype=F64)[[0, 3]]
    looks = [
        (operators.Mask(seen), Y),
        (operators.Matrix(rows, event), Y),
        (operators.Function(lambda x: x.flatten(1)[:, [0, 3]], event), Y),
        (operators.Matrix(turn @ rows, event), Y @ turn.mT),
    ]
    x, grid = draws((3, *event), 1), grids.uniform(None, 6)
    law = normal(MEAN, COV)
    flat = gaussian.Exact(exact().path, law)

    class Events:
        path = flat.path

        def __call__(self, x_t, t):
            return Point(flat(x_t.flatten(1), t).mean.reshape(x_t.shape))

    ends = [run(Events(), MAKES[name](look, y, noise), grid, x, PerSample(3, 3)) for look, y in looks]
    for end in ends[1:]:
        torch.testing.assert_close(end, ends[0], atol=1e-12, rtol=0)


@every
def test_each_sample_may_have_its_own_measurement(name):
    x, y, grid = draws((3, D), 1), draws((3, 2), 9), grids.uniform(None, 6)
    together = run(exact(), MAKES[name](LOOK, y, 0.3), grid, x, PerSample(3, 3))
    for i in range(3):
        alone = run(exact(), MAKES[name](LOOK, y[i : i + 1], 0.3), grid, x[i : i + 1], PerSample(3, [i]))
        torch.testing.assert_close(together[i : i + 1], alone, atol=1e-12, rtol=0)


@every
def test_calls_are_counted_and_the_ends_of_the_grid_are_met(name):
    sampler = MAKES[name](LOOK, Y, 0.3)
    assert isinstance(sampler, Sampler)
    for grid in (
        grids.uniform(None, 7),
        grids.uniform(None, 1),
        grids.karras(SCHEDULES["vp"], 5),
        grids.uniform(None, 5, 0.9, 0.2),
    ):
        counted = Counted(exact("vp"))
        assert torch.isfinite(run(counted, sampler, grid, draws((2, D), 0), PerSample(0, 2))).all()
        assert counted.calls == sampler.calls(grid)


@every
def test_the_decomposition_is_asked_for_once_and_never_in_a_step(name):
    class Asked(operators.Matrix):
        asked = 0

        @property
        def svd(self):
            Asked.asked += 1
            return operators.Matrix(self.values).svd

    sampler = MAKES[name](Asked(A), Y, 0.3)
    run(exact(), sampler, grids.uniform(None, 6), draws((2, D), 0), PerSample(0, 2))
    assert Asked.asked == 1


@every
def test_float32_and_any_law_are_served(name):
    """A mixture's law, float32, events of two axes, through the one-call loop."""
    law = mixture(4, "isotropic", seed=1)
    law = type(law)(
        law.log_weights.float(), law.means.float(), type(law.cov)(law.cov.values.float(), law.cov.tail.float(), None, 4)
    )
    denoiser = gaussian.Exact(exact().path, law)
    got = sample(denoiser, MAKES[name](LOOK, Y.float(), 0.3), grids.uniform(None, 5), (3, 4), seed=0)
    assert got.dtype == torch.float32
    assert torch.isfinite(got).all()


@every
def test_bad_problems_are_refused_before_the_first_call(name):
    make, grid, x = MAKES[name], grids.uniform(None, 3), draws((3, D), 0)
    with pytest.raises(ShapeError, match=r"y has shape \(1, 2\)"):
        make(LOOK, Y[0], 0.3)
    with pytest.raises(ShapeError, match="makes 2 measurements"):
        make(LOOK, draws((1, 3), 0), 0.3)
    with pytest.raises(PotentialError, match="1 of 2 measured numbers"):
        make(LOOK, Y * time([1.0, math.nan]), 0.3)
    for noise in (-0.1, math.nan, math.inf):
        with pytest.raises(PotentialError, match="standard deviation"):
            make(LOOK, Y, noise)
    with pytest.raises(GridError, match="falling"):
        make(LOOK, Y, 0.3).plan(exact().path, grid.flipped())
    with pytest.raises(FamilyError):
        make(LOOK, Y, 0.3).plan(BridgePath(schedules.BrownianBridge(), Point(0 * MEAN[None])), grid)
    counted = Counted(exact())
    with pytest.raises(ShapeError, match=r"events of shape \(2, 2\)"):
        run(counted, make(operators.Matrix(A, (2, 2)), Y, 0.3), grid, x)
    with pytest.raises(ShapeError, match="2 measurements for 3 samples"):
        run(counted, make(LOOK, draws((2, 2), 0), 0.3), grid, x)
    with pytest.raises(PotentialError, match="says nothing"):
        run(counted, make(operators.Matrix(0 * A), Y, 0.3), grid, x)
    if not name.startswith("diffpir"):
        twice = operators.Matrix(A[[0, 0]])
        with pytest.raises(PotentialError, match="not in the range"):
            run(counted, make(twice, Y, 0.0), grid, x)
        run(exact(), make(twice, Y[:, [0, 0]], 0.0), grid, x, PerSample(0, 3))  # repeated, and consistent: allowed
    assert counted.calls == 0


# ---- DDRM ------------------------------------------------------------------------------------------------------------


def recursion(levels, mean, variance, y, noise, eta, eta_b):
    """Moments of x / alpha along eq. 7 and 8 as the paper has them: variance exploding, one coordinate, exact denoiser."""
    rho = math.sqrt(1 - eta**2)
    m, v = (0.0, levels[0] ** 2) if y is None else (y, levels[0] ** 2 - noise**2)
    for level, new in pairwise(levels):
        k = variance / (variance + level**2)  # the denoiser: mean + k (x - mean)
        slope, free = k, (1 - k) * mean
        if y is None:
            slope, free = k + rho * new / level * (1 - k), free - rho * new / level * free
            fresh = (eta * new) ** 2
        elif new < noise:
            keep = 1 - rho * new / noise
            slope, free, fresh = keep * slope, keep * free + rho * new / noise * y, (eta * new) ** 2
        else:
            slope, free = (1 - eta_b) * slope, (1 - eta_b) * free + eta_b * y
            fresh = new**2 - (eta_b * noise) ** 2
        m, v = slope * m + free, slope**2 * v + fresh
    return m, v


@pytest.mark.parametrize("clock", ["ve", "edm", "vp", "subvp", "custom"])
@pytest.mark.parametrize(("eta", "eta_b"), [(0.85, 1.0), (0.0, 1.0), (1.0, 0.5), (0.4, 0.0)])
@pytest.mark.parametrize("noise", [0.0, 0.2, 1.3])
def test_aligned_coordinates_follow_the_papers_recursion(clock, eta, eta_b, noise):
    """Independent coordinates, two of them seen with different gains: mean and variance of each, exactly; and no covariance."""
    path = gaussian.Path(SCHEDULES[clock])
    gains, y = time([2.0, 0.7]), draws((1, 2), 6)
    look = operators.Matrix(torch.diag(gains) @ torch.eye(4, dtype=F64)[[2, 0]])
    grid = grids.karras(path.schedule, 9)
    denoiser = MeanOnly(gaussian.Exact(path, normal(MEAN, torch.diag(VARIANCES))))
    mean, cov = propagate(denoiser, DDRM(look, y, noise, eta, eta_b), grid, *prior(path))
    at = time(grid.times)
    levels = (path.schedule.sigma(at) / path.schedule.alpha(at)).tolist()
    said = {2: (0, y[0, 0]), 0: (1, y[0, 1])}
    for i in range(4):
        gain = gains[said[i][0]] if i in said else time(1.0)
        bar = float(said[i][1] / gain) if i in said else None
        want = recursion(levels, float(MEAN[i]), float(VARIANCES[i]), bar, noise / float(gain), eta, eta_b)
        assert float(mean[i]) == pytest.approx(want[0], abs=1e-9)
        assert float(cov[i, i]) == pytest.approx(want[1], abs=1e-9)
    torch.testing.assert_close(cov, torch.diag(cov.diagonal()), atol=1e-12, rtol=0)


@pytest.mark.parametrize("clock", ["cosine", "linear_flow", "trigonometric"])
def test_pure_noise_is_no_exception(clock):
    """Where alpha_1 = 0 the level is infinite: the same as the paper's recursion from a level so high that it is forgotten."""
    path = gaussian.Path(SCHEDULES[clock])
    grid = grids.karras(path.schedule, 9)
    denoiser = MeanOnly(gaussian.Exact(path, normal(MEAN[:2], torch.diag(VARIANCES[:2]))))
    look, y = operators.Mask(torch.tensor([True, False])), Y[:, :1]
    mean, cov = propagate(denoiser, DDRM(look, y, 0.3), grid, *prior(path, 2))
    at = time(grid.times[1:])
    levels = [1e9, *(path.schedule.sigma(at) / path.schedule.alpha(at)).tolist()]
    for i, bar in enumerate((float(y), None)):
        want = recursion(levels, float(MEAN[i]), float(VARIANCES[i]), bar, 0.3, 0.85, 1.0)
        assert float(mean[i]) == pytest.approx(want[0], abs=1e-7)  # 1 / level
        assert float(cov[i, i]) == pytest.approx(want[1], abs=1e-7)


@pytest.mark.parametrize("eta", [0.0, 0.85])
def test_without_noise_it_ends_on_the_measurement(eta):
    for clock in ("trigonometric", "vp", "edm"):
        x = run(exact(clock), DDRM(LOOK, Y, eta=eta), grids.karras(SCHEDULES[clock], 6), draws((3, D), 1), PerSample(3, 3))
        torch.testing.assert_close(x @ A.mT, Y.expand(3, 2), atol=1e-12, rtol=0)


def unseen(eta: float, steps: int, end: float) -> float:
    """Variance of x / alpha of an unseen independent coordinate, over what the data have at that level."""
    schedule = schedules.EDM()
    path, variance = gaussian.Path(schedule), 0.7
    data = normal(time([0.5, 0.2]), torch.diag(time([1.0, variance])))
    finish = float(schedule.time(time(-2 * math.log(end)))) if end else 0.0
    look = operators.Mask(torch.tensor([True, False]))
    grid = grids.log_snr(schedule, steps, end=finish)
    _, cov = propagate(MeanOnly(gaussian.Exact(path, data)), DDRM(look, Y[:, :1], 0.0, eta), grid, *prior(path, 2))
    return float(cov[1, 1]) / (variance + end**2)


def test_its_limits_on_an_unseen_coordinate():
    """Deterministic: DDIM, right in the limit. With eta: (1 + rho) / (1 + rho + (1 - rho) v / (v + l^2)) of the variance."""
    errors = [abs(unseen(0.0, steps, 0.0) - 1) for steps in (100, 200, 400)]
    assert errors[0] / errors[1] == pytest.approx(2, rel=0.1)  # order 1, up to the next order
    assert errors[1] / errors[2] == pytest.approx(2, rel=0.1)
    rho, level = math.sqrt(1 - 0.85**2), 0.5
    gain = rho + (1 - rho) * 0.7 / (0.7 + level**2)
    want = (1 + rho) / (1 + gain)
    assert want < 0.9  # the data's variance is missed, from below
    assert unseen(0.85, 4000, level) == pytest.approx(want, rel=5e-3)  # O(1 / steps)


def test_fine_steps_pile_up_on_a_noisy_measurement():
    """One coordinate, N(0, 1), noise .5, y = 1, hence the posterior N(.8, .2): the bias, with its sign, on record."""
    path, variance, noise, y = gaussian.Path(schedules.EDM()), 1.0, 0.5, 1.0
    data = normal(time([0.0]), time([[variance]]))
    look = operators.Mask(torch.tensor([True]))

    def moments(steps, eta=0.85):
        grid = grids.log_snr(path.schedule, steps)
        denoiser = MeanOnly(gaussian.Exact(path, data))
        mean, cov = propagate(denoiser, DDRM(look, time([[y]]), noise, eta), grid, *prior(path, 1))
        return float(mean), float(cov)

    for steps, mean, cov in ((20, 0.0306, -0.1565), (100, 0.1241, -0.1837), (1000, 0.1889, -0.1976)):
        got = moments(steps)
        assert got[0] - 0.8 == pytest.approx(mean, abs=1e-4)
        assert got[1] - 0.2 == pytest.approx(cov, abs=1e-4)
    assert moments(1000, 0.0)[0] == pytest.approx(1.0, abs=5e-3)  # on y
    assert moments(1000, 1.0)[0] == pytest.approx(0.0, abs=5e-3)  # on the prior's mean: y is forgotten


@pytest.mark.parametrize("eta", [0.85, 1.0])
def test_without_noise_renewal_finds_the_mean_and_a_share_of_the_covariance(eta):
    """Dependent coordinates: exact conditional by block algebra; the share is (1 + rho) / 2, up to O(1 / steps)."""
    path = gaussian.Path(SCHEDULES["edm"])
    gain = torch.linalg.solve(A @ COV @ A.mT, A @ COV).mT
    want, left = MEAN + (Y - MEAN @ A.mT)[0] @ gain.mT, COV - gain @ A @ COV
    denoiser = MeanOnly(gaussian.Exact(path, normal(MEAN, COV)))
    mean, cov = propagate(denoiser, DDRM(LOOK, Y, eta=eta), grids.log_snr(path.schedule, 2000), *prior(path))
    torch.testing.assert_close(mean, want, atol=6e-3, rtol=0)
    torch.testing.assert_close(cov, 0.5 * (1 + math.sqrt(1 - eta**2)) * left, atol=8e-3, rtol=0)


def test_a_useless_measurement_leaves_the_unguided_step_for_eta_1_alone():
    path = exact().path
    grid, x = grids.uniform(None, 6), draws((3, D), 1)
    for eta in (1.0, 0.6):
        got = run(exact(), DDRM(LOOK, Y, 1e12, eta), grid, x, PerSample(3, 3))
        free, rng, rho = x, PerSample(3, 3), math.sqrt(1 - eta**2)
        rows = torch.linalg.svd(A)[2][:2]
        for t, s in grid.pairs():
            alpha_t, sigma_t, alpha_s, sigma_s = (
                f(time(u)) for u in (t, s) for f in (path.schedule.alpha, path.schedule.sigma)
            )
            mean = exact()(free, time(t)).mean
            old = rho * sigma_s * (free - alpha_t * mean) / sigma_t
            z = rng.normal(x.shape, dtype=F64)
            free = alpha_s * mean + old - old @ rows.mT @ rows + eta * sigma_s * z
        torch.testing.assert_close(got, free, atol=1e-10, rtol=0)


def test_settings_outside_their_range_are_refused():
    for setting in ({"eta": 1.1}, {"eta": -0.1}, {"eta_b": 1.1}, {"eta": math.nan}):
        with pytest.raises(PotentialError, match="eta and eta_b"):
            DDRM(LOOK, Y, 0.1, **setting)
    assert (DDRM(LOOK, Y, eta=0.0).order, DDRM(LOOK, Y).order) == (1, 0)
