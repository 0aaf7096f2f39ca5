"""The README's code runs as written, block after block, in a fresh folder."""

import re
from pathlib import Path

import numpy as np
import pytest

README = (Path(__file__).parents[1] / "README.md").read_text()
FOUND = re.findall(r"```python\n(.*?)```", README, flags=re.S)
BLOCKS = ["".join(FOUND[:2]), *FOUND[2:]]  # the second goes on with the model of the first


def test_there_is_code_to_run():
    assert len(BLOCKS) == 3
    assert "model.tune" in FOUND[1]


def files(folder):
    """What a newcomer might have: pictures in sub-folders, a table, an array."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for name in ("rose", "tulip"):
        (folder / "flowers" / name).mkdir(parents=True)
        for i in range(260):
            Image.fromarray(rng.integers(0, 256, (12, 9, 3), dtype=np.uint8)).save(folder / "flowers" / name / f"{i}.png")
    lines = [f"{rng.normal(2e5, 5e4):.0f},{'Ulm' if i % 2 else 'Jena'},{rng.integers(1, 9)}" for i in range(520)]
    (folder / "houses.csv").write_text("price,town,rooms\n" + "\n".join(lines))
    np.save(folder / "volumes.npy", rng.normal(size=(520, 4, 6, 5)))


@pytest.mark.parametrize("block", BLOCKS, ids=["files", "nouns", "control"])
def test_readme_block_runs(block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {}
    if "flowers" in block:
        files(tmp_path)
        # The budgets alone are shortened: what minutes buy is not what this test is about.
        exec(re.sub(r"minutes=\d+", "minutes=0.02, progress=False", block), names)
        assert names["images"].shape == (16, 12, 9, 3)
        assert names["noise"].shape == (16, 3, 12, 9)
        assert names["found"].error.median <= names["found"].default.median
        assert list(names["frame"].columns) == ["price", "town", "rooms"]
        assert set(names["frame"]["price"]) == {250000}
        assert names["judged"].evidence["held_out"] == 100
        return
    exec(block, names)
    assert bool(names["x"].isfinite().all())
    if "loss" in names:
        assert names["loss"].shape == (1000,)
    else:
        exact = names["look"].lift(names["data"])
        assert abs(float(names["answer"].particles.log_evidence - exact)) < 0.5  # 400 particles of a mean-only model
