"""Certifies what `import undrift` costs and leaves alone: no heavy module, no global state. In a fresh interpreter."""

import json
import subprocess
import sys
from functools import cache

import pytest

HEAVY = ["pandas", "matplotlib", "sklearn", "accelerate", "scipy.stats", "rich", "typer", "pyarrow", "PIL", "jinja2"]

SCRIPT = f"""
import json, random, sys, warnings
import numpy, torch

def state():
    legacy = numpy.random.get_state()
    return {{
        "default dtype": str(torch.get_default_dtype()),
        "torch generator": torch.get_rng_state().tolist(),
        "numpy generator": [legacy[1].tolist(), legacy[2]],
        "python generator": repr(random.getstate()),
        "warning filters": repr(warnings.filters),
        "threads": [torch.get_num_threads(), torch.get_num_interop_threads()],
        "gradients": torch.is_grad_enabled(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "matmul precision": torch.get_float32_matmul_precision(),
        "print options": repr(torch._tensor_str.PRINT_OPTS),
        "cudnn": [torch.backends.cudnn.benchmark, torch.backends.cudnn.allow_tf32],
        "numpy errors": repr(numpy.geterr()),
    }}

torch.manual_seed(1); numpy.random.seed(1); random.seed(1)
before = state()
import undrift
after = state()
heavy = [name for name in {HEAVY!r} if name in sys.modules]
changed = [name for name in before if before[name] != after[name]]
missing = [name for name in undrift.__all__ if not hasattr(undrift, name)]
print(json.dumps({{"heavy": heavy, "changed": changed, "missing": missing}}))
"""


@cache
def found() -> dict[str, list[str]]:
    out = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SCRIPT], capture_output=True, text=True, timeout=120, check=True
    )
    return json.loads(out.stdout.splitlines()[-1])


@pytest.mark.parametrize("module", HEAVY)
def test_import_brings_in_nothing_heavy(module: str) -> None:
    assert module not in found()["heavy"]


def test_import_changes_no_global_state() -> None:
    assert found()["changed"] == []


def test_everything_exported_exists() -> None:
    assert found()["missing"] == []
