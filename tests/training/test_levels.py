"""Noise levels and their yardsticks, against exact denoisers."""

import math
import weakref
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn

from undrift import schedules
from undrift.core import Covariance, Shared
from undrift.errors import DataError
from undrift.gaussian import Exact, LogNormalNoise, NetDenoiser, Path, Regression, UniformTime
from undrift.gaussian.heads import HEADS, Head
from undrift.laws import Normal
from undrift.training.levels import Levels, gaussian_error, spectrum

VALUES = torch.tensor([4.0, 1.0, 0.25, 0.01, 0.0], dtype=torch.float64)


def law(d=5, values=VALUES, mean=0.7):
    """A Gaussian with these eigenvalues in a random basis, and a mean that is not 0."""
    basis = torch.linalg.qr(torch.randn(d, d, dtype=torch.float64, generator=torch.Generator().manual_seed(1))).Q
    return Normal(
        torch.full((1, d), mean, dtype=torch.float64), Covariance(values[None], values.new_zeros(1, 1), basis[None], d)
    )


def drawn(n, seed=0):
    one = law()
    return Normal(one.mean.expand(n, -1), one.cov).sample(Shared(seed))


@dataclass
class Fixed:
    """A denoiser that answers by a function, measured in the units of a head."""

    path: Path
    head: str
    data_std: float
    answer: object

    def __call__(self, x_t, t):
        raise NotImplementedError

    def error(self, x_0, x_t, t):
        out = Head(self.head, self.path.schedule, self.data_std, (0.01, 0.99)).coefficients(t)[1]
        return (self.answer(x_t, t) - x_0) / out.reshape(-1, 1)


def test_the_gaussian_yardstick_is_the_exact_posterior_variance():
    # The exact posterior's covariance does not depend on the look, so its trace is the error: no sampling.
    for schedule in (schedules.VP(), schedules.EDM(), schedules.Cosine()):
        exact = Exact(Path(schedule), law())
        t = torch.tensor([0.02, 0.3, 0.6, 0.97], dtype=torch.float64)
        noise = (-0.5 * schedule.log_snr(t)).exp()
        said = gaussian_error(VALUES, noise)
        x = torch.zeros(1, 5, dtype=torch.float64)
        truth = torch.stack([exact(x, s).variance.mean() for s in t])
        torch.testing.assert_close(said, truth, rtol=1e-10, atol=0)
    ends = gaussian_error(VALUES, torch.tensor([0.0, math.inf]))
    assert ends.tolist() == [0.0, pytest.approx(float(VALUES.mean()), rel=1e-15)]


@pytest.mark.parametrize("head", sorted(set(HEADS) - {"score"}))
@pytest.mark.parametrize("schedule", [schedules.VP(), schedules.EDM()])
def test_yardsticks_of_levels_are_what_exact_denoisers_reach(schedule, head):
    # The exact denoiser and the mean predictor, measured by the loss that trains networks. Tolerance: 5 standard errors of
    # each level's mean; 16 levels a case, so a false alarm in 6e-7 * 16 * 10 = 1e-4 of all seeds.
    path, std = Path(schedule), 1.3
    times = UniformTime(0.05, 0.95) if head != "edm" else LogNormalNoise(schedule, start=0.01, end=0.99)
    exact = Exact(path, law())
    for answer, which in ((lambda x, t: exact(x, t).mean, "gaussians"), (lambda x, t: law().mean.expand_as(x), "means")):
        fixed = Fixed(path, head, std, answer)
        levels = Levels.of(times, fixed, VALUES, count=8)
        t = times.sample(40_000, Shared(3))
        loss = Regression()(fixed, drawn(len(t)), t, Shared(4))
        levels.add(-0.5 * schedule.log_snr(t), loss)
        spread = Levels.of(times, fixed, VALUES, count=8)
        spread.add(-0.5 * schedule.log_snr(t), loss.square())
        report = levels.take()
        yardsticks = getattr(report, which)
        for value, square, truth, n in zip(report.losses, spread.take().losses, yardsticks, report.counts, strict=True):
            assert abs(value - truth) < 5 * math.sqrt((square - value**2) / n) + 1e-3 * truth
        assert report.below == pytest.approx(1 - report.loss / report.gaussian)
        if which == "gaussians":
            assert abs(report.below) < 0.03
        assert report.gaussian < report.mean


