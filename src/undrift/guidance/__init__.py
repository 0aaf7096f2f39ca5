"""Label guidance: denoisers made from denoisers."""

from undrift.guidance.apg import Momentum, Projected
from undrift.guidance.autoguidance import TwoModels, autoguidance
from undrift.guidance.cfg import ClassifierFree, cfg
from undrift.guidance.cfgpp import CFGPP
from undrift.guidance.classifier import (
    Classifier,
    ClassifierGuided,
    CrossEntropy,
    ExactClassifier,
    NoisyClassifier,
    classifier_guidance,
)
from undrift.guidance.contrast import Contrast, Guided
from undrift.guidance.frontier import Frontier, Tried, choose_scale
from undrift.guidance.potentials import All, Likelihood, Linear, Potential, Reward, at_mean, monte_carlo
from undrift.guidance.rescale import Rescaled
from undrift.guidance.second_order import COVARIANCES, SecondOrder, isotropic, jacobian, second_order
from undrift.guidance.strength import Interval, Scale, noise_interval
from undrift.guidance.twist import Conditioned, Steered, Twisted, Weighed, condition, twist, weigh

__all__ = [
    "CFGPP",
    "COVARIANCES",
    "All",
    "Classifier",
    "ClassifierFree",
    "ClassifierGuided",
    "Conditioned",
    "Contrast",
    "CrossEntropy",
    "ExactClassifier",
    "Frontier",
    "Guided",
    "Interval",
    "Likelihood",
    "Linear",
    "Momentum",
    "NoisyClassifier",
    "Potential",
    "Projected",
    "Rescaled",
    "Reward",
    "Scale",
    "SecondOrder",
    "Steered",
    "Tried",
    "Twisted",
    "TwoModels",
    "Weighed",
    "at_mean",
    "autoguidance",
    "cfg",
    "choose_scale",
    "classifier_guidance",
    "condition",
    "isotropic",
    "jacobian",
    "monte_carlo",
    "noise_interval",
    "second_order",
    "twist",
    "weigh",
]
