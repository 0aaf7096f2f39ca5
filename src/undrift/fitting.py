"""From records to a model: open the data, write the recipe, train, and be able to go on after a kill.

    fit(data) = open -> guess codec and conditions -> measure scale -> rehearse (minutes become steps) -> recipe -> train

Everything that decides the outcome is in the recipe before the first step, so `repeat` makes the same weights again from the
recipe and the data, and a run that was killed goes on from its last snapshot to the same end, bit for bit.

Checked by: tests/test_fitting.py
"""

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path as File
from typing import Any

import torch
from torch import Tensor

from undrift import gaussian, schedules
from undrift.core import write
from undrift.defaults import defaults, hiding_noise
from undrift.errors import CheckpointError, DataError
from undrift.model import Model, load
from undrift.recipes import Data, Part, Recipe, settings
from undrift.records import conditions_of, example_of, feed_of, held_count, held_out_rows, opened_data, reopen
from undrift.training import (
    Ema,
    Feed,
    Levels,
    Metrics,
    Progress,
    Settings,
    forked,
    is_main,
    rehearse,
    spectrum,
    train,
)  # fmt: skip
from undrift.training.group import Group
from undrift.training.progress import show

__all__ = ["best_device", "fit", "folder_of", "repeat"]


def fit(
    data: Any,
    labels: Any = None,
    *,
    minutes: float | None = None,
    condition: str | Sequence[str] | None = None,
    out: str | File | None = None,
    start: str | File | Model | None = None,
    training: Mapping[str, Any] | Settings | None = None,
    network: Mapping[str, Any] | None = None,
    reading: Mapping[str, Any] | None = None,
    held_out: float | None = None,
    device: str | torch.device | None = None,
    seed: int = 0,
    progress: bool = True,
) -> Model:
    """Learn the distribution of records.

    Args:
        data: a folder of pictures (sub-folders are classes), a table (.csv, .tsv, .parquet), arrays (.npy, .npz, idx), or an
            array, tensor or DataFrame; or the recipe.json of a run, which is then repeated, or gone on with.
        labels: one class for each record, or a file of them; None where the data hold them.
        minutes: training time, turned once into steps; 1 by default.
        condition: columns of a table that samples may be asked for.
        out: folder for the run; it then survives a kill, and `repeat` goes on with it.
        start: a run, or a model, to start from: its codec, conditions and network are kept.
        training: `training.Settings`, or some of them as a mapping.
        network: arguments of the network that replace the defaults.
        reading: options for `codecs.open_data` (kinds, size, key, ...).
        held_out: share of the records that is kept from training to judge the model by, in [0, 1); by default a tenth and at
            least a hundred of 500 or more records, and none of fewer.
        device: "cpu", "cuda", ...; the best there is by default.
        seed: of first weights, order, times, noise and dropout.
        progress: draw a bar.

    Returns:
        A model whose samples are records like those given.

    Raises:
        DataError: records that cannot be learned from; the message says which and why.
        LabelError: a condition that the data do not have.
        NonFiniteError: training diverged.
    """
    if isinstance(data, (str, File)) and str(data).endswith(".json"):
        others = {"minutes": minutes, "condition": condition, "start": start, "training": training, "network": network}
        _alone("a recipe", others | {"reading": reading, "held_out": held_out, "seed": seed or None})
        return repeat(data, labels=labels, out=out, device=device, progress=progress)
    if held_out is not None and not 0 <= held_out < 1:
        raise DataError(f"held_out={held_out:g} must lie in [0, 1): it is the share of records kept from training")
    place = place_of(device)
    parent = None if start is None else start if isinstance(start, Model) else load(start)
    if parent is not None:
        _alone("the run to start from", {"condition": condition, "network": network})
    opened = opened_data(data, labels, reading)
    codec = opened.codec if parent is None else parent.codec
    conditions = conditions_of(opened, codec, condition) if parent is None else parent.conditions
    rows, digest = len(opened.source), opened.source.digest()
    held, split = held_count(rows, held_out), seed
    if parent is not None and parent.recipe.data.digest == digest:  # what the parent was not shown stays unseen, and no more
        held, split = parent.recipe.data.held_out, parent.recipe.data.split
    if progress:
        kept = (
            f"{held} records are kept from training"
            if held
            else "none: with every record trained on, evaluate has none to judge by"
        )
        tell([*opened.describe(), *(() if conditions is None else conditions.describe()), ("held out", kept)])
    feed = feed_of(opened, codec, conditions, held_out_rows(rows, held, split))
    example = example_of(feed, codec)
    data_std = float(example.square().mean().sqrt()) if parent is None else parent.recipe.data_std  # about zero, as noise is
    chosen = defaults(codec, len(feed), () if conditions is None else conditions.columns)
    plan = Recipe(
        data=Data(
            path=str(File(data).expanduser().resolve()) if isinstance(data, (str, File)) else None,
            labels=str(labels) if isinstance(labels, (str, File)) else None,
            reading=dict(reading or {}),
            digest=digest,
            rows=rows,
            held_out=held,
            split=split,
        ),
        codec=Part(name=type(codec).__name__, config=codec.config()),
        conditions=None if conditions is None else conditions.config(),
        network=(
            Part(name=chosen.network.name, config={**chosen.network.config, **(network or {})})
            if parent is None
            else parent.recipe.network
        ),
        schedule=Part(name="EDM", config=asdict(schedules.EDM(sigma_max=hiding_noise(data_std, example[0].numel())))),
        head="edm",
        data_std=data_std,
        times=chosen.times,
        training=_budget(chosen.training, training, minutes),
        start=None if start is None else "a model in memory" if isinstance(start, Model) else str(start),
        seed=seed,
    )
    folder = None if out is None else _new_run(File(out))
    return _run(plan, feed, spectrum(example), folder, place, progress, parent)


