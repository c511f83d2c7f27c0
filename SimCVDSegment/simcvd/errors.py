"""The one family of errors that a user can cause."""


class SimCVDError(Exception):
    """Carries one sentence for the user: what is wrong and what to do about it.

    kind: one word by which programs tell errors apart.
    """

    kind = "settings"


class NotEnoughMemoryError(SimCVDError):
    """The scan is too large for this computer."""

    kind = "memory"

    def __init__(self):
        super().__init__("There is not enough memory for this scan; close programs or set a region.")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of Python, NumPy, PyTorch or ITK says that memory ran out."""
    # "could not create a primitive" is what oneDNN, and so PyTorch on a CPU, says of it
    words = ("memory", "bad_alloc", "could not create a primitive", "_alloc_failed")
    said = str(error).lower().replace("illegal memory access", "")  # what CUDA says of another fault
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and any(word in said for word in words))
