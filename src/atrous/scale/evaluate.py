"""Evaluate on a Ray cluster: workers count the pixels of their images, and the counts are added."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from atrous.data.dataset import SegmentationDataset
from atrous.errors import AtrousError
from atrous.evaluation.evaluate import EvaluationResult, Saving, begin_evaluation
from atrous.imaging.draw import LabeledImage
from atrous.imaging.labels import Labels
from atrous.inference.jobs import failure
from atrous.inference.prefetch import parallel_map
from atrous.inference.refine import segment
from atrous.inference.segmenter import Segmenter
from atrous.scale.cluster import connect
from atrous.scale.jobs import WORKER_DIED, JobOptions
from atrous.scale.predict import NetworkOptions
from atrous.scale.ray_data import run_in_actors
from atrous.scale.weights import SharedWeights


@dataclass(frozen=True)
class CountedPart:
    """The counts of a batch of images, and the errors of those that could not be counted."""

    result: EvaluationResult
    failures: list[AtrousError]


def evaluate(
    segmenter: Segmenter,
    dataset: SegmentationDataset,
    weights: Path,
    network: NetworkOptions,
    options: JobOptions,
    *,
    crf: str | None = None,
    boundaries: bool = True,
    allow_overlap: bool = False,
    checkpoint: Path | None = None,
    settings: str = "",
) -> EvaluationResult:
    """Evaluate a network on a data set whose files all machines of a cluster see, with the counts of one process.

    `segmenter` has the network of `weights`, and serves to check classes and images. The other arguments are those of
    `atrous.evaluation.evaluate`; a checkpoint of one is resumed by the other.

    Raises: `AtrousError` as `atrous.evaluation.evaluate`; images that cannot be read are listed at the end, when all
    others are counted and saved in the checkpoint.
    """
    result, remaining = begin_evaluation(
        segmenter, dataset, boundaries=boundaries, allow_overlap=allow_overlap, checkpoint=checkpoint, settings=settings
    )
    failures: list[AtrousError] = []
    with connect(options.address, options.resources) as resources, Saving(result, checkpoint) as saving:
        arguments = {
            "weights": SharedWeights.share(weights),
            "network": network,
            "gpu": bool(resources.num_gpus),
            "dataset": dataset,
            "crf": crf,
            "boundaries": boundaries,
        }
        with closing(run_in_actors(create_counter, arguments, remaining, resources)) as parts:
            for batch, part in parts:
                if part is None:
                    failures += [AtrousError(f"{dataset.items[index].image}: {WORKER_DIED}") for index in batch]
                else:
                    result.merge(part.result)
                    failures += part.failures
                saving.update()
                if options.on_progress is not None:
                    options.on_progress(len(result.image_scores) + len(failures), len(dataset))
    if failures:
        listed = "\n".join(f"  {each}" for each in failures)
        raise AtrousError(
            f"{len(failures)} of {len(dataset)} images could not be evaluated; the counts of the others are saved, and "
            f"the same command resumes from them:\n{listed}"
        )
    return result


def create_counter(
    *,
    weights: SharedWeights,
    network: NetworkOptions,
    gpu: bool,
    dataset: SegmentationDataset,
    crf: str | None,
    boundaries: bool,
) -> Callable[[list[int]], CountedPart]:
    """Load the network in an actor, and make the function that evaluates it on images given by their indices.

    Raises: `AtrousError` for options that the network does not support.
    """
    segmenter = network.load(weights.locate(), gpu=gpu)

    def predict(index: int) -> tuple[int, LabeledImage, Labels] | AtrousError:
        try:
            sample = dataset[index]
            return index, sample, segment(segmenter, sample.image, crf).labels
        except Exception as error:
            return AtrousError(str(failure(dataset.items[index].image, error)))

    def count(indices: list[int]) -> CountedPart:
        part = CountedPart(
            EvaluationResult.empty(len(dataset.classes), ignore_index=dataset.ignore_index, boundaries=boundaries), []
        )
        start = segmenter.network_seconds
        for prediction in parallel_map(predict, indices, segmenter.workers):
            if isinstance(prediction, AtrousError):
                part.failures.append(prediction)
                continue
            index, sample, labels = prediction
            try:
                part.result.add(index, sample.labels, labels, sample.name)
            except AtrousError as error:
                part.failures.append(AtrousError(str(error)))
        part.result.network_seconds = segmenter.network_seconds - start
        return part

    return count
