"""What a loss becomes when a pair's label is only probably right, or is a tie. Pure functions of logits (B,).

`logits` is beta times the difference of the log-ratios of chosen and rejected, h in the papers. TRL computes the plain
loss of every pair; the trainer adds what these functions say it falls short of, so nothing of TRL's is written twice.

    expected   E[-log sigmoid(+-h)] under the pair's confidence: conservative DPO (Mitchell 2023), but for each pair
    unbiased   its inverse, whose mean over flipped labels is the loss of the true one (Chowdhury et al. 2024, eq. 12)
    ties       Rao and Kupper (1967) and Davidson (1970), as put to DPO by Chen et al. 2024
"""

from __future__ import annotations

import math

import torch
from torch.nn.functional import logsigmoid


def expected_correction(logits: torch.Tensor, confidence: torch.Tensor) -> torch.Tensor:
    """What the expected loss has beyond TRL's sigmoid loss: (1 - p) h, since -log s(-h) = -log s(h) + h.

    With p = confidence: p * -log s(h) + (1 - p) * -log s(-h) = -log s(h) + (1 - p) h.
    """
    return (1 - confidence) * logits


def unbiased_correction(logits: torch.Tensor, confidence: torch.Tensor) -> torch.Tensor:
    """What the unbiased loss has beyond TRL's robust loss without smoothing: -e h / (1 - 2 e), e = 1 - confidence.

    ((1 - e) * -log s(h) - e * -log s(-h)) / (1 - 2 e) = -log s(h) - e h / (1 - 2 e). Confidence must be above a half:
    at a half the label says nothing.
    """
    flipped = 1 - confidence
    return -flipped * logits / (1 - 2 * flipped)


def rao_kupper_loss(logits: torch.Tensor, tie: torch.Tensor, width: float) -> torch.Tensor:
    """-log likelihood of the verdict, (B,): a side wins where it leads by more than `width` > 0 (their ln theta).

    P(chosen) = s(h - width); P(tie) = (e^(2 width) - 1) s(h - width) s(-h - width).
    """
    wins = -logsigmoid(logits - width)
    ties = wins - logsigmoid(-logits - width) - math.log(math.expm1(2 * width))
    return torch.where(tie, ties, wins)


def davidson_loss(logits: torch.Tensor, tie: torch.Tensor, readiness: float) -> torch.Tensor:
    """-log likelihood of the verdict, (B,): ties take a share that is largest between equals, `readiness` > 0.

    P(chosen) : P(rejected) : P(tie) = e^(h/2) : e^(-h/2) : 2 readiness, so that equals tie with readiness / (1 + it).
    """
    half = logits / 2
    tied = torch.full_like(half, math.log(2 * readiness))
    everything = torch.logsumexp(torch.stack((half, -half, tied)), dim=0)
    return everything - torch.where(tie, tied, half)
