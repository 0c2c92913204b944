"""A model on a data set: figures with intervals, the confusion matrix, each prediction, the worst pictures."""

from __future__ import annotations

from danlu.core.callable_module import make_callable
from danlu.evaluate.evaluation import SPLITS, evaluate
from danlu.evaluate.prediction import Predictor, predict_logits, predictor_of

__all__ = ["SPLITS", "Predictor", "evaluate", "predict_logits", "predictor_of"]

make_callable(__name__)
