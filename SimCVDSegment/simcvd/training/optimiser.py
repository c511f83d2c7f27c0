"""The optimiser and its learning rate as a function of the iteration."""

from __future__ import annotations

import torch
from torch import nn

MEANINGS = {
    "kind": "kind of optimiser",
    "lr": "learning rate",
    "momentum": "of sgd",
    "weight_decay": "times the weights, at every step",
    "schedule": "of the learning rate: by steps, or falling to 0 as a power of what is left (poly)",
    "step_every": "with step, iterations until the rate changes",
    "step_factor": "with step, what the rate is multiplied by",
    "warm_up": "iterations over which the rate rises first",
}


def make_optimiser(module: nn.Module, settings: dict) -> torch.optim.Optimizer:
    """SGD with momentum, or AdamW, over the parameters that take gradients."""
    parameters = [p for p in module.parameters() if p.requires_grad]
    decay = settings["weight_decay"]
    if settings["kind"] == "adamw":
        return torch.optim.AdamW(parameters, settings["lr"], weight_decay=decay)
    return torch.optim.SGD(parameters, settings["lr"], momentum=settings["momentum"], weight_decay=decay)


def learning_rate(settings: dict, iteration: int, iterations: int) -> float:
    """Rate of an iteration (from 0 on).

    "step": times step_factor every step_every iterations (published: a tenth every 3000);
    "poly": (1 - t / t_max)^0.9, and 0 after the end. Both after a linear rise over the first `warm_up` iterations.
    """
    rate = settings["lr"] * min(1.0, (iteration + 1) / (settings["warm_up"] + 1))
    if settings["schedule"] == "poly":
        return rate * max(0.0, 1 - iteration / iterations) ** 0.9
    return rate * settings["step_factor"] ** (iteration // settings["step_every"])
