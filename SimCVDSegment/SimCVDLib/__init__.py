"""What the SimCVD modules need of 3D Slicer: nodes, background jobs, overlays, corrections. Never imports torch.

Whatever a user can cause is raised as simcvd.errors.SimCVDError, which carries one sentence to show.
"""
