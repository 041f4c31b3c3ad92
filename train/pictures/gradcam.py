"""GradCAM: which tokens support a class. Reads shards and the weights of a finetuned run.

Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based
Localization", ICCV 2017, on the tokens of a video transformer. MOFO's figure of GradCAM uses the
fifth encoder block. MOFO's public code hooks the first norm of a block, for all twelve
(GradCAM_videoMAE_MOFO.py, `blocks[layer].norm1`), which is the layer `norm1` here. A map has one
value for each token: 8 x 14 x 14 for ViT-B with tubelets of 2 frames, 2 x 14 x 14 with tubelets of
8.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from shared.errors import InputError
from shared.layout import DatasetLayout
from train.network.head import VideoClassifier
from train.options.config import LAYERS
from train.pictures.clips import overlay_tokens, spread_times
from train.pictures.inputs import (
    ClipViews,
    SeenClip,
    choose_block,
    chosen_clips,
    read_classifier,
    read_finetuning,
    read_held_out,
)
from train.running.run_folder import RunFolder

OUTPUT, NORM1 = LAYERS


@dataclass(frozen=True)
class ClassMaps:
    """GradCAM maps of some classes for one clip.

    Attributes:
        clip_id, split: the clip.
        frames: uint8 [T, S, S, 3].
        kind: kind of label: "label", "verb" or "noun".
        label: true class of the clip, or None.
        predicted: predicted class.
        probability: float64 [classes], softmax of the scores.
        maps: float32 [T', rows, columns] in 0..1 by class, each relative to its largest value.
        block: number of the encoder block, from 1.
    """

    clip_id: str
    split: str
    frames: np.ndarray
    kind: str
    label: int | None
    predicted: int
    probability: np.ndarray
    maps: dict[int, np.ndarray]
    block: int

    def rows(self, names: list[str], num_times: int) -> list[tuple[str, list[np.ndarray]]]:
        """(caption, frames uint8 [H, W, 3]) of the clip, and of each class's map over it."""
        times = spread_times(len(self.frames), num_times)
        rows = [("input", [self.frames[t] for t in times])]
        for number, cells in self.maps.items():
            depth = len(self.frames) // len(cells)
            drawn = [overlay_tokens(self.frames[t], cells[t // depth]) for t in times]
            share = f"{100 * self.probability[number]:.0f} %"
            rows.append((f"for {names[number]}, probability {share}", drawn))
        return rows


def class_maps(
    layout: DatasetLayout,
    folder: RunFolder,
    shown: int | Sequence[str],
    block: int | None = None,
    kind: str | None = None,
    layer: str = OUTPUT,
) -> list[ClassMaps]:
    """Compute GradCAM of a finetuned run for the predicted class and the true class of each clip.

    Args:
        folder: a finetuned run.
        shown: number or ids of held-out clips, as for `chosen_clips`.
        block: number of the encoder block, from 1; None is the fifth, or the last if there are
            fewer.
        kind: kind of label; None is the first one that the run learned.
        layer: one of LAYERS.

    Raises:
        InputError: the run has no weights or is of another kind, there is no such block, or there
            are no clips.
    """
    config = read_finetuning(folder)
    model = read_classifier(folder)
    number = choose_block(model.encoder, block)
    kind = kind or config.labels[0]
    evaluated = folder.read_options().get("evaluate", {}).get("split", "test")
    table, split = read_held_out(
        layout, config.needs_boxes, preferred=evaluated, box_source=config.box_source
    )
    views, labels = ClipViews(table, config), table.labels[kind]
    return [
        _maps_of(views[index], split, int(labels[index]), model, kind, number, layer)
        for index in chosen_clips(table, shown, kind)
    ]


def grad_cam(
    model: VideoClassifier,
    clips: Tensor,
    inside: Tensor | None,
    block: int,
    kind: str,
    choose: Callable[[Tensor], list[int]],
    layer: str = OUTPUT,
) -> tuple[Tensor, dict[int, Tensor]]:
    """Compute GradCAM maps of the encoder tokens of one clip (Selvaraju et al., eq. 1 and 2).

    The activations are the output tokens of a block, or those of its first norm. The weight of a
    channel is the mean of its gradient over the tokens. The value of a token is the weighted sum of
    its channels, or 0 if the sum is negative.

    Args:
        model: the classifier, in evaluation mode.
        clips: standardised RGB [1, 3, T, S, S].
        inside: bool [1, N], for heads that need it.
        block: number of the encoder block, from 1.
        kind: kind of label.
        choose: takes the scores [classes] and returns the numbers of the classes to explain.
        layer: one of LAYERS. The gradient through `norm1` is that through the attention of the
            block alone, because the residual goes past the norm.

    Returns:
        the scores before the softmax, float32 [classes], and by class float32
        [T', rows, columns], at least 0.
    """
    kept: list[Tensor] = []

    def cut(module: nn.Module, arguments: tuple, tokens: Tensor) -> Tensor:
        kept.append(tokens.detach().requires_grad_())  # no gradient is needed before this block
        return kept[0]

    module = model.encoder.get_submodule(f"blocks.{block - 1}")
    if layer == NORM1:
        module = module.get_submodule(NORM1)
    handle = module.register_forward_hook(cut)
    try:
        with torch.enable_grad():
            scores = model(clips, inside)[kind][0]
    finally:
        handle.remove()
    maps = {}
    for number in choose(scores.detach()):
        (gradient,) = torch.autograd.grad(scores[number], kept[0], retain_graph=True)
        weights = gradient.mean(dim=1, keepdim=True)  # [1, 1, D], eq. 1
        cells = (weights * kept[0].detach()).sum(dim=2).relu()  # [1, N], eq. 2
        config = model.encoder.config
        maps[number] = cells.reshape(config.time_steps, config.grid, config.grid).float()
    return scores.detach().float(), maps


def _maps_of(
    clip: SeenClip,
    split: str,
    label: int,
    model: VideoClassifier,
    kind: str,
    block: int,
    layer: str,
) -> ClassMaps:
    if label >= model.num_classes[kind]:
        raise InputError(
            "other-classes",
            f"clip {clip.clip_id} has class {label}, and the run knows {model.num_classes[kind]} "
            "classes; restore the manifest that the run was trained with",
        )

    def guess_and_truth(scores: Tensor) -> list[int]:
        predicted = int(scores.argmax())
        return [predicted] if label in (-1, predicted) else [predicted, label]

    scores, maps = grad_cam(model, clip.clips, clip.inside, block, kind, guess_and_truth, layer)
    tiny = torch.finfo(torch.float32).tiny  # if no token supports a class
    return ClassMaps(
        clip_id=clip.clip_id,
        split=split,
        frames=clip.frames,
        kind=kind,
        label=label if label >= 0 else None,
        predicted=int(scores.argmax()),
        probability=scores.double().softmax(0).numpy(),
        maps={n: (cells / cells.max().clamp(min=tiny)).numpy() for n, cells in maps.items()},
        block=block,
    )
