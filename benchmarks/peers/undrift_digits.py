"""undrift: `undrift.fit` and `Model.sample` with their defaults; the images go in as the whole numbers 0..16 they are.

The codec rounds samples to the levels of the data, as it does for
every user; `--settings '{"rounded": false}'` leaves them as the sampler made them.
"""

import time

import torch
from interface import read_task

import undrift

RECIPE = {"rounded": True}


def main() -> None:
    task = read_task(RECIPE)
    if task.clock != "wall":
        raise SystemExit("undrift.fit keeps a budget of wall time; compare it with --clock wall")
    images = ((task.images[:, 0] + 1) * 8).round().long().numpy()
    seed = torch.initial_seed()

    start = time.perf_counter()
    model = undrift.fit(images, task.labels.numpy(), seconds=task.seconds, seed=seed, progress=False)
    task.train_seconds = time.perf_counter() - start
    task.steps = model.recipe.training["done"]

    task.count_calls(model.denoiser.modules()[0])
    start = time.perf_counter()
    states = model.states(len(task.asked), where={"class": task.asked.numpy()}, seed=seed, steps=task.calls)
    if task.recipe["rounded"]:
        states = model.codec.encode(model.codec.decode(states))
    task.rounds, task.sample_seconds = 1, time.perf_counter() - start
    task.recipe |= {key: value for key, value in model.recipe.training.items() if key not in ("done", "loss", "rate")}
    task.recipe |= {"network": model.recipe.network_config}
    task.save(states, "undrift")


if __name__ == "__main__":
    main()
