"""Rescaled guidance: the identities of Lin et al. 2023, eq. 15-16, in the clean mean."""

import pytest
import torch

from oracles import Counted, draws, mixture, time
from undrift import discrete, gaussian, guidance, schedules
from undrift.errors import FamilyError, LawError, ShapeError
from undrift.laws import Point

PATH, X, T = gaussian.Path(schedules.VP()), 2 * draws((4, 3), 2), time(0.5)
GOOD, BAD = (gaussian.Exact(PATH, mixture(3, seed=seed)) for seed in (0, 1))


@pytest.mark.parametrize("scale", [0.0, 2.0, 8.0, torch.tensor([0.5, 2.0, 4.0, 8.0])])
def test_the_full_share_keeps_the_spread_of_the_conditional_mean(scale):
    """Share 1: std over coordinates is that of the wanted mean, the direction that of plain guidance; share 0 is plain."""
    plain = guidance.autoguidance(GOOD, BAD, scale)
    toward, guided = GOOD(X, T).mean, plain(X, T).mean
    full = guidance.Rescaled(plain, 1.0)(X, T).mean
    torch.testing.assert_close(full.std(1), toward.std(1), rtol=1e-12, atol=0)
    torch.testing.assert_close(full / full.norm(dim=1, keepdim=True), guided / guided.norm(dim=1, keepdim=True))
    torch.testing.assert_close(guidance.Rescaled(plain, 0.0)(X, T).mean, guided, rtol=0, atol=0)
    part = guidance.Rescaled(plain, 0.7)(X, T).mean
    torch.testing.assert_close(part, 0.7 * full + 0.3 * guided, rtol=1e-12, atol=1e-12)


def test_scale_one_is_the_conditional_law_for_one_call():
    bad = Counted(BAD)
    law = guidance.Rescaled(guidance.autoguidance(GOOD, bad, 1.0), 0.7)(X, T)
    torch.testing.assert_close(law.mean, GOOD(X, T).mean, rtol=0, atol=0)
    assert bad.calls == 0


def test_an_answer_without_spread_stays():
    """A constant guided mean has spread 0: nothing to rescale, and no NaN."""

    def constant(value):
        return type("Constant", (), {"path": PATH, "__call__": lambda self, x, t: Point(torch.full_like(x, value))})()

    law = guidance.Rescaled(guidance.autoguidance(constant(1.0), constant(2.0), 3.0), 1.0)(X, T)
    torch.testing.assert_close(law.mean, torch.full_like(X, -1.0))


def test_what_has_no_spread_is_refused():
    symbols = type("Symbols", (), {"path": discrete.path.masked(3), "__call__": lambda self, x, t: x})()
    with pytest.raises(FamilyError, match="plain cfg for symbols"):
        guidance.Rescaled(guidance.autoguidance(symbols, symbols, 2.0), 0.7)
    with pytest.raises(LawError, match=r"\[0, 1\], got 7; 0.7"):
        guidance.Rescaled(guidance.autoguidance(GOOD, BAD, 2.0), 7.0)
    line = gaussian.Exact(PATH, mixture(1, kind="isotropic"))
    with pytest.raises(ShapeError, match="one coordinate"):
        guidance.Rescaled(guidance.autoguidance(line, line, 2.0), 0.7)(X[:, :1], T)