def test_a_weight_scales_the_yardsticks_as_it_does_the_loss():
    fixed = Fixed(Path(schedules.VP()), "x0", 1.0, None)
    times = UniformTime(0.05, 0.95)
    plain, weighted = (Levels.of(times, fixed, VALUES, count=512, weight=w) for w in ("unit", "noise_variance"))
    middle = schedules.VP().time(-(plain.edges[1:] + plain.edges[:-1]))
    torch.testing.assert_close(weighted.means / plain.means, schedules.VP().sigma(middle).square(), rtol=0.02, atol=0)


@pytest.mark.parametrize("times", [UniformTime(), LogNormalNoise(schedules.EDM(), mean=-0.3, std=1.0)])
def test_levels_are_filled_equally(times):
    schedule = schedules.EDM()
    levels = Levels.of(times, Fixed(Path(schedule), "edm", 1.0, None), VALUES, count=5)
    t = times.sample(5000, Shared(9))
    levels.add(-0.5 * schedule.log_snr(t), torch.zeros(5000))
    assert all(abs(n - 1000) <= 3 for n in levels.take().counts)  # both samples are stratified
    report = levels.take()
    assert len(report.edges) == 6
    assert list(report.edges) == sorted(report.edges)
    assert report.counts == (0,) * 5


def test_losses_land_in_their_levels():
    one = torch.ones(3, dtype=torch.float64)
    levels = Levels(torch.tensor([0.0, 1.0, 2.0, 3.0], dtype=torch.float64), 2 * one, 4 * one)
    levels.add(torch.tensor([-9.0, 0.5, 2.5, 99.0]), torch.tensor([1.0, 3.0, 5.0, 6.0]))
    levels.add(torch.tensor([2.2]), torch.tensor([7.0]))
    assert levels.sums.tolist() == [4.0, 0.0, 18.0]
    assert levels.counts.tolist() == [2, 0, 3]
    report = levels.take()
    assert report.losses == (2.0, None, 6.0)
    assert report.counts == (2, 0, 3)
    assert (report.loss, report.gaussian, report.mean) == (pytest.approx(4.4), 2, 4)
    assert report.below == pytest.approx(1 - 2.2)
    assert report.edges == pytest.approx([1, math.e, math.e**2, math.e**3])
    plain = report.to_json()
    assert plain["losses"] == [2.0, None, 6.0]
    assert plain["gaussians"] == [2.0] * 3
    assert set(plain) == {"gaussian", "mean", "levels", "losses", "gaussians", "means", "counts"}
    again = levels.take()  # begun anew
    assert again.losses == (None, None, None)
    assert math.isnan(again.below)
    assert again.to_json()["gaussian"] is None


def test_a_nan_stays_in_its_level():
    one = torch.ones(2, dtype=torch.float64)
    levels = Levels(torch.tensor([0.0, 1.0, 2.0], dtype=torch.float64), one, one)
    levels.add(torch.tensor([0.5, 1.5]), torch.tensor([math.nan, 3.0]))
    low, high = levels.take().losses
    assert math.isnan(low)
    assert high == 3


def test_overall_weighs_levels_by_their_counts():
    levels = Levels(torch.tensor([0.0, 1.0, 2.0], dtype=torch.float64), torch.tensor([1.0, 10.0]), torch.tensor([2.0, 20.0]))
    levels.add(torch.tensor([0.5, 1.5, 1.6, 1.7]), torch.tensor([1.0, 5.0, 5.0, 5.0]))
    report = levels.take()
    assert report.gaussian == pytest.approx(31 / 4)
    assert report.mean == pytest.approx(62 / 4)
    assert report.below == pytest.approx(1 - 16 / 31)


def test_a_trained_network_approaches_the_gaussian_and_does_not_beat_it():
    # On Gaussian data no denoiser beats it. 8 levels' sampling error on 20000 fresh samples is about 1 % overall.
    schedule = schedules.EDM()
    data = drawn(20_000).float()
    std = float(data.square().mean().sqrt())
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(6, 96), nn.SiLU(), nn.Linear(96, 96), nn.SiLU(), nn.Linear(96, 5))
    denoiser = NetDenoiser(lambda x, noise: net(torch.cat([x, noise[:, None].to(x)], 1)), Path(schedule), "edm", std)
    times, objective = LogNormalNoise(schedule), Regression()
    levels = Levels.of(times, denoiser, spectrum(data))
    optimiser = torch.optim.Adam(net.parameters(), lr=3e-3)
    rng = Shared(5)

    def measured(x, t):
        loss = objective(denoiser, x, t, rng)
        levels.add(-0.5 * schedule.log_snr(t), loss)
        return loss.mean()

    with torch.no_grad():
        measured(data[:5000], times.sample(5000, rng))
    assert levels.take().below < -0.2  # untrained: worse than the Gaussian
    for step in range(900):
        optimiser.param_groups[0]["lr"] = 3e-3 * (1 - step / 900)
        loss = measured(data[(256 * step) % 19_000 :][:256], times.sample(256, rng))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    levels.take()
    with torch.no_grad():
        measured(drawn(20_000, seed=1).float(), times.sample(20_000, rng))
    assert -0.15 < levels.take().below < 0.02


