"""A training step of SimCVD beside the reference step, distance maps beside SciPy's, and the peak memory of a step.

    python Testing/benchmarks/training.py [--patch 80,112,112] [--device cpu|cuda] [--parts step,sdm,memory]
                                          [--repeats 3] [--output training.md]

Ours is the step as training/loop.py takes it: channels last, convolutions in the precision that the loop chooses.
The reference is the same method with the same losses, optimiser and teacher in float32 and contiguous memory. Both
start from the same weights on the same 2 + 2 crops and take turns. The crops are of real atria where the scans are
here, else of phantoms, and show the published 70x70x50 mm whatever the patch.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from common import DATA, machine, numbers_of_process, peak_memory, publish, table, take_turns
from scipy import ndimage

from simcvd.devices import DeviceError, choose_device, choose_precision
from simcvd.distance import signed_distance_crops
from simcvd.grid import Grid, normalise
from simcvd.images import read_labels, read_volume
from simcvd.network import STRIDE, VNet
from simcvd.phantom import make_phantom
from simcvd.training.methods import Batch, make_method
from simcvd.training.optimiser import make_optimiser
from simcvd.training.recipes import PUBLISHED_CROP_MM, recipe
from simcvd.training.sampling import Crop, TrainingCase, random_crop

PARTS = ("step", "sdm", "memory")
PATCH = (80, 112, 112)
OURS, REFERENCE = "ours", "reference"
MEMORY_STEPS = 2  # the momentum, made at the end of the first step, weighs on the second


class Step:
    """One training at its middle: `take` is what the loop does for one iteration once the crops are drawn."""

    def __init__(self, kind: str, crops: Sequence[Crop], device: str, n_filters: int):
        self.settings = recipe("published", "simcvd")
        self.device = torch.device(device)
        self.crops = crops
        ours = kind == OURS
        self.layout = torch.channels_last_3d if ours else torch.contiguous_format
        self.dtype = choose_precision("auto", device) if ours else torch.float32
        torch.manual_seed(0)
        self.method = make_method("simcvd", VNet(n_filters=n_filters), self.settings["settings"]).to(self.device)
        self.method.to(memory_format=self.layout).train()
        self.optimiser = make_optimiser(self.method, self.settings["optimiser"])
        self.updates = 0
        self.first_loss: float | None = None

    def take(self) -> None:
        """Forward, backward, optimiser and teacher; returns when the device is done."""
        torch.manual_seed(self.updates)
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            terms = self.method(self._batch())
        self.optimiser.zero_grad(set_to_none=True)
        terms["total"].backward()
        self.optimiser.step()
        self.updates += 1
        self.method.after_step(self.updates)
        wait_for(self.device)
        if self.first_loss is None:
            self.first_loss = float(terms["total"].detach())

    def _batch(self) -> Batch:
        labelled = self.settings["batch"][0]
        images = torch.stack([crop.image for crop in self.crops])[:, None]
        images = images.to(self.device, memory_format=self.layout)
        label = torch.stack([crop.label for crop in self.crops[:labelled]]).to(self.device)
        generator = torch.Generator(self.device).manual_seed(self.updates)
        return Batch(images[:labelled], label, images[labelled:], progress=0.5, generator=generator)


def wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def draw_crops(patch: Sequence[int], count: int) -> tuple[list[Crop], str]:
    """Crops of as many cases, with labels that show both sides, and what they are of."""
    real = [DATA / "la" / f"la{n:03d}" for n in range(1, count + 1)]
    there = all((folder / "label.nrrd").is_file() for folder in real)
    spacing = [extent / side for extent, side in zip(PUBLISHED_CROP_MM, patch, strict=True)][::-1]
    crops = []
    for n, folder in enumerate(real):
        pair = (read_volume(folder / "image.nrrd"), read_labels(folder / "label.nrrd")) if there else make_phantom(n)
        grid = Grid.of(pair[0].geometry, spacing)
        case = TrainingCase(str(n), normalise(grid.forward(pair[0].array)), grid.forward_labels(pair[1].array, 2))
        crops.append(random_crop(case, patch, np.random.default_rng(n)))
    return crops, "la001 and the cases after it" if there else "phantoms (no scans beside the checkout)"


def scipy_maps(masks: np.ndarray) -> np.ndarray:
    """The definition of DTC, with two distance transforms a crop: (B, K, J, I) bool to float64."""
    result = np.zeros(masks.shape)
    for mask, sdm in zip(masks, result, strict=True):
        if mask.any() and not mask.all():
            outside, inside = ndimage.distance_transform_edt(~mask), ndimage.distance_transform_edt(mask)
            sdm[:] = outside / outside.max() - inside / inside.max()
            sdm[mask & ~ndimage.binary_erosion(mask, border_value=1)] = 0
    return result


def maps_and_wait(masks: torch.Tensor) -> None:
    signed_distance_crops(masks)
    wait_for(masks.device)


def median_of_turns(ways: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median seconds of every way, after one turn that isn't timed."""
    for way in ways.values():
        way()
    return {name: statistics.median(turns) for name, turns in take_turns(ways, repeats).items()}


