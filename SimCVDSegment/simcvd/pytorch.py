"""Whether PyTorch is there and works, asked before anything imports it."""

from __future__ import annotations

from .errors import SimCVDError

OLDEST = (2, 2)
REMEDY = "with pip, in 3D Slicer through its PyTorch extension"


class TorchError(SimCVDError):
    """PyTorch is missing or does not work."""

    kind = "torch"


def check_torch() -> None:
    """Raise TorchError, one sentence, where PyTorch is not there, can't be loaded or is too old."""
    try:
        import torch
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise TorchError(f"PyTorch lacks the package {error.name}; install PyTorch anew {REMEDY}.") from error
        raise TorchError(f"PyTorch is missing; install it {REMEDY}.") from error
    except (ImportError, OSError) as error:  # OSError: a library of it that Windows can't load
        raise TorchError(f"PyTorch can't be loaded ({_first_line(error)}); install it anew {REMEDY}.") from error
    version = torch.__version__
    if tuple(int(n) for n in version.split(".")[:2]) < OLDEST:
        raise TorchError(f"PyTorch {version} is too old; install {OLDEST[0]}.{OLDEST[1]} or newer {REMEDY}.")


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
