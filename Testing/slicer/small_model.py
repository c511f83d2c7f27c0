"""Writes a small model that works: what is brighter than a level is "Left atrium". Run in a process of its own.

    python small_model.py FOLDER

Tests over Slicer use it, which never import torch themselves.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "SimCVDSegment"))

import torch

from simcvd.models import save_model
from simcvd.network import VNet

LEVEL = 1.0  # standard deviations above the mean
SHIFT = 10.0  # keeps the smoothed image positive through every ReLU


def threshold_network() -> VNet:
    """A V-Net with weights set by hand: a 3x3x3 mean goes through the top skip connection to the heads."""
    network = VNet(n_classes=2, n_filters=4).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm3d):
                module.weight.fill_(1)
        first, last = network.encoder[0][0], network.decoder[-1][0]
        first[0].weight[0, 0] = 1 / 27
        first[1].bias[0] = SHIFT
        last[0].weight[0, 0, 1, 1, 1] = 1
        network.segmentation_head.weight[1, 0] = 8.0
        network.segmentation_head.bias[1] = -8.0 * (LEVEL + SHIFT)
    return network


def write(folder: Path) -> None:
    """Write the model folder, named as the folder."""
    network = threshold_network()
    segment = {
        "value": 1,
        "name": "Left atrium",
        "color": [0.87, 0.36, 0.33],
        "terminology": {
            "category": ["SCT", "123037004", "Anatomical Structure"],
            "type": ["SCT", "82471001", "Left atrium"],
            "modifier": None,
            "region": None,
        },
    }
    card = {
        "name": folder.name,
        "version": "1",
        "title": "Bright things",
        "modality": "LGE-MR",
        "segments": [segment],
        "grid": {"spacing": [2.0, 2.0, 2.0], "axes": "LPS"},
        "normalisation": {"kind": "zscore"},
        "patch": [16, 16, 16],
        "network": {"kind": "vnet", **network.settings},
    }
    save_model(folder, card, {name: value.numpy() for name, value in network.state_dict().items()})


if __name__ == "__main__":
    write(Path(sys.argv[1]))
