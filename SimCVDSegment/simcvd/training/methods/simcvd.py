"""SimCVD: contrastive voxel-wise representation distillation (You et al., IEEE TMI 2022, arXiv 2108.06227)."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from ...network import Output
from ..copy_paste import MOST_GUESSED, believed, labelled_places, mixed, pseudo_labels
from ..ema import make_teacher
from ..losses import ProjectionHead, info_nce, pairwise_distillation
from .base import Batch, MethodError
from .mean_teacher import MeanTeacher


class SimCVD(MeanTeacher):
    """L = L_sup + Psi (lambda L_contrast + beta L_pd + gamma L_con), Eq. 6, with the published weights as defaults."""

    name = "simcvd"
    summary = "few outlines among many scans: contrast of slices, distillation of voxels and consistency with a teacher"
    defaults: ClassVar[dict] = {
        **MeanTeacher.defaults,
        "ema_decay": 0.999,
        "lambda": 0.5,
        "beta": 0.1,
        "tau": 0.5,
        "pd_reduction": "mean",
        "ramp_on": "all",
        "use_sdm_in_contrast": True,
        "pool": "avg",
        "pool_size": 128,
        "head_dropout": 0.1,
        "head_hidden": 512,
        "head_width": 128,
        "contrast_slices": 0,
        "sdm_consistency": False,
        "pseudo": 0.0,
        "pseudo_threshold": 0.0,
        "pseudo_largest": False,
        "mix": True,
        "halve": False,
        "guess_every": 0.0,
        "terms_every": 1,
    }
    meanings: ClassVar[dict[str, str]] = {
        **MeanTeacher.meanings,
        "lambda": "weight of the contrast of slices; 0 leaves it out",
        "beta": "weight of the pair-wise distillation; 0 leaves it out",
        "tau": "temperature of the contrast",
        "pd_reduction": "of the distillation, over voxels; the paper prints sum",
        "ramp_on": "Psi ramps lambda, beta and gamma (all), or gamma only (con)",
        "use_sdm_in_contrast": "contrast image plus distance map (boundary-aware), else plus foreground probability",
        "pool": "kind of pooling before the projection head",
        "pool_size": "side of what is pooled to",
        "head_dropout": "in the projection head",
        "head_hidden": "features within the projection head",
        "head_width": "features that are compared",
        "contrast_slices": "slices of a batch (of a process) that are contrasted; 0 takes all",
        "sdm_consistency": "the consistency compares the distance maps as well",
        "pseudo": "weight of the teacher's answers as labels of unlabelled crops (their distance maps weigh alpha); 0: "
        "the published method",
        "pseudo_threshold": "with pseudo, the confidence that counts",
        "pseudo_largest": "with pseudo, only the largest part of each class is believed",
        "mix": "with pseudo, crops mixed of labelled and unlabelled ones (copy-paste) take the place of both",
        "halve": "once unlabelled crops join, take half of the crops of both kinds, so that a step costs as before",
        "guess_every": "with pseudo, the teacher labels the unlabelled scans whole, each time this share of the "
        "training has passed since pretraining; 0: it labels each crop as it is drawn, which costs a pass a step",
        "terms_every": "with guess_every, contrast, distillation and consistency join every so many steps",
    }
    choices: ClassVar[dict] = {
        **MeanTeacher.choices,
        "pd_reduction": ("mean", "sum"),
        "ramp_on": ("all", "con"),
        "pool": ("avg", "max"),
    }
    counts: ClassVar[dict[str, int]] = {
        **dict.fromkeys(("pool_size", "head_hidden", "head_width", "terms_every"), 1),
        "contrast_slices": 0,
    }
    divisors: ClassVar[tuple[str, ...]] = ("tau",)
    rates: ClassVar[tuple[str, ...]] = (*MeanTeacher.rates, "head_dropout")
    needs: ClassVar[dict[str, str]] = {
        **MeanTeacher.needs,
        **dict.fromkeys(("tau", "use_sdm_in_contrast", "contrast_slices", "pool", "pool_size"), "lambda"),
        **dict.fromkeys(("head_dropout", "head_hidden", "head_width"), "lambda"),
        "pd_reduction": "beta",
        "sdm_consistency": "gamma",
        **dict.fromkeys(("pseudo_threshold", "pseudo_largest", "mix"), "pseudo"),
        "terms_every": "guess_every",
    }

    def __init__(self, network: nn.Module, settings: dict):
        super().__init__(network, settings)
        s = self.settings
        if s["guess_every"] and s["pseudo_threshold"] and network.settings["n_classes"] > MOST_GUESSED:
            raise MethodError(f"With guess_every, pseudo_threshold takes at most {MOST_GUESSED} classes.")
        if s["lambda"]:
            self.student_head = ProjectionHead(
                s["pool_size"], s["pool"], s["head_dropout"], s["head_hidden"], s["head_width"]
            )
            self.teacher_head = make_teacher(self.student_head)

    @classmethod
    def checked(cls, settings: dict) -> dict:
        """As of every method; settings that exclude each other are refused too."""
        s = super().checked(settings)
        if s["guess_every"] and not s["pseudo"]:
            raise MethodError("Setting guess_every needs pseudo above 0.")
        return s

    @classmethod
    def passes(cls, settings: dict, labelled: int, unlabelled: int) -> list[int]:
        """As of the mean teacher; where the teacher labels, both networks take both kinds together, or the mixes."""
        halves = [max(1, n // 2) if settings["halve"] else n for n in (labelled, unlabelled)]
        at_once = halves[1] if not settings["pseudo"] else halves[0] if settings["mix"] else sum(halves)
        return [at_once] + [labelled] * bool(settings["pretrain"])

    def share_of_batch(self, progress: float) -> float:
        """Half, where that is wanted, once unlabelled crops join."""
        return 0.5 if self.settings["halve"] and self.uses_unlabelled(progress) else 1.0

    def guesses_due(self, iteration: int, iterations: int) -> bool:
        """At the end of pretraining, and whenever another `guess_every` of the training has passed."""
        start, every = self.settings["pretrain"], self.settings["guess_every"]
        if not every:
            return False
        # 1e-9: 0.1 + 0.2 is to be 0.3
        rounds = [math.floor((t / iterations - start) / every + 1e-9) for t in (iteration - 1, iteration)]
        return rounds[1] >= 0 and rounds[1] > rounds[0]

    def semi_supervised_terms(self, batch: Batch) -> dict[str, torch.Tensor]:
        """Terms segmentation, sdm, supervised, contrast, distillation, consistency, total."""
        if self.settings["pseudo"]:
            terms = self.pseudo_labelled_terms(batch)
        else:
            labelled, student, teacher = self.three_passes(batch)
            terms = self.supervised_terms(labelled, batch.label)
            terms |= self.unlabelled_terms(batch.unlabelled, student, teacher, batch.generator)
        terms["total"] = terms["supervised"]
        for name, weight in self.weights(batch.progress).items():
            if name in terms:
                terms["total"] = terms["total"] + weight * terms[name]
        return terms

    def after_step(self, updates: int) -> None:
        """Move the teacher and its head towards the student and its head."""
        super().after_step(updates)
        if self.settings["lambda"]:
            self.follow(self.teacher_head, self.student_head, updates)

    def weights(self, progress: float) -> dict[str, float]:
        """Weight of each unsupervised term at this moment of the training."""
        s, ramp = self.settings, self.ramp(progress)
        rest = ramp if s["ramp_on"] == "all" else 1.0
        return {"contrast": rest * s["lambda"], "distillation": rest * s["beta"], "consistency": ramp * s["gamma"]}

    def unlabelled_terms(
        self, image: torch.Tensor, student: Output, teacher: Output, generator: torch.Generator
    ) -> dict[str, torch.Tensor]:
        """L_contrast, L_pd and L_con of crops (B, 1, K, J, I), those whose weight isn't zero."""
        s, terms = self.settings, {}
        if s["lambda"]:
            terms["contrast"] = self.contrast(image, student, teacher, generator)
        if s["beta"]:
            terms["distillation"] = pairwise_distillation(student.features, teacher.features, s["pd_reduction"])
        if s["gamma"]:
            terms["consistency"] = self.consistency(student, teacher)
            if s["sdm_consistency"]:
                terms["consistency"] = terms["consistency"] + F.mse_loss(student.sdm.float(), teacher.sdm.float())
        return terms

    def contrast(
        self, image: torch.Tensor, student: Output, teacher: Output, generator: torch.Generator
    ) -> torch.Tensor:
        """InfoNCE between the two heads' vectors of the same axial slice (Eq. 2 and 3)."""
        a = self.student_head(self.boundary_aware(image, student))
        with torch.no_grad():
            b = self.teacher_head(self.boundary_aware(image, teacher))
        count = self.settings["contrast_slices"]
        if count and count < len(a):
            chosen = torch.randperm(len(a), generator=generator, device=generator.device)[:count]
            a, b = a[chosen.to(a.device)], b[chosen.to(b.device)]
        return info_nce(a, b, self.settings["tau"])

    def boundary_aware(self, image: torch.Tensor, output: Output) -> torch.Tensor:
        """Q^ba = X + Q^sdm as (B, K, J, I); maps of several classes are added up (our choice)."""
        if self.settings["use_sdm_in_contrast"]:
            return image[:, 0] + output.sdm.float().sum(1)
        return image[:, 0] + output.logits.float().softmax(1)[:, 1:].sum(1)

    def pseudo_labelled_terms(self, batch: Batch) -> dict[str, torch.Tensor]:
        """Supervised and unlabelled terms where the teacher's answers stand for labels.

        The teacher sees whole crops, or scans, as it will when it is used. Where crops are mixed its answers are mixed
        like them: the student must find them in the mixes, in one pass of half the crops.
        """
        s, n, chance = self.settings, len(batch.labelled), batch.generator
        teacher = None
        if not s["guess_every"] or batch.iteration % s["terms_every"] == 0:
            teacher = self.teach(chance, batch.labelled, batch.unlabelled)
        if s["guess_every"]:
            pseudo, confident = believed(batch.guess, self.student.settings["n_classes"])
        else:
            pseudo, confident = pseudo_labels(teacher.logits[n:], s["pseudo_threshold"], s["pseudo_largest"])
        true = labelled_places(batch.label.shape, chance, batch.label.device) if s["mix"] else None

        def joined(labelled: torch.Tensor, unlabelled: torch.Tensor) -> torch.Tensor:
            return torch.cat([labelled, unlabelled]) if true is None else mixed(true, labelled, unlabelled)

        image = joined(batch.labelled, batch.unlabelled)
        noise = joined(self.noise_for(batch.labelled, chance), self.noise_for(batch.unlabelled, chance))
        weight = joined(
            torch.ones_like(batch.label, dtype=torch.float32), confident * (s["pseudo"] * self.ramp(batch.progress))
        )
        student = self.student(image + noise)
        terms = self.supervised_terms(student, joined(batch.label, pseudo), weight)
        if teacher:
            taught = Output(*(joined(x[:n], x[n:]) for x in teacher))
            terms |= self.unlabelled_terms(image, student, taught, chance)
        return terms
