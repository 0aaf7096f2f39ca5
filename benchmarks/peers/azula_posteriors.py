"""azula 0.11.1: every posterior sampler of `azula.guidance` on a linear problem with an exact mixture denoiser.

Called as

    python azula_posteriors.py PROBLEM.npz OUT.npz [NAME ...]

PROBLEM.npz holds `means` (K, d), `log_weights` (K,), `A` (m, d), `y` (m,), and the scalars `noise`, `n`, `steps`, `seed`:
the data law is a mixture of K Gaussians of unit covariance, y = A x + noise * eps, and `n` posterior samples are asked for.
OUT.npz holds for every method of `METHODS` (or the names asked for) `NAME.samples` (n, d), in the unit of `means`,
`NAME.seconds`, wall time of sampling, `NAME.calls`, passes of the whole batch through the denoiser, and one string
`notes`: JSON with `setup` and, by name, `how` the method was set up, its `jacobians` (products with the denoiser's
Jacobian, which `calls` leaves out) and, if it raised or left a number that is not finite, its `error`; samples of a method
that raised are all NaN. Every method starts from the same seed, after an untimed run of two steps. All is float64, on one
thread.

Common to all:

- Schedule: `VPSchedule()`, alpha_min = sigma_min = 1e-3, azula's defaults. `steps` equal steps of time from 1 to 0, the
  samplers' default; `init` with its default mean 0 and variance 1.
- Unit: the schedule lets the unit of the data open; PGDM's weight, DPS's step and `init` suppose about unit variance, so x is
  centred and divided by one constant, the root of the prior's mean variance, both stated in `setup`. The measurement is
  divided by the same constant, so that A stays as it is. Undone afterwards.
- Sampler of the guided denoisers: `DDIMSampler(eta=1)`, that of azula's own tutorial on a mixture; `_ddim` is the same with
  `DDIMSampler()`, eta = 0, its default. Where a method solves a system, azula does one iteration by default;
  `_solved` does m of them, which is exact, and is left out if m = 1, where one is.

What the methods cannot do here: `pgdm` and `repaint` have no place for measurement noise and ignore it. RePaint takes a
mask, not a matrix: it runs in the basis of A's right singular vectors, in which A is one. `TDSSampler` resamples the whole
batch, so its n samples are one set of n particles, not n independent draws. `DPSSampler` takes one norm over the batch,
which divides the step by about sqrt(n): `dps_batch` is the plain call, `dps` hands it the sum of the samples' norms and so
takes the published step. `CFGDenoiser` needs a denoiser that was trained on labels and has no part here.
"""

import argparse
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version

import numpy as np
import torch
from azula.denoise import Denoiser, DiracPosterior
from azula.guidance import (
    DiffPIRDenoiser,
    DPSSampler,
    JFPSDenoiser,
    MMPSDenoiser,
    PGDMSampler,
    RePaintSampler,
    TDSSampler,
    TMPDenoiser,
)
from azula.linalg.covariance import DPLRCovariance, IsotropicCovariance
from azula.noise import Schedule, VPSchedule
from azula.sample import DDIMSampler, Sampler
from torch import Tensor


class MixtureDenoiser(Denoiser):
    """Exact posterior mean of x_0 for a mixture of Gaussians of one covariance, `var` times the identity.

    Attributes:
        calls: passes of a batch.
        jacobians: products of a batch with the Jacobian.
    """

    def __init__(self, means: Tensor, log_weights: Tensor, var: float, schedule: Schedule) -> None:
        super().__init__()
        self.means, self.log_weights, self.var, self.schedule = means, log_weights, var, schedule
        self.squares = means.square().sum(-1)
        self.calls = self.jacobians = 0

    def forward(self, x_t: Tensor, t: Tensor, **_: object) -> DiracPosterior:
        """The mean, of the shape of x_t, (B, d)."""
        self.calls += 1
        alpha, sigma = (s if s.ndim == 0 else s[:, None] for s in self.schedule(t))
        var_t = alpha**2 * self.var + sigma**2
        logits = self.log_weights + (alpha * x_t @ self.means.T - alpha**2 * self.squares / 2) / var_t
        if logits.requires_grad:
            logits.register_hook(self._count)
        gain = alpha * self.var / var_t
        return DiracPosterior(gain * x_t + (1 - gain * alpha) * torch.softmax(logits, -1) @ self.means)

    def _count(self, _: Tensor) -> None:
        self.jacobians += 1


