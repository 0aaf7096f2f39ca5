r"""What a network predicts in place of the clean symbol: the ratio head of score-entropy models.

The ratio of a site is how much likelier the state would be with another symbol there,

.. math:: r_i(y) = \frac{p_t(x_t \text{ with } x_t^i = y)}{p_t(x_t)}
          = \sum_k \frac{q(x_t^i = y \mid x_0^i = k)}{q(x_t^i \mid x_0^i = k)}\, q(x_0^i = k \mid x_t) .

The kernels are a constant plus a diagonal, so the inverse is closed as well,

.. math:: q(x_0^i = k \mid x_t) \propto q(x_t^i \mid x_0^i = k)\,
          \Big(r_i(k) - (1 - \kappa_t)\, \pi_k \sum_y r_i(y)\Big) .

Reading ratios from a clean law needs that every symbol could have led to the one seen; on a masked path that is so at masked
sites, the only ones that a step back moves.

Source: Lou, Meng and Ermon 2024 (SEDD, 2310.16834), section 3 and eq. 18; Meng et al. 2022 (2211.00802).
Checked by: tests/grammar/test_sedd.py
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from undrift.core import pad, scalars
from undrift.discrete.path import Path
from undrift.laws import Categorical
from undrift.typing import Time, Tokens

__all__ = ["RatioHead"]


@dataclass(frozen=True)
class RatioHead:
    """Ratios of probabilities at neighbouring states, read as a clean law and back.

    Attributes:
        path: a discrete path.
    """

    path: Path

    def clean(self, ratios: Float[Tensor, "b *e k"], x_t: Tokens, t: Time) -> Categorical:
        """The sitewise law of the clean end from ratios, shape (B, *E, K), at t with keep(t) > 0.

        Ratios of an imperfect network may imply a negative probability; it counts as none.

        Raises:
            LawError: no clean symbol is left at a site.

        Checked by: tests/grammar/test_sedd.py::test_ratios_are_marginal_ratios_and_give_the_clean_law_back
        """
        keep, seen = self._look(x_t, t)
        implied = ratios - (1 - keep) * self.path.landing.to(x_t.device) * ratios.sum(-1, keepdim=True)
        return Categorical.from_probabilities(seen * implied.clamp_min(0))

    def ratios(self, law: Categorical, x_t: Tokens, t: Time) -> Float[Tensor, "b *e k"]:
        """Ratios from the sitewise law of the clean end, shape (B, *E, K); 1 at the symbol seen.

        Checked by: tests/grammar/test_sedd.py::test_ratios_are_marginal_ratios_and_give_the_clean_law_back
        """
        keep, seen = self._look(x_t, t)
        weight = torch.where(law.probs > 0, law.probs / seen, 0.0)
        return keep * weight + (1 - keep) * self.path.landing.to(x_t.device) * weight.sum(-1, keepdim=True)

    def _look(self, x_t: Tokens, t: Time) -> tuple[Tensor, Tensor]:
        """(keep, likelihood of the symbol seen for each clean symbol), shapes that broadcast against (B, *E, K)."""
        keep = pad(self.path.schedule.keep(scalars(t)), x_t.double())[..., None]
        here = torch.nn.functional.one_hot(x_t, self.path.symbols)
        return keep, keep * here + (1 - keep) * self.path.landing.to(x_t.device)[x_t][..., None]
