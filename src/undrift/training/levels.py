r"""The loss at each noise level, beside two yardsticks that are known in closed form.

A loss alone says little: it falls and rises with the noise level, and no value of it is zero. Two predictors of the clean end
are always there to compare with. For data with mean m and covariance eigenvalues lambda_1..lambda_d, a look
:math:`x_t = \alpha x_0 + \sigma z`, and r = sigma / alpha,

.. math:: \text{best Gaussian (linear) denoiser:}\quad
          \tfrac1d E|x_0 - \hat x_0|^2 = \tfrac1d \sum_i \frac{\lambda_i r^2}{\lambda_i + r^2}, \qquad
          \text{mean predictor } \hat x_0 = m:\quad \tfrac1d \sum_i \lambda_i .

The first holds for *any* data with these moments, for the denoiser is linear. A network is worth its training as far as it is
below the Gaussian. A head's loss is the error of x_0 over the square of the head's `out`, so both are divided by out^2.

Levels are bins of log(sigma / alpha) that the time law fills equally; the yardsticks of a bin are their means over the law in
it. So what is kept while training is two numbers a level, on the device, and nothing waits for it.

Checked by: tests/training/test_levels.py
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from undrift.core import Shared
from undrift.errors import DataError
from undrift.gaussian.heads import Head
from undrift.gaussian.objectives import WEIGHTS
from undrift.gaussian.times import TimeLaw

__all__ = ["LevelReport", "Levels", "gaussian_error", "spectrum"]

_DENSE = 4096
"""Dimension up to which the whole covariance is formed: 128 MiB in float64."""

_DOUBLE = 1024
"""Dimension up to which it is formed in float64; beyond, float32 is several times faster and good to 1e-5."""

_SUBSET = 2048
"""Rows that the leading directions are found in and measured on where the covariance is too large to form."""

_LEADING = 256
"""Leading directions that are measured one by one there."""

_PIECE = 1 << 22
"""Numbers that are summed at once: 32 MiB in float64."""

_TIMES = 8192
"""Times that the law is laid out in, once, to find the bins and the yardsticks of each."""


@dataclass(frozen=True)
class LevelReport:
    """Losses of the noise levels since the last report, and what to compare them with.

    Attributes:
        edges: of the levels, sigma / alpha, K + 1 of them ascending; the outer ones are the ends of the time law.
        losses: mean loss of each level, squared head units; None where no sample fell.
        gaussians: loss of the best Gaussian denoiser.
        means: loss of the mean predictor.
        counts: samples in each level.
    """

    edges: tuple[float, ...]
    losses: tuple[float | None, ...]
    gaussians: tuple[float, ...]
    means: tuple[float, ...]
    counts: tuple[int, ...]

    @property
    def loss(self) -> float:
        """Mean loss of all samples; NaN without any."""
        return self._overall(tuple(loss or 0.0 for loss in self.losses))

    @property
    def gaussian(self) -> float:
        """What the best Gaussian denoiser would have reached on samples at these levels."""
        return self._overall(self.gaussians)

    @property
    def mean(self) -> float:
        """What the mean predictor would have reached on samples at these levels."""
        return self._overall(self.means)

    @property
    def below(self) -> float:
        """How far the loss is below the Gaussian's, as a share of it; negative if above."""
        return 1 - self.loss / self.gaussian if sum(self.counts) and self.gaussian > 0 else float("nan")

    def to_json(self) -> dict[str, Any]:
        """Plain lists and numbers, under the names of a line of metrics.jsonl."""
        empty = not sum(self.counts)
        return {
            "gaussian": None if empty else self.gaussian,
            "mean": None if empty else self.mean,
            "levels": list(self.edges),
            "losses": list(self.losses),
            "gaussians": list(self.gaussians),
            "means": list(self.means),
            "counts": list(self.counts),
        }

    def _overall(self, values: tuple[float, ...]) -> float:
        total = sum(self.counts)
        return sum(v * n for v, n in zip(values, self.counts, strict=True)) / total if total else float("nan")


