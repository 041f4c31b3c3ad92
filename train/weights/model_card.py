"""The files beside the weights of a Hugging Face folder: how to prepare clips, and a model card."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from train.network.model_config import NUM_CHANNELS, ModelConfig
from train.weights.usage import Usage

BILINEAR = 2  # number of the filter in PIL
MOST_NAMES = 30  # class names that the card lists
READ_BY = "4.51.3 to 5.24.0"  # versions of transformers that the tests read the folders with


def preprocessor_config(config: ModelConfig) -> dict[str, Any]:
    """preprocessor_config.json of VideoMAEImageProcessor: short side to S, centre crop, ImageNet.

    The test views of this project are the same crops, so that both give nearly the same scores.
    """
    side = config.image_size
    return {
        "image_processor_type": "VideoMAEImageProcessor",
        "feature_extractor_type": "VideoMAEFeatureExtractor",  # the name in older versions
        "do_resize": True,
        "size": {"shortest_edge": side},
        "resample": BILINEAR,
        "do_center_crop": True,
        "crop_size": {"height": side, "width": side},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(IMAGENET_DEFAULT_MEAN),
        "image_std": list(IMAGENET_DEFAULT_STD),
    }


def model_card(
    config: ModelConfig, usage: Usage, class_names: Sequence[str] | None, facts: Sequence[str]
) -> str:
    """README.md of a Hugging Face folder.

    Args:
        class_names: names of the classes of a classifier; None for a masked autoencoder.
        facts: further sentences, such as measured accuracies.
    """
    is_classifier = class_names is not None
    kind = "video classifier" if is_classifier else "masked autoencoder for video"
    lines = [
        "---",
        "library_name: transformers",
        *(["pipeline_tag: video-classification"] if is_classifier else []),
        "tags:",
        "- videomae",
        "- video",
        "---",
        "",
        f"# A {kind}",
        "",
        f"A VideoMAE with {config.depth} blocks of {config.width} channels. A clip has "
        f"{config.num_frames} frames of {config.image_size} x {config.image_size} pixels in "
        f"{NUM_CHANNELS} colours, standardised with ImageNet's mean and standard deviation.",
        *([f"It was trained on the dataset {usage.dataset}."] if usage.dataset else []),
        *([_sampling(usage)] if usage.frames else []),
        *facts,
        "",
        "## Use",
        "",
        f"transformers {READ_BY} were tested with folders like this one.",
        "",
        "```python",
        *(_pipeline(usage) if is_classifier else _pretraining()),
        "```",
        "",
        *([_PIPELINE_READS] if is_classifier else []),
        "The last norm has an epsilon of 1e-5 in transformers, whatever the model was trained with "
        f"(here {config.head_norm_eps:g}), so that scores differ slightly from those of training.",
    ]
    if class_names is not None:
        shown = [f"- {index}: {name}" for index, name in enumerate(class_names[:MOST_NAMES])]
        more = len(class_names) - MOST_NAMES
        lines += ["", "## Classes", "", *shown]
        lines += [f"- and {more} more, see `id2label` in config.json"] if more > 0 else []
    lines += [
        "",
        "## Licence",
        "",
        "Not stated here. Weights inherit the terms of the weights that training started from, and "
        "of the videos that it used.",
    ]
    return "\n".join(lines) + "\n"


def _sampling(usage: Usage) -> str:
    frames = usage.frames or {}
    how = f"frames at a distance of {frames.get('stride')}"
    if frames.get("kind") != "dense":
        how = "one frame of each of as many equal segments of the video"
    views = ""
    if usage.segments and usage.crops:
        views = f" Tests average the softmax of {usage.segments} x {usage.crops} views of a video."
    return f"A clip takes {how}.{views}"


def _pipeline(usage: Usage) -> list[str]:
    frames = usage.frames or {}
    rate = f", frame_sampling_rate={frames['stride']}" if frames.get("kind") == "dense" else ""
    return [
        "from transformers import pipeline",
        "",
        f'classify = pipeline("video-classification", model="FOLDER"{rate})',
        'print(classify("clip.mp4"))',
    ]


_PIPELINE_READS = (
    "Versions of transformers that load a video processor need torchcodec. They spread the frames "
    "over the whole video, and frame_sampling_rate has no effect. Older versions, and newer ones "
    "after `classify.video_processor = None`, decode with PyAV, and look only at the first "
    "num_frames x frame_sampling_rate frames; a shorter video needs a smaller rate."
)


def _pretraining() -> list[str]:
    return [
        "from transformers import VideoMAEForPreTraining, VideoMAEImageProcessor",
        "",
        'model = VideoMAEForPreTraining.from_pretrained("FOLDER")',
        'processor = VideoMAEImageProcessor.from_pretrained("FOLDER")',
    ]
