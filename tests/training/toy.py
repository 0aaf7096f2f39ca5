"""A small training that tests run, kill and go on with, in this process or in others."""

import os
import socket
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import save_file

from undrift import gaussian, schedules
from undrift.networks import MLP
from undrift.training import Ema, Held, Levels, Metrics, Settings, forked, train

PATH = gaussian.Path(schedules.EDM(sigma_max=20.0))


@dataclass
class Toy:
    """What a toy training is made of."""

    settings: Settings
    classes: int | None = 2
    columns: tuple = ()
    dropout: float = 0.1
    width: int = 24
    every: int = 10
    pause: float = 0.0
    seed: int = 7
    model: object = field(init=False)

    def __post_init__(self):
        with forked(3):
            self.net = MLP(2, width=self.width, blocks=2, classes=self.classes, columns=self.columns, dropout=self.dropout)
        generator = torch.Generator().manual_seed(0)
        self.labels = torch.randint(0, 2, (300,), generator=generator)
        self.x = 0.3 * torch.randn(300, 2, generator=generator) + torch.where(self.labels[:, None] == 0, -1.0, 1.0)
        cond = self.labels if self.classes else None
        if self.columns:
            cond = torch.stack([self.labels.float(), self.x[:, 0]], 1)
        self.feed = Slow(self.x, cond, self.pause)
        self.model = gaussian.NetDenoiser(self.net, PATH, "edm", data_std=1.0)
        self.ema = Ema(self.net, self.settings.average)
        self.levels = Levels(torch.tensor([-9.0, -2.0, 0.0, 9.0]), torch.ones(3), torch.ones(3))

    def train(self, state=None, digest="toy", **kwargs):
        given = {"objective": gaussian.Regression(), "times": gaussian.LogNormalNoise(PATH.schedule), "levels": self.levels}
        return train(
            self.model, self.net, self.ema, self.feed, settings=self.settings, seed=self.seed, state=state, digest=digest,
            every=self.every, **{**given, **kwargs},
        )  # fmt: skip

    def weights(self):
        """Network and average, as a dictionary."""
        state = {f"net.{k}": v.clone() for k, v in self.net.state_dict().items()}
        return state | {f"ema.{k}": v.clone() for k, v in self.ema.net.state_dict().items()}


class Slow(Held):
    """Takes its time, so that a kill can hit."""

    def __init__(self, x, cond, pause):
        super().__init__(x, cond)
        self.pause = pause

    def batch(self, rows):
        if self.pause:
            time.sleep(self.pause)
        return super().batch(rows)


def work(folder, toy, rank=0, size=1, port=0):
    """A whole run into a folder, in a process of its own; `final.safetensors` is written at its end."""
    if size > 1:
        os.environ |= {
            "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_WORLD_SIZE": str(size),
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "GLOO_SOCKET_IFNAME": "lo",
        }  # fmt: skip
    torch.set_num_threads(1)
    folder = Path(folder)
    run = Toy(**toy)
    metrics = Metrics(folder / "metrics.jsonl")
    try:
        for state in run.train(folder / "state"):
            if rank == 0:
                metrics.add(state)
    except Exception as error:
        (folder / f"error.{rank}").write_text(f"{type(error).__name__}: {error}")
        raise
    except KeyboardInterrupt as error:
        (folder / f"error.{rank}").write_text(f"{type(error).__name__}: {error}")
        return
    save_file(run.weights(), str(folder / f"final.{rank}.safetensors"))
    if size > 1:
        torch.distributed.destroy_process_group()


def start(folder, toy, size=1):
    """Start `work` in one or several processes, forked from a server that has imported everything."""
    import multiprocessing

    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, "accelerate"])
    port = free_port()
    workers = [context.Process(target=work, args=(str(folder), toy, rank, size, port), daemon=True) for rank in range(size)]
    for worker in workers:
        worker.start()
    return workers


def free_port():
    """A port that nobody listens to."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def finish(workers, seconds=60):
    """Wait for processes; kill what is left."""
    for worker in workers:
        worker.join(seconds)
    kill(workers)
    return [worker.exitcode for worker in workers]


def kill(workers):
    """SIGKILL."""
    for worker in workers:
        worker.kill()
    for worker in workers:
        worker.join(30)
