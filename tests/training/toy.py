"""A small training that tests run, kill and go on with, in this process or in others."""

import os
import sys
import tempfile
import time
from dataclasses import dataclass, field
from datetime import timedelta
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


def work(folder, toy, rank=0, size=1, meeting=""):
    """A whole run into a folder, in a process of its own; `final.safetensors` is written at its end."""
    torch.set_num_threads(1)
    if size > 1:
        join(rank, size, meeting)
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


def join(rank, size, meeting):
    """Meet the other processes at a file: a port that was free a moment ago may be taken by another test."""
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0", "GLOO_SOCKET_IFNAME": "lo",
    }  # fmt: skip
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{meeting}", rank=rank, world_size=size, timeout=timedelta(seconds=90)
    )


def start(folder, toy, size=1):
    """Start `work` in one or several processes, forked from a server that has imported everything."""
    meeting = tempfile.mktemp(prefix="meeting", dir=folder)
    return started(work, [(str(folder), toy, rank, size, meeting) for rank in range(size)])


def draw(folder, n, rank, size, meeting):
    """Draw from the run in a folder: noise and samples of seed 3, gathered, in a file for each process."""
    import undrift as ud
    from undrift.core import PerSample
    from undrift.training import gathered, my_rows

    torch.set_num_threads(1)
    join(rank, size, meeting)
    model, rows = ud.load(folder), my_rows(n)
    noise = model.denoiser.path.prior(torch.empty(len(rows), *model.codec.event_shape)).sample(PerSample(3, rows))
    kept = {"noise": gathered(noise, n), "states": gathered(model.states(n, steps=4, seed=3, rows=rows), n)}
    save_file(kept, str(Path(folder) / f"drawn.{n}.{rank}.safetensors"))
    torch.distributed.destroy_process_group()


def started(function, arguments):
    """Start processes, one for each tuple of arguments."""
    import multiprocessing

    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, "accelerate", "torch._dynamo"])  # the last one by the first step of AdamW
    kept = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(p for p in sys.path if p)  # else the server silently preloads nothing
    try:
        workers = [context.Process(target=function, args=some, daemon=True) for some in arguments]
        for worker in workers:
            worker.start()
    finally:
        os.environ.pop("PYTHONPATH") if kept is None else os.environ.update(PYTHONPATH=kept)
    return workers


def finish(workers, seconds=120):
    """Wait for processes; kill what is left. Gives exit codes."""
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
