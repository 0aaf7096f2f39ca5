"""Choosing a scale where the right answer is known: exact models want none, those that ignore labels want some."""

import math
from dataclasses import dataclass, replace

import pytest
import torch

from undrift import evidence, gaussian, grids, guidance, schedules
from undrift.core import Covariance, Shared
from undrift.errors import DataError, ShapeError
from undrift.laws import Mixture
from undrift.simulate import sample

F = torch.float64
PATH = gaussian.Path(schedules.VP())
MEANS = torch.tensor([[-1.0, 0.0], [0.0, 1.0], [1.0, 0.0]], dtype=F)


COV = Covariance.isotropic(torch.full((3,), 0.25, dtype=F), 2)
DATA = gaussian.LabelledMixture(Mixture.of(torch.full((3,), 1 / 3, dtype=F), MEANS, COV), torch.tensor([0, 1, 2]))
LABELS = torch.arange(600) % 3
HELD_OUT = DATA(LABELS).sample(Shared(5))
SCALES = (0.0, 1.0, 1.5, 2.0, 4.0)


def probability(x, labels):
    clean = torch.zeros((), dtype=F)
    return guidance.ExactClassifier(PATH, DATA)(x, clean).gather(1, labels[:, None])[:, 0].exp()


@dataclass(frozen=True)
class Draw:
    """Samples of a model that knows the law of every label, and gives a share of its mass to the other two."""

    leak: float

    def law(self, cond):
        weights = torch.where(cond[:, None] == torch.arange(3), 1 - self.leak, self.leak / 2).double()
        weights = torch.where(cond[:, None] == 3, torch.full((1, 3), 1 / 3, dtype=F), weights)
        return replace(DATA.mixture, log_weights=weights.log())

    def __call__(self, scale, labels, seed):
        model = gaussian.ExactConditional(PATH, self.law, nothing=3)
        guided, grid = guidance.cfg(model, labels, scale), grids.log_snr(PATH.schedule, 12)
        return sample(guided, gaussian.DPMSolverPP(), grid, (len(labels), 2), seed=seed, dtype=F, rng=lambda: Shared(seed))


def test_exact_models_are_best_unguided():
    found = guidance.choose_scale(Draw(0.0), SCALES, HELD_OUT, LABELS, probability)
    assert found.chosen == 1
    assert found.within_noise == (1.0,)
    assert found.samples == 300
    one, floor = found.tried[1], found.floor
    assert one.criterion == pytest.approx(floor.criterion, rel=0.5)  # both are samples of the truth, 100 a label
    assert one.spread == pytest.approx(math.sqrt(0.5), rel=0.06)  # 2 coordinates of variance 1/4, 300 draws
    assert floor.spread == pytest.approx(math.sqrt(0.5), rel=0.06)
    confidences = [t.confidence for t in found.tried]
    assert confidences == sorted(confidences)
    spreads = [t.spread for t in found.tried]
    assert spreads == sorted(spreads, reverse=True)


def test_a_model_that_half_ignores_labels_wants_guidance():
    """Four draws of ten show another label: guidance brings them back, and too much of it squeezes what is right."""
    found = guidance.choose_scale(Draw(0.4), (0.0, 1.0, 3.0, 8.0), HELD_OUT, LABELS, probability)
    assert found.chosen == 3
    by_scale = {t.scale: t for t in found.tried}
    best = by_scale[found.chosen]
    for other in (0.0, 1.0, 8.0):
        assert best.criterion < by_scale[other].criterion - 4 * math.hypot(best.error, by_scale[other].error)


def test_the_figures_are_what_they_say():
    """A draw that answers with the records of the other half themselves is the floor, with no error."""
    kept = guidance.choose_scale(lambda w, y, s: _real(y), (1.0,), HELD_OUT, LABELS, probability, repeats=2)
    only, floor = kept.tried[0], kept.floor
    assert replace(only, scale=0.0, error=0.0) == replace(floor, scale=0.0, error=0.0)
    assert only.error == 0
    assert math.isnan(floor.scale)
    halves = guidance.frontier._halves(LABELS, torch.Generator().manual_seed(0))
    assert not set(halves[0].tolist()) & set(halves[1].tolist())
    one, two = (HELD_OUT[i][LABELS[i] == 1] for i in halves)
    shares = [evidence.sliced_w2(HELD_OUT[halves[1]][LABELS[halves[1]] == y], HELD_OUT[halves[0]][LABELS[halves[0]] == y])
              for y in range(3)]  # fmt: skip
    assert floor.criterion == pytest.approx(sum(shares) / 3, rel=1e-12)
    assert len(one) == len(two) == 100
    assert floor.confidence == pytest.approx(float(probability(HELD_OUT[halves[1]], LABELS[halves[1]]).mean()), rel=1e-12)


def _real(labels):
    """The half that stands for perfect samples, in the order asked for."""
    real = guidance.frontier._halves(LABELS, torch.Generator().manual_seed(0))[1]
    assert torch.equal(LABELS[real], labels)
    return HELD_OUT[real]


def test_scales_that_cannot_be_told_apart_are_named():
    """Every scale draws the same law: all of them are within noise, up to two standard errors' false alarm (seed fixed)."""
    found = guidance.choose_scale(
        lambda w, y, s: DATA(y).sample(Shared(100 * s + round(10 * w))),
        (1.0, 2.0, 3.0),
        HELD_OUT,
        LABELS,
        probability,
        repeats=8,
    )
    assert len(found.within_noise) >= 2
    assert found.chosen in found.within_noise
    single = guidance.choose_scale(Draw(0.0), (1.0, 1.01), HELD_OUT, LABELS, probability, repeats=1)
    assert single.within_noise == (single.chosen,)
    assert single.rows()[1][-1] == "-"


def test_of_equal_scales_the_one_nearest_to_plain_is_chosen():
    found = guidance.choose_scale(lambda w, y, s: _real(y), (0.0, 1.5, 3.0), HELD_OUT, LABELS, probability)
    assert found.chosen == 1.5
    assert found.rows()[-1][0] == "real"


def test_what_cannot_be_measured_is_refused():
    with pytest.raises(DataError, match="different scales"):
        guidance.choose_scale(Draw(0.0), (1.0, 1.0), HELD_OUT, LABELS, probability)
    with pytest.raises(DataError, match="repeats >= 1"):
        guidance.choose_scale(Draw(0.0), (1.0,), HELD_OUT, LABELS, probability, repeats=0)
    with pytest.raises(DataError, match="label 1 has 3 held-out records"):
        guidance.choose_scale(Draw(0.0), (1.0,), HELD_OUT[:10], LABELS[:10], probability)
    with pytest.raises(DataError, match="300 labels were asked for and 299 samples"):
        guidance.choose_scale(lambda w, y, s: _real(y)[1:], (1.0,), HELD_OUT, LABELS, probability)
    with pytest.raises(ShapeError, match="bring"):
        guidance.choose_scale(lambda w, y, s: _real(y)[:, :1], (1.0,), HELD_OUT, LABELS, probability)
