"""SimCVD: semi-supervised segmentation of medical volumes by contrastive voxel-wise representation distillation."""

__version__ = "0.1.0"
