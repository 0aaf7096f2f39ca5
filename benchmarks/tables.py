"""Are generated tables useful? A predictor trained on them, tested on real records, beside one trained on real records.

    python benchmarks/tables.py                      # three data sets, five minutes each
    python benchmarks/tables.py concrete --minutes 1
    python benchmarks/tables.py concrete --coverage  # and intervals of the target, given the inputs

The data sets lie beside the checkout, in ../shared/data: california_housing (2064 rows held out by a seed), concrete (held out
by its first test mask), adult (its official split). Wanted: within 0.06 of the real R2, 0.02 of the real AUC.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import undrift as ud
from undrift.codecs.table import Table, read_table
from undrift.evidence.columns import compare_columns
from undrift.evidence.predictor import coverage, usefulness

DATA = Path(__file__).parents[2] / "shared" / "data"
TARGETS = {"concrete": "column 9", "california_housing": "median_house_value", "adult": "income"}
SAMPLES = 39
"""Samples of the target a record: the central interval from the 2nd to the 38th of them covers 36 / 40."""


def split(name: str) -> tuple[Any, Any]:
    """Records to train on and to test on."""
    if name == "adult":
        return read_table(DATA / "adult/adult_train.csv.gz"), read_table(DATA / "adult/adult_test.csv.gz")
    if name == "concrete":
        frame = read_table(DATA / "concrete/data.csv.gz")
        test = pd.read_csv(DATA / "concrete/test_mask.csv.gz", header=None)[0].to_numpy() > 0
    else:
        frame = read_table(DATA / "california_housing/housing.csv.gz")
        test = np.zeros(len(frame), bool)
        test[np.random.default_rng(0).permutation(len(frame))[:2064]] = True
    return frame[~test].reset_index(drop=True), frame[test].reset_index(drop=True)


def arrays(table: Table, frame: Any) -> np.ndarray:
    """A table's cells as numbers, (N, F): levels by index, an empty number as NaN."""
    return np.stack([column.parse(frame[column.name]) for column in table.columns], 1)


def measure(name: str, minutes: float, seed: int) -> list[str]:
    """Fit, draw as many records as there are, and say how useful they are: one row of the first table."""
    train, test = split(name)
    table = Table.guess(train)
    names, levels = [c.name for c in table.columns], [c.choices > 0 for c in table.columns]
    target = names.index(TARGETS[name])
    start = time.perf_counter()
    model = ud.fit(train, minutes=minutes, held_out=0.0, seed=seed)
    spent = time.perf_counter() - start
    made = arrays(table, model.sample(len(train), seed=seed))
    real = arrays(table, train)
    categories = [i for i, level in enumerate(levels) if level]
    use = usefulness(real, made, arrays(table, test), target, levels=levels[target], categories=categories)
    far = compare_columns(real, made, names, levels)
    worst = max(far.columns, key=lambda column: column.distance)
    wanted = use.ceiling - (0.02 if levels[target] else 0.06)
    steps = (model.recipe.measured or {}).get("steps", 0)
    return [
        name, str(seed), f"{len(train)}", f"{spent:.0f}", f"{steps}", use.name, f"{use.value:.4f}", f"{wanted:.4f}",
        f"{use.ceiling:.4f}", f"{use.baseline:.4f}", f"{far.distance:.4f}", f"{far.floor:.4f}", f"{far.baseline:.4f}",
        f"{worst.name}: {worst.distance:.4f} ({worst.floor:.4f})",
    ]  # fmt: skip


def covered(name: str, minutes: float, seed: int, most: int = 200) -> list[list[str]]:
    """Fit with all inputs as conditions, and see how often intervals of the target hold the truth: rows of the second table."""
    train, test = split(name)
    inputs = [column for column in train.columns if column != TARGETS[name]]
    model = ud.fit(train, minutes=minutes, condition=inputs, held_out=0.0, seed=seed)
    rows = []
    for which, frame in (("held out", test.head(most)), ("trained on", train.head(most))):
        asked = frame[inputs].loc[frame.index.repeat(SAMPLES)].reset_index(drop=True)
        drawn = model.sample(len(asked), where=asked, seed=seed)[TARGETS[name]].to_numpy(dtype=float)
        found = coverage(drawn.reshape(len(frame), SAMPLES), frame[TARGETS[name]].to_numpy(dtype=float))
        numbers = [f"{found.share:.3f}", f"{found.error:.3f}", f"{found.width:.4g}", f"{found.floor:.4g}"]
        rows.append([name, which, str(len(frame)), *numbers])
    return rows


USE = ["table", "seed", "rows", "training, s", "steps", "measure", "from samples", "wanted", "from real records", "shuffled"]
FAR = ["relations", "real halves", "shuffled apart", "worst column (real halves)"]
COVER = ["table", "records", "number", "in the 90 % interval", "error", "mean width", "knowing nothing"]


def lines(header: list[str], rows: list[list[str]]) -> list[str]:
    """A table of a page."""
    return ["| " + " | ".join(row) + " |" for row in (header, ["---"] * len(header), *rows)]


def page(used: list[list[str]], intervals: list[list[str]], command: str) -> str:
    """What was found, to be kept."""
    told = [
        "# Tables: are the samples useful?",
        "",
        f"Written by `{command}`.",
        "A predictor (gradient-boosted trees) is trained on as many samples as there are records, and tested on real records",
        "that nobody trained on, beside one trained on the real records. *wanted*: 0.06 of R2 or 0.02 of AUC below that.",
        "*relations*: how far pairs of columns are from the real ones, beside what two halves of the real records differ by,",
        "and what columns shuffled apart do (`undrift.evidence.columns`). Settings are the defaults of `undrift.fit`.",
        "",
        *lines([*USE, *FAR], used),
        "",
    ]
    if intervals:
        told += [
            "## Intervals",
            "",
            f"The target given all other columns, {SAMPLES} samples a record; the interval from the second to the last but",
            "one holds 0.9 of truths if the samples are calibrated. *knowing nothing*: the width of such an interval of all.",
            "",
            *lines(COVER, intervals),
            "",
        ]
    return "\n".join(told)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=list(TARGETS), help=", ".join(TARGETS))
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--coverage", action="store_true")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--out", type=Path, help="a page to write, such as docs/benchmarks/tables.md")
    given = parser.parse_args()
    used, intervals = [], []
    for name in given.names:
        for seed in given.seeds:
            used.append(measure(name, given.minutes, seed))
            print("\n".join(lines([*USE, *FAR], used)), flush=True)
        if given.coverage and name != "adult":
            intervals += covered(name, given.minutes, given.seeds[0])
            print("\n".join(lines(COVER, intervals)), flush=True)
    if given.out:
        command = f"python benchmarks/tables.py {' '.join(given.names)} --minutes {given.minutes:g}"
        command += f" --seeds {' '.join(map(str, given.seeds))}{' --coverage' if given.coverage else ''}"
        given.out.write_text(page(used, intervals, command))


if __name__ == "__main__":
    main()
