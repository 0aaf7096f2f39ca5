"""Numbers and measurements in words: what a reader who is no statistician can use.

Numbers keep three significant digits, thousands are separated, what is missing is a dash and never "nan". The verdict is made
of the evidence by the rules that `verdict` states, so that the same evidence always says the same.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

__all__ = [
    "Verdict",
    "alike",
    "cost_rows",
    "duration",
    "gain",
    "key_numbers",
    "meaning",
    "number",
    "percent",
    "short",
    "verdict",
]

DASH = "–"
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")

# What a figure says; the first entry whose key begins the figure's name, in any case.
MEANINGS = {
    "sliced w2": "Distance between the clouds of generated and held-out records: how far mass has to be moved, "
    "over many directions.",
    "frechet": "Distance between means and covariances of a judge's features of generated and held-out records.",
    "judge agreement": "Share of samples in which a classifier that never saw the training data finds the label "
    "that was asked for.",
    "class imbalance": "Share of samples that would have to change their class for the classes to be as frequent "
    "as in held-out data.",
    "memorised": "Share of samples closer to a training record than all but the closest held-out records are. "
    "The floor is what a model that copies nothing shows.",
    "c2st": "How well a classifier tells generated from real records: 0.5 is a guess, 1 is always right.",
    "two-sample": "How well a classifier tells generated from real records: 0.5 is a guess, 1 is always right.",
    "classifier": "How well a classifier tells generated from real records: 0.5 is a guess, 1 is always right.",
    "energy": "Energy distance between generated and held-out records: 0, but for noise, where the two laws are one.",
    "mmd": "Maximum mean discrepancy between generated and held-out records: 0 exactly where the two laws are one.",
    "precision": "Share of samples that lie where real records lie: are samples plausible?",
    "recall": "Share of real records that lie where samples lie: is anything missing?",
    "coverage": "Share of real records that have a sample in their neighbourhood: is anything missing?",
    "density": "How crowded with real records the places are where samples lie: are samples plausible?",
    "column": "Distance between generated and held-out values, one column at a time, averaged over columns.",
    "pair": "How much the associations between pairs of columns differ from those of held-out data.",
    "association": "How much the associations between pairs of columns differ from those of held-out data.",
    "useful": "How well a predictor fitted to generated records does on real ones; the floor is one fitted to real records.",
    "spectrum": "Distance between the power spectra of generated and held-out records.",
}

# Keys of a cost table that have a wording of their own; any other key is shown as it is.
_COSTS = {
    "parameters": "parameters",
    "training_steps": "training steps",
    "training_seconds": "training time",
    "sampling_seconds": "sampling time",
    "network_calls_per_sample": "network calls per sample",
    "samples_per_second": "samples per second",
    "flops_per_call": "operations per network call",
    "peak_memory_mib": "peak memory",
}


def _known(x: Any) -> TypeGuard[float]:
    return isinstance(x, int | float) and not isinstance(x, bool) and math.isfinite(x)


def number(x: Any, digits: int = 3) -> str:
    """A number with its significant digits; whole numbers whole; a dash for None, NaN and infinities.

    Checked by: tests/report/test_words.py::test_numbers
    """
    x = x.item() if hasattr(x, "item") else x
    if not _known(x):
        return DASH
    if isinstance(x, int):
        return f"{x:,}".replace("-", "−")
    if x == 0:
        return "0"
    rounded = float(f"{x:.{digits - 1}e}")
    power = math.floor(math.log10(abs(rounded)))
    if not -4 <= power < 6:
        mantissa = f"{rounded / 10.0**power:.{digits - 1}f}"
        return f"{mantissa} × 10{str(power).translate(_SUPERSCRIPT)}".replace("-", "−")
    return f"{x if power >= digits else rounded:,.{max(0, digits - 1 - power)}f}".replace("-", "−")


def alike(values: Sequence[Any], digits: int = 3) -> list[str]:
    """Numbers with the decimals that the first one has at its significant digits, as an interval beside its value is written.

    Checked by: tests/report/test_words.py::test_an_interval_is_written_like_its_value
    """
    first = number(values[0], digits)
    if first == DASH or "×" in first:
        return [number(v, digits) for v in values]
    decimals = len(first.partition(".")[2])
    return [f"{v:,.{decimals}f}".replace("-", "−") if _known(v) and 1e-4 <= abs(v) < 1e6 else number(v, digits) for v in values]


def percent(x: Any) -> str:
    """A share as a percentage, one decimal below 10 %.

    Checked by: tests/report/test_words.py::test_percentages_and_durations
    """
    if not _known(x):
        return DASH
    value = 100 * x
    return (f"{value:.1f} %" if 0 < abs(value) < 9.95 else f"{value:.0f} %").replace("-", "−")


def duration(seconds: Any) -> str:
    """A time span in the units that people say it in.

    Checked by: tests/report/test_words.py::test_percentages_and_durations
    """
    if not _known(seconds):
        return DASH
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    minutes, hours = whole // 60, whole // 3600
    if minutes == 0:
        return f"{whole} s"
    if hours == 0:
        return f"{minutes} min {whole % 60} s" if minutes < 20 else f"{round(seconds / 60)} min"
    return f"{hours} h {minutes % 60} min"


def short(x: Any) -> str:
    """A count with k, M or G from ten thousand on.

    Checked by: tests/report/test_words.py::test_counts_are_shortened
    """
    if not _known(x) or abs(x) < 10_000:
        return number(x)
    unit, size = next((pair for pair in (("k", 1e3), ("M", 1e6)) if abs(x) < 999.5 * pair[1]), ("G", 1e9))
    return f"{number(float(x / size))} {unit}"


def meaning(name: str, more: Mapping[str, str] | None = None) -> str:
    """What a figure says, in a sentence; empty where nobody has said."""
    for key, text in {**(more or {}), **MEANINGS}.items():
        if name.casefold().startswith(key.casefold()):
            return text
    return ""


def cost_rows(cost: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Name and value of each cost; seconds become durations, nested tables are flattened."""
    rows: list[tuple[str, str]] = []
    for key, value in cost.items():
        if isinstance(value, Mapping):
            rows += [(f"{key}: {name}".replace("_", " "), text) for name, text in cost_rows(value)]
        elif key.endswith("seconds"):
            rows.append((_COSTS.get(key, key.removesuffix("seconds").replace("_", " ").strip() or "time"), duration(value)))
        else:
            text = _cost(key, value)
            rows.append((_COSTS.get(key, key.replace("_", " ")), text))
    return rows


