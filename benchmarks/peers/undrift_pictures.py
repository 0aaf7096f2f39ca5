"""undrift: `undrift.fit` and `Model.sample` with their defaults; the images go in as the whole numbers that they are.

The codec rounds samples to the levels of the data, as it does for
every user; `--settings '{"rounded": false}'` leaves them as the sampler made them.
"""

import time

import torch
from interface import read_task

import undrift

RECIPE = {"rounded": True, "levels": 16, "fit": {}}


def main() -> None:
    task = read_task(RECIPE)
    if task.clock != "wall":
        raise SystemExit("undrift.fit keeps a budget of wall time; compare it with --clock wall")
    images = ((task.images[:, 0] + 1) * task.recipe["levels"] / 2).round().numpy()
    images = images.astype("uint8" if task.recipe["levels"] == 255 else "int64")
    seed = torch.initial_seed()

    start = time.perf_counter()
    model = undrift.fit(
        images, task.labels.numpy(), minutes=task.seconds / 60, held_out=0, seed=seed, progress=False, **task.recipe["fit"]
    )
    task.train_seconds = time.perf_counter() - start
    task.steps = model.recipe.measured["steps"]

    task.count_calls(model.denoiser.modules()[0])
    start = time.perf_counter()
    states = model.states(len(task.asked), where={"class": task.asked.numpy()}, seed=seed, steps=task.calls)
    if task.recipe["rounded"]:
        states = model.codec.encode(model.codec.decode(states))
    task.rounds, task.sample_seconds = 1, time.perf_counter() - start
    task.recipe |= model.recipe.training
    task.recipe |= {"network": model.recipe.network.config}
    task.save(states, "undrift")


if __name__ == "__main__":
    main()
