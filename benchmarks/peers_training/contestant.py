"""One contestant: a network and a mode, trained step by step on request. Lines in, lines of JSON out.

    python contestant.py NETWORK MODE DATA.npz THREADS LEARNING_RATE
    steps N      -> {"seconds": [of each step], "loss": mean}
    held         -> {"held": loss of the moving average on the held-out rows}
    facts        -> {"parameters", "flops", "peak": bytes}

The step is the same code for everybody, with the fastest parts that PyTorch has for it: rows of a uint8 array to floats, the
denoising loss of Karras et al. 2022, backward, clipping, fused AdamW, a moving average by one fused `lerp`.
"""

import contextlib
import ctypes
import gc
import json
import resource
import sys
import time

import numpy as np
import torch
from torch import Tensor, nn

from networks import NETWORKS

BATCH = 32
MEAN, STD = -0.3, 1.0  # of log sigma, pixels in [-1, 1]


class Contestant:
    """A network in training."""

    def __init__(self, network: str, mode: str, data: str, learning_rate: float):
        torch.manual_seed(0)
        images = np.load(data)
        self.train, self.held_out = images["train"], images["held"]
        self.data_std = float(np.sqrt(((self.train[::7] / 127.5 - 1) ** 2).mean()))
        self.net = NETWORKS[network]()
        self.set_up(mode)
        self.parameters = list(self.net.parameters())
        self.average = [p.detach().clone() for p in self.parameters]
        self.optimiser = torch.optim.AdamW(self.parameters, lr=learning_rate, betas=(0.9, 0.99), weight_decay=0.01, fused=True)
        self.learning_rate, self.step = learning_rate, 0
        self.rng, self.order = torch.Generator().manual_seed(1), np.random.default_rng(1)

    def set_up(self, mode: str) -> None:
        """The mode is any of bf16, last, compile, joined by dashes; fp32 is none of them."""
        self.bf16, self.call = "bf16" in mode, self.net
        if "last" in mode:
            self.net.to(memory_format=torch.channels_last)
        if "compile" in mode:
            self.call = torch.compile(self.net, dynamic=False)

    def batch(self, rows: np.ndarray, images: np.ndarray) -> Tensor:
        """Rows of the uint8 array as a batch in [-1, 1]."""
        return torch.from_numpy(images[rows]).permute(0, 3, 1, 2).float().div_(127.5).sub_(1.0)

    def loss(self, x_0: Tensor, rng: torch.Generator) -> Tensor:
        """EDM's loss: the network's own output against its target, per sample."""
        log_sigma = MEAN + STD * torch.randn(len(x_0), generator=rng)
        sigma = log_sigma.exp().view(-1, 1, 1, 1)
        x_t = x_0 + sigma * torch.randn(x_0.shape, generator=rng)
        total = sigma.square() + self.data_std**2
        skip, out = self.data_std**2 / total, sigma * self.data_std / total.sqrt()
        target = (x_0 - skip * x_t) / out
        with torch.autocast("cpu", torch.bfloat16) if self.bf16 else contextlib.nullcontext():
            answer = self.call(x_t / total.sqrt(), log_sigma / 4)
        return (answer.float() - target).square().flatten(1).mean(1)

    def one_step(self) -> Tensor:
        """Everything between two batches."""
        self.step += 1
        for group in self.optimiser.param_groups:
            group["lr"] = self.learning_rate * min(1.0, self.step / 100)
        loss = self.loss(self.batch(self.order.integers(len(self.train), size=BATCH), self.train), self.rng).mean()
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimiser.step()
        share = (1 - 1 / self.step) ** 14
        torch._foreach_lerp_(self.average, [p.detach() for p in self.parameters], 1 - share)
        return loss.detach()

    def steps(self, n: int) -> dict:
        """Train for n steps, timing each."""
        seconds, total = [], 0.0
        for _ in range(n):
            start = time.perf_counter()
            total += float(self.one_step())
            seconds.append(time.perf_counter() - start)
        self.optimiser.zero_grad(set_to_none=True)
        gc.collect()
        with contextlib.suppress(OSError, AttributeError):  # give memory back while others run
            ctypes.CDLL("libc.so.6").malloc_trim(0)
        return {"seconds": seconds, "loss": total / n}

    @torch.no_grad()
    def held(self) -> dict:
        """Loss of the averaged weights on held-out rows, in the mode's own precision; times and noise are everybody's."""
        present = [p.detach().clone() for p in self.parameters]
        torch._foreach_copy_(self.parameters, self.average)
        rng, losses = torch.Generator().manual_seed(2), []
        for rows in np.split(np.arange(len(self.held_out) // BATCH * BATCH), len(self.held_out) // BATCH):
            losses.append(self.loss(self.batch(rows, self.held_out), rng).mean())
        torch._foreach_copy_(self.parameters, present)
        return {"held": float(torch.stack(losses).mean())}

    def facts(self) -> dict:
        """Size, cost and peak memory."""
        from torch.utils.flop_counter import FlopCounterMode

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        with FlopCounterMode(display=False) as flops, torch.no_grad():
            self.net(torch.zeros(1, 3, 32, 32), torch.zeros(1))
        return {"parameters": sum(p.numel() for p in self.parameters), "flops": flops.get_total_flops(), "peak": peak}


def main() -> None:
    network, mode, data, threads, learning_rate = sys.argv[1:]
    torch.set_num_threads(int(threads))
    contestant = Contestant(network, mode, data, float(learning_rate))
    for line in sys.stdin:
        order, *arguments = line.split()
        answer = getattr(contestant, order)(*map(int, arguments))
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