def repeat(
    recipe: str | File,
    data: Any = None,
    labels: Any = None,
    *,
    out: str | File | None = None,
    device: str | torch.device | None = None,
    progress: bool = True,
) -> Model:
    """Make a run again from its recipe, or go on with one that was stopped.

    Args:
        recipe: recipe.json of a run. A run that is not finished goes on where its last snapshot was; a finished one is
            made again, in a new folder.
        data: the records, where they were given in memory.
        labels: their labels, likewise.
        out: folder for a run made again; NAME-again beside the run by default.
        device: as in `fit`.
        progress: draw a bar.

    Raises:
        CheckpointError: no recipe, or a damaged one.
        DataError: the data are not those of the recipe.
    """
    file, place = File(recipe), place_of(device)
    try:
        plan = Recipe.from_json(file.read_bytes(), str(file))
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read ({error.strerror}); give the recipe.json of a run") from error
    opened = reopen(plan, data, labels)
    codec, conditions = plan.build_codec(), plan.build_conditions()
    feed = feed_of(opened, codec, conditions, held_out_rows(plan.data.rows, plan.data.held_out, plan.data.split))
    parent = None
    if plan.start is not None:
        parent = load(plan.start) if File(plan.start).is_dir() else None
        if parent is None:
            raise CheckpointError(f"{file} started from {plan.start}, which is no run here; bring it back to repeat the run")
    folder = folder_of(file, out)
    if folder != file.parent:
        _new_run(folder)
        plan = plan.model_copy(update={"measured": {}})
    return _run(plan, feed, spectrum(example_of(feed, codec)), folder, place, progress, parent)


def folder_of(recipe: File, out: str | File | None) -> File:
    """Where `repeat` puts a run: where it is if it is not finished, else into `out`, or NAME-again beside it."""
    if out is not None:
        return File(out)
    finished = (recipe.parent / "model.safetensors").exists()
    return recipe.parent.resolve().with_name(recipe.parent.resolve().name + "-again") if finished else recipe.parent


def place_of(device: str | torch.device | None) -> torch.device:
    """The device asked for, or the best there is.

    Raises:
        DataError: there is no such device here.
    """
    if device is None:
        return best_device()
    try:
        place = torch.device(device)
        torch.empty(0, device=place)
    except (RuntimeError, AssertionError) as error:
        why = str(error).splitlines()[0]
        raise DataError(f"device {str(device)!r} is not here ({why}); this machine's best is {best_device()}") from error
    return place


def _alone(what: str, options: Mapping[str, Any]) -> None:
    """Refuse options where something else says them already."""
    given = [name for name, value in options.items() if value]
    if given:
        raise DataError(f"{what} says {', '.join(given)} already; leave out {', '.join(f'{name}=' for name in given)}")


