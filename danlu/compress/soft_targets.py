"""The loss of distillation. Hinton, Vinyals, Dean 2015, "Distilling the Knowledge in a Neural Network", section 2.

The logits of teacher and student are divided by a temperature T; the cross-entropy of their soft-maxima counts
T² times, since its gradients are smaller by 1 / T², and the loss on the labels is added.
"""

from __future__ import annotations

from torch import Tensor

__all__ = ["distillation_loss", "soft_cross_entropy"]


def soft_cross_entropy(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Return T² times the mean cross-entropy of soft-maxima at temperature T, for logits [B, K] of both.

    Its gradient to a logit is T (q - p), about (student - teacher logit) / K where T is large and both have mean zero.
    """
    soft = (teacher / temperature).softmax(dim=1)
    return -(soft * (student / temperature).log_softmax(dim=1)).sum(dim=1).mean() * temperature**2


def distillation_loss(student: Tensor, teacher: Tensor, hard_loss: Tensor, temperature: float, hard: float) -> Tensor:
    """Return ``hard`` · hard_loss + (1 - ``hard``) · :func:`soft_cross_entropy`."""
    return hard * hard_loss + (1 - hard) * soft_cross_entropy(student, teacher, temperature)
