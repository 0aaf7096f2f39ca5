"""diffusers 0.42.1: its deterministic schedulers on exact mixtures, with the settings they offer.

A scheduler is driven as its pipelines drive it: `set_timesteps`, then `step` with the network's output for each of its
`timesteps`. Two things are done in its favour. The network is asked at the noise level that the scheduler itself computes with
(`sigmas`), not at the time it would hand over, which several of them round to whole numbers; `label="time"` has the rounded
ones. And states and outputs are float64; what a scheduler rounds to float32 inside stays its own.

Left out: `timestep_spacing="leading"`, which starts at a lower noise and so is spared a part of the way; the `scaled_linear`
betas of Stable Diffusion, whose noisiest state is at sigma / alpha = 14.6, for the same reason; samplers that draw noise.
"""

import logging
import math
import warnings
from functools import partial
from typing import Any

import diffusers
import numpy as np
import torch
from endpoints import Entry, Problem, largest, run
from torch import Tensor

warnings.filterwarnings("ignore")
logging.getLogger("diffusers").setLevel(logging.CRITICAL)
VE = ("EulerDiscreteScheduler", "HeunDiscreteScheduler", "KDPM2DiscreteScheduler", "LMSDiscreteScheduler")
BY_TIME = ("DDIMScheduler", "PNDMScheduler")
FLOW = ("FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler")


def levels(scheduler: Any, i: int, t: Tensor) -> tuple[float, float]:
    """(alpha, sigma) of the state that the scheduler holds before call i."""
    name, config = type(scheduler).__name__, scheduler.config
    if name in BY_TIME:
        kept = float(scheduler.alphas_cumprod[int(t)])
        return math.sqrt(kept), math.sqrt(1 - kept)
    if name == "IPNDMScheduler":
        return float(scheduler.alphas[i]), float(scheduler.betas[i])
    sigma = float(scheduler.sigmas[i])
    if name == "KDPM2DiscreteScheduler" and i % 2 == 1:
        sigma = float(scheduler.sigmas_interpol[i])
    if name in FLOW or config.get("use_flow_sigmas"):
        return 1 - sigma, sigma
    if name in VE or name.startswith("EDM"):
        return 1.0, sigma
    return 1 / math.sqrt(1 + sigma**2), sigma / math.sqrt(1 + sigma**2)


def told(scheduler: Any, t: Tensor, alpha: float, sigma: float) -> tuple[float, float]:
    """(alpha, sigma) that the time handed to the network stands for."""
    if scheduler.config.get("use_flow_sigmas") or type(scheduler).__name__ in FLOW:
        share = float(t) / scheduler.config.num_train_timesteps
        return 1 - share, share
    kept = float(np.interp(float(t), np.arange(len(scheduler.alphas_cumprod)), scheduler.alphas_cumprod.double().numpy()))
    norm = math.hypot(alpha, sigma)
    return norm * math.sqrt(kept), norm * math.sqrt(1 - kept)


def output(scheduler: Any, problem: Problem, x: Tensor, alpha: float, sigma: float) -> Tensor:
    """What a network of the scheduler's prediction type answers."""
    clean, noise = problem.clean_and_noise(x, alpha, sigma)
    name, kind = type(scheduler).__name__, scheduler.config.get("prediction_type")
    if name in FLOW or kind == "flow_prediction":
        return noise - clean
    if name.startswith("EDM"):
        data = scheduler.config.sigma_data
        skip, out = data**2 / (sigma**2 + data**2), sigma * data / math.sqrt(sigma**2 + data**2)
        return (clean - skip * x) / out
    if name == "IPNDMScheduler" or kind == "v_prediction":
        norm = math.hypot(alpha, sigma)
        return (alpha * noise - sigma * clean) / norm
    return {"epsilon": noise, "sample": clean}[kind]


def sample(problem: Problem, calls: int, kind: str, label: str = "sigma", tight: bool = False, **config: Any) -> Tensor | None:
    """The scheduler's endpoint with the largest number of steps that the calls allow."""
    timed = {}

    def made(n: int) -> Any:
        if n not in timed:
            # FlowMatchHeun offers its last noise level only as 1 / num_train_timesteps
            extra = {"num_train_timesteps": n} if tight and kind == "FlowMatchHeunDiscreteScheduler" else {}
            scheduler = getattr(diffusers, kind)(**config | extra)
            if tight and not extra:
                scheduler.set_timesteps(sigmas=np.linspace(1, 1 / n, n))
            else:
                scheduler.set_timesteps(n)
            timed[n] = scheduler
        return timed[n]

    def cost(n: int) -> int:
        try:
            return len(made(n).timesteps)
        except (IndexError, ZeroDivisionError, ValueError, AssertionError):  # several cannot do very few steps
            return calls + 1

    n = largest(calls, cost)
    if n == 0:
        return None
    scheduler = made(n)
    x = None
    for i, t in enumerate(scheduler.timesteps):
        alpha, sigma = levels(scheduler, i, t)
        if x is None:
            x = problem.start(alpha, sigma)
        if hasattr(scheduler, "scale_model_input"):
            scheduler.scale_model_input(x, t)
        asked = (alpha, sigma) if label == "sigma" else told(scheduler, t, alpha, sigma)
        x = scheduler.step(output(scheduler, problem, x, *asked), t, x).prev_sample
    return x


