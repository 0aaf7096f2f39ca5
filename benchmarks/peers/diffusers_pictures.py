"""diffusers: `UNet2DModel` with class embeddings, DDPM training, a multistep solver or DDIM at 50 calls.

Training follows the project's own script for unconditional images (AdamW betas 0.95 and 0.999, weight decay 1e-6,
gradient norm clipped at 1, `EMAModel` with warm-up); widths are cut to what 8x8 images can use.
"""

import torch
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler, UNet2DModel
from diffusers.training_utils import EMAModel
from interface import Task, cosine, layout, read_task
from torch.nn import functional as F

RECIPE = {
    "channels": [32, 64],
    "layers": 1,
    "attention": False,
    "dropout": 0.0,
    "schedule": "squaredcos_cap_v2",
    "prediction": "v_prediction",
    "channels_last": True,
    "lr": 2e-3,
    "batch": 64,
    "ema_power": 0.75,
    "sampler": "dpm++2m-sde",
}


def train(task: Task) -> UNet2DModel:
    r = task.recipe
    deep = ("AttnDownBlock2D", "AttnUpBlock2D") if r["attention"] else ("DownBlock2D", "UpBlock2D")
    levels = len(r["channels"])
    model = UNet2DModel(
        sample_size=task.images.shape[-1],
        in_channels=1,
        out_channels=1,
        layers_per_block=r["layers"],
        block_out_channels=r["channels"],
        down_block_types=["DownBlock2D"] + [deep[0]] * (levels - 1),
        up_block_types=[deep[1]] * (levels - 1) + ["UpBlock2D"],
        norm_num_groups=8,
        dropout=r["dropout"],
        num_class_embeds=10,
    )
    model = layout(model, r["channels_last"])
    noise_scheduler = DDPMScheduler(1000, beta_schedule=r["schedule"], prediction_type=r["prediction"])
    optimizer = torch.optim.AdamW(model.parameters(), lr=r["lr"], betas=(0.95, 0.999), weight_decay=1e-6, eps=1e-8)
    ema = EMAModel(model.parameters(), decay=0.9999, use_ema_warmup=True, inv_gamma=1.0, power=r["ema_power"])
    model.train()
    for used, x, y in task.batches(r["batch"]):
        for group in optimizer.param_groups:
            group["lr"] = r["lr"] * cosine(used)
        noise, t = torch.randn_like(x), torch.randint(0, 1000, (len(x),))
        prediction = model(noise_scheduler.add_noise(x, noise, t), t, class_labels=y).sample
        target = noise if r["prediction"] == "epsilon" else noise_scheduler.get_velocity(x, noise, t)
        F.mse_loss(prediction, target).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        ema.step(model.parameters())
    ema.copy_to(model.parameters())
    return model.eval()


@torch.no_grad()
def sample(task: Task, model: UNet2DModel) -> torch.Tensor:
    r = task.recipe
    common = {
        "num_train_timesteps": 1000,
        "beta_schedule": r["schedule"],
        "prediction_type": r["prediction"],
    }
    made = []
    for y in task.chunks():
        if r["sampler"].startswith("ddim"):
            scheduler = DDIMScheduler(**common, clip_sample=False, timestep_spacing="trailing")
        elif r["sampler"] == "ddpm":
            scheduler = DDPMScheduler(**common, clip_sample=False, timestep_spacing="trailing")
        else:
            scheduler = DPMSolverMultistepScheduler(
                **common,
                timestep_spacing="linspace",
                use_karras_sigmas="karras" in r["sampler"],
                use_lu_lambdas="lu" in r["sampler"],
                algorithm_type="sde-dpmsolver++" if "sde" in r["sampler"] else "dpmsolver++",
            )
        scheduler.set_timesteps(task.calls)
        extra = {"eta": 1.0} if r["sampler"] == "ddim-eta1" else {}
        x = torch.randn(len(y), *task.images.shape[1:]) * scheduler.init_noise_sigma
        for t in scheduler.timesteps:
            prediction = model(scheduler.scale_model_input(x, t), t, class_labels=y).sample
            x = scheduler.step(prediction, t, x, **extra).prev_sample
        made.append(x)
    return torch.cat(made)


if __name__ == "__main__":
    task = read_task(RECIPE)
    model = train(task)
    task.count_calls(model)
    task.save(sample(task, model), "diffusers")
