"""What a loss becomes when a pair's label is only probably right. Pure functions of logits (B,).

`logits` is beta times the difference of the log-ratios of chosen and rejected, h in the papers. TRL computes the plain
loss of every pair; the trainer adds what these functions say it falls short of, so nothing of TRL's is written twice.

    expected   E[-log sigmoid(+-h)] under the pair's confidence: conservative DPO (Mitchell 2023), but for each pair
    unbiased   its inverse, whose mean over flipped labels is the loss of the true one (Chowdhury et al. 2024, eq. 12)
"""

from __future__ import annotations

import torch


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
