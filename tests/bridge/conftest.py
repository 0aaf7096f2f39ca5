"""Loads forward-mode autodiff once, quietly.

torch 2.13 itself calls the deprecated `torch.jit.script` the first time that anybody uses forward mode; warnings are errors
here, and this one is not ours.
"""

import warnings

import torch

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    torch.func.jvp(torch.sin, (torch.zeros(()),), (torch.ones(()),))
