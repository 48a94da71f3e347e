"""Figures that mean something: one confusion matrix per data set, boundaries, and the files that servers take."""

from atrous.evaluation.boundary import BoundaryScores, TrimapCurve
from atrous.evaluation.confusion import ConfusionMatrix

__all__ = ["BoundaryScores", "ConfusionMatrix", "TrimapCurve"]
