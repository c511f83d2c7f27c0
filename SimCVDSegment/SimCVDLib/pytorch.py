"""PyTorch, which the background process needs: whether it is there, and its installation through its extension.

The application itself never imports it, so nothing is loaded here either.
"""

import importlib
import importlib.metadata

from slicer.i18n import tr as _

from simcvd.pytorch import OLDEST
from SimCVDLib import jobs

REQUIREMENT = f">={OLDEST[0]}.{OLDEST[1]}"

_installing = False


def status():
    """Whether PyTorch is installed, and a sentence that says so: (bool, str)."""
    importlib.invalidate_caches()
    try:
        version = importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        return False, _("PyTorch is not installed yet; click Install PyTorch.")
    return True, _("PyTorch {version} is installed.").format(version=version)


def install():
    """Install PyTorch through the PyTorch extension, which asks first; returns (bool, str) as `status` does."""
    global _installing
    if status()[0]:
        return status()
    if _installing:  # pip lets the application answer clicks
        return False, _("PyTorch is being installed; try again when that is done.")
    try:
        import PyTorchUtils
    except ImportError:
        return False, _(
            "The PyTorch extension is missing: install it in the Extensions Manager, restart 3D Slicer, and try again."
        )
    _installing = True
    try:
        PyTorchUtils.PyTorchUtilsLogic().installTorch(askConfirmation=True, torchVersionRequirement=REQUIREMENT)
    except Exception as error:  # pip, network, disk: whatever went wrong, the user gets the reason
        return False, _("PyTorch could not be installed ({reason}); try the PyTorch module.").format(reason=error)
    finally:
        _installing = False
    jobs.closeWorker()  # a process that looked for it in vain would not find it now
    ready, sentence = status()
    return ready, sentence if ready else _("PyTorch was not installed, so nothing can be segmented yet.")
