"""Certifies `undrift.operators`: adjoints, singular values and every refusal, against dense linear algebra in float64."""

import pytest
import torch
from torch.nn import functional

from oracles import F64, draws
from undrift.errors import OperatorError, ShapeError
from undrift.operators import Function, Mask, Matrix, Operator, Stacked, as_operator

KERNEL = draws((1, 1, 3, 3), 5)
SEEN = torch.tensor([[True, False, True], [False, False, True]])


def blur(x):
    return functional.conv2d(x[:, None], KERNEL.to(x), padding=1)[:, 0]


def blur_back(y):
    return functional.conv_transpose2d(y[:, None], KERNEL.to(y), padding=1)[:, 0]


OPERATORS: dict[str, Operator] = {
    "wide": Matrix(draws((2, 6), 0), (2, 3)),
    "tall": Matrix(draws((9, 6), 1), (2, 3)),
    "rank_one": Matrix(draws((4, 1), 2) @ draws((1, 6), 3), (2, 3)),
    "mask": Mask(SEEN),
    "blur": Function(blur, (2, 3)),
    "blur_transposed": Function(blur, (2, 3), blur_back),
    "sum": Function(lambda x: x.sum(dim=(1, 2)), (2, 3)),
    "rows": Function(lambda x: x.sum(dim=2), (2, 3)),
    "stacked": Stacked([Matrix(draws((2, 6), 4), (2, 3)), Mask(SEEN), Function(blur, (2, 3))]),
}
every_operator = pytest.mark.parametrize("name", OPERATORS)


def dense(operator: Operator) -> torch.Tensor:
    """The matrix, column by column, by the forward map alone."""
    d = torch.Size(operator.event).numel()
    return operator(torch.eye(d, dtype=F64).reshape(d, *operator.event)).mT


@every_operator
def test_the_adjoint_identity_holds(name):
    """<A x, y> = <x, A^T y> to rounding, for rows of their own, also where no gradient is recorded."""
    a = OPERATORS[name]
    x, y = draws((4, *a.event), 6), draws((4, a.measurements), 7)
    with torch.no_grad():
        back = a.adjoint(y)
    assert back.shape == x.shape
    torch.testing.assert_close((a(x) * y).sum(1), (x * back).flatten(1).sum(1), rtol=1e-12, atol=1e-12)


