"""Networks as denoisers, on their own clock and on another.

Certified: the noise label, unit-variance input, one clean end whatever the head, exact re-clocking between every two
schedules, and the errors with their cures. The "network" is a closed form: an exact law written in head units, told nothing
but the scaled state and the noise label.
"""

import itertools
import math
from dataclasses import dataclass

import pytest
import torch

from oracles import F64, SCHEDULES, at_noise, draws, mixture, normal, propagate, relative, spd, time
from undrift import gaussian, grids, schedules
from undrift.errors import HeadError, LabelError, ShapeError, TimeError
from undrift.gaussian.denoiser import Trainable

DATA = normal(time([0.7, -0.4]), spd(2, 3, 0.3, 1.8))
GMM = mixture(2, "full", 3, 4)
STD = 0.8


@dataclass
class ClosedForm:
    """What a perfectly trained network computes, from its two inputs alone.

    The noise label is undone to sigma / alpha = r; on the clock with alpha = 1 the state is the input times
    sqrt(d^2 + r^2); the head's value follows from Karras' table or the head's definition at that level.
    """

    law: object
    head: str

    def __call__(self, x, noise):
        """Head value."""
        power = torch.exp(8 * noise)  # (r^2 + e^2) / (1 + e^2 r^2), e = 1e-4
        level = (((power - 1e-8) / (1 - 1e-8 * power)).sqrt())[:, None]
        state = x * (STD**2 + level**2).sqrt()
        clean = self.law.posterior(state, torch.ones(x.shape[0], dtype=x.dtype), level[:, 0] ** 2).mean
        z = (state - clean) / level
        skip, out = STD**2 / (STD**2 + level**2), STD * level / (STD**2 + level**2).sqrt()
        return {"x0": clean, "eps": z, "score": -z / level, "v": z - level * clean, "velocity": 80 * z}.get(
            self.head, (clean - skip * state) / out
        )


def test_noise_label_is_edm_inside_and_finite_at_the_ends():
    noise = torch.logspace(-3.5, 3.5, 101, dtype=F64)
    label = gaussian.noise_label(-2 * noise.log())
    # n - log(r)/4 = [log(1 + e^2/r^2) - log(1 + e^2 r^2)] / 8, at most e^2 max(r^2, 1/r^2) / 8.
    assert bool(((label - 0.25 * noise.log()).abs() <= 1e-8 * torch.maximum(noise**2, noise**-2) / 8 + 1e-15).all())
    bound = 0.25 * math.log(1e4)
    for clock, schedule in SCHEDULES.items():
        t = torch.linspace(0, 1, 201, dtype=F64)
        values = gaussian.noise_label(schedule.log_snr(t))
        assert torch.isfinite(values).all(), clock
        assert bool((values.diff() > 0).all()), clock
        assert float(values.abs().max()) <= bound + 1e-12, clock
        assert math.isclose(float(values[0]), -bound, rel_tol=1e-12)
    assert math.isclose(float(gaussian.noise_label(time(-math.inf))), bound, rel_tol=1e-12)


@pytest.mark.parametrize("clock", SCHEDULES)
def test_network_sees_unit_variance(clock):
    # Var x_t = alpha^2 d^2 + sigma^2 for data of standard deviation d; and the label at that time, one per sample.
    seen = []
    path = gaussian.Path(SCHEDULES[clock])
    model = gaussian.NetDenoiser(lambda x, noise: seen.append((x, noise)) or x, path, "edm", STD)
    x, t = draws((4, 3), 1), time([0.001, 0.2, 0.6, 1.0])
    model(x, t)
    (inputs, noise), (alpha, sigma) = seen[0], (path.schedule.alpha(t), path.schedule.sigma(t))
    assert relative(inputs**2 * (alpha**2 * STD**2 + sigma**2)[:, None], x**2) < 1e-12
    assert relative(noise, gaussian.noise_label(path.schedule.log_snr(t))) < 1e-14
    model(x, t[1])
    assert torch.equal(seen[1][1], noise[1].expand(4))


