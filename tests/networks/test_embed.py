"""What a network is told beside the state: columns, partly seen grids, noise labels. NaN says nothing, and harms nothing."""

import math

import pytest
import torch

from undrift.errors import LabelError, ShapeError
from undrift.gaussian.denoiser import noise_label
from undrift.networks import NETWORKS, NOISE_RANGE
from undrift.networks.columns import ColumnEmbedding
from undrift.networks.embed import Embedding, FourierFeatures, check_conditions, seen, split

NAN = math.nan
COLUMNS = (0, 3, 0, 300)
ROWS = torch.tensor(
    [[0.3, 1.0, -1.2, 257.0], [NAN, 2.0, 0.0, NAN], [1.5, NAN, NAN, 0.0], [0.0, 0.0, NAN, 299.0]], dtype=torch.float64
)


def columns(width=6, kinds=COLUMNS):
    torch.manual_seed(0)
    return ColumnEmbedding(kinds, width).double()


def test_columns_are_the_formula():
    embed = columns()
    out = embed(ROWS)
    weight, table = embed.number.weight, embed.table.weight
    assert weight.shape == (6, 26)
    assert table.shape == (3 + 1 + 300 + 1, 6)
    for row, total in zip(ROWS.tolist(), out, strict=True):
        expected = torch.zeros(6, dtype=torch.float64)
        for place, v in enumerate((row[0], row[2])):
            features = [1.0] + [0.0] * 12
            if not math.isnan(v):
                features = [0.0, 1.0, v] + [f(w * v) for w in (0.5, 1, 2, 4, 8) for f in (math.cos, math.sin)]
            for i, feature in enumerate(features):  # feature i of both numbers is one piece of two
                expected += feature * weight[:, 2 * i + place]
        expected += table[3 if math.isnan(row[1]) else int(row[1])]
        expected += table[4 + (300 if math.isnan(row[3]) else int(row[3]))]
        torch.testing.assert_close(total, expected, rtol=1e-12, atol=1e-12)


def test_no_condition_is_nothing_asked_bit_for_bit():
    torch.manual_seed(0)
    embed = Embedding(16, columns=COLUMNS)
    noise = torch.linspace(-2, 2, 5)
    assert torch.equal(embed(noise), embed(noise, torch.full((5, 4), NAN)))
    assert torch.equal(embed(noise), embed(noise, torch.full((5, 4), NAN, dtype=torch.float64)))


@pytest.mark.parametrize("column", range(4))
def test_each_column_matters_alone(column):
    embed = columns()
    nothing = torch.full((1, 4), NAN, dtype=torch.float64)
    low, high = nothing.clone(), nothing.clone()
    low[0, column], high[0, column] = 0.0, 1.0
    outs = [embed(row) for row in (nothing, low, high)]
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert (outs[a] - outs[b]).norm() > 0.1


def test_a_row_does_not_depend_on_other_rows():
    embed = columns()
    out = embed(ROWS)
    other = torch.cat([ROWS[:1], torch.full((3, 4), NAN, dtype=torch.float64)])
    assert torch.equal(embed(other)[0], out[0])


def test_gradients_are_finite_and_reach_what_was_asked():
    embed = columns()
    cond = ROWS.clone().requires_grad_()
    embed(cond).square().sum().backward()
    # The gradient of a number is the derivative of its features; of a code and of a NaN it is zero, never NaN.
    asked = ~ROWS[:, [0, 2]].isnan()
    assert torch.equal(cond.grad[:, [0, 2]] != 0, asked)
    assert torch.equal(cond.grad[:, [1, 3]], torch.zeros(4, 2, dtype=torch.float64))
    assert embed.number.weight.grad.isfinite().all()
    # Rows that were looked up, 3 and 4 + 300 for "not asked", and no others.
    assert embed.table.weight.grad.norm(dim=1).nonzero().flatten().tolist() == [0, 1, 2, 3, 4, 4 + 257, 4 + 299, 4 + 300]


def test_number_is_differentiated():
    embed = columns(kinds=(0, 0))
    v = torch.tensor([[0.3, -1.0], [2.0, NAN]], dtype=torch.float64)
    step = 1e-6 * torch.eye(2, dtype=torch.float64)[:1]
    jvp = torch.func.jvp(embed, (v,), (step.expand(2, 2) * 1e6,))[1]
    central = (embed(v + step) - embed(v - step)) / 2e-6
    torch.testing.assert_close(jvp, central, rtol=1e-7, atol=1e-7)


def test_codes_are_exact_under_bfloat16():
    # 257 is no bfloat16 number: a code that passed through one would be read as 256 or 258.
    torch.manual_seed(0)
    embed = Embedding(16, columns=(300,))
    code = torch.tensor([[257.0]])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(embed.column(code), embed.column.table.weight[257:258])
    half = Embedding(16, columns=(300,)).bfloat16()
    assert torch.equal(half.column(code), half.column.table.weight[257:258])


def test_buffers_are_no_part_of_the_weights():
    assert set(columns().state_dict()) == {"number.weight", "table.weight"}
    assert set(columns(kinds=(0,)).state_dict()) == {"number.weight"}
    assert set(columns(kinds=(2,)).state_dict()) == {"table.weight"}


