"""k-diffusion: its `image_v1` U-Net in its Karras `Denoiser`, its noise-level densities, moving average and samplers.

`import k_diffusion` runs `evaluation` and `augmentation`, which need torchvision, CLIP, clean-fid and scikit-image,
none of which train or sample anything here. So the package's `__init__` is skipped (the sub-modules are imported from
their own files, unchanged), and the one torchvision name that `k_diffusion.utils` imports, for saving PNG files, is an
empty module. The label enters through `mapping_cond`, one-hot.
"""

import importlib.util
import sys
import types
from copy import deepcopy

import torch
from interface import Task, cosine, layout, read_task
from torch.nn import functional as F

package = types.ModuleType("k_diffusion")
package.__path__ = list(importlib.util.find_spec("k_diffusion").submodule_search_locations)
sys.modules["k_diffusion"] = package
for name in ("torchvision", "torchvision.transforms"):
    sys.modules[name] = types.ModuleType(name)
sys.modules["torchvision.transforms"].functional = types.ModuleType("torchvision.transforms.functional")

from k_diffusion import layers, sampling, utils  # noqa: E402
from k_diffusion.models import ImageDenoiserModelV1  # noqa: E402

RECIPE = {
    "channels": [32, 64],
    "depths": [1, 2],
    "attention": [False, True],
    "mapping": 128,
    "dropout": 0.0,
    "weighting": "karras",
    "density": "lognormal",
    "sigma_min": 1e-2,
    "sigma_max": 80,
    "channels_last": True,
    "lr": 2e-3,
    "batch": 64,
    "ema_power": 0.75,
    "sampler": "dpmpp_2m",
}


def train(task: Task) -> layers.Denoiser:
    r = task.recipe
    sigma_data = float(task.images.std())
    inner = ImageDenoiserModelV1(
        1, r["mapping"], r["depths"], r["channels"], r["attention"], mapping_cond_dim=10, dropout_rate=r["dropout"]
    )
    inner = layout(inner, r["channels_last"])
    model = layers.Denoiser(inner, sigma_data=sigma_data, weighting=r["weighting"])
    averaged = deepcopy(model)
    groups = inner.param_groups(r["lr"])
    optimizer = torch.optim.AdamW(groups, lr=r["lr"], betas=(0.95, 0.999), eps=1e-6, weight_decay=1e-3)
    warm_up = utils.EMAWarmup(power=r["ema_power"], max_value=0.9999)
    model.train()
    for used, x, y in task.batches(r["batch"]):
        for group in optimizer.param_groups:
            group["lr"] = r["lr"] * cosine(used)
        with utils.enable_stratified():
            if r["density"] == "lognormal":
                sigma = utils.rand_log_normal((len(x),), loc=-1.2, scale=1.2)
            else:
                sigma = utils.rand_v_diffusion((len(x),), sigma_data, r["sigma_min"], r["sigma_max"])
        model.loss(x, torch.randn_like(x), sigma, mapping_cond=F.one_hot(y, 10).float()).mean().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        utils.ema_update(model, averaged, warm_up.get_value())
        warm_up.step()
    return averaged.eval()


@torch.no_grad()
def sample(task: Task, model: layers.Denoiser) -> torch.Tensor:
    r = task.recipe
    steps = task.calls // 2 if r["sampler"] == "heun" else task.calls
    sigmas = sampling.get_sigmas_karras(steps, r["sigma_min"], r["sigma_max"], rho=7.0)
    draw = getattr(sampling, "sample_" + r["sampler"])
    return torch.cat(
        [
            draw(
                model,
                torch.randn(len(y), *task.images.shape[1:]) * r["sigma_max"],
                sigmas,
                extra_args={"mapping_cond": F.one_hot(y, 10).float()},
                disable=True,
            )
            for y in task.chunks()
        ]
    )


if __name__ == "__main__":
    task = read_task(RECIPE)
    model = train(task)
    task.count_calls(model.inner_model)
    task.save(sample(task, model), "k-diffusion")
