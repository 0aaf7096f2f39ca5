"""One step of training, the same for the loop, for the rehearsal and for doing a step again to see why it failed.

    draw (rows, times, noise, silence, mirrors) -> loss of each micro-batch -> gradient -> clip -> AdamW -> moving average

Everything random in step k is counted from (seed, k), see `draws`: times and silence are drawn for the global batch, noise for
its slots, so neither micro-batches nor processes change them. Dropout alone has a stream for each (step, process, micro-batch).

Checked by: tests/training/test_step.py, tests/training/test_flips.py, tests/training/test_loop.py,
    tests/training/test_distributed.py
"""

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from undrift.codecs.conditions import silenced
from undrift.core import Shared, out_of_memory
from undrift.errors import DataError, OutOfMemory
from undrift.networks.embed import split
from undrift.training.diagnosis import StepRecord
from undrift.training.draws import Slots, counted, forked
from undrift.training.ema import Ema
from undrift.training.feed import Batch
from undrift.training.group import Group
from undrift.training.levels import Levels
from undrift.training.precision import computing
from undrift.training.settings import Settings

__all__ = ["Trainer"]


class _Loss(nn.Module):
    """Loss of each sample, as a module that holds the network: what wraps it sees all of its gradients."""

    def __init__(self, model: Any, net: nn.Module, objective: Any):
        super().__init__()
        self.net = net
        self._asked = (model, objective)  # in a tuple: a model that is a module itself is not to be registered

    def forward(self, x: Tensor, cond: Tensor | None, t: Tensor, rng: Any) -> Tensor:
        """Shape (B,)."""
        model, objective = self._asked
        return objective(model if cond is None else model.given(cond), x, t, rng)


