"""Anybody's files to samples, as a newcomer would: at most four lines, in a fresh process, for every kind of data."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT.parent / "shared" / "data"


def run(lines: str, folder: Path) -> str:
    code = lines.strip()
    assert len(code.splitlines()) <= 4
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], cwd=folder, capture_output=True, text=True, timeout=200, check=False,
        env={"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin", "HOME": str(folder)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


SHARED = {
    "california_housing": """
import undrift as ud
model = ud.fit("california_housing/housing.csv.gz", condition="median_house_value", minutes=0.03)
frame = model.sample(5, where={"median_house_value": 200000})
print(list(frame.columns), set(frame["median_house_value"]), frame["ocean_proximity"].nunique() > 1)
""",
    "adult": """
import undrift as ud
model = ud.fit("adult/adult_train.csv.gz", condition=["income", "sex"], minutes=0.03)
frame = model.sample(6, where={"sex": "Female"})
print(frame.shape, set(frame["sex"]), frame["age"].dtype, frame["age"].between(17, 90).all())
""",
    "concrete": """
import undrift as ud
model = ud.fit("concrete/data.csv.gz", minutes=0.03)
print(model.sample(4).shape)
""",
    "mnist": """
import undrift as ud
model = ud.fit("mnist/mnist.npz", minutes=0.05)
images = model.sample(3, where={"class": [1, 2, 3]}, steps=5)
print(images.shape, images.dtype)
""",
    "fashion_mnist": """
import undrift as ud
model = ud.fit("fashion_mnist/train-images-idx3-ubyte.gz", minutes=0.05)
images = model.sample(2, where={"class": 9}, scale=2.0, steps=5)
print(images.shape, images.dtype)
""",
    "sign_digits": """
import undrift as ud
model = ud.fit("sign_digits/sign_digits_32.npz", minutes=0.05)
images = model.sample(2, where={"class": 9}, steps=5)
print(images.shape, images.dtype)
""",
}
WANTED = {
    "california_housing": "'median_house_value', 'ocean_proximity'] {200000.0} True",
    "adult": "(6, 15) {'Female'} int64 True",
    "concrete": "(4, 9)",
    "mnist": "(3, 28, 28) uint8",
    "fashion_mnist": "(2, 28, 28) uint8",
    "sign_digits": "(2, 32, 32, 3) uint8",
}


@pytest.mark.parametrize("name", SHARED)
def test_real_files_in_four_lines(name: str) -> None:
    if not (DATA / name).is_dir():
        pytest.skip(f"the data set {name} is not beside the checkout")
    assert WANTED[name] in run(SHARED[name], DATA)


def test_a_folder_of_pictures_in_four_lines(tmp_path: Path) -> None:
    from PIL import Image

    rng = np.random.Generator(np.random.Philox(0))
    for name, shade in (("dark", 40), ("light", 210)):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for i in range(12):
            noise = rng.integers(-30, 30, (12 + i % 3, 14, 3))
            Image.fromarray((shade + noise).clip(0, 255).astype(np.uint8)).save(tmp_path / "pictures" / name / f"{i}.png")
    found = run(
        """
import undrift as ud
model = ud.fit("pictures", minutes=0.03)
images = model.sample(3, where={"class": "dark"}, steps=5)
print(images.dtype, images.ndim, images.shape[0], images.shape[3])
""",
        tmp_path,
    )
    assert found.strip() == "uint8 4 3 3"


def test_a_csv_in_four_lines(tmp_path: Path) -> None:
    rng = np.random.Generator(np.random.Philox(1))
    rows = [
        f"{20 + i % 40},{1.5 * (i % 40) + rng.normal():.2f},{'yes' if i % 2 else 'no'},2024-03-{1 + i % 28:02d}"
        for i in range(200)
    ]
    (tmp_path / "own.csv").write_text("age,dose,smokes,visit\n" + "\n".join(rows))
    found = run(
        """
import undrift as ud
model = ud.fit("own.csv", condition="smokes", minutes=0.03)
frame = model.sample(5, where={"smokes": "yes"})
print(list(frame.columns), frame["age"].dtype, set(frame["smokes"]), frame["visit"].astype(str).str.startswith("2024-03").all())
""",
        tmp_path,
    )
    assert found.strip() == "['age', 'dose', 'smokes', 'visit'] int64 {'yes'} True"