def _cost(key: str, value: Any) -> str:
    if value is None:
        return DASH
    if not isinstance(value, int | float):
        return str(value)
    if key.startswith("flops"):
        return short(value)
    return f"{number(value)} MiB" if key.endswith("_mib") else number(value)


def key_numbers(evidence: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The cards on top: what was judged, what it cost; only what is known."""
    cost = evidence.get("cost") or {}
    cards = [
        ("training records", short(evidence.get("train"))),
        ("held-out records", short(evidence.get("held_out"))),
        ("samples judged", short(evidence.get("samples"))),
        ("training time", duration(cost.get("training_seconds", cost.get("seconds")))),
        ("parameters", short(cost.get("parameters"))),
        ("network calls a sample", number(cost.get("network_calls_per_sample", cost.get("calls")))),
        ("samples a second", number(cost.get("samples_per_second"))),
    ]
    return [(name, text) for name, text in cards if text != DASH]


def gain(metrics: Sequence[Mapping[str, Any]]) -> float | None:
    """Share by which the loss lies below that of the Gaussian denoiser, over the last tenth of the lines; None if unknown.

    Checked by: tests/report/test_words.py::test_the_gain_is_that_of_the_last_tenth
    """
    lines = [line for line in metrics if _known(line.get("loss")) and _known(line.get("gaussian"))]
    last = lines[-max(1, len(lines) // 10) :]
    yardstick = sum(line["gaussian"] for line in last)
    return 1 - sum(line["loss"] for line in last) / yardstick if yardstick > 0 else None


@dataclass(frozen=True)
class Verdict:
    """What the evidence says.

    Attributes:
        tone: "good", "fair", "poor", or "unknown" where nothing was measured.
        head: in a few words.
        sentence: with numbers.
        warning: empty, or what must not be overlooked.
    """

    tone: str
    head: str
    sentence: str
    warning: str = ""


def verdict(evidence: Mapping[str, Any] | None, metrics: Sequence[Mapping[str, Any]] = ()) -> Verdict:
    """The evidence in plain words.

    1. *Distance.* The first figure of which lower is better, whose floor is positive, and which is no share (nor the energy
       distance, whose floor is 0 but for noise); one with a Gaussian baseline is preferred. It is told as a multiple of the
       floor, which is what real data reaches.
       Good: its interval reaches the floor, or it has gone at least 80 % of the way from the Gaussian baseline to the floor.
       Poor: less than 20 % of that way. Fair: between. Without a baseline that lies above the floor, good is up to 1.25 times
       the floor, fair up to 3 times.
       A classifier that tells samples from real records (the figure "C2ST...") has a say: while its interval lies above a
       guess, samples are "close to real data" at best, and fair at best where it is right three times in four.
       A figure on which the best Gaussian does better, its interval included, is named, and makes good fair.
    2. *Memorisation.* A warning if the lower end of the interval of the figure "memorised..." lies above its floor, the
       expected share; without an interval, if it is more than twice the floor. A warning makes any verdict poor:
       a copier, too, is close to real data.
    3. *Loss.* By how much it lies below that of the best Gaussian denoiser (see `gain`).

    Checked by: tests/report/test_words.py::test_the_verdict_follows_its_rules
    """
    figures = list((evidence or {}).get("figures") or [])
    tone, head, parts = "unknown", "Not judged yet", []
    distance = _distance(figures)
    if distance is not None:
        tone, head, said = _told(distance)
        parts.append(said)
        told = next((f for f in figures if str(f.get("name")).startswith("C2ST") and _known(f.get("value"))), None)
        if told is not None and (told["low"] if _known(told.get("low")) else told["value"]) > 0.5:
            parts.append(f"A classifier tells them apart in {percent(told['value'])} of cases; a guess is 50 %.")
            if tone == "good":
                tone, head = ("fair", "Told apart by a classifier") if told["value"] > 0.75 else (tone, "Close to real data")
    behind = [str(figure["name"]) for figure in figures if _behind(figure)]
    if behind:
        parts.append(f"A Gaussian does better in {_listed(behind)}.")
        if tone == "good":
            tone, head = "fair", f"Close to real data, but not in {_listed(behind)}"
    below = gain(metrics)
    if below is not None:
        side = f"{percent(below)} below" if below >= 0 else f"{percent(-below)} above"
        parts.append(f"The training loss is {side} that of the best Gaussian denoiser.")
    warning, calm = _memorised(figures)
    if warning:
        tone, head = "poor", f"{head}, but training records are repeated" if tone == "good" else head
    return Verdict(tone, head, " ".join([*parts, calm] if calm else parts) or "There is no evidence for this run yet.", warning)


def _distance(figures: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    fit = [
        figure
        for figure in figures
        if figure.get("better") == "lower"
        and figure.get("unit") != "share"
        and not str(figure.get("name")).casefold().startswith(("memor", "energy"))
        and _known(figure.get("value"))
        and _known(figure.get("floor"))
        and figure["floor"] > 0
    ]
    return next((figure for figure in fit if _known(figure.get("baseline"))), fit[0] if fit else None)


def _behind(figure: Mapping[str, Any]) -> bool:
    """Whether the Gaussian baseline does better on a figure, even by the kinder end of its interval."""
    if str(figure.get("name")).casefold().startswith("memor") or not _known(figure.get("value")):
        return False
    floor, baseline, lower = figure.get("floor"), figure.get("baseline"), figure.get("better") == "lower"
    if not _known(baseline) or not _known(floor) or figure.get("better") not in ("lower", "higher"):
        return False
    end = figure.get("low" if lower else "high")
    kind = end if _known(end) else figure["value"]
    return kind > baseline > floor if lower else kind < baseline < floor


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _told(figure: Mapping[str, Any]) -> tuple[str, str, str]:
    """Tone, head and sentence of a distance."""
    value, floor, baseline = figure["value"], figure["floor"], figure.get("baseline")
    low = figure.get("low") if _known(figure.get("low")) else value
    times, name = value / floor, figure["name"]
    useful = _known(baseline) and baseline > floor
    other = f"; the Gaussian baseline is {number(baseline / floor)} times" if useful else ""
    if min(low, value) <= floor:
        said = f"By {name}, samples are as close to held-out data as real data is ({number(times)} times the floor){other}."
        return "good", "As close as real data", said
    said = f"By {name}, samples are {number(times)} times the floor away from held-out data{other}."
    if useful:
        way = (baseline - value) / (baseline - floor)
        if way >= 0.8:
            return "good", "Close to real data", said
        if way >= 0.2:
            return "fair", "On the way from a Gaussian to real data", said
        return "poor", "Hardly better than a Gaussian", said
    if times <= 1.25:
        return "good", "Close to real data", said
    return ("fair", "Not far from real data", said) if times <= 3 else ("poor", "Far from real data", said)


def _memorised(figures: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    """Warning, or a calm sentence; both empty where it was not measured."""
    for figure in figures:
        value, floor = figure.get("value"), figure.get("floor")
        if str(figure.get("name")).casefold().startswith("memor") and _known(value) and _known(floor):
            low = figure.get("low")
            if low > floor if _known(low) else value > 2 * floor:
                return (
                    f"{percent(value)} of the samples lie as close to a training record as only {percent(floor)} of new "
                    "records would: the model repeats its training data. Train it for less long, or on more data.",
                    "",
                )
            return "", "There is no sign that training records are repeated."
    return "", ""
