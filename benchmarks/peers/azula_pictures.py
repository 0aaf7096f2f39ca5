"""azula: its `UNet` in a `KarrasDenoiser`, its schedules and samplers; label and time enter as in its MNIST tutorial.

azula has no training loop and no moving average; both are PyTorch's own (`torch.optim.swa_utils.AveragedModel`).
`torchvision`, which azula's metadata asks for, is used by none of the modules imported here and is not installed.
"""

import azula.noise
import azula.sample
import torch
from azula.denoise import KarrasDenoiser
from azula.nn.unet import UNet
from interface import Task, cosine, layout, read_task
from torch import nn
from torch.optim.swa_utils import AveragedModel

RECIPE = {
    "channels": [32, 64],
    "blocks": [1, 2],
    "norm": "layer",
    "ffn_factor": 1,
    "embedding": 64,
    "dropout": None,
    "schedule": "VPSchedule",
    "standardise": True,
    "channels_last": True,
    "lr": 2e-3,
    "batch": 64,
    "ema_power": 0.75,
    "sampler": "xEAB",
}

SAMPLERS = {
    "DDIM": lambda d, n: azula.sample.DDIMSampler(d, steps=n, silent=True),
    "DDPM": lambda d, n: azula.sample.DDPMSampler(d, steps=n, silent=True),
    "xEAB": lambda d, n: azula.sample.xEABSampler(d, order=2, steps=n, silent=True),
    "zEAB": lambda d, n: azula.sample.zEABSampler(d, order=2, steps=n, silent=True),
    "Heun": lambda d, n: azula.sample.HeunSampler(d, steps=n // 2, silent=True),
}


class Backbone(nn.Module):
    """UNet modulated by the sum of a label embedding and a time embedding, as in azula's tutorial."""

    def __init__(self, r: dict) -> None:
        super().__init__()
        self.unet = UNet(
            1,
            1,
            hid_channels=r["channels"],
            hid_blocks=r["blocks"],
            norm=r["norm"],
            ffn_factor=r["ffn_factor"],
            dropout=r["dropout"],
            mod_features=r["embedding"],
        )
        self.label = nn.Embedding(10, r["embedding"])
        self.time = nn.Sequential(nn.Linear(1, r["embedding"]), nn.SiLU(), nn.Linear(r["embedding"], r["embedding"]))

    def forward(self, x_t, log_snr_t, label):
        """Output of the same shape as x_t, (B, 1, H, W)."""
        return self.unet(x_t, self.label(label) + self.time(log_snr_t[..., None]))


def train(task: Task) -> tuple[KarrasDenoiser, float, float]:
    r = task.recipe
    mean, std = (float(task.images.mean()), float(task.images.std())) if r["standardise"] else (0.0, 1.0)
    denoiser = KarrasDenoiser(layout(Backbone(r), r["channels_last"]), getattr(azula.noise, r["schedule"])())
    optimizer = torch.optim.AdamW(denoiser.parameters(), lr=r["lr"], weight_decay=1e-4)

    @torch.no_grad()
    def average(averaged, current, count):
        torch._foreach_lerp_(averaged, current, float((1 + count) ** -r["ema_power"]))

    ema = AveragedModel(denoiser, multi_avg_fn=average)
    denoiser.train()
    for used, x, y in task.batches(r["batch"]):
        for group in optimizer.param_groups:
            group["lr"] = r["lr"] * cosine(used)
        denoiser.loss((x - mean) / std, torch.rand(len(x)), label=y).backward()
        torch.nn.utils.clip_grad_norm_(denoiser.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        ema.update_parameters(denoiser)
    return ema.module.eval(), mean, std


@torch.no_grad()
def sample(task: Task, denoiser: KarrasDenoiser, mean: float, std: float) -> torch.Tensor:
    sampler = SAMPLERS[task.recipe["sampler"]](denoiser, task.calls)
    return torch.cat([sampler(sampler.init((len(y), *task.images.shape[1:])), label=y) * std + mean for y in task.chunks()])


if __name__ == "__main__":
    task = read_task(RECIPE)
    denoiser, mean, std = train(task)
    task.count_calls(denoiser.backbone)
    task.save(sample(task, denoiser, mean, std), "azula")
