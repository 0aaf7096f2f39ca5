"""Sampling beside the peers, every part in one run.

    python benchmarks/samplers.py                            # fresh problems; writes docs/benchmarks/samplers.md
    python benchmarks/samplers.py --seeds 1 2 3 --dims 8     # the same problems again, some of the cells
    python benchmarks/samplers.py --search --seeds 1         # every setting of every peer; renews the short list
    python benchmarks/samplers.py --parts b c --out b_c.md   # some of the parts

One module a part, each with `options(parser)` and `part(args, python)`, which gives the lines of its section: (a)
`sampler_endpoints.py`, the error of the endpoint at a given number of calls; (b) `sampler_overhead.py`, the time that a sampler
takes beside the network; (c) `sampler_calls.py`, the calls that a trained network needs. Peers run in an environment of their
own, with the versions of `benchmarks/peers-pictures.txt` and `benchmarks/peers-samplers.txt`; undrift runs in this one.
"""

import argparse
import platform
import secrets
import subprocess
from pathlib import Path

import torch

import sampler_calls
import sampler_endpoints
import sampler_overhead
from pictures import HERE, ROOT, cpu, make_environment

PARTS = {"a": sampler_endpoints, "b": sampler_overhead, "c": sampler_calls}


def environment(folder: Path) -> Path:
    """The peers' interpreter; the environment is made on first use."""
    python = make_environment(folder)
    pins, done = HERE / "peers-samplers.txt", folder / "peers-samplers.txt"
    if not done.exists() or done.read_text() != pins.read_text():
        subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-deps", "-r", pins], check=True)
        done.write_text(pins.read_text())
    return python


def main() -> None:
    """Run every part and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", help="of the problems; fresh by default")
    parser.add_argument("--jobs", type=int, default=2, help="processes at a time, one thread each")
    parser.add_argument("--no-peers", action="store_true")
    parser.add_argument(
        "--peers-env", type=Path, default=ROOT / ".venv-samplers", help="the peers' environment; made on first use"
    )
    parser.add_argument("--out", type=Path, default=ROOT / "docs/benchmarks/samplers.md")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    for module in PARTS.values():
        module.options(parser)
    args = parser.parse_args()
    if args.seeds is None:
        first = secrets.randbelow(10**6)
        args.seeds = [first + i for i in range(args.mixtures)]
    torch.set_num_threads(1)
    print(f"seeds {' '.join(map(str, args.seeds))}", flush=True)
    python = None if args.no_peers else environment(args.peers_env)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    lines = ["# Sampling beside the peers", ""]
    lines += [
        f"Written by `python benchmarks/samplers.py --seeds {' '.join(map(str, args.seeds))}`; every row is of the same run. "
        f"{cpu()}, one thread a process, Python {platform.python_version()}.",
        "",
    ]
    for name in args.parts:
        lines += PARTS[name].part(args, python)
    args.out.write_text("\n".join(lines).rstrip() + "\n")
    print(f"wrote {args.out}")


if __name__ == "__main__":
    main()
