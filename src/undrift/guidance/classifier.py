r"""Classifier guidance: a classifier of noisy states steers a model that has never heard of labels.

.. math:: \nabla \log p_t(x_t) + w\, \nabla_{x_t} \log c_t(y \mid x_t), \qquad
          \hat x_0 = E[X_0 | x_t] + w\, \frac{\sigma_t^2}{\alpha_t}\, \nabla_{x_t} \log c_t(y \mid x_t)

`scale` is w: 1 is Bayes' rule (with an exact c_t the law of the clean end given y, exactly, in its mean), 0 no guidance; the
survey's eta is w - 1. "Not y" has the probability 1 - c_t(y | x_t), and is guided by its gradient.

The classifier must know *noisy* states: one trained on clean data says nothing about x_t. Cost of a call: one of the denoiser,
one of the classifier and one vector-Jacobian product through the classifier; the denoiser is never differentiated.

Where alpha = 0 the gradient vanishes and its factor is infinite, so a grid must start below such an end; `path.tilt` says so.

Source: Dhariwal and Nichol 2021 (2105.05233), section 4; survey section 5.1. Checked by: tests/guidance/test_classifier.py
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from undrift.core import Random, check_state, pad
from undrift.errors import FamilyError, LabelError, ShapeError
from undrift.gaussian import LabelledMixture, Path, noise_label
from undrift.gaussian.objectives import corrupted
from undrift.guidance.contrast import check_same_path
from undrift.guidance.strength import Scale, at, once, plainly
from undrift.laws.parts import strength
from undrift.protocols import Denoiser
from undrift.typing import PerSample, State, Time

__all__ = [
    "Classifier",
    "ClassifierGuided",
    "CrossEntropy",
    "ExactClassifier",
    "LabelEvidence",
    "NoisyClassifier",
    "classifier_guidance",
]

LogProbs = Float[Tensor, "b c"]


@runtime_checkable
class Classifier(Protocol):
    """How probable each label is for a noisy state."""

    @property
    def path(self) -> Any:
        """The path that makes the states noisy."""
        ...

    def __call__(self, x_t: Tensor, t: Time) -> Tensor:
        """Log c_t(y | x_t) of every label y, shape (B, C), nats."""
        ...


@dataclass(frozen=True)
class ExactClassifier:
    r"""The truth where the data are a mixture with labelled components: responsibilities at the noisy state.

    .. math:: c_t(y \mid x_t) \propto \sum_{k : y_k = y} w_k\, N(x_t;\ \alpha_t \mu_k,\ \alpha_t^2 \Sigma_k + \sigma_t^2 I)

    Attributes:
        path: a Gaussian path.
        law: the mixture and its labels.

    Checked by: tests/guidance/test_classifier.py::test_the_exact_classifier_is_bayes_rule_on_marginals
    """

    path: Path
    law: LabelledMixture

    def __call__(self, x_t: State, t: Time) -> LogProbs:
        """Log probabilities of every label, shape (B, C), nats.

        Args:
            x_t: state, shape (B, *E).
            t: time, shape () or (B,).
        """
        check_state(x_t)
        pad(t, x_t)
        schedule = self.path.schedule
        shares = self.law.mixture.posterior(x_t, schedule.alpha(t), schedule.sigma(t).square()).log_weights
        labels = self.law.labels.to(shares.device)
        of_label = [torch.where(labels == y, shares, -torch.inf).logsumexp(-1) for y in range(self.law.classes)]
        return torch.stack(of_label, -1)


@dataclass(frozen=True)
class NoisyClassifier:
    """Anybody's classifier network for noisy states, on any clock.

    The network sees a state of unit variance and a label of the noise level alone, as a `gaussian.NetDenoiser`'s does, so one
    trained on one Gaussian path serves another: build a new `NoisyClassifier` around it.

    Attributes:
        net: `net(x, noise)`: x (B, *E), noise (B,) -> logits (B, C).
        path: the Gaussian path.
        data_std: root mean square of the data about zero, codec units, measured.

    Checked by: tests/guidance/test_classifier.py::test_a_network_is_told_unit_variance_and_the_noise_level,
        tests/guidance/test_classifier.py::test_training_by_cross_entropy_finds_bayes_rule
    """

    net: Callable[[Tensor, Tensor], Tensor]
    path: Path
    data_std: float

    def __call__(self, x_t: State, t: Time) -> LogProbs:
        """Log probabilities of every label, shape (B, C), nats.

        Args:
            x_t: state, shape (B, *E).
            t: time, shape () or (B,).

        Raises:
            ShapeError: the network answers with something else than logits (B, C), C >= 2.
        """
        check_state(x_t)
        schedule = self.path.schedule
        scale = (schedule.alpha(t).square() * self.data_std**2 + schedule.sigma(t).square()).rsqrt()
        label = noise_label(schedule.log_snr(t)).to(torch.promote_types(x_t.dtype, torch.float32))
        if label.ndim == 0:  # filled in on the device, without a copy that it would wait for
            label = torch.full(x_t.shape[:1], float(label), dtype=label.dtype, device=x_t.device)
        logits = self.net(pad(scale, x_t) * x_t, label.to(x_t.device))
        if logits.ndim != 2 or logits.shape[0] != x_t.shape[0] or logits.shape[1] < 2:
            raise ShapeError(
                f"{type(self.net).__name__} answered with shape {tuple(logits.shape)} to a state of shape {tuple(x_t.shape)}; "
                "a classifier's network returns logits of shape (B, C), one for each of C >= 2 labels"
            )
        return torch.log_softmax(logits.to(x_t.dtype), -1)

    def given(self, label: Int[Tensor, "b"]) -> "LabelEvidence":
        """The log probability of a label per sample, which `CrossEntropy` trains."""
        return LabelEvidence(self, label)

    def modules(self) -> list[nn.Module]:
        """The torch modules inside, for optimisers."""
        return [self.net] if isinstance(self.net, nn.Module) else []


@dataclass(frozen=True)
class LabelEvidence:
    r"""log c_t(y | x_t) of one label per sample, or of its absence, log(1 - c_t(y | x_t)).

    Attributes:
        classifier: probabilities of every label.
        label: y, shape (B,), integers 0..C-1.
        negate: False for "is y", True for "is anything but y".

    Raises:
        LabelError: labels that are no integers, or negative.

    Checked by: tests/guidance/test_classifier.py::test_not_a_label_has_the_rest_of_the_probability
    """

    classifier: Classifier
    label: Tensor
    negate: bool = False

    def __post_init__(self) -> None:
        label = self.label
        if label.ndim != 1 or label.dtype.is_floating_point or (label.numel() and int(label.min()) < 0):
            raise LabelError(
                f"labels are integers 0, 1, ..., one per sample, shape (B,); got {label.dtype} of shape {tuple(label.shape)}"
                + (f" from {float(label.min()):g}" if label.numel() else "")
            )

    @property
    def path(self) -> Any:
        """The path of the classifier."""
        return self.classifier.path

    def __call__(self, x_t: Tensor, t: Time) -> PerSample:
        """Log probability, shape (B,), nats.

        Raises:
            ShapeError: labels for another batch.
            LabelError: a label that the classifier does not know.
        """
        if self.label.shape[0] != x_t.shape[0]:
            raise ShapeError(f"guidance holds {self.label.shape[0]} labels for a batch of {x_t.shape[0]}; give one per sample")
        log_probs = self.classifier(x_t, t)
        classes, label = log_probs.shape[1], self.label.to(log_probs.device)
        if label.device.type == "cpu" and int(label.max()) >= classes:
            raise LabelError(f"the classifier knows the labels 0 to {classes - 1}, and was asked for {int(label.max())}")
        if not self.negate:
            return log_probs.gather(1, label[:, None])[:, 0]
        this = torch.nn.functional.one_hot(label, classes).bool()
        return log_probs.masked_fill(this, -torch.inf).logsumexp(1)  # the sum of the others: 1 - c cancels where c is near 1


def classifier_guidance(
    denoiser: Denoiser, classifier: Classifier, label: Tensor, scale: Scale = 1.0, *, negate: bool = False
) -> "ClassifierGuided":
    """The denoiser steered by a classifier of noisy states.

    Args:
        denoiser: any denoiser of numbers, unconditional or not, itself guided or not.
        classifier: on the same path.
        label: one per sample, shape (B,), integers 0..C-1.
        scale: w: a number, one per sample (shape (B,)), or a function of the time; 1 is Bayes' rule, and where it is 0 for the
            whole batch the classifier is not asked.
        negate: True steers towards anything but the label.

    Raises:
        FamilyError: a path of symbols, or classifier and denoiser on different paths.
        LabelError: labels that are no integers, or negative.

    Checked by: tests/guidance/test_classifier.py::test_scale_one_is_the_exact_conditional_mean,
        tests/guidance/test_classifier.py::test_any_scale_is_the_surveys_score
    """
    return ClassifierGuided(denoiser, LabelEvidence(classifier, label, negate), scale)


@dataclass(frozen=True)
class ClassifierGuided:
    """A denoiser tilted by the gradient of a log probability; see `classifier_guidance`.

    Attributes:
        denoiser: what is steered.
        evidence: log h_t(x_t), (x_t, t) -> (B,), nats, with the path it was made for.
        scale: w.
    """

    denoiser: Denoiser
    evidence: LabelEvidence
    scale: Scale

    def __post_init__(self) -> None:
        if self.path.family == "discrete":
            raise FamilyError("a classifier of numbers has a gradient, and symbols have none; guide symbols with cfg")
        check_same_path(
            self.path, self.evidence.path, "build the classifier on denoiser.path: NoisyClassifier(net, denoiser.path, ...)"
        )
        object.__setattr__(self, "scale", once(self.scale))

    @property
    def path(self) -> Any:
        """The path of the denoiser."""
        return self.denoiser.path

    def __call__(self, x_t: Tensor, t: Time) -> Any:
        """Tilted law, a `Point`; at scale 0 the denoiser's own law.

        Works under `torch.no_grad()`. Where the caller differentiates through x_t, the answer can be differentiated, too.

        Raises:
            ScheduleError: alpha = 0 at t.
            ShapeError: labels or scales for another batch.

        Checked by: tests/guidance/test_classifier.py::test_it_works_without_gradients_and_can_be_nested
        """
        law = self.denoiser(x_t, t)
        scale = at(self.scale, t, x_t.shape[0])
        if plainly(scale, 0.0):
            return law
        signal = gradient(self.evidence, x_t, t)
        return self.path.tilt(law, strength(scale, signal) * signal, t)


def gradient(log_h: Callable[[Tensor, Time], Tensor], x_t: Tensor, t: Time) -> Tensor:
    """Gradient of log h(x_t, t), shape (B,), summed over rows that do not meet, in x_t: shape (B, *E), nats per codec unit.

    If the caller differentiates through x_t, the gradient stays part of that graph; otherwise it is cut off, at half the cost.
    """
    nested = x_t.requires_grad and torch.is_grad_enabled()
    with torch.enable_grad():
        x = x_t if nested else x_t.detach().requires_grad_()
        return torch.autograd.grad(log_h(x, t).sum(), x, create_graph=nested)[0]


@dataclass(frozen=True)
class CrossEntropy:
    """Cross entropy of labels at noisy states, an objective.

    Its minimiser is Bayes' rule, c_t(y | x_t). Train it under the time law of the sampler's noise levels.

    Source: Dhariwal and Nichol 2021, section 4.
    Checked by: tests/guidance/test_classifier.py::test_training_by_cross_entropy_finds_bayes_rule
    """

    def __call__(self, evidence: LabelEvidence, batch: State, t: Time, rng: Random) -> PerSample:
        """Unreduced loss, shape (B,), nats.

        Args:
            evidence: `classifier.given(labels)`.
            batch: clean data, shape (B, *E), codec units.
            t: times, shape (B,) or ().
            rng: draws the noise.
        """
        check_state(batch, "batch")
        x_t, _ = corrupted(evidence.path, batch, t, rng)
        return -evidence(x_t, t)