@pytest.mark.parametrize("event", [(5,), (1, 3, 4), (1100,)])
def test_the_spectrum_is_that_of_the_covariance(event):
    data = torch.randn(300, *event, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 100
    data = data * torch.linspace(0.1, 2, event[-1], dtype=torch.float64)
    truth = torch.linalg.eigvalsh(data.flatten(1).T.cov()).clamp_min(0)
    one, streamed = spectrum(data), spectrum(iter(data.split(37)))
    close = 1e-9 if event[0] < 1024 else 1e-4  # float32 beyond 1024 numbers
    torch.testing.assert_close(one, truth, rtol=0, atol=close * float(truth.max()))
    torch.testing.assert_close(streamed, truth, rtol=0, atol=close * float(truth.max()))
    assert float(one.sum()) == pytest.approx(float(truth.sum()), rel=1e-12)


@pytest.mark.parametrize("d", [6, 40])
def test_batches_are_let_go(d, monkeypatch):
    """Of 50 batches at most the first, the present and the next are held; of 40 numbers, as if many, rows are copied."""
    import undrift.training.levels as module

    monkeypatch.setattr(module, "_DENSE", 10)
    monkeypatch.setattr(module, "_LEADING", 20)
    monkeypatch.setattr(module, "_PIECE", 13 * d)  # batches of 30 are summed in three pieces
    data = np.random.default_rng(0).normal(size=(1500, d)).astype(np.float32)
    kept: weakref.WeakSet[Store] = weakref.WeakSet()
    held = []

    def batches():
        for part in np.split(data, 50):
            store = part.copy().view(Store)
            kept.add(store)
            yield torch.from_numpy(store)
            del store
            held.append(len(kept))

    found = spectrum(batches())
    assert len(held) == 50
    assert max(held) <= 3
    assert float(found.sum()) == pytest.approx(float(np.trace(np.cov(data.T))), rel=1e-6)


class Store(np.ndarray):
    """Memory of a batch, which can be watched."""

    __hash__ = object.__hash__
    __eq__ = object.__eq__


def test_a_large_spectrum_keeps_its_trace_and_its_leading_part(monkeypatch):
    # 3 strong directions among 200, seen through a subset: their variances within sampling error, the trace exact, and the
    # error of the Gaussian that knows only them no less than the truth.
    import undrift.training.levels as module

    rng = torch.Generator().manual_seed(0)
    scale = torch.cat([torch.tensor([9.0, 5.0, 3.0]), torch.linspace(0.6, 0.1, 197)])
    data = torch.randn(4000, 200, generator=rng) * scale + 2
    exact = spectrum(data)
    monkeypatch.setattr(module, "_DENSE", 100)
    monkeypatch.setattr(module, "_LEADING", 20)
    monkeypatch.setattr(module, "_SUBSET", 1000)
    small = spectrum(data.split(333))
    assert len(small) == 200
    assert float(small.sum()) == pytest.approx(float(exact.sum()), rel=1e-6)
    torch.testing.assert_close(small[-3:], exact[-3:], rtol=0.25, atol=0)  # 500 rows: 6 % a standard error
    noise = torch.tensor([0.1, 0.5, 2.0, 10.0])
    ratio = gaussian_error(small, noise) / gaussian_error(exact, noise)
    assert bool((ratio > 0.97).all())
    assert bool((ratio < 1.25).all())


def test_errors_say_the_cure():
    with pytest.raises(DataError, match="two records, got 1"):
        spectrum(torch.zeros(1, 3))
    with pytest.raises(DataError, match="there are none"):
        spectrum(iter(()))
    assert spectrum(torch.ones(4, 3)).tolist() == [0, 0, 0]
    with pytest.raises(DataError, match="at least one noise level"):
        Levels.of(UniformTime(), Fixed(Path(schedules.VP()), "x0", 1.0, None), VALUES, count=0)
