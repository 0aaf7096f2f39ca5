r"""A judge: a small classifier that says which label a sample shows.

It must have seen none of the data that the model was trained on; otherwise a copied training point would be judged by
its own label. So cut the data in two (`split_half`), train the model on one half and the judge on the other; the
judge's accuracy on the *model's* half, which it has not seen, is then the share of correct labels that real data
reaches.

Points are centred per coordinate and divided by one overall scale, and the classifier is trained with noise on its inputs
(Bishop 1995: noise of variance v is a ridge of strength v on the gradient), label smoothing and a one-cycle learning rate.
Pictures (C, H, W) of at least 16 x 16 pixels are judged by a small convolutional network, which sees at most about 32 pixels a
side (more are averaged in blocks); anything else, up to a few thousand numbers a point, by a two-layer perceptron.
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
_BATCH, _RATE, _PIECE = 128, 2e-3, 512
_INPUT_NOISE = {"perceptron": 0.3, "picture": 0.02}  # in units of the data's overall standard deviation
_PICTURE = 16  # pixels a side from which on a point is judged as a picture


def _layer(kind: type[nn.Linear] | type[nn.Conv2d], *sizes: int, rng: torch.Generator, **how: int) -> nn.Module:
    """He-initialised layer drawn from `rng`; skip_init leaves the global random state alone."""
    layer = nn.utils.skip_init(kind, *sizes, **how)
    weight, bias = cast(Tensor, layer.weight), cast(Tensor, layer.bias)
    with torch.no_grad():
        weight.copy_(torch.randn(weight.shape, generator=rng) * (2 / weight[0].numel()) ** 0.5)
        bias.zero_()
    return layer


def _perceptron(dimension: int, rng: torch.Generator) -> nn.Module:
    layers = (_layer(nn.Linear, dimension, _HIDDEN, rng=rng), _layer(nn.Linear, _HIDDEN, _FEATURES, rng=rng))
    return nn.Sequential(layers[0], nn.GELU(), layers[1], nn.GELU())


def _seen_as_picture(event: tuple[int, ...]) -> bool:
    return len(event) == 3 and min(event[1:]) >= _PICTURE


def _convolutional(event: tuple[int, ...], rng: torch.Generator) -> nn.Module:
    """Three convolutions at a half and a quarter of the resolution."""
    blocks: list[nn.Module] = [nn.Unflatten(1, event)]
    if min(event[1:]) >= 48:
        blocks.append(nn.AvgPool2d(min(event[1:]) // 24))
    channels = event[0]
    for width, stride, pool in ((32, 2, False), (48, 1, True), (64, 1, False)):
        convolution = _layer(nn.Conv2d, channels, width, 3, rng=rng, stride=stride, padding=1)
        blocks += [convolution, nn.BatchNorm2d(width), nn.ReLU(), *([nn.MaxPool2d(2)] if pool else [])]
        channels = width
    blocks += [nn.AdaptiveAvgPool2d(3), nn.Flatten(), _layer(nn.Linear, 9 * channels, _FEATURES, rng=rng), nn.GELU()]
    return nn.Sequential(*blocks)


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
    def fit(cls, x: Tensor, labels: Tensor, *, seed: int = 0, steps: int | None = None) -> "Judge":
        """Train a judge on data that the judged model has not seen.

        Runs on the CPU in float32: about a second for the digits, up to a minute for pictures of 28 x 28. The same data and
        seed give the same judge on the same machine and number of threads; the global random state is not touched.

        Args:
            x: points, shape (N, *E).
            labels: shape (N,), any integers, at least two different ones.
            seed: of the initial weights, the batches and the input noise.
            steps: gradient steps of 128 points; 600 for a perceptron, 1200 for pictures, unless told.

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
        event = tuple(x.shape[1:])
        picture = _seen_as_picture(event)
        rate, smoothing = (5e-3, 0.02) if picture else (_RATE, 0.1)
        steps = (1200 if picture else 600) if steps is None else steps
        if steps < 1:
            raise DataError(f"steps = {steps}; at least one is needed (600 is a good number).")
        centre, scale = data.mean(0), (data - data.mean(0)).square().mean().sqrt()
        if not scale > 0:
            raise DataError("all points of x are equal; there is nothing to judge by. Check how x was loaded.")
        rng = torch.Generator().manual_seed(seed)
        body = _convolutional(event, rng) if picture else _perceptron(data.shape[1], rng)
        head = _layer(nn.Linear, _FEATURES, len(classes), rng=rng)
        noise = _INPUT_NOISE["picture" if picture else "perceptron"]
        weights = [*body.parameters(), *head.parameters()]
        optimiser = torch.optim.AdamW(weights, lr=rate, weight_decay=1e-2)
        data = (data - centre) / scale
        for step in range(steps):
            for group in optimiser.param_groups:
                group["lr"] = rate * min(1.0, 10 * (step + 1) / steps, 1.25 * (1 - step / steps))
            chosen = torch.randint(len(data), (_BATCH,), generator=rng)
            noisy = data[chosen] + noise * torch.randn(_BATCH, data.shape[1], generator=rng)
            with torch.enable_grad():
                loss = F.cross_entropy(head(body(noisy)), target[chosen], label_smoothing=smoothing)
                optimiser.zero_grad()
                loss.backward()
            optimiser.step()
        return cls(body.eval(), head, centre, scale, classes, event)

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
        with torch.no_grad():  # in pieces, for a picture's first layer is many times its size
            seen = [self.body((some.float().cpu() - self.centre) / self.scale) for some in data.split(_PIECE)]
        return torch.cat(seen)

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