def _budget(default: Mapping[str, Any], given: Mapping[str, Any] | Settings | None, minutes: float | None) -> dict[str, Any]:
    """Settings as a mapping, with exactly one budget."""
    if isinstance(given, Settings):
        if minutes is not None:
            raise DataError("give minutes=, or training= with its own budget, not both")
        return asdict(given)
    asked = {**default, **(given or {})}
    budgets = [name for name in ("minutes", "steps") if asked.get(name) is not None]
    if minutes is not None and budgets:
        raise DataError(f"give minutes=, or training= with its own budget ({budgets[0]}), not both")
    if not budgets:
        asked["minutes"] = 1.0 if minutes is None else minutes
    try:
        return asdict(settings(asked))
    except ValueError as error:
        raise DataError(f"training: {error}") from error


def _new_run(folder: File) -> File:
    """A folder for a run that is not there yet; made before the training, which a folder that cannot be written would waste.

    Raises:
        DataError: it holds a run already.
    """
    if (folder / "recipe.json").exists():
        if (folder / "model.safetensors").exists():
            raise DataError(f"{folder} holds a finished run; choose another folder")
        raise DataError(
            f"{folder} holds a run that is not finished; go on with it by `undrift fit {folder}/recipe.json`, "
            "or choose another folder"
        )
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _run(
    plan: Recipe,
    feed: Feed,
    eigenvalues: Tensor,
    folder: File | None,
    place: torch.device,
    progress: bool,
    parent: Model | None,
) -> Model:
    """Train what a recipe describes."""
    with forked(plan.seed):
        denoiser = plan.build()
    net = denoiser.modules()[0]
    if parent is not None:
        net.load_state_dict(parent.net.state_dict())
    net.to(place)
    times = gaussian.LogNormalNoise(denoiser.path.schedule, mean=plan.times.mean, std=plan.times.std)
    objective = gaussian.Regression()
    given = plan.settings()
    if not given.resolved:
        given = rehearse(denoiser, net, feed, objective=objective, times=times, settings=given, seed=plan.seed, device=place)
        plan = plan.model_copy(update={"training": asdict(given)})
    group = Group.join(place)
    group.meet()  # every process has found the folder empty before the first one writes
    if folder is not None and is_main():
        write(folder / "recipe.json", plan.to_json())
    ema = Ema(net, given.average)
    levels = Levels.of(times, denoiser, eigenvalues)
    loop = train(
        denoiser, net, ema, feed, objective=objective, times=times, settings=given, seed=plan.seed, device=place,
        state=None if folder is None else folder / "state", digest=plan.digest(), levels=levels,
    )  # fmt: skip
    last = _last(_recorded(show(loop, "fit") if progress else loop, folder))
    done = {
        "steps": last.step,
        "seconds": round(last.seconds, 2),
        "loss": last.loss,
        "below_gaussian": last.levels.below if last.levels else None,
    }
    codec, conditions = plan.build_codec(), plan.build_conditions()
    model = Model(replace(denoiser, net=ema.net.eval()), codec, conditions, plan.model_copy(update={"measured": done}))
    if folder is not None and is_main():
        model.save(folder)
    group.meet()  # whoever returns may load it
    return model


def tell(lines: Sequence[tuple[str, str]], most: int = 24) -> None:
    """What the data were taken for, for people: on stderr, by the first process."""
    if not is_main():
        return
    width = max(len(name) for name, _ in lines[:most])
    for name, text in lines[:most]:
        print(f"  {name:<{width}}  {text}", file=sys.stderr)
    if len(lines) > most:
        print(f"  ... and {len(lines) - most} more lines of the kind", file=sys.stderr)


def best_device() -> torch.device:
    """The fastest device there is; of several graphics cards, the one of this process."""
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def _recorded(loop: Iterator[Progress], folder: File | None) -> Iterator[Progress]:
    """Progress passed on, a line of metrics.jsonl each."""
    if folder is None or not is_main():
        yield from loop
        return
    metrics = Metrics(folder / "metrics.jsonl")
    for state in loop:
        metrics.add(state)
        yield state


def _last(loop: Iterator[Progress]) -> Progress:
    """The last state of a loop."""
    state = next(loop)
    for state in loop:  # noqa: B007 (the last one is wanted)
        pass
    return state
