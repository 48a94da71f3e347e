"""Evaluation: mIoU and other metrics of a data set, boundary metrics, and files for evaluation servers."""

from atrous.evaluation.boundary import BoundaryScores, TrimapCurve
from atrous.evaluation.confusion import ConfusionMatrix
from atrous.evaluation.evaluate import EvaluationResult, evaluate
from atrous.evaluation.submit import submit, write_cityscapes, write_voc

__all__ = [
    "BoundaryScores",
    "ConfusionMatrix",
    "EvaluationResult",
    "TrimapCurve",
    "evaluate",
    "submit",
    "write_cityscapes",
    "write_voc",
]