class Levels:
    """Sums of losses by noise level.

    Args:
        edges: log(sigma / alpha) between the levels, shape (K + 1,), ascending; the outer two only name the ends: what lies
            beyond them counts in the first and the last level.
        gaussians: yardstick of each level, shape (K,).
        means: yardstick of each level, shape (K,).

    Attributes:
        sums: summed losses since the last report, shape (K,), on the device of the losses.
        counts: samples since then, shape (K,). With several processes, add both over them before `take`.
    """

    def __init__(self, edges: Tensor, gaussians: Tensor, means: Tensor):
        self.edges, self.gaussians, self.means = edges, gaussians, means
        self.sums = torch.zeros(len(gaussians), dtype=torch.float32)
        self.counts = torch.zeros(len(gaussians), dtype=torch.float32)
        self._inner = edges[1:-1].float()

    @staticmethod
    def of(times: TimeLaw, denoiser: Any, eigenvalues: Tensor, count: int = 8, weight: str = "unit") -> "Levels":
        """Levels that a time law fills equally, with the yardsticks of data of this spectrum.

        Args:
            times: law of training times.
            denoiser: has `path`, `head` and `data_std`, as `gaussian.NetDenoiser` has.
            eigenvalues: of the covariance of the encoded data, shape (d,), from `spectrum`.
            count: K, levels.
            weight: of the loss, as in `gaussian.Regression`.

        Checked by: tests/training/test_levels.py::test_levels_are_filled_equally,
            tests/training/test_levels.py::test_yardsticks_of_levels_are_what_exact_denoisers_reach
        """
        if not count >= 1:
            raise DataError(f"count={count}: at least one noise level is needed (8 is a good number)")
        schedule = denoiser.path.schedule
        t = times.sample(_TIMES, Shared(0))
        log_noise, order = (-0.5 * schedule.log_snr(t)).double().sort()
        t = t[order]
        out = Head(denoiser.head, schedule, denoiser.data_std, (float(t.min()), float(t.max()))).coefficients(t)[1].double()
        scale = WEIGHTS[weight](schedule, t).double() / out.square()
        gaussian = scale * gaussian_error(eigenvalues, log_noise.exp())
        mean = scale * float(eigenvalues.double().mean())
        cuts = torch.linspace(0, _TIMES, count + 1).round().long()
        starts = list(zip(cuts[:-1].tolist(), cuts[1:].tolist(), strict=True))
        inner = [0.5 * (log_noise[i - 1] + log_noise[i]) for i in cuts[1:-1].tolist()]
        return Levels(
            torch.stack([log_noise[0], *inner, log_noise[-1]]),
            torch.stack([gaussian[i:j].mean() for i, j in starts]),
            torch.stack([mean[i:j].mean() for i, j in starts]),
        )

    def add(self, log_noise: Tensor, loss: Tensor) -> None:
        """Count losses, without waiting for the device.

        Args:
            log_noise: log(sigma / alpha) of each sample, shape (B,).
            loss: of each sample, shape (B,), squared head units.

        Checked by: tests/training/test_levels.py::test_losses_land_in_their_levels
        """
        if self.sums.device != loss.device:
            self.sums, self.counts, self._inner = (x.to(loss.device) for x in (self.sums, self.counts, self._inner))
        level = torch.bucketize(log_noise.detach().to(self._inner), self._inner)
        inside = level[:, None] == torch.arange(len(self.sums), device=loss.device)
        # Not index_add_, whose order of summation differs from run to run on some devices.
        self.sums += torch.where(inside, loss.detach().float()[:, None], 0.0).sum(0)
        self.counts += inside.sum(0)

    def take(self) -> LevelReport:
        """What was added since the last `take`, which then starts anew; waits for the device once."""
        sums, counts = torch.stack([self.sums, self.counts]).double().tolist()
        self.sums.zero_()
        self.counts.zero_()
        return LevelReport(
            tuple(self.edges.exp().tolist()),
            tuple(s / n if n else None for s, n in zip(sums, counts, strict=True)),
            tuple(self.gaussians.tolist()),
            tuple(self.means.tolist()),
            tuple(int(n) for n in counts),
        )


def gaussian_error(eigenvalues: Tensor, noise: Tensor) -> Tensor:
    r"""Error of the best Gaussian denoiser, :math:`\frac1d\sum_i \lambda_i r^2 / (\lambda_i + r^2)`, squared codec units.

    Args:
        eigenvalues: lambda, shape (d,), >= 0.
        noise: r = sigma / alpha, shape (n,); infinity gives the mean predictor.

    Returns:
        Shape (n,), float64.

    Checked by: tests/training/test_levels.py::test_the_gaussian_yardstick_is_the_exact_posterior_variance
    """
    values, share = eigenvalues.double().cpu().unique(return_counts=True)
    share = share.double() / len(eigenvalues)
    power = noise.double().cpu().square()
    # As a sum of reciprocals it is also right where lambda, r or 1 / r is 0.
    return torch.cat([(share / (1 / values + 1 / p[:, None])).sum(1) for p in power.split(256)])


