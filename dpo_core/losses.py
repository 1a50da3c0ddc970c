"""What a loss becomes when a pair's label is only probably right, or says tie. Pure functions of logits (B,).

`logits` is beta times the difference of the log-ratios of chosen and rejected, h in the papers. TRL computes the plain
loss of every pair; the trainer adds what these functions say it falls short of, so nothing of TRL's is written twice.

    expected   E[-log sigmoid(+-h)] under the pair's confidence: conservative DPO (Mitchell 2023), but for each pair
    ties       -log p(win) of decided pairs and -log p(tie) of ties, under a model of choice that knows ties
               (Chen et al. 2024, On Extending Direct Preference Optimization to Accommodate Ties)

The expected loss pulls a pair by p - 1/2 where it starts, and no further than to where the policy is as sure as the
label, s(h) = p. The unbiased loss (TRL's `robust`; Chowdhury et al. 2024, eq. 12) is not offered pair by pair: it
divides by 2 p - 1, so the most doubtful labels would pull most (at p = 0.55 ten times as hard as sure ones), without
end.
"""

from __future__ import annotations

import math

import torch
from torch.nn.functional import logsigmoid

# How readily each model says tie, as in the paper: equals are a tie half of the time.
DAVIDSON_NU = 1.0
RAO_KUPPER_NU = 3.0


def expected_correction(logits: torch.Tensor, confidence: torch.Tensor) -> torch.Tensor:
    """What the expected loss has beyond TRL's sigmoid loss: (1 - p) h, since -log s(-h) = -log s(h) + h.

    With p = confidence: p * -log s(h) + (1 - p) * -log s(-h) = -log s(h) + (1 - p) h.
    """
    return (1 - confidence) * logits


def davidson_loss(logits: torch.Tensor, ties: torch.Tensor) -> torch.Tensor:
    """-log p(tie) where `ties`, elsewhere -log p(win), after Davidson (1970); (B,).

    p(win) = 1 / (1 + e^-h + 2 nu e^(-h/2)) and p(tie) = 2 nu e^(-h/2) p(win).
    """
    tie = math.log(2 * DAVIDSON_NU) - logits / 2  # log 2 nu e^(-h/2)
    win = torch.stack((torch.zeros_like(logits), -logits, tie)).logsumexp(dim=0)
    return torch.where(ties, win - tie, win)


def rao_kupper_loss(logits: torch.Tensor, ties: torch.Tensor) -> torch.Tensor:
    """-log p(tie) where `ties`, elsewhere -log p(win), after Rao and Kupper (1967); (B,).

    With alpha = log nu: p(win) = s(h - alpha) and p(tie) = (nu^2 - 1) s(h - alpha) s(-h - alpha).
    """
    alpha = math.log(RAO_KUPPER_NU)
    win = -logsigmoid(logits - alpha)
    return torch.where(ties, win - logsigmoid(-logits - alpha) - math.log(RAO_KUPPER_NU**2 - 1), win)


TIE_LOSSES = {"davidson": davidson_loss, "rao_kupper": rao_kupper_loss}


def tie_correction(name: str, logits: torch.Tensor, ties: torch.Tensor) -> torch.Tensor:
    """What the loss of this name has beyond TRL's sigmoid loss, -log s(h); `ties` says which pairs are ties."""
    return TIE_LOSSES[name](logits, ties) + logsigmoid(logits)
