"""Figures that mean something: one confusion matrix per data set, boundaries, and the files that servers take."""

from atrous.evaluation.boundary import BoundaryScores, TrimapCurve
from atrous.evaluation.confusion import ConfusionMatrix
from atrous.evaluation.evaluate import Evaluation, evaluate
from atrous.evaluation.submit import write_cityscapes, write_voc

__all__ = [
    "BoundaryScores",
    "ConfusionMatrix",
    "Evaluation",
    "TrimapCurve",
    "evaluate",
    "write_cityscapes",
    "write_voc",
]
