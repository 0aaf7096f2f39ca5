"""The command line. Each command is a thin skin over a function; `undrift COMMAND --help` explains it."""

import json
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
)


@app.callback()
def _root() -> None:
    pass


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the model, the pictures and the evidence.")] = Path("runs/digits"),
    seconds: Annotated[float, typer.Option(help="Training time.", min=1)] = 60.0,
    seed: Annotated[int, typer.Option(help="Everything random follows from it.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the evidence as JSON instead of a table.")] = False,
) -> None:
    """Real images in, steered samples and their evidence out: handwritten digits, in about two minutes."""
    from undrift.cli.demo import print_report, run

    result = run(out, seconds=seconds, seed=seed, quiet=as_json)
    if as_json:
        print(json.dumps(result.evidence, indent=2))
    else:
        print_report(result)


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
    """Run the command line; an error of undrift's own, or of the disk, is one line and not a traceback."""
    try:
        app()
    except UndriftError as error:
        print(f"undrift: {type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(1)
    except OSError as error:
        print(
            f"undrift: cannot write {error.filename or 'the run'}: {error.strerror or error}; choose another --out",
            file=sys.stderr,
        )
        sys.exit(1)
