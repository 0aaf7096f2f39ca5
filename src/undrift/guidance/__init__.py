"""Steering: denoisers made from denoisers, by labels and by potentials at the clean end."""

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
from undrift.guidance.constraints import (
    Ball,
    Box,
    Constrained,
    Constraint,
    Enforced,
    Equality,
    Integer,
    Intersection,
    Monotone,
    Projection,
    Simplex,
    constrained,
)
from undrift.guidance.contrast import Contrast, Guided
from undrift.guidance.control import Control, Spent, control, hjb_residual, spend
from undrift.guidance.frontier import Frontier, Tried, choose_scale
from undrift.guidance.lifts import at_mean, monte_carlo
from undrift.guidance.potentials import All, Likelihood, Linear, Potential, Reward
from undrift.guidance.proximal import Proximal, proximal
from undrift.guidance.rescale import Rescaled
from undrift.guidance.robust import WorstCase, worst_case
from undrift.guidance.second_order import COVARIANCES, SecondOrder, isotropic, jacobian, second_order
from undrift.guidance.strength import Interval, Scale, noise_interval
from undrift.guidance.twist import Conditioned, Steered, Twisted, Weighed, condition, twist, weigh

__all__ = [
    "CFGPP",
    "COVARIANCES",
    "All",
    "Ball",
    "Box",
    "Classifier",
    "ClassifierFree",
    "ClassifierGuided",
    "Conditioned",
    "Constrained",
    "Constraint",
    "Contrast",
    "Control",
    "CrossEntropy",
    "Enforced",
    "Equality",
    "ExactClassifier",
    "Frontier",
    "Guided",
    "Integer",
    "Intersection",
    "Interval",
    "Likelihood",
    "Linear",
    "Momentum",
    "Monotone",
    "NoisyClassifier",
    "Potential",
    "Projected",
    "Projection",
    "Proximal",
    "Rescaled",
    "Reward",
    "Scale",
    "SecondOrder",
    "Simplex",
    "Spent",
    "Steered",
    "Tried",
    "Twisted",
    "TwoModels",
    "Weighed",
    "WorstCase",
    "at_mean",
    "autoguidance",
    "cfg",
    "choose_scale",
    "classifier_guidance",
    "condition",
    "constrained",
    "control",
    "hjb_residual",
    "isotropic",
    "jacobian",
    "monte_carlo",
    "noise_interval",
    "proximal",
    "second_order",
    "spend",
    "twist",
    "weigh",
    "worst_case",
]