def step_part(crops: Sequence[Crop], arguments: argparse.Namespace) -> list[str]:
    steps = {kind: Step(kind, crops, arguments.device, arguments.filters) for kind in (OURS, REFERENCE)}
    seconds = median_of_turns({kind: step.take for kind, step in steps.items()}, arguments.repeats)
    rows = [
        [
            kind,
            f"{seconds[kind] / seconds[OURS]:.2f}",
            f"{seconds[kind]:.3f}",
            str(step.dtype).removeprefix("torch."),
            f"{step.first_loss:.4f}",
        ]
        for kind, step in steps.items()
    ]
    return [
        "## Training step",
        "",
        f"**{seconds[REFERENCE] / seconds[OURS]:.1f} times faster** than the reference step.",
        "",
        *table(("step", "times as long as ours", "seconds", "convolutions in", "loss of the first step"), rows),
        "",
        f"Method simcvd with its published settings, batch 2 + 2, {arguments.filters} filters. Median of "
        f"{arguments.repeats} turns after one untimed. The first losses, from the same weights and the same chance, "
        "differ by rounding.",
        "",
    ]


def sdm_part(crops: Sequence[Crop], arguments: argparse.Namespace) -> list[str]:
    rows = []
    for count in (1, 2):
        masks = torch.stack([crop.label for crop in crops[:count]]) > 0
        there = masks.to(arguments.device)
        difference = np.abs(signed_distance_crops(there).cpu().numpy() - scipy_maps(masks.numpy())).max()
        if difference > 1e-6:
            raise SystemExit(f"The distance maps differ from SciPy's by {difference:.1e}.")
        ways = {OURS: partial(maps_and_wait, there), "SciPy": partial(scipy_maps, masks.numpy())}
        seconds = median_of_turns(ways, max(arguments.repeats, 5))
        ratio = seconds["SciPy"] / seconds[OURS]
        shares = ", ".join(f"{100 * share:.1f} %" for share in masks.float().mean((1, 2, 3)).tolist())
        milliseconds = [f"{1000 * seconds[name]:.1f}" for name in (OURS, "SciPy")]
        rows.append([count, f"{ratio:.1f}", *milliseconds, shares, f"{difference:.1e}"])
    heads = ("crops", "times faster than SciPy", "ours [ms]", "SciPy [ms]", "foreground", "largest difference")
    return [
        "## Signed distance maps",
        "",
        *table(heads, rows),
        "",
        f"`signed_distance_crops` on {arguments.device} beside two `scipy.ndimage.distance_transform_edt` a crop on "
        "one core, scaled and with the inner boundary at zero, as in DTC.",
        "",
    ]


