"""Run receipts: print each claim and its table, and leave the picture and the numbers."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from undrift.errors import DataError
from undrift.receipts import RECEIPTS


def run(names: Sequence[str], out: Path, quiet: bool) -> dict[str, Any]:
    """Run the named receipts, all of them if none is named.

    Args:
        names: keys of `receipts.RECEIPTS`.
        out: folder for NAME.png and NAME.json; made if missing.
        quiet: print nothing.

    Returns:
        For every receipt its claim, its rows and its files.

    Raises:
        DataError: no receipt of that name.

    Checked by: tests/cli/test_receipts.py
    """
    unknown = [name for name in names if name not in RECEIPTS]
    if unknown:
        raise DataError(f"no receipt is called {', '.join(unknown)}; there are {', '.join(RECEIPTS)}")
    out.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = {}
    for name in names or RECEIPTS:
        found = RECEIPTS[name]()
        rows = [list(row) for row in found.rows()]
        picture = found.picture(out / f"{name}.png")
        results[name] = {"claim": found.claim, "rows": rows, "picture": str(picture)}
        (out / f"{name}.json").write_text(json.dumps(results[name], indent=2))
        if not quiet:
            show(name, found.claim, rows, picture)
    return results


def show(name: str, claim: str, rows: list[list[str]], picture: Path) -> None:
    """The table, for people."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    table = Table(title=f"{name}: {claim}", title_justify="left")
    for head in rows[0]:
        table.add_column(head)
    for row in rows[1:]:
        table.add_row(*row)
    console.print(table)
    console.print(f"  {picture}\n", highlight=False)