def spectrum(data: Any) -> Tensor:
    r"""Eigenvalues of the covariance of data, with its trace exact.

    Up to 4096 numbers a record the covariance is formed and its eigenvalues are exact (float64 up to 1024, float32 beyond).
    Larger records are seen through 2048 of them: one half gives the 256 leading directions, the other the variance along each
    (measured on data that did not choose the direction, so it is unbiased), and what is left of the trace is spread evenly
    over all other directions. The function that `gaussian_error` averages is concave, so such a spectrum gives the error of a
    Gaussian denoiser that knows only these directions: an upper bound of the best one's.

    Args:
        data: encoded records, shape (N, *E), or an iterable of such batches, which is read once.

    Returns:
        Shape (d,), float64, ascending, >= 0.

    Memory: batches are summed up as they come, 32 MiB at a time, and let go, so N may be anything. Beside two batches there are
    a few d x d matrices up to 4096 numbers a record, and beyond, twice the 2048 records that are kept, in float32.

    Raises:
        DataError: fewer than two records.

    Checked by: tests/training/test_levels.py::test_the_spectrum_is_that_of_the_covariance,
        tests/training/test_levels.py::test_a_large_spectrum_keeps_its_trace_and_its_leading_part,
        tests/training/test_levels.py::test_batches_are_let_go
    """
    batches = _flat(data)
    first = next(batches, None)
    if first is None:
        raise DataError("a spectrum needs at least two records, and there are none")
    d = first.shape[1]
    dtype = torch.float64 if d <= _DOUBLE else torch.float32
    shift = first.double().mean(0)  # sums of squares about a far zero would cancel
    count, total, squares = 0, torch.zeros_like(shift), torch.zeros_like(shift)
    products = torch.zeros(d, d, dtype=dtype) if d <= _DENSE else None
    kept: list[Tensor] = []
    for batch in _chain(first, batches):
        centred = batch.double() - shift
        count += len(batch)
        total += centred.sum(0)
        squares += centred.square().sum(0)
        if products is not None:
            products.addmm_(centred.to(dtype).T, centred.to(dtype))
        elif sum(map(len, kept)) < _SUBSET:
            kept.append(centred[: _SUBSET - sum(map(len, kept))].float())
    if count < 2:
        raise DataError(f"a spectrum needs at least two records, got {count}")
    mean = total / count
    trace = float((squares - count * mean.square()).sum()) / (count - 1)
    if trace <= 0:
        return torch.zeros(d, dtype=torch.float64)
    if products is not None:
        covariance = (products - count * torch.outer(mean, mean).to(dtype)) / (count - 1)
        values = torch.linalg.eigvalsh(covariance).double().clamp_min(0)  # rounding makes a zero negative
        return values * (trace / float(values.sum()))
    rows = torch.cat(kept)
    kept.clear()
    return _leading(rows.sub_(mean.float()), d, trace)


def _leading(rows: Tensor, d: int, trace: float) -> Tensor:
    """A spectrum from few centred rows: directions of the one half, their variance in the other, the rest spread evenly."""
    one, other = rows[0::2], rows[1::2]
    strength, vectors = torch.linalg.eigh((one @ one.T).double())
    kept = min(_LEADING, int((strength > 1e-6 * strength[-1]).sum()))
    along = (other @ one.T).double() @ vectors[:, -kept:] / strength[-kept:].sqrt()
    share = along.square().sum(0) / float(other.double().square().sum())
    rest = torch.full((d - kept,), (1 - float(share.sum())) / (d - kept), dtype=torch.float64)
    return trace * torch.cat([share, rest]).sort().values


def _flat(data: Any) -> Iterator[Tensor]:
    """Batches as matrices, in pieces."""
    parts: Iterable[Tensor] = [data] if isinstance(data, Tensor) else data
    for part in parts:
        if len(part):
            flat = part.detach().flatten(1)
            for piece in flat.split(max(1, _PIECE // flat.shape[1])):
                yield piece.cpu()


def _chain(first: Tensor, rest: Iterator[Tensor]) -> Iterator[Tensor]:
    yield first
    yield from rest
