"""The commands on runs: fit, sample, evaluate, report."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from undrift.errors import DataError, LabelError

__all__ = ["evaluate", "fit", "report", "sample"]


def fit(
    data: str,
    minutes: float | None,
    condition: list[str] | None,
    labels: str | None,
    out: Path | None,
    start: Path | None,
    held_out: float | None,
    seed: int,
    device: str | None,
    sets: Sequence[str],
    as_json: bool,
) -> None:
    """Fit, or repeat a recipe; say what the data were taken for, and where the run is."""
    import undrift as ud
    from undrift.fitting import folder_of
    from undrift.training import is_main

    options = _settings(sets)
    folder = folder_of(Path(data), out) if data.endswith(".json") else out or Path("runs") / _stem(data)
    try:
        model = ud.fit(
            data, labels, minutes=minutes, condition=condition, out=out if data.endswith(".json") else folder, start=start,
            held_out=held_out, device=device, seed=seed, progress=not as_json, training=options["training"],
            network=options["network"], reading=options["reading"],
        )  # fmt: skip
    except KeyboardInterrupt:  # here, because the command line's library would end without a word
        if is_main():
            saved = (folder / "state" / "snapshot.safetensors").exists()
            cure = f"what was learned is saved; go on with: undrift fit {folder}/recipe.json"
            print(f"undrift: stopped; {cure if saved else 'nothing was learned yet'}", file=sys.stderr)
        raise SystemExit(130) from None
    if not is_main():
        return
    measured = model.recipe.measured
    if as_json:
        print(json.dumps({"run": str(folder), **measured}))
        return
    from rich.console import Console

    console = Console(highlight=False)
    below = measured.get("below_gaussian")
    if below is not None:
        side = "below" if below >= 0 else "above"
        console.print(f"loss {100 * abs(below):.0f} % {side} the best Gaussian denoiser of the data")
    console.print(f"the run: {folder}\nnext:    undrift sample {folder} -n 16      undrift report {folder}")


def sample(
    run: Path,
    n: int | None,
    where: Sequence[str],
    where_file: Path | None,
    scale: float,
    steps: int,
    tolerance: float | None,
    out: Path | None,
    like: Path | None,
    strength: float,
    trace: Path | None,
    trust: bool,
    seed: int,
    device: str | None,
    as_json: bool,
) -> None:
    """Draw, by as many processes as were launched, and write the records in the form of the data."""
    import undrift as ud
    from undrift.codecs import open_data
    from undrift.codecs.saving import save_records, suffixes
    from undrift.fitting import best_device
    from undrift.training import gathered, is_main, my_rows

    model = ud.load(run, device=device or best_device())
    asked: Any = _where(where, model)
    if where_file is not None:
        if asked:
            raise LabelError("give --where or --where-file, not both")
        asked = _where_file(where_file, model)
        if n not in (None, len(asked)):
            raise DataError(f"-n {n} was asked for, and {where_file} has {len(asked)} rows, one for each sample; leave -n out")
        n = len(asked)
    n = 16 if n is None else n
    records = None
    if like is not None:
        source = open_data(str(like), False, **model.recipe.data.reading, least=1).source
        records = source.take(_rows(len(source), n))
    if tolerance is not None:
        steps = model.route("auto", scale=scale, tolerance=tolerance).calls
    states = model.states(
        n, asked if len(asked) else None, scale=scale, steps=steps, seed=seed, like=records,
        strength=strength, rows=my_rows(n), progress=not as_json and is_main(),
    )  # fmt: skip
    states = gathered(states, n)
    if not is_main():
        return
    drawn = model.decode(states, asked if len(asked) else None)
    file = out or run / f"samples{suffixes(drawn)[0]}"
    names = asked.get("class") if isinstance(asked, dict) else None
    save_records(drawn, file, names if names is None or isinstance(names, list) else [names] * n)
    if trace is not None:
        _trace(model, min(n, 10), asked, scale, steps, seed, trace)
    said: dict[str, Any] = {"samples": str(file), "n": n, "calls": steps}
    if trust:
        off = model.trust(n, asked if len(asked) else None, scale=scale, steps=steps, seed=seed)
        said["discretisation"] = {"median": float(off.median()), "largest": float(off.max()), "spread": model.denoiser.data_std}
    print(json.dumps(said) if as_json else f"{n} samples of {steps} network calls each: {file}")
    if trust and not as_json:
        found = said["discretisation"]
        print(
            f"discretisation error, by twice the calls: {found['median']:.2g} in the median, {found['largest']:.2g} at most, "
            f"where the data spread over {found['spread']:.2g}"
        )


def tune(run: Path, calls: int, where: Sequence[str], scale: float, seed: int, device: str | None, as_json: bool) -> None:
    """Find a route, and save it in the run."""
    import undrift as ud
    from undrift.fitting import best_device

    model = ud.load(run, device=device or best_device())
    found = model.tune(calls, _where(where, model) or None, scale=scale, seed=seed, progress=not as_json)
    model.tuned.save(run, model.recipe.digest())
    config = found.to_config()
    print(json.dumps({key: config[key] for key in ("calls", "cost", "errors")}) if as_json else found)


def _trace(model: Any, n: int, asked: Any, scale: float, steps: int, seed: int, file: Path) -> None:
    """A picture of the way of the first n samples from noise."""
    import numpy as np

    from undrift.codecs import Images
    from undrift.report import noise_to_sample

    if not isinstance(model.codec, Images):
        raise DataError("--trace draws pictures, and these records are none; Model.trace gives the stops as records")
    where = asked.head(n) if hasattr(asked, "head") else {k: v[:n] if isinstance(v, list) else v for k, v in asked.items()}
    stops = model.trace(n, where if len(where) else None, scale=scale, steps=steps, seed=seed)
    of_class = list(where["class"]) if isinstance(where.get("class"), list) else [where.get("class", i) for i in range(n)]
    noise_to_sample(np.stack([s.records for s in stops]), [s.noise for s in stops], of_class, file, "From noise to sample")


def _stem(data: str) -> str:
    """What a run on this data is called."""
    name = Path(data).resolve().name
    for end in (".gz", ".csv", ".tsv", ".parquet", ".npy", ".npz"):
        name = name.removesuffix(end)
    return name or "data"


def _settings(sets: Sequence[str]) -> dict[str, dict[str, Any]]:
    """training.batch=128 and the like, as mappings; values are JSON where they can be read so, else text."""
    found: dict[str, dict[str, Any]] = {"training": {}, "network": {}, "reading": {}}
    for text in sets:
        key, equals, value = text.partition("=")
        room, dot, name = key.partition(".")
        if not equals or not dot or room not in found:
            raise DataError(f"--set {text!r} is not understood; write {', '.join(f'{r}.NAME=VALUE' for r in found)}")
        found[room][name] = _value(value)
    return found


def _where(texts: Sequence[str], model: Any) -> dict[str, Any]:
    """name=value pairs; a value may be a JSON list with one entry for each sample."""
    asked: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise LabelError(f"--where {text!r} is not understood; write --where NAME=VALUE, for example --where class=rose")
        if name in asked:
            raise LabelError(f"--where names {name!r} twice; for one value each, write --where '{name}=[..., ...]'")
        levels = () if model.conditions is None else model.conditions.levels(name)
        found = _value(value)
        asked[name] = [_level(v, str(v), levels) for v in found] if isinstance(found, list) else _level(found, value, levels)
    return asked


def _level(value: Any, text: str, levels: Sequence[Any]) -> Any:
    """A level as the model knows it: 0 may be called "0", and True be written so."""
    if value in levels:
        return value
    return next((level for level in levels if str(level).casefold() == text.casefold()), value)


def _where_file(file: Path, model: Any) -> Any:
    """Conditions of each sample from a table; its other columns are left out."""
    from undrift.codecs.table import read_table

    frame = read_table(file)
    names = () if model.conditions is None else model.conditions.names
    known = [name for name in frame.columns if name in names]
    if not known:
        may = ", ".join(map(str, names)) or "nothing"
        raise LabelError(f"{file} has the columns {list(frame.columns)}; this model may be asked for {may}")
    return frame[known]


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _rows(have: int, n: int) -> Any:
    import numpy as np

    return np.arange(n) % have


def evaluate(run: Path, n: int | None, scale: float, steps: int, seed: int, device: str | None, as_json: bool) -> None:
    """Judge a run and write evidence.json into it."""
    if not _first():
        return
    judged = _judged(run, n, scale, steps, seed, device, as_json)[1]
    if as_json:
        print(json.dumps(judged.evidence, indent=2))
    else:
        print_evidence(judged.evidence, f"{run}: samples against records that the model has not seen")


def report(run: Path, n: int | None, scale: float, steps: int, seed: int, device: str | None, as_json: bool) -> None:
    """Judge a run and write report.html into it."""
    from undrift.report.build import report as build

    if not _first():
        return
    model, judged = _judged(run, n, scale, steps, seed, device, as_json)
    page = build(model, judged, run)
    if as_json:
        print(json.dumps({"report": str(page), "evidence": judged.evidence}, indent=2))
    else:
        print_evidence(judged.evidence, f"{run}: samples against records that the model has not seen")
        print(f"the report: {page}")


def print_evidence(evidence: dict[str, Any], title: str) -> None:
    """Figures beside floor and baseline, for people."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for name in ("figure", "samples", "95 % interval", "floor (real data)", "Gaussian", "better"):
        table.add_column(name, justify="left" if name in ("figure", "better") else "right")
    for figure in evidence["figures"]:
        low, high = figure["low"], figure["high"]
        between = "" if low is None or high is None else f"{low:.3g} to {high:.3g}"
        numbers = ["" if figure[key] is None else f"{figure[key]:.4g}" for key in ("value", "floor", "baseline")]
        table.add_row(figure["name"], numbers[0], between, *numbers[1:], figure["better"])
    console = Console(highlight=False)
    console.print(table)
    cost = evidence["cost"]
    console.print("  " + ", ".join(f"{key.replace('_', ' ')} {value:,}" for key, value in cost.items() if value is not None))


def _first() -> bool:
    """Whether this is the process that judges and draws, where several were launched."""
    from undrift.training import is_main

    return is_main()


def _judged(run: Path, n: int | None, scale: float, steps: int, seed: int, device: str | None, quiet: bool) -> Any:
    import undrift as ud
    from undrift.core import write
    from undrift.fitting import best_device

    model = ud.load(run, device=device or best_device())
    judged = ud.evaluate(model, n=n, scale=scale, steps=steps, seed=seed, progress=not quiet)
    write(run / "evidence.json", json.dumps(judged.evidence, indent=2).encode())
    return model, judged
