"""ACTION: anatomical-aware contrastive distillation (You et al., IPMI 2023, arXiv 2206.02307), in 3-D."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from ...network import Output
from ..copy_paste import labelled_places, mixed, pseudo_labels
from ..distributed import neighbours
from ..ema import make_teacher
from ..heads import mlp, unit
from ..losses import contrast, soft_label_distillation
from ..memory import MemoryQueue
from ..views import intensity_view, zoomed_view
from ..voxels import NO_CLASS, class_means, draw_confusable, draw_voxels, hard_voxels, read_maps
from .base import Batch
from .staged import Staged
from .teacher import Taught

CELLS = 4  # a side of a local patch, once pooled


class Action(Staged, Taught):
    """Distillation of what crops, then patches, are like among earlier ones; then contrast of voxels by class.

    Stage global: student encoder (strong view) and teacher encoder (weak view) say how near a crop is to each anchor in
    a memory of earlier crops, as a distribution; the student learns the teacher's, which is sharper.
    Stage local: L_sup, and the same for patches of the answers, each with the anchors of its own location.
    Stage fine-tuning: L = L_sup + pseudo * L_unsup + anatomical * L_anco. L_unsup is cross-entropy with the teacher's
    classes on unlabelled crops; L_anco pulls voxels of which the student is unsure to the mean of their class and
    away from voxels of other classes, most from those that look alike. What is compared of a voxel comes from the four
    decoder maps at its place; the released code reads five, and their neighbourhood.
    """

    name = "action"
    summary = "several structures, or small ones, with few outlines: crops, patches and hard voxels are compared"
    defaults: ClassVar[dict] = {
        **Taught.defaults,
        **Staged.defaults,
        "tau_student": 0.1,
        "tau_teacher": 0.01,
        "queue": 36,
        "local_patch": 20,
        "global_in_local": False,
        "anatomical": 0.01,
        "pseudo": 1.0,
        "pseudo_threshold": 0.7,
        "sure": 0.97,
        "cut_mix": True,
        "tau": 0.5,
        "hard": 0.97,
        "queries": 256,
        "negatives": 512,
        "head_hidden": 128,
        "head_width": 128,
    }
    meanings: ClassVar[dict[str, str]] = {
        **Taught.meanings,
        **Staged.meanings,
        "tau_student": "temperature of the student's distribution over earlier crops or patches",
        "tau_teacher": "temperature of the teacher's distribution",
        "queue": "crops that the memory holds",
        "local_patch": "side in voxels of a patch (a step is half of it)",
        "global_in_local": "stage local keeps the loss of stage global",
        "anatomical": "weight of the contrast of voxels (the paper prints 1, its code has 0.01); 0 leaves it out",
        "pseudo": "weight of the cross-entropy with the teacher's classes on unlabelled crops; 0 leaves it out",
        "pseudo_threshold": "confidence of the teacher that gives an unlabelled voxel its class in the contrast",
        "sure": "confidence that counts in pseudo's cross-entropy, which weighs a crop by its share of such voxels",
        "cut_mix": "unlabelled crops are mixed among themselves before the student sees them",
        "tau": "temperature of the contrast of voxels",
        "hard": "confidence of the student up to which a voxel is a query",
        "queries": "voxels per class that are compared",
        "negatives": "voxels per class that they are compared with",
        "head_hidden": "features within the heads",
        "head_width": "features that are compared",
    }
    divisors: ClassVar[tuple] = ("tau", "tau_student", "tau_teacher")
    counts: ClassVar[dict[str, int]] = dict.fromkeys(
        ("queue", "local_patch", "queries", "negatives", "head_hidden", "head_width"), 1
    )
    needs: ClassVar[dict[str, str]] = {
        **Taught.needs,
        "zoom": "global_share",
        **dict.fromkeys(("local_patch", "global_in_local"), "local_share"),
        "sure": "pseudo",
        **dict.fromkeys(("pseudo_threshold", "hard", "queries", "negatives"), "anatomical"),
    }

    def __init__(self, network: nn.Module, settings: dict):
        super().__init__(network, settings)
        self.classes = network.settings["n_classes"]
        hidden, width = self.settings["head_hidden"], self.settings["head_width"]
        entering = {
            "crop": network.widths[0],
            "patch": self.classes * CELLS**3,
            "voxel": sum(network.widths[1:]),
        }
        self.student_heads = nn.ModuleDict({name: mlp(n, hidden, width) for name, n in entering.items()})
        self.teacher_heads = make_teacher(self.student_heads)
        self.predictors = nn.ModuleDict({name: mlp(width, hidden, width) for name in ("crop", "patch")})
        self.memory = nn.ModuleDict({name: MemoryQueue(self.settings["queue"]) for name in ("crop", "patch")})

    def forward(self, batch: Batch) -> dict[str, torch.Tensor]:
        """Terms by stage: global; segmentation, sdm, supervised, local; those and unsupervised, anatomical; total."""
        self._learned_alone = not len(batch.unlabelled)
        return super().forward(batch)

    def after_step(self, updates: int) -> None:
        """Move the teacher and its heads towards the student and its heads."""
        super().after_step(updates)
        self.follow(self.teacher_heads, self.student_heads, updates)

    # --- stages global and local ----------------------------------------------------------------------------------

    def global_terms(self, batch: Batch) -> dict[str, torch.Tensor]:
        """Whole crops, by the encoder alone; no label is looked at."""
        chance, streams = batch.generator, (batch.labelled, batch.unlabelled)
        views = [zoomed_view(self.strong(x, chance), chance, self.settings["zoom"]) for x in streams]
        strong, weak = torch.cat(views), torch.cat([x + self.noise_for(x, chance) for x in streams])
        with torch.no_grad():
            teacher = self.ready_teacher().encode(weak)[0]
        loss = self.distillation("crop", pooled(self.student.encode(strong)[0]), pooled(teacher), batch.progress)
        return {"global": loss, "total": self.settings["contrast_weight"] * loss}

    def local_terms(self, batch: Batch) -> dict[str, torch.Tensor]:
        """Patches of the answers, and the labels. The views differ in intensity only, so that places correspond."""
        streams = (batch.labelled, batch.unlabelled)
        student = self.student(torch.cat([self.strong(x, batch.generator) for x in streams]))
        teacher = self.teach(batch.generator, *streams)
        terms = self.supervised_terms(Output(*(x[: len(batch.label)] for x in student)), batch.label)
        side = self.settings["local_patch"]
        parts = {"local": ("patch", patches(student.logits, side), patches(teacher.logits, side))}
        if self.settings["global_in_local"]:
            parts["global"] = ("crop", pooled(student.features), pooled(teacher.features))
        terms |= {term: self.distillation(*part, batch.progress) for term, part in parts.items()}
        contrast = sum(terms[term] for term in parts)
        return {**terms, "total": terms["supervised"] + self.settings["contrast_weight"] * contrast}

    def distillation(self, kind: str, student: torch.Tensor, teacher: torch.Tensor, progress: float) -> torch.Tensor:
        """KL of the distributions over the memory, which then takes in what the teacher saw: both (B, L, features)."""
        learned = unit(self.predictors[kind](self.student_heads[kind](student)))
        with torch.no_grad():
            taught = unit(self.teacher_heads[kind](teacher))
        loss = soft_label_distillation(learned, taught, self.memory[kind].items, *self.temperatures(progress))
        self.memory[kind].push(taught)
        return loss

    def temperatures(self, progress: float) -> tuple[float, float]:
        """Of the student's and the teacher's distribution at this moment of the training."""
        return self.settings["tau_student"], self.settings["tau_teacher"]

    def strong(self, images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """The student's view: other contrast and brightness, and noise."""
        view = intensity_view(images, generator, self.settings["intensity"])
        return view + self.noise_for(images, generator)

    # --- stage fine-tuning ----------------------------------------------------------------------------------------

    def fine_tuning_terms(self, batch: Batch) -> dict[str, torch.Tensor]:
        """Labels, confident pseudo-labels, and the contrast of voxels by both."""
        s, n, chance = self.settings, len(batch.label), batch.generator
        with torch.no_grad():
            taught = [x + self.noise_for(x, chance) for x in (batch.labelled, batch.unlabelled)]
            teacher, teacher_maps = with_maps(self.ready_teacher(), torch.cat(taught))
        pseudo, trusted = pseudo_labels(teacher.logits[n:], s["pseudo_threshold"], largest=False)
        sure = pseudo_labels(teacher.logits[n:], s["sure"], largest=False)[1]
        known = torch.cat([batch.label, torch.where(trusted > 0, pseudo, NO_CLASS)])

        seen = self.strong(batch.unlabelled, chance)
        shown = (seen, pseudo, sure, known[n:])
        if s["cut_mix"]:
            box = labelled_places(pseudo.shape, chance, pseudo.device)
            shown = tuple(mixed(box, x, neighbours(x)) for x in shown)
        student, maps = with_maps(self.student, torch.cat([batch.labelled, shown[0]]))

        terms = self.supervised_terms(Output(*(x[:n] for x in student)), batch.label)
        terms["total"] = terms["supervised"]
        if s["pseudo"]:
            terms["unsupervised"] = unsupervised_loss(student.logits[n:], shown[1], shown[2])
            terms["total"] = terms["total"] + s["pseudo"] * terms["unsupervised"]
        if s["anatomical"]:
            keys, present = self.keys(teacher_maps, known, chance)
            queries = self.queries(maps, torch.cat([batch.label, shown[3]]), student.logits, chance)
            terms["anatomical"] = self.anatomical(queries, keys, present, batch)
            terms["total"] = terms["total"] + s["anatomical"] * terms["anatomical"]
        return terms

    @torch.no_grad()
    def keys(
        self, maps: list[torch.Tensor], known: torch.Tensor, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The teacher's vectors of voxels of each class (C, negatives, D), and which classes there are (C,)."""
        count = self.settings["negatives"]
        found = [draw_voxels(known == c, count, generator) for c in range(self.classes)]
        present = torch.tensor([len(places) > 0 for places in found], device=known.device)
        width = self.settings["head_width"]
        keys = torch.zeros(self.classes, count, width, device=known.device)
        for c, places in enumerate(found):
            if len(places):
                keys[c] = unit(self.teacher_heads["voxel"](read_maps(maps, places)))
        return keys, present

    def queries(
        self, maps: list[torch.Tensor], known: torch.Tensor, logits: torch.Tensor, generator: torch.Generator
    ) -> dict[int, torch.Tensor]:
        """The student's vectors (queries, D) of hard voxels, by class, for the classes that have any."""
        probability = logits.detach().float().softmax(1)
        found = {}
        for c in range(self.classes):
            hard = hard_voxels(known, probability, c, self.settings["hard"])
            places = draw_voxels(hard, self.settings["queries"], generator)
            if len(places):
                found[c] = unit(self.student_heads["voxel"](read_maps(maps, places)))
        return found

    def anatomical(
        self, queries: dict[int, torch.Tensor], keys: torch.Tensor, present: torch.Tensor, batch: Batch
    ) -> torch.Tensor:
        """L_anco: sum over classes of the contrast with the class's mean (positive) and voxels of other classes.

        One set of negatives serves all queries of a class (our choice).
        """
        means = class_means(keys, present)
        loss = means.new_zeros(())
        for c, vectors in queries.items():
            classes = draw_confusable(means, c, present, keys.shape[1], batch.generator)
            if not len(classes) or not means[c].any():
                continue
            row = torch.arange(len(classes), device=keys.device)
            others = torch.cat([means[c : c + 1], keys[classes, row]])
            positive = torch.zeros(len(vectors), len(others), dtype=torch.bool, device=keys.device)
            positive[:, 0] = True
            loss = loss + contrast(vectors, others, positive, ~positive, self.settings["tau"])
        return loss


def pooled(features: torch.Tensor) -> torch.Tensor:
    """Bottleneck features (B, C, k, j, i) as one location: their mean, (B, 1, C)."""
    return features.float().mean((2, 3, 4))[:, None]


def patches(logits: torch.Tensor, side: int) -> torch.Tensor:
    """Overlapping cubes of the answers (B, C, K, J, I), pooled to 4 x 4 x 4 cells: (B, locations, C * 64).

    A cube has `side` voxels, less where the crop is smaller, and the next begins half a side further.
    """
    cell = max(1, min(side, *logits.shape[2:]) // CELLS)
    cells = F.avg_pool3d(logits.float(), cell)
    for axis in (2, 3, 4):
        cells = cells.unfold(axis, CELLS, CELLS // 2)
    return cells.flatten(5).permute(0, 2, 3, 4, 1, 5).flatten(1, 3).flatten(2)


def with_maps(network: nn.Module, images: torch.Tensor) -> tuple[Output, list[torch.Tensor]]:
    """The answer of a network and its decoder maps, the finest last."""
    features, skips = network.encode(images)
    maps = list(network.decode(features, skips))
    return network.answer(maps[-1], features), maps


def unsupervised_loss(logits: torch.Tensor, pseudo: torch.Tensor, sure: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of each crop with its pseudo-labels (U, K, J, I), times its share of sure voxels; their mean."""
    each = F.cross_entropy(logits.float(), pseudo.long(), reduction="none").flatten(1).mean(1)
    return (sure.flatten(1).mean(1) * each).mean()