@pytest.mark.parametrize("clock", SCHEDULES)
@pytest.mark.parametrize("head", gaussian.HEADS)
def test_every_head_gives_the_same_clean_end(head, clock):
    path = gaussian.Path(SCHEDULES[clock])
    for t in (0.01, 0.5, 0.95):
        x_0, z = draws((4, 3), 1), draws((4, 3), 2)
        alpha, sigma = (float(f(time(t))) for f in (path.schedule.alpha, path.schedule.sigma))
        x_t = alpha * x_0 + sigma * z
        slope = float(path.schedule.dalpha(time(t))) * x_0 + float(path.schedule.dsigma(time(t))) * z
        skip = STD**2 * alpha / (sigma**2 + alpha**2 * STD**2)
        out = sigma * STD / math.sqrt(sigma**2 + alpha**2 * STD**2)
        exact = {"x0": x_0, "eps": z, "score": -z / sigma, "v": alpha * z - sigma * x_0, "velocity": slope}
        value = exact.get(head, (x_0 - skip * x_t) / out)
        model = gaussian.NetDenoiser(lambda x, noise, y=value: y, path, head, STD, span=(0.0, 0.95))
        assert relative(model(x_t, time(t)).mean, x_0) < 1e-11 * max(sigma / alpha, 1.0)
        assert float(model.error(x_0, x_t, time(t)).abs().max()) < 1e-10 * float(value.abs().max()) * max(1 / t, 10)


@pytest.mark.parametrize("pair", list(itertools.product(SCHEDULES, SCHEDULES)), ids="-".join)
def test_reclocked_exact_law_is_exact(pair):
    own, here = (gaussian.Path(SCHEDULES[name]) for name in pair)
    moved = gaussian.Exact(own, GMM).on(here)
    t = time([at_noise(here.schedule, level) for level in (0.03, 0.5, 5.0)])
    x = draws((3, 2), 1) * (here.schedule.alpha(t) ** 2 + here.schedule.sigma(t) ** 2).sqrt()[:, None]
    one, other = moved(x, t), gaussian.Exact(here, GMM)(x, t)
    # Clocks invert to 1e-14 in t, and a log-SNR as steep as 1 / t makes 1e-11 of it at most.
    assert relative(one.mean, other.mean) < 1e-9
    assert relative(one.covariance(), other.covariance()) < 1e-9
    assert relative(gaussian.score(moved, x, t), gaussian.score(gaussian.Exact(here, GMM), x, t)) < 1e-8


@pytest.mark.parametrize("clock", ["vp", "cosine", "linear_flow", "custom"])
@pytest.mark.parametrize("head", gaussian.HEADS)
def test_network_of_one_clock_samples_on_another(head, clock):
    model = gaussian.NetDenoiser(ClosedForm(DATA, head), gaussian.Path(schedules.EDM()), head, STD)
    path = gaussian.Path(SCHEDULES[clock])
    # Its law on its own clock, then on the other, step by step and for a whole trajectory's mean and covariance.
    t = time(at_noise(path.schedule, 0.6))
    x = draws((4, 2), 1)
    exact = gaussian.Exact(path, DATA)
    assert relative(model.on(path)(x, t).mean, exact(x, t).mean) < 1e-8
    high, low = (at_noise(path.schedule, level) for level in (5.0, 0.05))
    grid, start = grids.log_snr(path.schedule, 12, high, low), exact.marginal(time(high))
    moments = [propagate(d, gaussian.DPMSolverPP(), grid, start.mean[0], start.cov.dense()[0]) for d in (model.on(path), exact)]
    assert relative(moments[0][0], moments[1][0]) < 1e-7
    assert relative(moments[0][1], moments[1][1]) < 1e-7


