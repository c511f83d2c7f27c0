"""What the user is told where a file can't be written."""

import contextlib

from slicer.i18n import tr as _

from simcvd.errors import SimCVDError


@contextlib.contextmanager
def writing(place):
    """Around what writes to a file or folder: turns OSError into SimCVDError with one sentence."""
    try:
        yield
    except OSError as error:
        raise SimCVDError(
            _("{place} can't be written ({reason}); choose another place or make room.").format(
                place=place, reason=error.strerror or error
            )
        ) from error
