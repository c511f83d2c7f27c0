"""The training loop: steps, schedule, checkpoints, commands from outside, and the model at the end."""

from __future__ import annotations

import contextlib
import copy
import os
import signal
import time
import zlib
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch

from .. import devices, models
from ..cases import load_prepared
from ..errors import SimCVDError, is_out_of_memory
from ..files import atomic_path, is_in_use
from ..inference import Predictor
from ..network import VNet, head_start
from ..pictures import slice_picture
from ..tensors import array_of
from . import distributed
from .ahead import Ahead
from .batch_norm import settle_batch_norm
from .checks import check_values
from .copy_paste import guess_of
from .folds import HOW, leave_one_out
from .methods import Batch, make_method
from .methods.staged import FINE_TUNING
from .optimiser import learning_rate, make_optimiser
from .run_folder import RunFolder, TrainingError
from .sampling import Crop, TrainingCase, TwoStreamSampler, random_crop
from .setup import card_of, check_share
from .validation import predict_cases, predict_probabilities, validate

FEWEST_STEPS = 10  # of a training that is planned in minutes
PROBE_SECONDS, PROBE_SHARE = 10.0, 0.05  # of a planned training at most, to know how long a step takes
MOST_DRAWERS = 8  # threads that draw crops for a GPU
STEP_EVENT_SECONDS = 1.0  # a step event at most this often: small files, lively curves


class Stopped(Exception):  # noqa: N818 - nothing went wrong
    """The run was asked to stop; everything needed to go on is in the checkpoint."""


