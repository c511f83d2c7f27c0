"""SimCVD: contrastive voxel-wise representation distillation (You et al., IEEE TMI 2022, arXiv 2108.06227)."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from ...network import Output
from ..copy_paste import mix_both_ways, pseudo_labels
from ..ema import decay_at, make_teacher, update_teacher
from ..losses import ProjectionHead, info_nce, pairwise_distillation
from .base import Batch
from .mean_teacher import MeanTeacher


class SimCVD(MeanTeacher):
    """L = L_sup + Psi (lambda L_contrast + beta L_pd + gamma L_con), Eq. 6, with the published weights as defaults.

    Settings beyond those of the mean teacher:
        lambda, beta: weights of the contrast and of the pair-wise distillation; 0 leaves the term out.
        tau: temperature of the contrast.
        pd_reduction: "mean" over voxels, or "sum" as printed.
        ramp_on: "all" ramps lambda, beta and gamma, "con" only gamma.
        use_sdm_in_contrast: contrast the image plus distance map (boundary-aware), else plus foreground probability.
        pool, pool_size, head_dropout, head_hidden, head_width: of the projection head.
        contrast_slices: how many slices of the (process's) batch are contrasted; 0 takes all.
        sdm_consistency: the consistency compares the distance maps as well.
        copy_paste: weight of the teacher's pseudo-labels in crops mixed of labelled and unlabelled ones, which take
            the place of the labelled crops; 0 is the published method. pseudo_threshold: confidence that counts.
    """

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
        "copy_paste": 0.0,
        "pseudo_threshold": 0.0,
    }
    choices: ClassVar[dict] = {
        **MeanTeacher.choices,
        "pd_reduction": ("mean", "sum"),
        "ramp_on": ("all", "con"),
        "pool": ("avg", "max"),
    }

    def __init__(self, network: nn.Module, settings: dict):
        super().__init__(network, settings)
        s = self.settings
        if s["lambda"]:
            self.student_head = ProjectionHead(
                s["pool_size"], s["pool"], s["head_dropout"], s["head_hidden"], s["head_width"]
            )
            self.teacher_head = make_teacher(self.student_head)

    def semi_supervised_terms(self, batch: Batch) -> dict[str, torch.Tensor]:
        """Terms segmentation, sdm, supervised, contrast, distillation, consistency, total."""
        if self.settings["copy_paste"]:
            terms, student, teacher = self.mixed_terms(batch)
        else:
            labelled, student, teacher = self.three_passes(batch, batch.labelled)
            terms = self.supervised_terms(labelled, batch.label)
        terms |= self.unlabelled_terms(batch, student, teacher)
        terms["total"] = terms["supervised"]
        for name, weight in self.weights(batch.progress).items():
            if name in terms:
                terms["total"] = terms["total"] + weight * terms[name]
        return terms

    def after_step(self, updates: int) -> None:
        """Move the teacher and its head towards the student and its head."""
        super().after_step(updates)
        if self.settings["lambda"]:
            update_teacher(self.teacher_head, self.student_head, decay_at(updates - 1, self.settings["ema_decay"]))

    def weights(self, progress: float) -> dict[str, float]:
        """Weight of each unsupervised term at this moment of the training."""
        s, ramp = self.settings, self.ramp(progress)
        rest = ramp if s["ramp_on"] == "all" else 1.0
        return {"contrast": rest * s["lambda"], "distillation": rest * s["beta"], "consistency": ramp * s["gamma"]}

    def unlabelled_terms(self, batch: Batch, student: Output, teacher: Output) -> dict[str, torch.Tensor]:
        """L_contrast, L_pd and L_con, those whose weight isn't zero."""
        s, terms = self.settings, {}
        if s["lambda"]:
            terms["contrast"] = self.contrast(batch, student, teacher)
        if s["beta"]:
            terms["distillation"] = pairwise_distillation(student.features, teacher.features, s["pd_reduction"])
        if s["gamma"]:
            terms["consistency"] = self.consistency(student, teacher)
            if s["sdm_consistency"]:
                terms["consistency"] = terms["consistency"] + F.mse_loss(student.sdm.float(), teacher.sdm.float())
        return terms

    def contrast(self, batch: Batch, student: Output, teacher: Output) -> torch.Tensor:
        """InfoNCE between the two heads' vectors of the same axial slice (Eq. 2 and 3)."""
        a = self.student_head(self.boundary_aware(batch.unlabelled, student))
        with torch.no_grad():
            b = self.teacher_head(self.boundary_aware(batch.unlabelled, teacher))
        count = self.settings["contrast_slices"]
        if count and count < len(a):
            chosen = torch.randperm(len(a), generator=batch.generator, device=batch.generator.device)[:count]
            a, b = a[chosen.to(a.device)], b[chosen.to(b.device)]
        return info_nce(a, b, self.settings["tau"])

    def boundary_aware(self, image: torch.Tensor, output: Output) -> torch.Tensor:
        """Q^ba = X + Q^sdm as (B, K, J, I); maps of several classes are added up (our choice)."""
        if self.settings["use_sdm_in_contrast"]:
            return image[:, 0] + output.sdm.float().sum(1)
        return image[:, 0] + output.logits.float().softmax(1)[:, 1:].sum(1)

    def mixed_terms(self, batch: Batch) -> tuple[dict[str, torch.Tensor], Output, Output]:
        """Supervised terms on copy-paste mixes; the student sees mixes and noisy unlabelled crops in one pass."""
        s = self.settings
        teacher = self.teach(batch)
        pseudo, confident = pseudo_labels(teacher.logits, s["pseudo_threshold"])
        weight = confident * (s["copy_paste"] * self.ramp(batch.progress))
        mix = mix_both_ways(batch.labelled, batch.label, batch.unlabelled, pseudo, weight, batch.generator)
        both = self.student(torch.cat([mix.image, batch.unlabelled + self.noise_for(batch)]))
        n = len(mix.image)
        terms = self.supervised_terms(Output(*(x[:n] for x in both)), mix.label, mix.weight)
        return terms, Output(*(x[n:] for x in both)), teacher