LADDERS: dict[str, dict[str, Any]] = {
    "linspace": {"timestep_spacing": "linspace"},
    "trailing": {"timestep_spacing": "trailing"},
    "cosine linspace": {"timestep_spacing": "linspace", "beta_schedule": "squaredcos_cap_v2"},
    "cosine trailing": {"timestep_spacing": "trailing", "beta_schedule": "squaredcos_cap_v2"},
    "zero-snr trailing": {"timestep_spacing": "trailing", "rescale_betas_zero_snr": True, "prediction_type": "v_prediction"},
    "karras": {"use_karras_sigmas": True},
    "exponential": {"use_exponential_sigmas": True},
    "beta": {"use_beta_sigmas": True},
    "lu": {"use_lu_lambdas": True},
}
FLOWS = {
    f"flow shift {shift:g}": {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": shift}
    for shift in (0.3, 0.5, 0.7, 1.0, 2.0, 3.0)
}


def entries() -> list[Entry]:
    """Every scheduler with every setting that changes its result here."""
    made: list[Entry] = []

    def add(name: str, kind: str, default: bool = False, **config: Any) -> None:
        made.append(Entry(name, partial(sample, kind=kind, **config), default))

    multistep = {"DPM++": "DPMSolverMultistepScheduler", "UniPC": "UniPCMultistepScheduler", "DEIS": "DEISMultistepScheduler"}
    for order in (1, 2, 3):
        for short, kind in multistep.items():
            for ladder, config in (LADDERS | FLOWS).items():
                if (ladder == "lu" and short != "DPM++") or (ladder == "zero-snr trailing" and short == "DEIS"):
                    continue
                default = ladder == "linspace" and order == 2
                add(f"{short} {order} {ladder}", kind, default, solver_order=order, **config)
                if order > 1 and short == "UniPC" and "use_flow_sigmas" not in config:
                    low = {"solver_type": "bh1", "final_sigmas_type": "sigma_min"} | config
                    add(f"UniPC {order} bh1 {ladder}, to sigma_min", kind, solver_order=order, **low)
        for ladder in ("karras", "exponential"):
            for low in (0.002, 0.01, 0.03, 0.1):
                for flow in (False, True) if ladder == "karras" else (False,):
                    config = LADDERS[ladder] | {"sigma_min": low, "sigma_max": 80.0}
                    config |= {"use_flow_sigmas": True, "prediction_type": "flow_prediction"} if flow else {}
                    name = f"UniPC {order} {ladder} {low:g}{' flow' if flow else ''}"
                    add(name, "UniPCMultistepScheduler", solver_order=order, **config)
        for ladder in ("karras", "exponential"):
            for low in (0.002, 0.01, 0.03, 0.1):
                for rho in (7.0, 3.0) if ladder == "karras" else (7.0,):
                    config: dict[str, Any] = {"sigma_schedule": ladder, "sigma_min": low, "rho": rho, "solver_order": order}
                    name = f"EDM DPM++ {order} {ladder} {low:g}" + (f" rho {rho:g}" if rho != 7 else "")
                    add(name, "EDMDPMSolverMultistepScheduler", order == 2 and ladder == "karras" and low == 0.002, **config)
    add("UniPC 2 bh1 flow shift 1", multistep["UniPC"], solver_type="bh1", **FLOWS["flow shift 1"])
    for order in (2, 3):
        for ladder in ("linspace", "karras", "exponential", *FLOWS):
            config = {} if ladder == "linspace" else (LADDERS | FLOWS)[ladder]
            config = config | {"solver_order": order, "lower_order_final": True}
            add(f"DPM++ {order} singlestep {ladder}", "DPMSolverSinglestepScheduler", ladder == "linspace", **config)
    for ladder in ("trailing", "karras"):
        add(f"DPM++ 2 heun {ladder}", multistep["DPM++"], solver_order=2, solver_type="heun", **LADDERS[ladder])
    short = {"Euler": VE[0], "Heun": VE[1], "KDPM2": VE[2], "LMS": VE[3]}
    for name, kind in short.items():
        for ladder in ("linspace", "trailing", "karras", "exponential", "beta"):
            config = LADDERS[ladder] | {"beta_start": 0.0001, "beta_end": 0.02}
            add(f"{name} {ladder}", kind, ladder == "linspace", **config)
    for low in (0.002, 0.03):
        add(f"EDM Euler karras {low:g}", "EDMEulerScheduler", low == 0.002, sigma_min=low)
    for ladder in ("linspace", "trailing", "cosine trailing", "zero-snr trailing"):
        add(f"DDIM {ladder}", BY_TIME[0], ladder == "linspace", clip_sample=False, **LADDERS[ladder])
    for ladder in ("linspace", "trailing"):
        add(f"PNDM {ladder}", BY_TIME[1], ladder == "linspace", skip_prk_steps=True, set_alpha_to_one=True, **LADDERS[ladder])
    add("IPNDM", "IPNDMScheduler", True)
    for name, kind in zip(("FlowMatchEuler", "FlowMatchHeun"), FLOW, strict=True):
        add(f"{name}", kind, True)
        for shift in (0.5, 1.0, 3.0):
            add(f"{name} shift {shift:g}, last step as long as the others", kind, tight=True, shift=shift)
    for ladder in ("flow shift 1", "karras"):
        for name in ("DPM++", "UniPC"):
            config = (LADDERS | FLOWS)[ladder]
            add(f"{name} 2 {ladder}, asked at its rounded times", multistep[name], solver_order=2, label="time", **config)
    return made


if __name__ == "__main__":
    torch.set_default_dtype(torch.float32)
    run("diffusers", entries(), ["diffusers"])