@every_operator
def test_the_matrix_is_the_operators(name):
    a = OPERATORS[name]
    x, y = draws((4, *a.event), 6), draws((4, a.measurements), 7)
    assert a.matrix.shape == (a.measurements, x[0].numel())
    torch.testing.assert_close(a.matrix, dense(a), rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(a(x), x.flatten(1) @ a.matrix.mT, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(a.adjoint(y).flatten(1), y @ a.matrix, rtol=1e-12, atol=1e-12)


@every_operator
def test_singular_values_rebuild_the_matrix(name):
    a = OPERATORS[name]
    left, values, right = a.svd
    torch.testing.assert_close(left @ torch.diag(values) @ right.mT, a.matrix, rtol=1e-12, atol=1e-12)
    eye = torch.eye(len(values), dtype=F64)
    torch.testing.assert_close(left.mT @ left, eye, rtol=0, atol=1e-12)
    torch.testing.assert_close(right.mT @ right, eye, rtol=0, atol=1e-12)
    assert len(values) == int(torch.linalg.matrix_rank(a.matrix))
    assert bool((values > 0).all())


def test_a_matrix_of_zeros_has_no_singular_values():
    assert Matrix(torch.zeros(2, 3, dtype=F64)).svd.values.shape == (0,)


def test_a_mask_keeps_the_order_of_the_event():
    x = torch.arange(6, dtype=F64).reshape(1, 2, 3)
    a = OPERATORS["mask"]
    assert a(x).tolist() == [[0.0, 2.0, 5.0]]
    assert a.measurements == 3
    assert a.adjoint(a(x)).tolist() == [[[0.0, 0.0, 2.0], [0.0, 0.0, 5.0]]]


def test_measurements_of_parts_stand_side_by_side():
    a = OPERATORS["stacked"]
    x = draws((2, 2, 3), 8)
    torch.testing.assert_close(a(x), torch.cat([part(x) for part in a.parts], 1), rtol=0, atol=0)  # pyright: ignore


@every_operator
def test_states_keep_their_dtype(name):
    a = OPERATORS[name]
    x = draws((2, *a.event), 9).float()
    assert a(x).dtype == torch.float32
    assert a.adjoint(a(x)).dtype == torch.float32


@every_operator
def test_another_event_is_refused_with_the_shape_that_is_wanted(name):
    with pytest.raises(ShapeError, match=r"wanted \(B, 2, 3\)"):
        OPERATORS[name](draws((2, 3, 2), 0))


@pytest.mark.parametrize(
    ("function", "event"),
    [
        (lambda x: x.square(), (3,)),
        (lambda x: x + 1, (3,)),
        (lambda x: x.abs(), (3,)),
        (lambda x: x - x.mean(0), (3,)),  # linear, but rows see each other
        (lambda x: x.sum(0, keepdim=True), (3,)),  # the batch is gone
    ],
)
def test_functions_that_are_not_linear_are_refused(function, event):
    with pytest.raises(OperatorError, match=r"not linear in a batch.*inverse\.measurement"):
        Function(function, event)


def test_a_wrong_transpose_is_refused():
    with pytest.raises(OperatorError, match=r"not the adjoint.*leave it out"):
        Function(blur, (2, 3), lambda y: 2 * blur_back(y))
    with pytest.raises(OperatorError, match="not the adjoint"):
        Function(lambda x: x.roll(1, -1), (3,), lambda y: y.roll(1, -1))


def test_a_function_that_cannot_be_differentiated_needs_a_transpose():
    def numpy(x):
        return torch.from_numpy(2 * x.detach().numpy())

    with pytest.raises(OperatorError, match="transpose="):
        Function(numpy, (3,))
    with pytest.raises(OperatorError, match="transpose="):
        Function(lambda x: 2 * x.detach(), (3,))
    given = Function(numpy, (3,), numpy)
    torch.testing.assert_close(given.matrix, 2 * torch.eye(3, dtype=F64), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("make", "error", "says"),
    [
        (lambda: Matrix(draws((3,), 0)), ShapeError, r"shape \(m, d\)"),
        (lambda: Matrix(draws((2, 5), 0), (2, 3)), ShapeError, "5 columns cannot measure"),
        (lambda: Matrix(torch.full((1, 2), torch.nan)), OperatorError, "NaN or infinity"),
        (lambda: Matrix(torch.full((1, 2), torch.inf)), OperatorError, "NaN or infinity"),
        (lambda: Mask(torch.ones(3)), OperatorError, "boolean"),
        (lambda: Mask(torch.zeros(3, dtype=torch.bool)), OperatorError, "at least once"),
        (lambda: Stacked([Mask(SEEN), Matrix(draws((1, 6), 0))]), ShapeError, "agree on its shape"),
        (lambda: Stacked([]), ShapeError, "agree on its shape"),
        (lambda: as_operator(blur), OperatorError, "without event="),
    ],
)
def test_what_is_no_operator_is_refused(make, error, says):
    with pytest.raises(error, match=says):
        make()


def test_operators_are_made_from_what_people_have():
    matrix = draws((2, 6), 0)
    x = draws((3, 2, 3), 1)
    assert as_operator(OPERATORS["mask"]) is OPERATORS["mask"]
    assert isinstance(as_operator(SEEN), Mask)
    torch.testing.assert_close(as_operator(matrix, (2, 3))(x), x.flatten(1) @ matrix.mT, rtol=0, atol=0)
    assert as_operator(matrix).event == (6,)
    torch.testing.assert_close(as_operator(blur, (2, 3))(x), blur(x).flatten(1), rtol=0, atol=0)
