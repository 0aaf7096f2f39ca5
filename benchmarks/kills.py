"""Twenty kills at random moments, ten of one process and ten of two: each run must end bit for bit as if it had not happened.

    python benchmarks/kills.py

Each row is a run that was killed (SIGKILL) once and then gone on with; it is compared with one that was not: weights, moving
average, and every line of metrics.jsonl but for its times.
"""

import random
import sys
import tempfile
import time
from pathlib import Path

sys.path[0] = str(Path(__file__).parent.parent / "tests")  # not this folder, whose names would hide those of the tests


def whole(place: str, size: int) -> Path:
    """Where the run that was not killed is kept."""
    return Path(place) / f"whole{size}"


def main(runs: int = 10) -> None:
    """Print the table."""
    from training.test_resume import PLAN, TOY, killed, same
    from training.toy import finish, start

    quick, rng, right = {**TOY, "pause": 0.0}, random.Random(time.time_ns()), 0
    print("processes  snapshot at  killed and gone on with: the same")
    with tempfile.TemporaryDirectory() as place:
        for size in (1, 2):
            whole(place, size).mkdir()
            assert finish(start(whole(place, size), quick, size)) == [0] * size
        for i, size in ((i, size) for i in range(runs) for size in (1, 2)):
            cut = Path(place) / f"cut{size}.{i}"
            cut.mkdir()
            step = killed(cut, TOY, size, 1, rng)[-1]
            ended = finish(start(cut, quick, size)) == [0] * size
            good = ended and all(same(whole(place, size), cut, rank) for rank in range(size))
            right += good
            print(f"{size:9}  {step:7}/{PLAN.steps}  {'yes' if good else 'NO'}", flush=True)
    print(f"{right} of {2 * runs} the same")


if __name__ == "__main__":
    main()