@pytest.mark.parametrize("clock", ["vp", "linear_flow", "cosine", "ve"])
def test_noise_out_of_range_is_refused_with_the_start_that_works(clock):
    # EDM to sigma = 5 never saw more noise; this includes alpha = 0, where the noise level is infinite.
    model, path = gaussian.Exact(gaussian.Path(schedules.EDM(5.0)), GMM), gaussian.Path(SCHEDULES[clock])
    x = draws((3, 2), 1)
    with pytest.raises(TimeError, match="start=") as caught:
        model.on(path)(x, time(1.0))
    start = float(str(caught.value).rsplit("start=", 1)[1])
    assert math.isclose(start, at_noise(path.schedule, 5.0), rel_tol=1e-4)
    got, want = model.on(path)(x, time(start)).mean, gaussian.Exact(path, GMM)(x, time(start)).mean
    assert relative(got, want) < 1e-4  # the message rounds the start to six digits


def test_clocks_that_meet_at_infinity_are_allowed():
    # alpha = 0 on both, and sigma = 0 on both: the ends of two schedules are the same state of knowledge.
    moved = gaussian.Exact(gaussian.Path(schedules.LinearFlow()), GMM).on(gaussian.Path(schedules.Cosine()))
    x = draws((3, 2), 1)
    assert relative(moved(x, time(1.0)).mean, GMM.mean.expand(3, 2)) < 1e-12
    assert relative(moved(x, time(0.0)).mean, x) < 1e-12


def test_condition_reaches_the_network_row_by_row():
    path, x, t = gaussian.Path(schedules.VP()), draws((3, 2), 1), time(0.4)
    model = gaussian.NetDenoiser(lambda x, noise, cond: cond[:, None] * torch.ones_like(x), path, "x0")
    assert torch.equal(model.given(time([1.0, 2.0, 3.0]))(x, t).mean, time([[1.0, 1.0], [2.0, 2.0], [3.0, 3.0]]))
    assert torch.equal(model.given(time([5.0]))(x, t).mean, torch.full((3, 2), 5.0, dtype=F64))
    assert model.cond is None  # given() makes another denoiser


def test_null_is_the_class_past_the_last():
    class Labelled(torch.nn.Module):
        classes = 7

    path, cond = gaussian.Path(schedules.VP()), torch.tensor([0, 3])
    assert gaussian.NetDenoiser(Labelled(), path, "edm").null(cond).tolist() == [7, 7]
    with pytest.raises(LabelError, match="classes=K"):
        gaussian.NetDenoiser(torch.nn.Identity(), path, "edm").null(cond)


def test_wrong_output_shape_is_refused_with_the_cure():
    model = gaussian.NetDenoiser(lambda x, noise: torch.cat([x, x], 1), gaussian.Path(schedules.VP()), "eps")
    with pytest.raises(ShapeError, match="drop a learned variance"):
        model(draws((2, 3), 0), time(0.5))


def test_singular_head_is_refused_at_construction():
    with pytest.raises(HeadError, match="use head 'v'"):
        gaussian.NetDenoiser(torch.nn.Identity(), gaussian.Path(schedules.Cosine()), "eps")
    gaussian.NetDenoiser(torch.nn.Identity(), gaussian.Path(schedules.Cosine()), "eps", span=(0.0, 0.99))


def test_state_without_batch_and_times_of_another_batch_are_refused():
    model = gaussian.NetDenoiser(lambda x, noise: x, gaussian.Path(schedules.VP()), "edm")
    with pytest.raises(ShapeError, match=r"one per sample, shape \(4,\)"):
        model(draws((4, 3), 0), time([0.1, 0.2]))


def test_state_keeps_its_dtype_and_the_network_its_own():
    model = gaussian.NetDenoiser(lambda x, noise: x.to(torch.bfloat16), gaussian.Path(schedules.VP()), "v")
    assert model(draws((2, 3), 0).float(), time(0.5)).mean.dtype == torch.float32


def test_trainables():
    path = gaussian.Path(schedules.VP())
    assert isinstance(gaussian.Exact(path, GMM), Trainable)
    net = torch.nn.Linear(2, 2)
    model = gaussian.NetDenoiser(net, path, "edm")
    assert isinstance(model, Trainable)
    assert model.modules() == [net]
    assert gaussian.NetDenoiser(lambda x, noise: x, path, "edm").modules() == []