class Trainer:
    """Trains what a run folder describes, from its checkpoint on if there is one.

    Args:
        folder: with run.json and the prepared cases it names.
        on_event: called with every event after it was written.
    """

    def __init__(self, folder: RunFolder, on_event: Callable[[dict], None] | None = None):
        self.folder = folder
        self.config = folder.config
        check_values(self.config)  # users are told to change it
        self.device = distributed.start(torch.device(devices.choose_device(self.config["device"])))
        self.layout = devices.memory_layout(str(self.device))
        self.main = distributed.rank() == 0
        self.on_event = on_event or (lambda event: None)
        self.dtype = devices.choose_precision(self.config["precision"], str(self.device))
        self.iteration = 0
        self._interrupted = False
        self._ended = False  # before its time, by the word "finish"

    # --- set-up ---------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Train to the end and write the model; raises Stopped, or TrainingError with one sentence."""
        if self.main and not self.folder.lock():
            self._say("warning", message="The folder is where no file can be locked; never train in it twice at once.")
        previous = {s: signal.signal(s, self._interrupt) for s in (signal.SIGINT, signal.SIGTERM)}
        try:
            self._prepare()
            self._train()
            self._finish()
        except Stopped:
            raise
        except SimCVDError as error:
            self._fail(str(error))
        except OSError as error:
            self._fail(f"A file of the run can't be written or read ({error}); {self._kept()}.")
        except Exception as error:
            if not is_out_of_memory(error):
                self._tell_error(f"Unexpected: {error}")
                raise
            self._fail(
                f"The training ran out of memory; {self._kept()}, with a smaller patch or batch in run.json, or make a "
                "new run with a coarser spacing."
            )
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
            self.folder.unlock()
            distributed.stop()

    def _prepare(self) -> None:
        c = self.config
        if c["threads"]:
            torch.set_num_threads(c["threads"])
        self._check_share()
        torch.manual_seed(c["seed"])
        self._load_cases()
        network = VNet(**models.network_settings(c["network"]))
        state = self.folder.load_checkpoint()
        if c["from_model"] and not state:
            network.load_state_dict(models.build_network(c["from_model"])[0].state_dict())
        elif c.get("head_start") and c["network"]["n_classes"] > 2 and not state:
            head_start(network, self._shares())
        self.method = make_method(c["method"], network, c["settings"]).to(self.device)
        self.method.to(memory_format=self.layout)
        distributed.share_batch_norm(self.method, self.device)
        self.method.train()
        self.optimiser = make_optimiser(self.method, c["optimiser"])
        if state:
            self._restore(state)
        elif c["minutes"] and not c["planned"]:
            self._plan()
        self.loss_of = distributed.shared_gradients(self.method)
        self._say(
            "start",
            iteration=self.iteration,
            of=c["iterations"],
            method=c["method"],
            device=str(self.device),
            precision=str(self.dtype).removeprefix("torch."),
            processes=distributed.world_size(),
            threads=torch.get_num_threads(),
            labelled=len(self.labelled),
            unlabelled=len(self.unlabelled),
            validation=len(self.validation),
            **({"folds": len(self.labelled)} if self._leaves_out else {}),
        )
        for sentence in c["warnings"]:
            self._say("warning", message=sentence)

    @property
    def _leaves_out(self) -> bool:
        return self.config.get("leave_one_out", False)  # runs of earlier versions don't say

    def _check_share(self) -> None:
        check_share(self.config, distributed.world_size())
        if self._leaves_out and distributed.world_size() > 1:
            raise TrainingError("Leave-one-out works in one process only; start it without torchrun.")

    def _load_cases(self) -> None:
        c = self.config
        roles = {"labelled": [], "unlabelled": [], "validation": []}
        for case in c["cases"]:
            prepared = load_prepared(self.folder.path / case["prepared"])
            roles[case["role"]].append(TrainingCase(case["id"], prepared["image"], prepared.get("label")))
        self.labelled, self.unlabelled, self.validation = roles.values()
        self.sampler = TwoStreamSampler(
            self.labelled, self.unlabelled, c["patch"], c["seed"], c["augmentation"], c["spacing"]
        )

    def _shares(self) -> list[float]:
        """Of each class among the voxels of the labelled cases."""
        classes = self.config["network"]["n_classes"]
        count = sum(np.bincount(case.label.ravel(), minlength=classes) for case in self.labelled)
        return (count / count.sum()).tolist()

    def _plan(self) -> None:
        """Fit the schedule into the minutes given, from the speed of a few steps that are then undone."""
        kept = copy.deepcopy((self.method.state_dict(), self.optimiser.state_dict()))
        self.loss_of = self.method
        seconds = self.config["minutes"] * 60
        per_step = self._seconds_a_step(min(PROBE_SECONDS, PROBE_SHARE * seconds))
        if self._leaves_out:
            seconds /= 2  # the folds together take as long as the run
        left = seconds - self._seconds_to_measure() * measurings(self.config) - self._seconds_of_guesses()
        self.iteration = 0
        self.method.load_state_dict(kept[0])
        self.optimiser.load_state_dict(kept[1])
        fitting = distributed.agreed(int(left / per_step))
        if fitting < FEWEST_STEPS:
            sentence = (
                f"{FEWEST_STEPS} steps don't fit into {self.config['minutes']:g} minutes; they are done all the same."
            )
            self.config["warnings"] = [*self.config["warnings"], sentence]
        self.config["iterations"] = max(fitting, FEWEST_STEPS)
        self.config["planned"] = True
        if self.main:
            self.folder.save_config()

    def _phases(self) -> list[tuple[float, float]]:
        """Of the method; without unlabelled cases every one learns as the supervised one does, from start to end."""
        return self.method.phases() if self._draws_unlabelled else [(1.0, 0.0)]

    def _stage(self, iteration: int) -> str | None:
        return self.method.stage(iteration / self.config["iterations"]) if self._draws_unlabelled else None

    @property
    def _draws_unlabelled(self) -> bool:
        return bool(self.unlabelled and self.config["batch"][1])

    def _guesses_due(self, iteration: int, of: int) -> bool:
        """Whether the unlabelled scans are to be labelled anew, which serves nobody where no crop is drawn of them."""
        return self._draws_unlabelled and self.method.guesses_due(iteration, of)

    def _seconds_a_step(self, budget: float, tell: Callable[[float], None] = lambda fraction: None) -> float:
        """Mean over the training, whose phases differ in what a step has to do, from steps that take about `budget`
        seconds; `tell` is called with the share of them that is over."""
        phases = self._phases()
        return sum(
            share * self._pace(progress, budget / len(phases), lambda f, i=i: tell((i + f) / len(phases)))
            for i, (share, progress) in enumerate(phases)
        )

    def _pace(self, progress: float, budget: float, tell: Callable[[float], None]) -> float:
        """Seconds a step from this moment of the training on, crops drawn beside the steps as the loop does it.

        The first step warms up; then come whole rounds of steps, where a method has more to do at every n-th.
        """
        settings = self.method.settings
        length = int(settings["terms_every"]) if settings.get("guess_every") else 1
        self.iteration = int(progress * self.config["iterations"]) // length * length
        done, spent, begun = 0, 0.0, time.perf_counter()
        with self._drawn_ahead() as drawn:
            self._step(drawn.take(self.iteration))
            # another round only if it is likely to end in time; in all processes if in one, as they step together
            while distributed.agreed(not done or (time.perf_counter() - begun) + spent / done * length < budget):
                for _ in range(length):
                    start = time.perf_counter()
                    float(self._step(drawn.take(self.iteration))["total"])  # a GPU is waited for
                    spent += time.perf_counter() - start
                    done += 1
                    tell(min(1.0, (time.perf_counter() - begun) / budget))
        return spent / done

    def _seconds_to_measure(self) -> float:
        start = time.perf_counter()
        self._settle()
        if self.validation:
            self._validate_only()
        else:
            next(predict_cases(self._predictor(), [self._shown_case()], self.config["patch"]))
        return time.perf_counter() - start

    def _shown_case(self) -> TrainingCase:
        """Whose picture is shown where there are no cases to measure on."""
        return (self.unlabelled or self.labelled)[0]

    def _seconds_of_guesses(self) -> float:
        rounds = sum(self._guesses_due(t, 1000) for t in range(1000))
        if not rounds:
            return 0.0
        start = time.perf_counter()
        next(predict_cases(self._predictor(), self.unlabelled, self.config["patch"]))
        return (time.perf_counter() - start) * rounds * len(self.unlabelled)

    # --- the loop -------------------------------------------------------------------------------------------------

    def _train(self) -> None:
        c = self.config
        of = c["iterations"]
        validate_every = max(1, of * c["validate_percent"] // 100)
        last_checkpoint, last_event, started, first = time.monotonic(), 0.0, time.monotonic(), self.iteration
        if self.iteration == 0 and c["from_model"]:
            self._measure(models.load_card(c["from_model"])["patch"])  # how good the model was before
        if self.iteration == 0 and self._guesses_due(0, of):
            self._guess()
        with self._drawn_ahead() as drawn:
            stage = None
            while self.iteration < of and not self._ended:
                if self._stage(self.iteration) != stage:
                    stage = self._stage(self.iteration)
                    self._say("stage", iteration=self.iteration, of=of, stage=stage)
                terms = self._step(drawn.take(self.iteration))
                if self._guesses_due(self.iteration, of) and self.iteration < of:
                    drawn.forget()  # it has the last guesses
                    self._guess()
                now = time.monotonic()
                # the figures are gathered from all processes, so all of them must take part
                if distributed.agreed(now - last_event >= STEP_EVENT_SECONDS or self.iteration == of):
                    last_event = now
                    pace = (now - started) / (self.iteration - first)
                    self._say_step(terms, pace)
                if self.iteration % validate_every == 0 or self.iteration == of:
                    self._validate()
                if now - last_checkpoint >= c["checkpoint_seconds"]:
                    self._checkpoint_unless_in_use()
                    last_checkpoint = time.monotonic()
                self._obey()

    def _step(self, crops: tuple[list[Crop], list[Crop]]) -> dict[str, torch.Tensor]:
        """One optimiser step; the loss terms it came from, still on the device."""
        c = self.config
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(c["optimiser"], self.iteration, c["iterations"])
        # what is random follows from the iteration, so that a resumed run meets the same chance
        torch.manual_seed(_seed(c["seed"], self.iteration, 1 + distributed.rank()))
        with self._narrow():
            terms = self.loss_of(self._batch(crops))
        self.optimiser.zero_grad(set_to_none=True)
        terms["total"].backward()
        self.optimiser.step()
        self.iteration += 1
        self.method.after_step(self.iteration)
        return {name: value.detach() for name, value in terms.items()}

    def _narrow(self):
        """A context in which the network computes at the run's precision."""
        narrow = self.dtype != torch.float32
        return torch.autocast(self.device.type, self.dtype) if narrow else contextlib.nullcontext()

    def _drawn_ahead(self) -> Ahead[tuple[list[Crop], list[Crop]]]:
        """The crops of each iteration, drawn beside the steps; a GPU is quicker than one thread that warps crops."""
        return Ahead(self._crops, 1 if self.device.type == "cpu" else min(MOST_DRAWERS, os.cpu_count() or 1))

    def _crops(self, iteration: int) -> tuple[list[Crop], list[Crop]]:
        drawn = []
        progress = iteration / self.config["iterations"]
        aligned = self._draws_unlabelled and self.method.aligned(progress)
        share = self.method.share_of_batch(progress) if self._draws_unlabelled else 1.0
        for stream, count in enumerate(self.config["batch"]):
            size = max(1, int(count * share)) // distributed.world_size() if count else 0
            cases = self.sampler.streams[stream]
            first = size * distributed.rank()
            wanted = cases and (stream == 0 or self.method.uses_unlabelled(progress))
            drawn.append(self.sampler.draw(stream, iteration, count, first, size, aligned) if wanted else [])
        return tuple(drawn)

    def _batch(self, crops: tuple[list[Crop], list[Crop]]) -> Batch:
        generator = torch.Generator(self.device)
        generator.manual_seed(_seed(self.config["seed"], self.iteration, 0))
        images = [torch.stack([c.image for c in part])[:, None] if part else torch.empty(0) for part in crops]
        labelled_images, unlabelled_images = (
            x.to(self.device, memory_format=self.layout) if len(x) else x for x in images
        )
        return Batch(
            labelled=labelled_images,
            label=torch.stack([c.label for c in crops[0]]).to(self.device),
            unlabelled=unlabelled_images,
            progress=self.iteration / self.config["iterations"],
            generator=generator,
            guess=torch.stack([c.label for c in crops[1]]).to(self.device) if crops[1] else None,
            iteration=self.iteration,
            axial=torch.tensor([c.axial for part in crops for c in part], device=self.device),
        )

    def _settle(self, network: VNet | None = None) -> None:
        """Give a network, by default the one to be used, the batch-norm statistics of plain crops; every process takes
        the same ones."""
        c = self.config
        cases = self.labelled + self.unlabelled
        rng = np.random.default_rng((c["seed"], 4, self.iteration))

        def batch() -> torch.Tensor:
            chosen = rng.integers(len(cases), size=sum(c["batch"]))
            crops = [random_crop(cases[n], c["patch"], rng).image for n in chosen]
            return torch.stack(crops)[:, None].to(self.device, memory_format=self.layout)

        with self._narrow():
            batches = (batch() for _ in range(c.get("settle_batch_norm", 0)))
            settle_batch_norm(network or self.method.deployed, batches)

    def _guess(self) -> None:
        """Let the teacher label the unlabelled scans, whole; every process does it for itself, from like weights."""
        start = time.perf_counter()
        self._settle(self.method.teacher)
        teacher, settings = self._predictor(self.method.teacher), self.method.settings
        found = [
            guess_of(probability, settings["pseudo_largest"], settings["pseudo_threshold"])
            for probability in predict_probabilities(teacher, self.unlabelled, self.config["patch"])
        ]
        believed = [self._is_plausible(labels) for labels in found]
        for case, labels, good in zip(self.unlabelled, found, believed, strict=True):
            case.label = labels if good or not any(believed) else None
        self._draw_from_believed()
        left_out = [case.id for case in self.unlabelled if case.label is None]
        seconds = round(time.perf_counter() - start, 2)
        self._say("guess", iteration=self.iteration, cases=len(found), left_out=left_out, seconds=seconds)

    def _is_plausible(self, labels: np.ndarray) -> bool:
        """Whether each class is at most three times the largest and at least half the smallest of the labelled cases.

        A scan in which the teacher finds next to nothing would teach the student to find nothing there.
        """
        n = self.config["network"]["n_classes"]
        known = np.array([np.bincount(case.label.ravel(), minlength=n)[1:] for case in self.labelled])
        size = np.bincount(labels.ravel() % n, minlength=n)[1:]
        return bool((2 * size >= known.min(0)).all() and (size <= 3 * known.max(0)).all())

    def _draw_from_believed(self) -> None:
        believed = [case for case in self.unlabelled if case.label is not None]
        self.sampler.streams = (self.labelled, believed or self.unlabelled)

    # --- what is said ---------------------------------------------------------------------------------------------

    def _say(self, event: str, **fields) -> None:
        if self.main:
            self.on_event(self.folder.say(event, **fields))

    def _say_step(self, terms: dict[str, torch.Tensor], pace: float) -> None:
        loss = {name: float(value) for name, value in distributed.mean(terms).items()}
        bad = [name for name, value in loss.items() if not abs(value) < float("inf")]
        if bad:
            raise TrainingError(
                f"The loss is no longer a number ({', '.join(bad)}) at iteration {self.iteration}; "
                f"{self._kept()}, with a lower learning rate (lr in run.json)."
            )
        of, stage = self.config["iterations"], self._stage(self.iteration - 1)
        rounded = {name: float(f"{value:.5g}") for name, value in loss.items()}
        rate = self.optimiser.param_groups[0]["lr"]
        self._say(
            "step",
            iteration=self.iteration,
            of=of,
            **({"stage": stage} if stage else {}),
            loss=rounded,
            learning_rate=rate,
            seconds=round(pace, 4),
            seconds_left=round(pace * (of - self.iteration), 1),
        )

    def _validate_only(
        self, show: Callable[[TrainingCase, np.ndarray], None] | None = None, patch: Sequence[int] | None = None
    ) -> dict:
        c = self.config
        largest = c["model"].get("largest", False)  # measured as the model will be used
        return validate(self._predictor(), self.validation, c["spacing"], patch or c["patch"], show, largest)

    def _predictor(self, network: VNet | None = None) -> Predictor:
        """What segments whole scans with a network, by default the one to be used."""
        return Predictor(network or self.method.deployed, str(self.device), self.dtype)

    def _validate(self) -> None:
        """Measure the network as it would be used after this step."""
        self._settle()
        self._measure()

    def _measure(self, patch: Sequence[int] | None = None) -> None:
        """Say how good the network is, where there are cases to measure it on, and show it at one case.

        patch: that scans are padded to, as the model that is measured wants it; None for the run's own.
        """
        if not self.main:
            return
        if not self.validation:
            case = self._shown_case()
            self._show(case, next(predict_cases(self._predictor(), [case], patch or self.config["patch"])))
            return
        start = time.perf_counter()
        figures = self._validate_only(self._show, patch)
        seconds = round(time.perf_counter() - start, 2)
        self._say("validation", iteration=self.iteration, of=self.config["iterations"], **figures, seconds=seconds)

    def _show(self, case: TrainingCase, found: np.ndarray) -> None:
        """Write the picture of a case, with its label where that measures the network and is no guess."""
        if not self.folder.path.is_dir():
            return  # removed: nothing must bring it back
        truth = case.label if self.validation else None
        picture = slice_picture(case.image.astype(np.float32), found, self.config["spacing"], truth)
        # nothing is lost with a picture: a disk that is full is told by what needs it
        with contextlib.suppress(OSError), atomic_path(self.folder.preview, durable=False) as temporary:
            temporary.write_bytes(picture)

    # --- checkpoints and commands ---------------------------------------------------------------------------------

    def _checkpoint_unless_in_use(self) -> None:
        """Where somebody has the old one open on Windows, that is no reason to lose what comes after it."""
        try:
            self._checkpoint()
        except PermissionError as error:
            if not is_in_use(error):
                raise
            reason = error.strerror or error
            self._say("warning", message=f"The checkpoint is in use and was not replaced ({reason}).")

    def _checkpoint(self) -> None:
        if not self.main:
            return
        state = {
            "iteration": self.iteration,
            "method": self.method.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "ended": self._ended,
            "guesses": {case.id: _packed(case.label) for case in self.unlabelled if case.label is not None},
        }
        if not all(torch.isfinite(v).all() for v in state["method"].values() if v.is_floating_point()):
            raise TrainingError(
                f"The weights are no longer numbers at iteration {self.iteration}; {self._kept()}, "
                "with a lower learning rate (lr in run.json)."
            )
        self.folder.save_checkpoint(state)
        self._say("checkpoint", iteration=self.iteration)

    def _restore(self, state: dict) -> None:
        try:
            self.method.load_state_dict(state["method"])
            self.optimiser.load_state_dict(state["optimiser"])
            self.iteration = state["iteration"]
            self._ended = state.get("ended", False)
            for case in self.unlabelled:
                if case.id in state["guesses"]:
                    case.label = _unpacked(state["guesses"][case.id], case.image.shape)
            self._draw_from_believed()
        except (KeyError, RuntimeError, ValueError) as error:
            if is_out_of_memory(error):
                raise
            raise TrainingError(
                f"{self.folder.checkpoint} belongs to other settings than run.json; remove it to start anew."
            ) from None

    def _interrupt(self, _number, _frame) -> None:
        self._interrupted = True

    def _obey(self) -> None:
        """Do what the control file or a signal asks for; all processes take the same decision."""
        words = [None, "pause", "finish", "stop"]
        word = "stop" if self._interrupted else self.folder.command() if self.main else None
        word = words[distributed.agreed(words.index(word) if word in words else 0)]
        if word == "pause":
            self._pause()
        elif word == "stop":
            self._stop()
        elif word == "finish":
            self._ended = True
            if self.main:
                self.folder.clear_command()
            if self._stage(self.iteration) not in (None, FINE_TUNING):
                self._say("warning", message="The training ends before its last stage: expect little of the model.")
            self._say("finishing", iteration=self.iteration, of=self.config["iterations"])

    def _pause(self) -> None:
        self._checkpoint_unless_in_use()
        self._say("paused", iteration=self.iteration)
        while self.main and self.folder.command() == "pause" and not self._interrupted:
            time.sleep(0.2)
        # the other processes wait here for the first one
        if distributed.agreed(int(self._interrupted or self.folder.command() == "stop")):
            self._stop()
        if self.main and self.folder.command() != "finish":
            self.folder.clear_command()
        self._say("resumed", iteration=self.iteration)

    def _stop(self) -> None:
        self._checkpoint()
        if self.main:
            self.folder.clear_command()
        self._say("stopped", iteration=self.iteration, of=self.config["iterations"])
        raise Stopped

    def _kept(self) -> str:
        if self.folder.checkpoint.exists():
            return "the last good checkpoint is kept: go on from it"
        return "nothing was saved yet: start anew"

    def _fail(self, sentence: str) -> None:
        self._tell_error(sentence)
        raise TrainingError(sentence) from None

    def _tell_error(self, sentence: str) -> None:
        # where the folder is full or gone, the sentence still reaches whoever started the run
        with contextlib.suppress(OSError):
            self._say("error", iteration=self.iteration, message=sentence)

    # --- the end --------------------------------------------------------------------------------------------------

    def _finish(self) -> None:
        self._settle()
        self._checkpoint_unless_in_use()
        if not self.main:
            return
        state = {k: array_of(v) for k, v in self.method.deployed.state_dict().items()}
        card = card_of(self.config) | {"training": self._provenance()}
        card["segments"] = [{**segment, "volume_ml": self._volumes(segment)} for segment in card["segments"]]
        card["scan_ml"] = self._range_in_ml([case.image.size for case in self.labelled], card.get("scan_ml"))
        models.save_model(self.folder.model, card, state, overwrite=True)
        # read back what a user will load, not what is in memory
        self.method.deployed.load_state_dict(models.build_network(self.folder.model)[0].state_dict())
        figures, on = {}, "validation cases"
        if self.validation:
            figures = self._validate_only()
        elif self._leaves_out:
            figures, on = self._leave_one_out(), HOW
        if figures:
            means = {k: v for k, v in figures.items() if k not in ("rows", "before_rows", "how")}
            cases = len({row["case"] for row in figures["rows"]})
            card["quality"] = [{"on": f"{on}, on the model's grid", "cases": cases, **means}]
            models.save_model(self.folder.model, card, state, overwrite=True)
        memory = devices.peak_memory_mb(str(self.device))
        self._say("done", iteration=self.iteration, model="model", peak_memory_mb=memory, **figures)

    def _volumes(self, segment: dict) -> list[float]:
        """The least and the greatest volume (ml) of a structure that this run, or its start model, learned from."""
        voxels = [(case.label == segment["value"]).sum() for case in self.labelled]
        return self._range_in_ml(voxels, segment.get("volume_ml"))

    def _range_in_ml(self, voxels: Iterable[int], before: Sequence[float] | None) -> list[float]:
        voxel = np.prod(self.config["spacing"]) / 1000
        volumes = [*(float(n * voxel) for n in voxels), *(before or [])]
        return [round(min(volumes), 3), round(max(volumes), 3)]

    def _leave_one_out(self) -> dict:
        self.optimiser = self.loss_of = self.sampler = None  # room for the folds
        try:
            return leave_one_out(
                self.folder, self.iteration, lambda fold, listen: Trainer(fold, listen).run(), self._say
            )
        except Stopped:
            self._say("stopped", iteration=self.iteration, of=self.config["iterations"])
            raise

    def _provenance(self) -> dict:
        c = self.config
        roles = {"labelled": self.labelled, "unlabelled": self.unlabelled, "validation": self.validation}
        return {
            "method": c["method"],
            "settings": self.method.settings,
            "recipe": c["recipe"],
            "iterations": self.iteration,
            "batch": c["batch"],
            "optimiser": c["optimiser"],
            "augmentation": c["augmentation"],
            "seed": c["seed"],
            "from_model": c["from_model_name"],
            **{role: [case.id for case in cases] for role, cases in roles.items()},
        }


def measurings(config: dict) -> int:
    """How often a training measures or shows its network: on its way, at its end and, of a start model, before."""
    return -(-100 // config["validate_percent"]) + (2 if config["from_model"] else 1)


def _packed(label: np.ndarray) -> torch.Tensor:
    """Labels compressed (hundredfold, typically), as bytes that a checkpoint can hold."""
    return torch.frombuffer(bytearray(zlib.compress(label.tobytes(), 1)), dtype=torch.uint8)


def _unpacked(packed: torch.Tensor, shape: tuple[int, ...]) -> np.ndarray:
    return np.frombuffer(bytearray(zlib.decompress(array_of(packed).tobytes())), np.uint8).reshape(shape)


def _seed(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)
