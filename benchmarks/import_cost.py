"""What `import undrift` costs beyond torch: fresh processes in turn, medians.

python benchmarks/import_cost.py
"""

import statistics
import subprocess
import sys
import time

RUNS = 9


def seconds(statement: str) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", statement], check=True)
    return time.perf_counter() - start


def main() -> None:
    times: dict[str, list[float]] = {"pass": [], "import torch": [], "import undrift": []}
    for run in range(RUNS + 1):
        for statement, record in times.items():
            spent = seconds(statement)
            if run:  # the first round warms the disk cache
                record.append(spent)
    medians = {statement: statistics.median(record) for statement, record in times.items()}
    for statement, median in medians.items():
        print(f"{statement:<16} {median:6.2f} s   (min {min(times[statement]):.2f}, max {max(times[statement]):.2f})")
    extra = medians["import undrift"] - medians["import torch"]
    print(f"beyond torch     {extra:6.2f} s   ({100 * extra / medians['import torch']:.0f} % of torch)")


if __name__ == "__main__":
    main()
