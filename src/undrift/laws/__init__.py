r"""Distributions as frozen dataclasses of tensors: what a denoiser answers, and what a step backwards draws from.

A law has batch shape (B,) and event shape E; `sample(rng)` draws one event per row. Everything else is a small capability:
`Moments` (`mean`, `variance`), `Density` (`log_prob`), `Conjugate` (`posterior`, Bayes' rule under a Gaussian look).

Two operations are closed over laws, and they are all that a path needs to step:

*through*: push a law through a kernel, :math:`\int k(\cdot \mid x)\, p(dx)`. `Affine` kernels serve continuous paths,
`Jump` kernels discrete ones; `Point`, `Empirical` and `Pair` do not care which.

*posterior*: condition a law on :math:`y = \alpha x + \sqrt{v}\, z`. A Gaussian stays Gaussian, a mixture a mixture, weighted
atoms weighted atoms: this is every exact denoiser at once.

Four more are what steering needs (`Liftable`): the evidence of a linear look and the law it leaves (`evidence`, `observe`), the
moment generating function and the law tilted by a direction (`log_mgf`, `tilt`), and for laws of finitely many events the
same for any reward (`log_mean_exp`, `reweight`).

Checked by: tests/test_laws.py and tests/laws/
"""

from undrift.laws.categorical import Categorical
from undrift.laws.empirical import Compound, Empirical
from undrift.laws.implicit import Implicit
from undrift.laws.kernels import Affine, Jump
from undrift.laws.mixture import Mixture
from undrift.laws.normal import Normal
from undrift.laws.pair import Pair
from undrift.laws.point import Point
from undrift.laws.protocols import Clean, Conjugate, Density, Kernel, Law, Liftable, Moments

__all__ = [
    "Affine",
    "Categorical",
    "Clean",
    "Compound",
    "Conjugate",
    "Density",
    "Empirical",
    "Implicit",
    "Jump",
    "Kernel",
    "Law",
    "Liftable",
    "Mixture",
    "Moments",
    "Normal",
    "Pair",
    "Point",
]
