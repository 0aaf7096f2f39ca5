r"""A judge: a small classifier that says which label a sample shows.

It must have seen none of the data that the model was trained on; otherwise a copied training point would be judged by
its own label. So cut the data in two (`split_half`), train the model on one half and the judge on the other; the
judge's accuracy on the *model's* half, which it has not seen, is then the share of correct labels that real data
reaches.

The classifier is a two-layer perceptron on flattened data, centred per coordinate and divided by one overall scale,
trained with noise on its inputs (Bishop 1995: noise of variance v is a ridge of strength v on the gradient), label
smoothing and a one-cycle learning rate. It is meant for data of up to a few thousand numbers a point.
"""

from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from undrift.errors import DataError, ShapeError
from undrift.evidence.checks import labels as check_labels
from undrift.evidence.checks import points

__all__ = ["Judge"]

_HIDDEN, _FEATURES = 256, 64
_BATCH, _RATE = 128, 2e-3
_INPUT_NOISE = 0.3  # in units of the data's overall standard deviation


def _linear(inputs: int, outputs: int, rng: torch.Generator) -> nn.Linear:
    """He-initialised layer drawn from `rng`; skip_init leaves the global random state alone."""
    layer = cast(nn.Linear, nn.utils.skip_init(nn.Linear, inputs, outputs))
    with torch.no_grad():
        layer.weight.copy_(torch.randn(outputs, inputs, generator=rng) * (2 / inputs) ** 0.5)
        layer.bias.zero_()
    return layer


@dataclass(frozen=True)
class Judge:
    """A trained classifier; made by `Judge.fit`.

    Attributes:
        body: flattened standardised point (N, D) to features (N, 64).
        head: features to logits (N, K).
        centre: subtracted from a point, shape (D,).
        scale: a centred point is divided by it, shape ().
        classes: the K label values, ascending.
        event: shape of one point.
    """

    body: nn.Module
    head: nn.Module
    centre: Tensor
    scale: Tensor
    classes: Tensor
    event: tuple[int, ...]

    @classmethod
    def fit(cls, x: Tensor, labels: Tensor, *, seed: int = 0, steps: int = 600) -> "Judge":
        """Train a judge on data that the judged model has not seen.

        Runs on the CPU in float32 (about a second for the digits). The same data and seed give the same judge on the
        same machine and number of threads; the global random state is not touched.

        Args:
            x: points, shape (N, *E).
            labels: shape (N,), any integers, at least two different ones.
            seed: of the initial weights, the batches and the input noise.
            steps: gradient steps of 128 points.

        Raises:
            ShapeError: `x` or `labels` has the wrong shape or dtype.
            DataError: no points, a single class, points that are all equal, or fewer than 1 step.
            NonFiniteError: a NaN or an infinity in `x`.

        Checked by: tests/evidence/test_judge.py::test_accuracy_on_the_unseen_half_of_digits,
            tests/evidence/test_judge.py::test_same_seed_same_judge_and_no_global_randomness
        """
        data = points(x, "x").float().cpu()
        classes, target = check_labels(labels, len(x), "labels").cpu().unique(return_inverse=True)
        if len(classes) < 2:
            raise DataError(f"labels hold {len(classes)} class; a judge needs at least two to tell apart.")
        if steps < 1:
            raise DataError(f"steps = {steps}; at least one is needed (600 is a good number).")
        centre, scale = data.mean(0), (data - data.mean(0)).square().mean().sqrt()
        if not scale > 0:
            raise DataError("all points of x are equal; there is nothing to judge by. Check how x was loaded.")
        rng = torch.Generator().manual_seed(seed)
        dimension = data.shape[1]
        body = nn.Sequential(_linear(dimension, _HIDDEN, rng), nn.GELU(), _linear(_HIDDEN, _FEATURES, rng), nn.GELU())
        head = _linear(_FEATURES, len(classes), rng)
        weights = [*body.parameters(), *head.parameters()]
        optimiser = torch.optim.AdamW(weights, lr=_RATE, weight_decay=1e-2)
        data = (data - centre) / scale
        for step in range(steps):
            for group in optimiser.param_groups:
                group["lr"] = _RATE * min(1.0, 10 * (step + 1) / steps, 1.25 * (1 - step / steps))
            chosen = torch.randint(len(data), (_BATCH,), generator=rng)
            noisy = data[chosen] + _INPUT_NOISE * torch.randn(_BATCH, dimension, generator=rng)
            with torch.enable_grad():
                loss = F.cross_entropy(head(body(noisy)), target[chosen], label_smoothing=0.1)
                optimiser.zero_grad()
                loss.backward()
            optimiser.step()
        return cls(body, head, centre, scale, classes, tuple(x.shape[1:]))

    def features(self, x: Tensor) -> Float[Tensor, "n f"]:
        """What the judge sees in a point: its 64 penultimate activations, float32 on the CPU.

        Args:
            x: points, shape (N, *E), in the unit the judge was trained in.

        Raises:
            ShapeError: `x` is no floating tensor of points like those the judge was trained on.
            DataError: no points.
            NonFiniteError: a NaN or an infinity.

        Checked by: tests/evidence/test_judge.py::test_prediction_is_the_head_of_the_features
        """
        data = points(x, "x")
        if tuple(x.shape[1:]) != self.event:
            raise ShapeError(
                f"x has points of shape {tuple(x.shape[1:])}, the judge was trained on {self.event}; reshape x, or "
                "fit a judge on data of this shape."
            )
        with torch.no_grad():
            return self.body((data.float().cpu() - self.centre) / self.scale)

    def predict(self, x: Tensor) -> Int[Tensor, "n"]:
        """The label of each point, among those the judge was trained on; shape (N,), int64 on the CPU.

        Args:
            x: points, shape (N, *E).

        Raises:
            ShapeError, DataError, NonFiniteError: as in `features`.

        Checked by: tests/evidence/test_judge.py::test_prediction_is_the_head_of_the_features
        """
        with torch.no_grad():
            return self.classes[self.head(self.features(x)).argmax(1)]

    def agreement(self, x: Tensor, labels: Tensor) -> float:
        """Share of points whose label the judge confirms; on real data it has not seen, its accuracy.

        Args:
            x: points, shape (N, *E).
            labels: shape (N,), integers; what each point should show.

        Raises:
            ShapeError, DataError, NonFiniteError: as in `features`; also labels that are not (N,) integers.

        Checked by: tests/evidence/test_judge.py::test_agreement_counts_matches
        """
        asked = check_labels(labels, len(x), "labels").cpu()
        return float((self.predict(x) == asked).double().mean())
