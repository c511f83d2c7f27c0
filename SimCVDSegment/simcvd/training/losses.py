"""Loss terms shared by the methods. All work on float32 and on the global batch of all processes."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn

from .distributed import gathered, rank, total
from .heads import mlp


def dice_loss(probability: torch.Tensor, target: torch.Tensor, weight: torch.Tensor | None = None) -> torch.Tensor:
    """1 - (2 sum pq + e) / (sum p^2 + sum q^2 + e) with e = 1e-5, mean over the foreground classes (UA-MT).

    The sums run over the whole (global) batch.

    Args:
        probability: (B, C, K, J, I), softmax output, class 0 the background.
        target: (B, K, J, I), integer classes.
        weight: (B, K, J, I) or None; voxel weights inside the sums.
    """
    axes = (0, 2, 3, 4)
    p = probability[:, 1:]
    q = one_hot(target, probability.shape[1])[:, 1:].to(p.dtype)
    w = 1.0 if weight is None else weight[:, None]
    sums = total(torch.stack([(w * p * q).sum(axes), (w * p * p).sum(axes), (w * q).sum(axes)]))
    return (1 - (2 * sums[0] + 1e-5) / (sums[1] + sums[2] + 1e-5)).mean()


def one_hot(target: torch.Tensor, n_classes: int) -> torch.Tensor:
    """(B, K, J, I) integer classes to (B, n_classes, K, J, I) bool."""
    return target[:, None] == torch.arange(n_classes, device=target.device).view(1, -1, 1, 1, 1)


def segmentation_loss(logits: torch.Tensor, target: torch.Tensor, weight: torch.Tensor | None = None) -> torch.Tensor:
    """Half of cross-entropy plus Dice, as UA-MT weighs them (L_seg of SimCVD, Eq. 1).

    With voxel weights (B, K, J, I) both parts count only in their measure; all-zero weights give 0.
    """
    logits = logits.float()
    cross_entropy = F.cross_entropy(logits, target.long(), reduction="mean" if weight is None else "none")
    if weight is not None:
        sums = total(torch.stack([(weight * cross_entropy).sum(), weight.sum()]))
        cross_entropy = sums[0] / sums[1].clamp_min(1)
    return 0.5 * (cross_entropy + dice_loss(logits.softmax(1), target, weight))


def info_nce(a: torch.Tensor, b: torch.Tensor, temperature: float) -> torch.Tensor:
    """InfoNCE of SimCVD (Eq. 2 and 3): row i of `a` against all rows of `b`, positive row i, plus the other direction.

    The negatives of one side are vectors of the other side, over all processes. Identical vectors give 2 ln B.

    Args:
        a, b: (B, D), unit rows.
        temperature: tau.
    """
    all_a, all_b = gathered(a), gathered(b)
    same = torch.zeros(len(a), len(all_b), dtype=torch.bool, device=a.device)
    same.diagonal(rank() * len(a)).fill_(True)
    return contrast(a, all_b, same, ~same, temperature) + contrast(b, all_a, same, ~same, temperature)


def contrast(
    anchors: torch.Tensor, others: torch.Tensor, positive: torch.Tensor, negative: torch.Tensor, temperature: float
) -> torch.Tensor:
    """Mean over anchors, and over the positives p of each, of -log e^{a p / t} / (e^{a p / t} + sum_n e^{a n / t}).

    n runs over the anchor's negatives; the other positives of an anchor are neither in the sum nor pushed away. N equal
    negatives as near as the positive give ln(1 + N). An anchor without a positive counts 0.

    Args:
        anchors, others: (A, D) and (B, D), unit rows.
        positive, negative: (A, B) bool: which of the others is what to each anchor.
        temperature: t.
    """
    with torch.autocast(anchors.device.type, enabled=False):
        similarity = anchors.float() @ others.float().T / temperature
    # not -inf: an anchor without negatives shall have a gradient
    away = similarity.masked_fill(~negative, -1e9).logsumexp(1, keepdim=True)
    each = (F.softplus(away - similarity) * positive).sum(1) / positive.sum(1).clamp_min(1)
    return each.mean()


def soft_label_distillation(
    student: torch.Tensor, teacher: torch.Tensor, anchors: torch.Tensor, tau_student: float, tau_teacher: float
) -> torch.Tensor:
    """KL(p_t || p_s), p = softmax over the anchors of vector . anchor / tau (ACTION): no anchor is simply a negative.

    Mean over crops and locations; 0 when both are equally near to all anchors, or there is no anchor yet.

    Args:
        student, teacher: (B, L, D), unit vectors of L locations.
        anchors: (A, L, D); each location has anchors of its own.
    """
    anchors = anchors.view(len(anchors), *student.shape[1:])  # an empty memory doesn't know its shape
    with torch.autocast(student.device.type, enabled=False):
        taught, learned = (
            F.log_softmax(torch.einsum("bld,ald->bla", vectors.float(), anchors) / tau, 2)
            for vectors, tau in ((teacher, tau_teacher), (student, tau_student))
        )
    return F.kl_div(learned, taught, reduction="sum", log_target=True) / (student.shape[0] * student.shape[1])


def centred_contrast(
    queries: torch.Tensor,
    keys: torch.Tensor,
    positive: torch.Tensor,
    centres: torch.Tensor,
    centre_weight: float,
    temperature: float,
) -> torch.Tensor:
    """Supervised contrast with class centres (L_aaco of ACTION++), mean over queries and over the positives of each.

    -log e^{q k / t} / Z - centre_weight * log e^{q v / t} / Z, Z = sum over all keys of e^{q k / t}. With N keys and a
    centre all equally near it is (1 + centre_weight) ln N.

    Args:
        queries: (Q, D), unit rows; keys: (N, D), at least one.
        positive: (Q, N) bool, keys of the query's class.
        centres: (Q, D), v of each query's class.
    """
    with torch.autocast(queries.device.type, enabled=False):
        similarity = queries.float() @ keys.float().T / temperature
        to_centre = (queries.float() * centres).sum(1) / temperature
    all_of_them = similarity.logsumexp(1)
    near = ((all_of_them[:, None] - similarity) * positive).sum(1) / positive.sum(1).clamp_min(1)
    return (near + centre_weight * (all_of_them - to_centre)).mean()


def pairwise_distillation(student: torch.Tensor, teacher: torch.Tensor, reduction: str = "mean") -> torch.Tensor:
    """Pair-wise distillation of SimCVD (Eq. 4): each student voxel finds its teacher voxel within the volume.

    Cosine similarity, no temperature, one direction. Constant features give ln(number of voxels).

    Args:
        student, teacher: (B, D, k, j, i), bottleneck features.
        reduction: over the voxels; "sum" as printed in the paper, "mean" keeps the weight independent of the size.
    """
    s = F.normalize(student.float().flatten(2), dim=1)
    t = F.normalize(teacher.float().flatten(2), dim=1)
    with torch.autocast(s.device.type, enabled=False):
        similarity = s.transpose(1, 2) @ t  # (B, N, N), rows are student anchors
    target = torch.arange(similarity.shape[1], device=s.device).expand(len(s), -1)
    loss = F.cross_entropy(similarity.flatten(0, 1), target.flatten())
    return loss * similarity.shape[1] if reduction == "sum" else loss


def ramp_up(progress: float) -> float:
    """Psi = exp(-5 (1 - t / t_max)^2) for progress = t / t_max in [0, 1]."""
    return math.exp(-5 * (1 - min(max(progress, 0.0), 1.0)) ** 2)


class ProjectionHead(nn.Module):
    """SimCVD's head: every axial slice on its own, AlphaDropout, adaptive pooling, three-layer MLP, unit length.

    Args:
        pool_size: side of the pooled slice (published: 128).
        pool: "avg" or "max".
        dropout: rate of AlphaDropout (published: 0.1).
        hidden: width of the two hidden layers (our choice: 512).
        width: length of a vector (our choice: 128).
    """

    def __init__(
        self, pool_size: int = 128, pool: str = "avg", dropout: float = 0.1, hidden: int = 512, width: int = 128
    ):
        super().__init__()
        self.dropout = nn.AlphaDropout(dropout)
        self.pool = {"avg": nn.AdaptiveAvgPool2d, "max": nn.AdaptiveMaxPool2d}[pool](pool_size)
        self.mlp = mlp(pool_size * pool_size, hidden, hidden, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, K, J, I) -> (B * K, width), rows of unit length in the order volume, slice."""
        slices = self.pool(self.dropout(x))
        return F.normalize(self.mlp(slices.flatten(0, 1).flatten(1)).float(), dim=1)
