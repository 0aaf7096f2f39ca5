"""Receipt 3: the printed figures, the theorem's direction, and what a schedule buys."""

import math
from itertools import pairwise

import pytest

from oracles import time
from undrift import gaussian, grids, receipts
from undrift.receipts.guidance_strength import ETAS, PRINTED, TARGET
from undrift.receipts.line import flow
from undrift.receipts.three import Three


@pytest.fixture(scope="module")
def receipt():
    return receipts.guidance_strength(steps=200, frontier_steps=30, etas=(1.0, 4.0), quantiles=2000)


@pytest.mark.parametrize("sampler", ["SDE", "ODE"])
def test_the_printed_figures(receipt, sampler):
    """Printed from samples, with errors of about 0.002 and, by a spacing estimate, 0.015; Euler's at 200 steps are 0.002."""
    for point, confidence, entropy in zip(receipt.table[sampler], *PRINTED[sampler], strict=True):
        assert point.confidence == pytest.approx(confidence, abs=0.006)
        assert point.entropy == pytest.approx(entropy, abs=0.018)


@pytest.mark.parametrize("sampler", ["SDE", "ODE"])
def test_confidence_rises_and_entropy_falls_with_every_strength(receipt, sampler):
    points = receipt.table[sampler]
    assert [p.eta for p in points] == list(ETAS)
    assert all(a.confidence < b.confidence and a.entropy > b.entropy for a, b in pairwise(points))


def test_without_guidance_the_flow_ends_on_the_law_of_the_label():
    """In the limit of fine steps: N(2, 1) moved by the start's missing mean, 2 alpha_1 = 2 e^-4; entropy log(2 pi e) / 2.

    Halving the steps halves the error (Euler), and Richardson's extrapolation removes it.
    """
    three = Three()
    assert float(three.path.schedule.alpha(time(1.0))) == pytest.approx(math.exp(-4))
    lines = [flow(three.guided(TARGET, 1.0), gaussian.EulerMaruyama(0.0), grids.uniform(None, n), 400) for n in (200, 400)]
    one, two = (line.mean_of(line.x) for line in lines)
    assert 2 * two - one == pytest.approx(2 - 2 * math.exp(-4), abs=1e-3)
    assert lines[1].entropy == pytest.approx(0.5 * math.log(2 * math.pi * math.e), abs=math.log(400) / 400)


def test_early_guidance_dominates_and_late_is_dominated(receipt):
    """At equal confidence: by more than 0.02 nats at every strength, for both samplers."""
    for frontier in receipt.frontiers:
        if frontier.schedule in ("above noise level 2", "eta (1 - alpha)"):
            assert frontier.dominates
            assert frontier.gain[0] > 0.02
        elif frontier.schedule != "constant":
            assert not frontier.dominates
            assert frontier.gain[1] < -0.02
    assert len(receipt.frontiers) == 10


def test_it_is_drawn_and_tabulated(receipt, tmp_path):
    file = receipt.picture(tmp_path / "deep" / "strength.png")
    assert file.read_bytes().startswith(b"\x89PNG")
    rows = receipt.rows()
    assert rows[2] == ("SDE", "constant", "1", f"{receipt.table['SDE'][1].confidence:.4f}", rows[2][4], "printed: 0.907, 1.200")
    assert all(len(row) == len(rows[0]) for row in rows)
    assert set(receipts.RECEIPTS) == {"guidance_strength", "centre_split"}
