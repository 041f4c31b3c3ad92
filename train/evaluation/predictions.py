"""Predictions for single clips, as CSV and JSON."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

COLUMNS = (
    *("clip", "video", "start_seconds", "stop_seconds"),
    *("kind", "rank", "class", "name", "probability"),
)


@dataclass(frozen=True)
class Guess:
    """One class of a prediction.

    Attributes:
        number: class number.
        name: name of the class.
        probability: 0..1, the mean of the softmax over the views of the clip.
    """

    number: int
    name: str
    probability: float


@dataclass(frozen=True)
class Prediction:
    """The likeliest classes of one clip.

    Attributes:
        clip: name of the clip.
        video: path of the video.
        span: start and stop in seconds; None is the start or the end of the video.
        guesses: by kind of label, the likeliest class first.
    """

    clip: str
    video: str
    span: tuple[float | None, float | None]
    guesses: dict[str, list[Guess]]


def likeliest(scores: np.ndarray, names: Sequence[str], most: int) -> list[Guess]:
    """The likeliest classes; of equal ones the lower number comes first.

    Args:
        scores: float32 [C], probabilities.
        names: names of the C classes.
        most: number of classes, at most C are returned.
    """
    order = np.argsort(-scores, kind="stable")[:most]
    return [Guess(int(number), names[number], float(scores[number])) for number in order]


def as_csv(predictions: Sequence[Prediction]) -> str:
    """One row for each clip, kind of label and rank; ranks count from 1."""
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(COLUMNS)
    for each in predictions:
        start, stop = ("" if value is None else value for value in each.span)
        for kind, guesses in each.guesses.items():
            for rank, guess in enumerate(guesses, start=1):
                shown = f"{guess.probability:.6f}"
                clip = (each.clip, each.video, start, stop)
                writer.writerow((*clip, kind, rank, guess.number, guess.name, shown))
    return stream.getvalue()


def as_json(
    model: Mapping[str, Any],
    predictions: Sequence[Prediction],
    failures: Sequence[Mapping[str, Any]],
) -> str:
    """An object with `model`, `clips` and `failures`.

    Args:
        model: what identifies the model and its views.
        failures: clips without a prediction, with the reason.
    """
    clips = [
        {
            "clip": each.clip,
            "video": each.video,
            "start_seconds": each.span[0],
            "stop_seconds": each.span[1],
            "predictions": {
                kind: [_plain(guess) for guess in guesses] for kind, guesses in each.guesses.items()
            },
        }
        for each in predictions
    ]
    content = {"model": dict(model), "clips": clips, "failures": list(failures)}
    return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _plain(guess: Guess) -> dict[str, Any]:
    values = asdict(guess)
    return {"class": values.pop("number"), **values}
