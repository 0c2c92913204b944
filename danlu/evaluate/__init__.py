"""A model on a data set: figures with intervals, the confusion matrix, each prediction, the worst pictures."""

from __future__ import annotations

from danlu.core.callable_module import make_callable
from danlu.evaluate.evaluation import SPLITS, evaluate
from danlu.evaluate.prediction import Predictor, predict_both, predict_logits, predictor_of
from danlu.evaluate.views import TTA

__all__ = ["SPLITS", "TTA", "Predictor", "evaluate", "predict_both", "predict_logits", "predictor_of"]

make_callable(__name__)
