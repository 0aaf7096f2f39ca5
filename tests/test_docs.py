"""The README's code runs as written, block after block, in a fresh folder."""

import re
from pathlib import Path

import numpy as np
import pytest

README = (Path(__file__).parents[1] / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, flags=re.S)


def test_there_is_code_to_run():
    assert len(BLOCKS) == 3


@pytest.mark.parametrize("block", BLOCKS, ids=["arrays", "nouns", "control"])
def test_readme_block_runs(block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    names = {
        "images": rng.integers(0, 256, (64, 12, 9, 3), dtype=np.uint8),
        "labels": ["rose" if i % 2 else "tulip" for i in range(64)],
    }
    # The budget alone is shortened: what a minute buys is not what this test is about.
    exec(block.replace("seconds=60", "seconds=2, progress=False"), names)
    if "model.save" in block:
        assert (tmp_path / "runs/flowers/model.safetensors").exists()
        return
    assert bool(names["x"].isfinite().all())
    if "loss" in names:
        assert names["loss"].shape == (1000,)
    else:
        exact = names["look"].lift(names["data"])
        assert abs(float(names["answer"].particles.log_evidence - exact)) < 0.5  # 400 particles of a mean-only model
