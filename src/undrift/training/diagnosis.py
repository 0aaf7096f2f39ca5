r"""Why a loss became NaN or infinite: found by doing the steps again, one at a time, watched.

Training never asks whether a single step is finite, which would wait for the device each time. It notices at a report, goes
back to its last good state, and hands over a function that does one step again. Randomness that is counted (a stream for each
step) makes the second time the same as the first, so what went wrong then goes wrong now, this time under hooks:

    def again(step: int) -> StepRecord:      # the whole step: batch, forward, backward, clip, optimiser
        ...
        return StepRecord(rows=rows, data=x, log_noise=log_noise, losses=losses.detach(), gradient_norm=norm, learning_rate=lr)

    restore(snapshot)                         # the state after step `first - 1`
    raise NonFiniteError(explain(again, first, last, net))

`first..last` are the numbers of the steps to do again, both included; `gradient_norm` is the norm before clipping (what
`clip_grad_norm_` returns), `losses` are one for each sample and `net` is the plain network whose modules are to be named (not
a compiled wrapper). `explain` calls `again(first)`, `again(first + 1)`, ... and stops at the first step in which the data, a
loss or the gradient is not finite. The causes it tells apart, in the order in which it looks:

1. the data of the batch hold NaN or infinity;
2. a module answered finite input with NaN or infinity: an overflow of its precision, a logarithm of a negative number, ...;
3. weights that the step before made non-finite;
4. a loss that overflowed where the network did not, or a gradient that is not finite where the loss is.

If the gradient had grown many times over before, the learning rate is named as the cause.

Checked by: tests/training/test_diagnosis.py
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["StepRecord", "explain"]

_ROSE = 10.0
"""A gradient that grew by this factor was not noise of the batch: over batches of one training it varies by 2 or 3."""

_NAMED = 5
"""Rows named one by one; of more, the first few and how many."""


@dataclass(frozen=True)
class StepRecord:
    """One step of training, done again.

    Attributes:
        rows: which records were in the batch, shape (B,), integers.
        data: the batch as the network was trained on it, shape (B, *E).
        log_noise: log(sigma / alpha) of each sample, shape (B,).
        losses: unreduced loss, shape (B,), head units.
        gradient_norm: before clipping.
        learning_rate: of this step.
    """

    rows: Any
    data: Tensor
    log_noise: Tensor
    losses: Tensor
    gradient_norm: Any
    learning_rate: float


@dataclass
class _Culprit:
    """The first module that answered with NaN or infinity."""

    name: str
    kind: str
    dtype: torch.dtype
    largest: float
    clean_input: bool
    value: str


def explain(step: Callable[[int], StepRecord], first: int, last: int, net: nn.Module) -> str:
    """Do the steps again, and say in which one training broke, and why.

    Args:
        step: does one whole step again, given its number, and says what happened.
        first: the first step to do again.
        last: the last one, in or before which the loss became non-finite.
        net: the network, for the names of its modules.

    Returns:
        Sentences for an error message: the step, the rows and the noise level, the cause, the cure.

    Checked by: tests/training/test_diagnosis.py
    """
    norms: list[float] = []
    losses: list[float] = []
    for number in range(first, last + 1):
        broken = [name for name, p in net.named_parameters() if not bool(torch.isfinite(p).all())]
        with _watched(net) as seen:
            record = step(number)
        norm = float(record.gradient_norm)
        sick = not bool(torch.isfinite(record.data).all())
        if sick or not bool(torch.isfinite(record.losses).all()) or not math.isfinite(norm):
            rise = "" if sick else _rise(norms, losses, record.learning_rate)
            why = _cause(record, norm, seen, broken, net, bool(rise))
            return f"training broke at step {number}. {why}{rise}"
        norms.append(norm)
        losses.append(float(record.losses.mean()))
    return (
        f"training broke between steps {first} and {last}, and doing them again from the last good state went well: the cause "
        "is not in data or settings but in the computation (a device that errs, or kernels that do not repeat themselves); "
        "go on from the last snapshot, and try another device or torch.use_deterministic_algorithms(True) if it comes back"
    )


def _cause(record: StepRecord, norm: float, seen: list[_Culprit], broken: list[str], net: nn.Module, rose: bool) -> str:
    bad = ~torch.isfinite(record.data).flatten(1).all(1)
    if bool(bad.any()):
        return (
            f"The data hold NaN or infinity: {_rows(record, bad)}. Drop or repair these records, or let the codec fill what is "
            "missing."
        )
    lost = ~torch.isfinite(record.losses)
    if broken:
        return (
            f"The weights {_few(broken)} were no longer finite before it: the update of the step before made them so, from "
            "finite gradients; lower the learning rate."
        )
    if seen:
        where = _module(seen[0], lower=not rose)
        return f"{where} This was for {_rows(record, lost)}." if bool(lost.any()) else where
    if bool(lost.any()):
        return (
            f"The network's answer is finite and the loss is not, for {_rows(record, lost)}: its square overflows. Look for "
            "extreme values in these records, or train in float32."
        )
    named = [name for name, p in net.named_parameters() if p.grad is not None and not bool(torch.isfinite(p.grad).all())]
    largest = int(record.losses.argmax())
    return (
        f"The loss is finite and its gradient is not (norm {norm}), in {_few(named) or 'no single weight'}: look there for a "
        "square root or a norm at 0, a division by a small number, or a precision that overflows on the way back. The largest "
        f"loss was {float(record.losses[largest]):.3g}, of {_rows(record, _one(record.losses, largest))}."
    )


def _module(culprit: _Culprit, lower: bool) -> str:
    """What the first module to fail tells."""
    name = f"Module {culprit.name!r} ({culprit.kind})"
    precision = str(culprit.dtype).removeprefix("torch.")
    if not culprit.clean_input:
        return (
            f"{name} was the first to answer with {culprit.value} (in {precision}), and what it was given was not finite "
            "either: look at the operations just before it, in the module that holds it."
        )
    text = f"{name} was the first to answer finite input (at most {culprit.largest:.3g}) with {culprit.value}, in {precision}."
    limit = torch.finfo(culprit.dtype).max
    if culprit.dtype in (torch.float16, torch.bfloat16):
        kept = "" if culprit.dtype == torch.bfloat16 else ", or in bfloat16"
        return f"{text} That precision ends at {limit:.3g}: an overflow. Train in float32{kept}, or normalise what enters it."
    if culprit.value == "NaN":
        return f"{text} Look there for a logarithm or a root of a negative number, or a 0 / 0."
    return f"{text} An overflow: {'lower the learning rate, or ' if lower else ''}normalise what enters it."


def _rise(norms: list[float], losses: list[float], learning_rate: float) -> str:
    """What the gradients did before, if they grew."""
    if len(norms) < 2:
        return ""
    usual = sorted(norms[: max(1, len(norms) // 2)])[max(1, len(norms) // 2) // 2]
    factor = max(norms[-3:]) / usual if usual > 0 else math.inf
    if not factor >= _ROSE:
        return ""
    return (
        f" Before it the gradient grew by a factor of {factor:.3g} (norm {usual:.3g} to {max(norms[-3:]):.3g}) and the loss "
        f"went from {losses[0]:.3g} to {losses[-1]:.3g}: the learning rate ({learning_rate:.3g}) is too high; try a tenth."
    )


def _rows(record: StepRecord, which: Tensor) -> str:
    """Rows and noise levels in words: 'row 17 (noise level sigma/alpha = 0.02)'."""
    chosen = torch.nonzero(which.cpu()).flatten().tolist()
    rows = torch.as_tensor(record.rows).flatten().tolist()
    noise = record.log_noise.detach().double().exp().flatten().tolist()
    if len(chosen) == len(rows) > _NAMED:
        return f"all {len(rows)} samples of the batch (noise levels sigma/alpha {min(noise):.3g} to {max(noise):.3g})"
    named = ", ".join(f"row {rows[i]} (noise level sigma/alpha = {noise[i]:.3g})" for i in chosen[:_NAMED])
    return named + (f" and {len(chosen) - _NAMED} more of {len(rows)}" if len(chosen) > _NAMED else "")


def _one(like: Tensor, index: int) -> Tensor:
    chosen = torch.zeros(len(like), dtype=torch.bool)
    chosen[index] = True
    return chosen


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


@contextmanager
def _watched(net: nn.Module) -> Iterator[list[_Culprit]]:
    """Notes, in a list, the first module whose answer is not finite."""
    seen: list[_Culprit] = []
    hooks = [
        module.register_forward_hook(partial(_note, seen, name or "the network itself"), with_kwargs=True)
        for name, module in net.named_modules()
    ]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def _note(seen: list[_Culprit], name: str, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
    if seen:
        return
    for answer in _tensors(output):
        wrong = ~torch.isfinite(answer)
        if bool(wrong.any()):
            given = _tensors((args, kwargs))[:1]  # the states; NaN in a condition says that it is not asked for
            known = [x.detach()[torch.isfinite(x)].abs() for x in given]
            clean = all(len(k) == x.numel() for k, x in zip(known, given, strict=True))
            largest = max((float(k.max()) for k in known if len(k)), default=0.0)
            value = "NaN" if bool(answer.isnan().any()) else "infinity"
            seen.append(_Culprit(name, type(module).__name__, answer.dtype, largest, clean, value))
            return


def _tensors(tree: Any) -> list[Tensor]:
    """Floating tensors in nested tuples, lists and mappings."""
    if isinstance(tree, Tensor):
        return [tree] if tree.is_floating_point() else []
    if isinstance(tree, dict):
        tree = list(tree.values())
    return [x for part in tree for x in _tensors(part)] if isinstance(tree, (tuple, list)) else []
