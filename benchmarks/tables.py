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


def measure(name: str, minutes: float) -> None:
    """Fit, draw as many records as there are, and say how useful they are."""
    train, test = split(name)
    table = Table.guess(train)
    names, levels = [c.name for c in table.columns], [c.choices > 0 for c in table.columns]
    target = names.index(TARGETS[name])
    start = time.perf_counter()
    model = ud.fit(train, minutes=minutes, held_out=0.0)
    spent = time.perf_counter() - start
    made = arrays(table, model.sample(len(train)))
    real = arrays(table, train)
    categories = [i for i, level in enumerate(levels) if level]
    use = usefulness(real, made, arrays(table, test), target, levels=levels[target], categories=categories)
    print(f"{name}, {spent:.0f} s of training: {use.name} {use.value:.4f}; real {use.ceiling:.4f}, shuffled {use.baseline:.4f}")
    far = compare_columns(real, made, names, levels)
    worst = max(far.columns, key=lambda column: column.distance)
    print(f"  relations differ by {far.distance:.4f}; real halves {far.floor:.4f}, shuffled apart {far.baseline:.4f}")
    print(f"  worst column {worst.name}: {worst.distance:.4f}; real halves {worst.floor:.4f}, baseline {worst.baseline:.4f}")


def covered(name: str, minutes: float, most: int = 200) -> None:
    """Fit with all inputs as conditions, and see how often intervals of the target hold the truth."""
    train, test = split(name)
    inputs = [column for column in train.columns if column != TARGETS[name]]
    model = ud.fit(train, minutes=minutes, condition=inputs, held_out=0.0)
    for which, frame in (("held out", test.head(most)), ("trained on", train.head(most))):
        asked = frame[inputs].loc[frame.index.repeat(SAMPLES)].reset_index(drop=True)
        drawn = model.sample(len(asked), where=asked)[TARGETS[name]].to_numpy(dtype=float).reshape(len(frame), SAMPLES)
        found = coverage(drawn, frame[TARGETS[name]].to_numpy(dtype=float))
        print(
            f"{name}, {which}: {found.share:.3f} of truths in the {found.expected:.0%} interval (error {found.error:.3f}); "
            f"mean width {found.width:.4g}, knowing nothing {found.floor:.4g}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=list(TARGETS), help=", ".join(TARGETS))
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--coverage", action="store_true")
    given = parser.parse_args()
    for name in given.names:
        measure(name, given.minutes)
        if given.coverage and name != "adult":
            covered(name, given.minutes)


if __name__ == "__main__":
    main()