@dataclass
class Problem:
    """The problem in the unit the schedule sees.

    Attributes:
        denoiser: exact.
        A: shape (m, d).
        y: shape (m,).
        noise: its standard deviation.
        n: samples to draw.
        steps: of the sampler.
    """

    denoiser: MixtureDenoiser
    A: Tensor
    y: Tensor
    noise: float
    n: int
    steps: int

    def forward(self, x: Tensor) -> Tensor:
        """A x for x of shape (..., d)."""
        return x @ self.A.T

    @property
    def times(self) -> dict:
        """What every sampler is built with."""
        return {"steps": self.steps, "silent": True, "dtype": torch.float64}

    def draw(self, sampler: Sampler) -> Tensor:
        """Samples (n, d) of a sampler."""
        return sampler(sampler.init((self.n, self.A.shape[1])))

    def guided(self, denoiser: Denoiser, eta: float) -> Tensor:
        """Samples (n, d) of a guided denoiser."""
        return self.draw(DDIMSampler(denoiser, eta=eta, **self.times))

    def solver(self, solved: bool) -> dict:
        """Iterations of the linear solver; none named is azula's default, one."""
        return {"iterations": len(self.y)} if solved else {}


def unguided(p: Problem, eta: float) -> Tensor:
    return p.guided(p.denoiser, eta)


def dps(p: Problem) -> Tensor:
    zero = torch.zeros((), dtype=torch.float64)
    return p.draw(DPSSampler(p.denoiser, zero, lambda x: -(p.y - p.forward(x)).norm(dim=-1).sum(), **p.times))


def dps_batch(p: Problem) -> Tensor:
    return p.draw(DPSSampler(p.denoiser, p.y, p.forward, **p.times))


def pgdm(p: Problem, eta: float) -> Tensor:
    inverse = torch.linalg.pinv(p.A)
    return p.draw(PGDMSampler(p.denoiser, p.y, p.forward, lambda y: y @ inverse.T, eta=eta, **p.times))


def mmps(p: Problem, eta: float, solved: bool = False) -> Tensor:
    return p.guided(MMPSDenoiser(p.denoiser, p.y, p.forward, IsotropicCovariance(p.noise**2), **p.solver(solved)), eta)


def tmpd(p: Problem, eta: float) -> Tensor:
    return p.guided(TMPDenoiser(p.denoiser, p.y, p.forward, p.noise**2), eta)


def diffpir(p: Problem, eta: float, solved: bool = False, **settings: float) -> Tensor:
    return p.guided(DiffPIRDenoiser(p.denoiser, p.y, p.forward, p.noise**2, **settings, **p.solver(solved)), eta)


def jfps(p: Problem, eta: float, solved: bool = False) -> Tensor:
    means, weights = p.denoiser.means, p.denoiser.log_weights.exp()
    spread = (means - weights @ means) * weights.sqrt()[:, None]
    cov_x = DPLRCovariance(torch.full_like(means[0], p.denoiser.var), spread.T)
    cov_y = IsotropicCovariance(p.noise**2)
    return p.guided(JFPSDenoiser(p.denoiser, p.y, p.forward, cov_y, cov_x, **p.solver(solved)), eta)


def repaint(p: Problem, eta: float) -> Tensor:
    m, d = p.A.shape
    left, scales, right = torch.linalg.svd(p.A)
    law = p.denoiser
    rotated = MixtureDenoiser(law.means @ right.T, law.log_weights, law.var, law.schedule)
    y = torch.zeros(p.n, d, dtype=torch.float64)
    y[:, :m] = p.y @ left / scales
    samples = p.draw(RePaintSampler(rotated, y, torch.arange(d) < m, eta=eta, **p.times))
    law.calls += rotated.calls
    return samples @ right


def tds(p: Problem) -> Tensor:
    eye, gram = torch.eye(len(p.y), dtype=torch.float64), p.A @ p.A.T

    def twist(x_hat: Tensor, ratio: Tensor) -> Tensor:
        cov = p.noise**2 * eye + ratio**2 * gram
        return torch.distributions.MultivariateNormal(p.forward(x_hat), cov).log_prob(p.y)

    return p.draw(TDSSampler(p.denoiser, twist, **p.times))


