r"""Exact denoisers over a finite set of events, whole sequences jointly.

.. math:: q(x_0 = a \mid x_t) \propto p(a) \prod_i q(x_t^i \mid x_0^i = a^i)

With every sequence of a small alphabet as an atom this is the truth by enumeration.

Checked by: tests/discrete/test_exact.py (against the matrix exponential of the joint chain)
"""

from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from undrift.core import scalars
from undrift.discrete.path import Path
from undrift.errors import LawError
from undrift.laws import Categorical, Empirical
from undrift.typing import Time, Tokens

__all__ = ["Exact", "Factorised", "enumerate_events"]


def enumerate_events(symbols: int, sites: int) -> Tensor:
    """Every sequence of `sites` symbols, shape (symbols ** sites, sites), in lexicographic order."""
    return torch.tensor(list(product(range(symbols), repeat=sites)))


@dataclass(frozen=True)
class Exact:
    """The denoiser of a known law over events: the joint posterior.

    Attributes:
        path: a discrete path.
        data: law of the data: atoms are events of symbols, batch shape (1,) or (B,).
    """

    path: Path
    data: Empirical

    def __call__(self, x_t: Tokens, t: Time) -> Empirical:
        """The exact joint posterior of X_0 given X_t = x_t.

        Raises:
            LawError: no event of the data could have led to x_t.

        Checked by: tests/discrete/test_exact.py::test_a_state_that_no_event_explains_is_refused
        """
        zero = torch.zeros_like(scalars(t))
        # log q(x_t | clean symbol), for each site and symbol; then summed along each atom.
        jump = self.path.forward(x_t, zero, t)
        here = torch.nn.functional.one_hot(x_t, self.path.symbols).to(jump.land.dtype)
        seen = (jump.stay * here + jump.land.gather(-1, x_t[..., None])).flatten(1, -2)
        atoms = self.data.atoms.flatten(1)
        sites = torch.arange(atoms.shape[1])
        evidence = seen.log()[:, sites, atoms].sum(-1)
        joint = self.data.log_weights + evidence
        if joint.device.type == "cpu" and bool((joint == -torch.inf).all(-1).any()):
            raise LawError(
                f"no event of the data could have led to this state at t = {float(scalars(t).max()):g}: it holds a symbol that "
                "the data never has there and that noise never makes; check the symbols, or give the data every event"
            )
        return Empirical(torch.log_softmax(joint, -1), self.data.atoms)


@dataclass(frozen=True)
class Factorised:
    """What a network can learn at best: the exact marginal of every site, dependence dropped.

    Attributes:
        exact: the joint truth.
    """

    exact: Exact

    @property
    def path(self) -> Path:
        """The path it was made for."""
        return self.exact.path

    def __call__(self, x_t: Tokens, t: Time) -> Categorical:
        """The exact sitewise posterior of X_0 given X_t = x_t."""
        joint = self.exact(x_t, t)
        here = torch.nn.functional.one_hot(joint.atoms, self.path.symbols).to(joint.log_weights.dtype)
        probabilities = torch.einsum("bn,n...k->b...k", joint.log_weights.exp(), here)
        return Categorical.from_probabilities(probabilities)
