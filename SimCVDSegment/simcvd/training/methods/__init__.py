"""The methods of training, one file each, all with the same three calls.

method = make_method("simcvd", network, settings)
terms = method(batch)            # loss terms by name; "total" is what is minimised
method.after_step(updates)       # what follows an optimiser step, such as the teacher's average
method.deployed                  # the network that becomes the model
"""

from __future__ import annotations

from torch import nn

from .action import Action
from .action_plus import ActionPlus
from .base import Batch, Method, MethodError
from .global_local import GlobalLocal
from .mean_teacher import MeanTeacher
from .simcvd import SimCVD
from .supervised import Supervised

METHODS: dict[str, type[Method]] = {
    m.name: m for m in (Supervised, MeanTeacher, SimCVD, GlobalLocal, Action, ActionPlus)
}

__all__ = ["METHODS", "Batch", "Method", "MethodError", "make_method", "make_method_settings"]


def make_method(name: str, network: nn.Module, settings: dict) -> Method:
    """A method by name around a network; settings left out take the published values.

    Raises MethodError for an unknown method or setting.
    """
    return _method(name)(network, settings)


def make_method_settings(name: str, settings: dict) -> dict:
    """All settings of a method, the given ones in place of the published; raises MethodError as make_method does."""
    return _method(name).checked(settings)


def _method(name: str) -> type[Method]:
    if name not in METHODS:
        raise MethodError(f"There is no method {name!r}; choose one of {', '.join(METHODS)}.")
    return METHODS[name]