Method = Callable[[Problem], Tensor]
METHODS: dict[str, tuple[str, Method]] = {
    "unguided": ("the prior, DDIMSampler(eta=1); ignores y", partial(unguided, eta=1.0)),
    "unguided_ddim": ("the prior, DDIMSampler(); ignores y", partial(unguided, eta=0.0)),
    "dps": ("DPSSampler, zeta=1 (default), norm of each sample", dps),
    "dps_batch": ("DPSSampler, zeta=1 (default), norm of the batch", dps_batch),
    "pgdm": ("PGDMSampler(eta=1), the paper's; no measurement noise", partial(pgdm, eta=1.0)),
    "pgdm_ddim": ("PGDMSampler(), eta=0 (default); no measurement noise", partial(pgdm, eta=0.0)),
    "mmps": ("MMPSDenoiser, one GMRES iteration (default), eta=1", partial(mmps, eta=1.0)),
    "mmps_ddim": ("MMPSDenoiser, one GMRES iteration (default), eta=0", partial(mmps, eta=0.0)),
    "mmps_solved": ("MMPSDenoiser, m GMRES iterations, eta=1", partial(mmps, eta=1.0, solved=True)),
    "mmps_ddim_solved": ("MMPSDenoiser, m GMRES iterations, eta=0", partial(mmps, eta=0.0, solved=True)),
    "tmpd": ("TMPDenoiser, eta=1", partial(tmpd, eta=1.0)),
    "tmpd_ddim": ("TMPDenoiser, eta=0", partial(tmpd, eta=0.0)),
    "jfps": ("JFPSDenoiser, exact prior covariance, one CG iteration (default), eta=1", partial(jfps, eta=1.0)),
    "jfps_ddim": ("JFPSDenoiser, exact prior covariance, one CG iteration (default), eta=0", partial(jfps, eta=0.0)),
    "jfps_solved": ("JFPSDenoiser, exact prior covariance, m CG iterations, eta=1", partial(jfps, eta=1.0, solved=True)),
    "diffpir": ("DiffPIRDenoiser, lmbda=10, one GMRES iteration (defaults), eta=1", partial(diffpir, eta=1.0)),
    "diffpir_ddim": ("DiffPIRDenoiser, lmbda=10, one GMRES iteration (defaults), eta=0", partial(diffpir, eta=0.0)),
    "diffpir_tutorial": ("DiffPIRDenoiser, lmbda=1, one GMRES iteration, eta=1", partial(diffpir, eta=1.0, lmbda=1.0)),
    "diffpir_solved": ("DiffPIRDenoiser, lmbda=10, m GMRES iterations, eta=1", partial(diffpir, eta=1.0, solved=True)),
    "repaint": ("RePaintSampler(eta=1), 3 iterations (default), in A's basis; no measurement noise", partial(repaint, eta=1.0)),
    "repaint_ddim": ("RePaintSampler(), eta=0 (default), 3 iterations; no measurement noise", partial(repaint, eta=0.0)),
    "tds": ("TDSSampler, twist N(y; A x_hat, noise^2 + (sigma_t / alpha_t)^2 A A'), n particles", tds),
}


def main(problem: str, out: str, names: list[str]) -> None:
    data = np.load(problem)
    means, log_weights, A, y = (torch.from_numpy(data[key]).double() for key in ("means", "log_weights", "A", "y"))
    noise, n, steps, seed = float(data["noise"]), int(data["n"]), int(data["steps"]), int(data["seed"])
    m, d = A.shape
    log_weights = log_weights.log_softmax(0)
    centre = log_weights.exp() @ means
    scale = math.sqrt(1 + float(log_weights.exp() @ (means - centre).square().mean(-1)))
    schedule = VPSchedule()
    setup = {
        "versions": {name: version(name) for name in ("azula", "torch")},
        "schedule": f"VPSchedule(alpha_min={schedule.alpha_min}, sigma_min={schedule.sigma_min})",
        "unit": "x = centre + scale * z, centre the prior's mean; (y - A centre) / scale = A z + (noise / scale) eps",
        "scale": scale,
    }
    notes, arrays = {"setup": setup}, {}
    for name in names or [k for k in METHODS if m > 1 or not k.endswith("_solved")]:
        how, method = METHODS[name]
        denoiser = MixtureDenoiser((means - centre) / scale, log_weights, 1 / scale**2, schedule)
        task = Problem(denoiser, A, (y - A @ centre) / scale, noise / scale, n, steps)
        note = notes[name] = {"how": how}
        start = time.perf_counter()
        try:
            method(replace(task, n=2, steps=2))  # whatever torch loads at the first use of an operation
            denoiser.calls = denoiser.jacobians = 0
            torch.manual_seed(seed)
            start = time.perf_counter()
            samples = method(task) * scale + centre
            if not samples.isfinite().all():
                note["error"] = f"{int((~samples.isfinite()).any(-1).sum())} of {n} samples are not finite"
        except Exception as error:
            samples = torch.full((n, d), math.nan, dtype=torch.float64)
            note["error"] = f"{type(error).__name__}: {error}"[:400]
        arrays[f"{name}.seconds"] = time.perf_counter() - start
        arrays[f"{name}.samples"], arrays[f"{name}.calls"] = samples.numpy(), denoiser.calls
        note["jacobians"] = denoiser.jacobians
    np.savez(out, notes=json.dumps(notes), **arrays)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("problem")
    parser.add_argument("out")
    parser.add_argument("names", nargs="*", metavar="NAME", help="methods to run; all if none")
    args = parser.parse_args()
    if unknown := set(args.names) - set(METHODS):
        parser.error(f"unknown methods {sorted(unknown)}; there are {sorted(METHODS)}")
    torch.set_num_threads(1)
    main(args.problem, args.out, args.names)