class Trainer:
    """A network, its optimiser and its moving average, and how a step changes them.

    Args:
        model: a denoiser that holds `net`; with conditions, a conditional model.
        net: the network.
        ema: its moving average.
        objective: loss per sample.
        times: law of training times.
        settings: how; the precision is chosen.
        seed: of everything random.
        group: the processes.

    Attributes:
        accumulate: micro-batches in a step; doubled when memory runs out.
        note: what people should be told of, once.

    Raises:
        DataError: a batch that the processes and micro-batches do not divide; parameters on another device.
    """

    def __init__(
        self, model: Any, net: nn.Module, ema: Ema, *, objective: Any, times: Any, settings: Settings, seed: int, group: Group
    ):
        parts = group.size * settings.accumulate
        if settings.batch % parts:
            raise DataError(
                f"batch={settings.batch} cannot be shared by {group.size} processes in accumulate={settings.accumulate} parts "
                f"each; make it a multiple of {parts}"
            )
        net.to(group.device)
        ema.to(group.device)
        self.model, self.net, self.ema, self.times, self.settings, self.seed = model, net, ema, times, settings, seed
        self.group, self.accumulate, self.note = group, settings.accumulate, ""
        self.local = settings.batch // group.size
        self.parameters = [p for p in net.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in self.parameters if p.ndim >= 2], "weight_decay": settings.weight_decay},
            {"params": [p for p in self.parameters if p.ndim < 2], "weight_decay": 0.0},
        ]
        fused = group.device.type in ("cpu", "cuda", "mps")
        self.optimiser = torch.optim.AdamW(groups, lr=settings.learning_rate, betas=(0.9, 0.99), fused=fused)
        if hasattr(net, "checkpoint") and settings.checkpoint:
            net.checkpoint = True  # pyright: ignore[reportArgumentType]
        elif settings.checkpoint:
            raise DataError(f"{type(net).__name__} cannot drop its activations (it has no `checkpoint`); set checkpoint=False")
        if settings.compile:
            net.compile()  # in place: names of weights stay as they are
        self.loss = group.wrapped(_Loss(model, net, objective))

    def close(self) -> None:
        """Give the network back as it came."""
        self.optimiser.zero_grad(set_to_none=True)
        if self.settings.compile:
            self.net._compiled_call_impl = None
        self.net.eval()

    def mine(self, rows: Any) -> Any:
        """This process's slice of a global batch."""
        return rows[self.group.rank * self.local : (self.group.rank + 1) * self.local]

    def step(self, number: int, batch: Batch, levels: Levels | None = None) -> StepRecord:
        """Do a step, counted from 0, on this process's slice of the batch.

        Raises:
            OutOfMemory: memory is used up by a single sample, or in one of several processes.
            DataError: flips are asked for, and the records are vectors.
        """
        rows, x, cond = batch
        seed = counted(self.seed, "step", number)
        whole = Shared(counted(seed, "times"))
        t = self.mine(self.times.sample(self.settings.batch, whole))
        if self.settings.flips:
            x, cond = self._mirrored(x, cond, seed)
        if cond is not None:
            cond = self._silent(cond, seed).to(self.group.device, non_blocking=True)
        x = x.to(self.group.device, non_blocking=True)
        losses = self._gradient(number, seed, x, cond, t)
        norm = nn.utils.clip_grad_norm_(self.parameters, self.settings.clip)
        rate = self.settings.rate(number)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.optimiser.step()
        self.ema.update()
        schedule = getattr(getattr(self.model, "path", None), "schedule", None)
        log_noise = t if schedule is None else -0.5 * schedule.log_snr(t)
        if levels is not None:
            levels.add(log_noise, losses)
        return StepRecord(rows, x, log_noise, losses, norm, rate)

    def _slots(self, seed: int, what: str) -> Slots:
        """Randomness for this process's slice of the batch."""
        return Slots(counted(seed, what), self.group.rank * self.local, (self.group.rank + 1) * self.local)

    def _mirrored(self, x: Tensor, cond: Tensor | None, seed: int) -> tuple[Tensor, Tensor | None]:
        """Records, half of which are mirrored along their last axis, and a grid that conditions them with them."""
        if x.ndim < 3:
            raise DataError(
                "flips=True mirrors records along their last axis, and vectors have no mirror image; set flips=False"
            )
        chosen = self._slots(seed, "flips").uniform((len(x),), dtype=torch.float32) < 0.5

        def some(values: Tensor) -> Tensor:
            return torch.where(chosen.reshape(-1, *[1] * (values.ndim - 1)), values.flip(-1), values)

        image = getattr(self.net, "image", 0)
        if cond is None or not image:
            return some(x), cond
        told, grid = split(cond, getattr(self.net, "columns", ()), image, x)
        assert grid is not None
        return some(x), some(grid) if told is None else torch.cat([told, some(grid).flatten(1)], 1)

    def _silent(self, cond: Tensor, seed: int) -> Tensor:
        """Conditions, some of which say nothing."""
        rng = self._slots(seed, "silence")
        share = self.settings.label_dropout
        if cond.is_floating_point() and cond.ndim == 2:
            told = len(getattr(self.net, "columns", ())) if getattr(self.net, "image", 0) else cond.shape[1]
            grid = cond.shape[1] - told  # a grid of numbers is one entry: seen or not seen as a whole
            u = rng.uniform((len(cond), told + (grid > 0) + 2), dtype=torch.float32)
            hidden = silenced(torch.zeros(len(cond), told + (grid > 0)), u, share).isnan()
            hidden = torch.cat([hidden[:, :told], hidden[:, told:].expand(-1, grid)], 1)
            return torch.where(hidden.to(cond.device), torch.nan, cond)
        silent = rng.uniform((len(cond),), dtype=torch.float32) < share
        null = self.model.null(cond[:1])
        return torch.where(silent.reshape(-1, *[1] * (cond.ndim - 1)), null, cond)

    def _gradient(self, number: int, seed: int, x: Tensor, cond: Tensor | None, t: Tensor) -> Tensor:
        """Losses (B,), with their mean's gradient in the parameters; micro-batches are halved until they fit memory."""
        while True:
            try:
                return self._accumulated(number, seed, x, cond, t)
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
                self._halve(error)
            # Outside of `except`: there the traceback would hold on to the activations.
            self.optimiser.zero_grad(set_to_none=True)
            if self.group.device.type == "cuda":
                torch.cuda.empty_cache()

    def _halve(self, error: BaseException) -> None:
        size = -(-self.local // self.accumulate)
        if self.group.size > 1:
            raise OutOfMemory(
                f"out of memory with {size} samples at once in process {self.group.rank} of {self.group.size}; start again "
                f"with accumulate={2 * self.accumulate}, which gives the same result"
            ) from error
        if size == 1:
            raise OutOfMemory(
                "out of memory with a single sample at once; choose a smaller network, smaller records, checkpoint=True or "
                'precision="bfloat16"'
            ) from error
        self.accumulate *= 2
        self.note = (
            f"out of memory: {-(-self.local // self.accumulate)} samples at once from here on, {self.local} a step as before"
        )

    def _accumulated(self, number: int, seed: int, x: Tensor, cond: Tensor | None, t: Tensor) -> Tensor:
        self.optimiser.zero_grad(set_to_none=True)
        size = -(-len(x) // self.accumulate)
        first, losses = self.group.rank * self.local, []
        for start in range(0, len(x), size):
            part = slice(start, min(start + size, len(x)))
            rng = Slots(counted(seed, "noise"), first + part.start, first + part.stop, self.group.device)
            last = part.stop == len(x)
            with nullcontext() if last or self.group.size == 1 else self.loss.no_sync():  # pyright: ignore[reportCallIssue]
                with (
                    forked(counted(seed, "dropout", self.group.rank, start), self.group.device),
                    computing(self.settings.precision, self.group.device),
                ):
                    loss = self.loss(x[part], None if cond is None else cond[part], t[part], rng)
                (loss.sum() / len(x)).backward()
            losses.append(loss.detach())
        return torch.cat(losses)

    def state(self) -> dict[str, Tensor]:
        """Copies, on the CPU, of everything that a step changes; `ema.step` and `accumulate` apart."""
        state = {f"net.{name}": value for name, value in self.net.state_dict().items()}
        state |= {f"ema.{name}": value for name, value in self.ema.net.state_dict().items()}
        for name, parameter in self.net.named_parameters():
            state |= {f"adam.{key}.{name}": value for key, value in self.optimiser.state.get(parameter, {}).items()}
        return {
            name: torch.empty_like(v, device="cpu", memory_format=torch.contiguous_format).copy_(v.detach())
            for name, v in state.items()
        }

    @torch.no_grad()
    def restore(self, state: dict[str, Tensor]) -> None:
        """Put back what `state` gave.

        Raises:
            KeyError: something is missing.
            RuntimeError: a tensor has another shape.
        """
        for prefix, net in (("net.", self.net), ("ema.", self.ema.net)):
            for name, value in net.state_dict().items():
                if value.shape != state[prefix + name].shape:
                    raise RuntimeError(
                        f"{name} has shape {tuple(value.shape)} here and {tuple(state[prefix + name].shape)} there"
                    )
                value.copy_(state[prefix + name])
        self.optimiser.state.clear()
        for name, p in self.net.named_parameters():
            if f"adam.step.{name}" in state:
                moments = {key: torch.zeros_like(p).copy_(state[f"adam.{key}.{name}"]) for key in ("exp_avg", "exp_avg_sq")}
                self.optimiser.state[p] = {"step": state[f"adam.step.{name}"].to(p.device, copy=True), **moments}