def memory_part(arguments: argparse.Namespace) -> list[str]:
    return memory_table({kind: peak_of(kind, arguments) for kind in (OURS, REFERENCE)}, arguments.device)


def peak_of(kind: str, arguments: argparse.Namespace) -> list[float]:
    """What `print_peak` says in a process of its own."""
    where = "--patch", ",".join(map(str, arguments.patch)), "--filters", str(arguments.filters)
    return numbers_of_process(__file__, *where, "--device", arguments.device, "--peak", kind)


def memory_table(peaks: dict[str, list[float]], device: str) -> list[str]:
    rows = [
        [kind, f"{peak / peaks[OURS][0]:.2f}", f"{peak:.0f}", f"{before:.0f}"] for kind, (peak, before) in peaks.items()
    ]
    what = "memory allocated on the GPU" if device != "cpu" else "resident memory of the process"
    return [
        "## Peak memory of a training step",
        "",
        *table(("step", "times ours", "peak [MB]", "before the step [MB]"), rows),
        "",
        f"Peak of the {what} over {MEMORY_STEPS} steps, each kind in a process of its own.",
        "",
    ]


def print_peak(kind: str, crops: Sequence[Crop], arguments: argparse.Namespace) -> None:
    """Peak memory (MB) of this process over the steps, and before them."""
    step = Step(kind, crops, arguments.device, arguments.filters)
    on_gpu = step.device.type == "cuda"

    def used() -> float:
        return torch.cuda.max_memory_allocated(step.device) / 2**20 if on_gpu else peak_memory()

    before = used()
    for _ in range(MEMORY_STEPS):
        step.take()
    print(used(), before)


def page(crops: Sequence[Crop], what: str, arguments: argparse.Namespace) -> list[str]:
    """The Markdown page."""
    parts = {
        "step": lambda: step_part(crops, arguments),
        "sdm": lambda: sdm_part(crops, arguments),
        "memory": lambda: memory_part(arguments),
    }
    lines = [line for part in PARTS if part in arguments.parts for line in parts[part]()]
    size = "x".join(map(str, arguments.patch[::-1]))
    where = f"{torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}"
    if arguments.device != "cpu":
        # PyTorch multiplies float32 convolutions in TF32 there unless told otherwise
        tf32 = "on" if torch.backends.cudnn.allow_tf32 else "off"
        where += f", {torch.cuda.get_device_name(arguments.device)} (TF32 in convolutions {tf32})"
    return [
        f"# Training, crops of {size}",
        "",
        *lines,
        f"Crops of {what}. {machine(('torch', 'numpy', 'scipy'))} {where}.",
    ]


def three_sides(text: str) -> tuple[int, ...]:
    sides = tuple(int(word) for word in text.split(","))
    if len(sides) != 3 or any(side < STRIDE or side % STRIDE for side in sides):
        raise ValueError
    return sides


def some_parts(text: str) -> list[str]:
    parts = text.split(",")
    if set(parts) - set(PARTS):
        raise ValueError
    return parts


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patch", type=three_sides, default=PATCH, help="K,J,I (default: 80,112,112, as published)")
    parser.add_argument("--parts", type=some_parts, default=PARTS, help="some of step,sdm,memory (default: all)")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"), help="(default: cpu)")
    parser.add_argument("--repeats", type=int, default=3, help="timed turns (default: 3; maps take 5 at least)")
    parser.add_argument("--filters", type=int, default=16, help="channels of the first stage (default: 16)")
    parser.add_argument("--output", type=Path, help="Markdown file to write the page to as well")
    parser.add_argument("--peak", choices=(OURS, REFERENCE), help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    try:
        arguments.device = choose_device(arguments.device)
    except DeviceError as error:
        parser.error(str(error))
    crops, what = draw_crops(arguments.patch, sum(recipe("published", "simcvd")["batch"]))
    if arguments.peak:
        print_peak(arguments.peak, crops, arguments)
    else:
        publish(page(crops, what, arguments), arguments.output)


if __name__ == "__main__":
    main()
