"""Shape and type annotations are checked at run time, in tests only."""

import warnings

import torch
from jaxtyping import install_import_hook

_HOOK = install_import_hook("undrift", "typechecker.check")

# torch 2.13 itself calls the deprecated `torch.jit.script` the first time that anybody uses forward-mode autodiff. Warnings
# are errors in the tests, and this one is not ours: it is spent here.
with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    torch.func.jvp(torch.sin, (torch.zeros(()),), (torch.ones(()),))
