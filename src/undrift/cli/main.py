"""The command line. Each command is a thin skin over a function; `undrift COMMAND --help` explains it."""

import errno
import json
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from undrift.errors import UndriftError

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Run any diffusion backwards, under control, and know how far to trust the result.",
    epilog="Start with: undrift fit YOUR-DATA --minutes 5, then undrift sample runs/YOUR-DATA -n 100",
)

Seed = Annotated[int, typer.Option(help="Everything random follows from it.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, mps, ...; the best there is by default.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON, and nothing else.")]
Judged = Annotated[int | None, typer.Option("-n", help="How many samples; as many as are needed by default.", min=4)]
Scale = Annotated[float, typer.Option(help="Strength of what is asked for; 1 = as trained.")]
Steps = Annotated[int, typer.Option(help="Network calls for each sample.", min=1)]
Run = Annotated[Path, typer.Argument(help="Folder of a run, as `fit` made it.")]
Sets = Annotated[list[str] | None, typer.Option("--set", help="Any other setting, as training.batch=128 or network.width=256.")]


@app.callback()
def _root() -> None:
    pass


@app.command()
def fit(
    data: Annotated[str, typer.Argument(help="Folder of pictures, .csv, .parquet, .npy, .npz; or recipe.json of a run.")],
    minutes: Annotated[float | None, typer.Option(help="Training time; 1 by default.", min=0.001)] = None,
    condition: Annotated[list[str] | None, typer.Option(help="Column that samples may be asked for; may be repeated.")] = None,
    labels: Annotated[str | None, typer.Option(help="File of class labels, where the data do not hold them.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the run; runs/NAME-OF-DATA by default.")] = None,
    start: Annotated[Path | None, typer.Option(help="Run to start from (fine-tuning).")] = None,
    held_out: Annotated[float | None, typer.Option(help="Share of the records kept for judging.", min=0, max=0.9)] = None,
    seed: Seed = 0,
    device: Device = None,
    sets: Sets = None,
    as_json: AsJson = False,
) -> None:
    """Learn the distribution of a folder of pictures, a table or an array.

    A run that was stopped, or killed, goes on with `undrift fit runs/NAME/recipe.json`; a finished one is repeated by it.
    """
    from undrift.cli.runs import fit as run

    run(data, minutes, condition, labels, out, start, held_out, seed, device, sets or [], as_json)


@app.command()
def sample(
    run: Run,
    n: Annotated[int | None, typer.Option("-n", help="How many; 16, or the rows of --where-file, by default.", min=1)] = None,
    where: Annotated[list[str] | None, typer.Option(help="What is asked for, as name=value; may be repeated.")] = None,
    where_file: Annotated[Path | None, typer.Option(help="CSV or Parquet with one row of conditions for each sample.")] = None,
    scale: Scale = 1.0,
    steps: Steps = 50,
    out: Annotated[Path | None, typer.Option(help="File or folder for the samples; inside the run by default.")] = None,
    like: Annotated[Path | None, typer.Option(help="Records to start from, in a file like the data.")] = None,
    strength: Annotated[float, typer.Option(help="How far records to start from are noised, 0 to 1.")] = 0.5,
    trace: Annotated[Path | None, typer.Option(help="Picture (.png) of the way from noise to sample, for pictures.")] = None,
    tolerance: Annotated[float | None, typer.Option(help="As few calls as have this error, not --steps; see tune.")] = None,
    trust: Annotated[bool, typer.Option(help="Say how far the samples are from those of twice the calls.")] = False,
    seed: Seed = 0,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Draw records from a run, in the form and units of the data."""
    from undrift.cli.runs import sample as draw

    draw(run, n, where or [], where_file, scale, steps, tolerance, out, like, strength, trace, trust, seed, device, as_json)


@app.command()
def tune(
    run: Run,
    calls: Annotated[int, typer.Option(help="Network calls for each sample.", min=1)] = 8,
    where: Annotated[list[str] | None, typer.Option(help="What is asked for, as name=value; may be repeated.")] = None,
    scale: Scale = 1.0,
    seed: Seed = 1,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Find the best way to sample a run with few network calls, keep it with the run, and say its error against calls."""
    from undrift.cli.runs import tune as find

    find(run, calls, where or [], scale, seed, device, as_json)


@app.command()
def evaluate(
    run: Run,
    n: Judged = None,
    scale: Scale = 1.0,
    steps: Steps = 50,
    seed: Seed = 0,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Compare samples with records that the model has not seen; every figure beside its floor and the Gaussian baseline."""
    from undrift.cli.runs import evaluate as judge

    judge(run, n, scale, steps, seed, device, as_json)


@app.command()
def report(
    run: Run,
    n: Judged = None,
    scale: Scale = 1.0,
    steps: Steps = 50,
    seed: Seed = 0,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Evaluate a run and write report.html: one file with pictures, curves and figures, to look at or to send."""
    from undrift.cli.runs import report as write

    write(run, n, scale, steps, seed, device, as_json)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the runs and their reports.")] = Path("runs"),
    seconds: Annotated[float, typer.Option(help="Training time for each.", min=1)] = 60.0,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Digits and a table, from data to steered samples, evidence and report, in a few minutes."""
    from undrift.cli.demo import print_results, run

    results = run(out, seconds=seconds, seed=seed, quiet=as_json)
    if as_json:
        print(json.dumps({name: result.evidence for name, result in results.items()}, indent=2))
    else:
        print_results(results)


@app.command()
def receipts(
    names: Annotated[list[str] | None, typer.Argument(help="Which ones; all by default.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for the pictures and the numbers.")] = Path("runs/receipts"),
    as_json: Annotated[bool, typer.Option("--json", help="Print the tables as JSON.")] = False,
) -> None:
    """What the theory claims, run and measured: a table and a picture for each claim."""
    from undrift.cli.receipts import run

    results = run(names or [], out, quiet=as_json)
    if as_json:
        print(json.dumps(results, indent=2))


def main() -> None:
    """Run the command line; an error of undrift's own, or of the disk, is a paragraph and not a traceback.

    Exit codes: 0 done, 2 bad input or a full disk, 130 stopped by the user (what was done is saved).
    """
    code = _run()
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        # All files are written. PyTorch's message threads may abort a process that ends in the usual way while they run.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _run() -> int:
    try:
        app()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except UndriftError as error:
        print(f"undrift: {type(error).__name__}: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        where = f" {error.filename}" if error.filename else ""
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        cure = "free the disk, or choose another --out" if full else "choose another path, or mend this one"
        print(f"undrift: {error.strerror or error}:{where or ' the run'}; {cure}", file=sys.stderr)
        return 2
    return 0
