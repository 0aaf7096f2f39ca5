"""Measurements as potentials: their constants, their shapes, and what is refused with which cure."""

import math

import pytest
import torch

from oracles import F64, draws, normal, relative
from oracles import spd as spd_of
from undrift import gaussian
from undrift.errors import OperatorError, PotentialError, ShapeError
from undrift.guidance import Likelihood, twist
from undrift.inverse import gaussian_likelihood, measurement
from undrift.operators import Mask, Matrix
from undrift.schedules import VP

A, X, Y = draws((2, 4), 1), draws((3, 4), 2), draws((2,), 3)


def dense(x, y, noise):
    """Log N(y; A x, noise^2) by the scalar density."""
    scale = torch.as_tensor(noise, dtype=F64).expand(2)
    z = (y - x @ A.mT) / scale
    return (-0.5 * z.square() - scale.log() - 0.5 * math.log(2 * math.pi)).sum(1)


@pytest.mark.parametrize("noise", [0.3, torch.tensor([0.3, 0.7], dtype=F64)])
def test_it_is_the_log_density(noise):
    assert relative(gaussian_likelihood(Y, A, noise)(X), dense(X, Y, noise)) < 1e-13


def test_one_measurement_or_one_per_sample():
    each = draws((3, 2), 5)
    assert gaussian_likelihood(Y, A, 0.3).y.shape == (1, 2)
    assert relative(gaussian_likelihood(each, A, 0.3)(X), dense(X, each, 0.3)) < 1e-13


def test_pictures_are_measured_in_their_own_shape():
    seen = torch.zeros(2, 3, dtype=torch.bool)
    seen[0, 1:] = True
    picture = draws((5, 2, 3), 1)
    one = gaussian_likelihood(picture[0][seen], seen, 0.2)
    assert isinstance(one.look, Mask)
    assert relative(one(picture), one(picture.clone())) == 0
    half = gaussian_likelihood(picture[:1, :, 0], lambda x: x[:, :, 0], 0.2, event=(2, 3))
    assert relative(half.y, picture[0, :, 0][None]) < 1e-15


def test_any_function_can_be_measured():
    # A nonlinear look, one datum per row; and a linear one equals the closed likelihood.
    each = draws((3, 4), 7)
    bent = measurement(each, torch.sin, 0.5, event=(4,))
    z = (each - X.sin()) / 0.5
    want = (-0.5 * z.square() - math.log(0.5) - 0.5 * math.log(2 * math.pi)).sum(1)
    assert relative(bent(X), want) < 1e-13
    assert relative(bent.per(2)(X.repeat_interleave(2, 0)), want.repeat_interleave(2)) < 1e-13
    linear = measurement(Y, lambda x: x @ A.to(x).mT, 0.3, event=(4,))
    assert relative(linear(X), dense(X, Y, 0.3)) < 1e-13


class Untouched:
    """A network that must not be asked."""

    path = gaussian.Path(VP())

    def __call__(self, x_t, t):
        raise AssertionError("the network was called")


NAN = torch.tensor([0.1, float("nan")], dtype=F64)


@pytest.mark.parametrize(
    ("make", "error", "cure"),
    [
        (lambda: gaussian_likelihood(NAN, A, 0.3), PotentialError, "leave them out"),
        (lambda: gaussian_likelihood(Y, A, 0.0), PotentialError, "noise standard deviation > 0"),
        (lambda: gaussian_likelihood(Y, A, -1.0), PotentialError, "noise standard deviation > 0"),
        (lambda: gaussian_likelihood(Y, A, float("nan")), PotentialError, "noise standard deviation > 0"),
        (lambda: gaussian_likelihood(Y, A, torch.ones(3)), ShapeError, "one for each of the 2"),
        (lambda: gaussian_likelihood(draws((3,), 1), A, 0.3), ShapeError, "2 numbers was expected"),
        (lambda: gaussian_likelihood(Y, lambda x: x.sin(), 0.3, event=(4,)), OperatorError, "not linear"),
        (lambda: gaussian_likelihood(Y, lambda x: x[:, :2], 0.3), OperatorError, "event="),
        (lambda: gaussian_likelihood(Y, "blur", 0.3), OperatorError, "a matrix"),
        (lambda: measurement(Y, torch.sin, 0.3, event=(4,)), ShapeError, "4 numbers was expected"),
        (lambda: measurement(draws((4,), 1), torch.sin, 0.0, event=(4,)), PotentialError, "noise"),
    ],
)
def test_bad_measurements_are_refused(make, error, cure):
    with pytest.raises(error, match=cure):
        twist(Untouched(), make())


def test_a_function_that_answers_in_another_shape_later_is_refused():
    fickle = measurement(Y, lambda x: x[:, : 2 + (x.shape[0] > 1)], 0.3, event=(4,))
    with pytest.raises(PotentialError, match=r"\(B, \*E\) to \(B, \*M\)"):
        fickle(X)


def test_likelihoods_are_potentials_of_one_kind():
    assert isinstance(gaussian_likelihood(Y, Matrix(A), 0.3), Likelihood)
    prior = normal(draws((4,), 1), spd_of(4, 2))
    y, noise = gaussian_likelihood(Y, A, 0.3), 0.3
    c = prior.covariance()[0]
    s = A @ c @ A.mT + noise**2 * torch.eye(2, dtype=F64)
    want = torch.distributions.MultivariateNormal(A @ prior.mean[0], s).log_prob(Y)
    assert relative(y.lift(prior), want[None]) < 1e-12


def test_arrays_and_whole_numbers_are_taken():
    as_numpy = gaussian_likelihood(Y.numpy(), A.numpy(), 0.3)
    assert relative(as_numpy(X), dense(X, Y, 0.3)) < 1e-13
    counts = gaussian_likelihood(torch.tensor([3.0], dtype=F64), torch.tensor([[1, 0, 1, 0]]), 0.3)
    assert counts.look.svd.values.dtype == F64


def test_weights_of_another_dtype_are_told():
    kernel = torch.ones(2, 4)  # float32
    with pytest.raises(OperatorError, match=r"to\(x\)"):
        gaussian_likelihood(Y, lambda x: x @ kernel.mT, 0.3, event=(4,))
    with pytest.raises(OperatorError, match=r"to\(x\)"):
        measurement(Y, lambda x: x @ kernel.mT, 0.3, event=(4,))


def test_densities_have_no_complement():
    with pytest.raises(PotentialError, match="no probability"):
        ~measurement(Y, lambda x: x[:, :2], 0.3, event=(4,))