def test_split_reads_columns_first_and_then_the_grid():
    x = torch.zeros(2, 5, 2, 3)
    rows, grid = torch.randn(2, 4), torch.randn(2, 2, 2, 3)
    both = torch.cat([rows, grid.reshape(2, 12)], dim=1)
    got = split(both, COLUMNS, 2, x)
    assert torch.equal(got[0], rows)
    assert torch.equal(got[1], grid)
    assert split(rows, COLUMNS, 0, x) == (rows, None)
    alone = split(grid, (), 2, x)
    assert alone[0] is None
    assert torch.equal(alone[1], grid)
    labels = torch.tensor([0, 1])
    assert split(labels, (), 0, x) == (labels, None)
    assert split(None, COLUMNS, 0, x) == (None, None)
    nothing = split(None, COLUMNS, 2, x)
    assert nothing[0].shape == (2, 4)
    assert nothing[1].shape == (2, 2, 2, 3)
    assert nothing[0].isnan().all()
    assert nothing[1].isnan().all()
    assert split(None, (), 2, x)[0] is None


def test_seen_is_values_and_mask():
    grid = torch.tensor([[[1.0, NAN], [-2.0, 0.0]]]).requires_grad_()
    out = seen(grid)
    assert out.tolist() == [[[1.0, 0.0], [-2.0, 0.0], [1.0, 0.0], [1.0, 1.0]]]
    out.sum().backward()
    assert grid.grad.tolist() == [[[1.0, 0.0], [1.0, 1.0]]]


def test_noise_range_is_resolved():
    # Every label that a denoiser can give lies inside; over the range the lowest sine grows all the way, and labels 1 % of
    # sigma apart stay apart by far more than float32 rounding.
    ends = noise_label(torch.tensor([-torch.inf, torch.inf], dtype=torch.float64))
    assert NOISE_RANGE[0] < ends.min()
    assert ends.max() < NOISE_RANGE[1]
    c = torch.arange(NOISE_RANGE[0], NOISE_RANGE[1], 0.01 / 4)
    features = FourierFeatures(64)(c)
    lowest = features[:, 32]
    assert (lowest.diff() > 1e-3 * 0.25 / 4).all()
    # The highest turns no faster than the label is sampled by a factor of five in sigma.
    assert FourierFeatures(64).frequencies.max() * (0.25 * math.log(5)) == pytest.approx(2 * math.pi, rel=0.05)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_advertises_the_noise_range(name):
    assert NETWORKS[name].noise_range == NOISE_RANGE


X = torch.zeros(2, 1, 2, 3)
EMBED = Embedding(8, columns=COLUMNS)
C = torch.zeros(2)
FINE = torch.zeros(2, 4)


def put(column, value):
    rows = FINE.clone()
    rows[1, column] = value
    return lambda: EMBED(C, rows)


ERRORS = {
    "code-high": (put(1, 3.0), LabelError, r"cond\[1, 1\] is 3; column 1 is a class: give one of 0\.\.2"),
    "code-last": (put(3, 300.0), LabelError, r"column 3 is a class: give one of 0\.\.299"),
    "code-negative": (put(1, -1.0), LabelError, r"cond\[1, 1\] is -1"),
    "code-broken": (put(1, 0.5), LabelError, r"cond\[1, 1\] is 0\.5"),
    "number-infinite": (put(2, math.inf), LabelError, r"column 2 is a number: give a finite one"),
    "rows-width": (lambda: EMBED(C, FINE[:, :3]), ShapeError, r"reads 4 columns.*\(B, 4\)"),
    "rows-length": (lambda: EMBED(C, FINE[:1]), ShapeError, r"for 2 samples; give one row per sample"),
    "rows-long": (lambda: EMBED(C, FINE.long()), LabelError, r"use cond\.float\(\)"),
    "one-class": (lambda: Embedding(8, columns=(0, 1)), LabelError, "one class says nothing"),
    "negative-class": (lambda: Embedding(8, columns=(-2,)), LabelError, "0 for a number"),
    "both": (lambda: Embedding(8, classes=3, columns=(0,)), LabelError, r"make the class a column: columns=\(3, \.\.\.\)"),
    "image": (lambda: check_conditions(None, (), -1), LabelError, "number of channels of the grid"),
    "image-and-classes": (lambda: check_conditions(2, (), 1), LabelError, "make the class a column"),
    "grid-shape": (lambda: split(torch.zeros(2, 1, 3, 2), (), 1, X), ShapeError, r"reads \(2, 1, 2, 3\): a grid on the points"),
    "both-shape": (lambda: split(torch.zeros(2, 6), COLUMNS, 1, X), ShapeError, r"reads \(2, 10\): 4 columns, then a grid"),
    "grid-long": (lambda: split(X.long(), (), 1, X), LabelError, r"use cond\.float\(\)"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors_say_the_cure(name):
    call, kind, text = ERRORS[name]
    with pytest.raises(kind, match=text):
        call()
