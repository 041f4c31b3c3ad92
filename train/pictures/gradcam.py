"""GradCAM: which tokens speak for a class. Reads shards and the weights of a finetuned run.

Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based
Localization", ICCV 2017, on the tokens of a video transformer, as MOFO's figure of GradCAM shows
them for the fifth encoder block. A map has one value a token: 8 x 14 x 14 for ViT-B at tubelets of
2 frames, 2 x 14 x 14 at tubelets of 8.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from shared.errors import InputError
from shared.layout import DatasetLayout
from train.network.head import VideoClassifier
from train.pictures.clips import overlay_tokens, spread_over_classes, spread_times
from train.pictures.inputs import (
    ClipViews,
    SeenClip,
    choose_block,
    read_classifier,
    read_finetuning,
    read_held_out,
)
from train.running.run_folder import RunFolder


@dataclass(frozen=True)
class ClassMaps:
    """One clip and the GradCAM maps of some classes.

    Attributes:
        clip_id, split: which clip.
        frames: uint8 [T, S, S, 3].
        kind: of label: "label", "verb" or "noun".
        label: its class of this kind, or None.
        predicted: the class that the run takes it for.
        probability: float64 [classes], softmax of the scores.
        maps: float32 [T', rows, columns] in 0..1 by class, each relative to its own largest value.
        block: encoder block, from 1 on.
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
        """(caption, frames uint8 [H, W, 3]) of the clip and of each class's map laid over it."""
        times = spread_times(len(self.frames), num_times)
        rows = [("input", [self.frames[t] for t in times])]
        for number, cells in self.maps.items():
            depth = len(self.frames) // len(cells)
            drawn = [overlay_tokens(self.frames[t], cells[t // depth]) for t in times]
            share = f"{100 * self.probability[number]:.0f} %"
            rows.append((f"for {names[number]}, given {share}", drawn))
        return rows


def class_maps(
    layout: DatasetLayout,
    folder: RunFolder,
    num_clips: int,
    block: int | None = None,
    clip_ids: list[str] | None = None,
    kind: str | None = None,
) -> list[ClassMaps]:
    """GradCAM of a finetuned run: of the class each clip is taken for, and of its own if another.

    Args:
        folder: of a finetuned run.
        num_clips: held-out clips of classes spread over the list; the same ones again.
        block: encoder block, from 1 on; None is the fifth, or the last of fewer.
        clip_ids: these clips of the held-out split instead; those it does not have are left out.
        kind: of label that the run learned; None is its first.

    Raises:
        InputError: a run without weights or of another kind, no such block, no clips.
    """
    config = read_finetuning(folder)
    model = read_classifier(folder)
    number = choose_block(model.encoder, block)
    kind = kind or config.labels[0]
    evaluated = folder.read_options().get("evaluate", {}).get("split", "test")
    table, split = read_held_out(
        layout, config.needs_boxes, preferred=evaluated, box_source=config.box_source
    )
    views = ClipViews(table, config)
    if clip_ids is None:
        chosen = spread_over_classes(table.labels[kind], num_clips)
        clips = [views[index] for index in chosen]
    else:
        clips = [clip for clip in map(views.of, clip_ids[:num_clips]) if clip is not None]
    labels = dict(zip(table.ids, table.labels[kind].tolist(), strict=True))
    return [
        _maps_of(clip, split, labels[clip.clip_id.encode()], model, kind, number) for clip in clips
    ]


def grad_cam(
    model: VideoClassifier,
    clips: Tensor,
    inside: Tensor | None,
    block: int,
    kind: str,
    choose: Callable[[Tensor], list[int]],
) -> tuple[Tensor, dict[int, Tensor]]:
    """GradCAM maps of the encoder tokens of one clip (Selvaraju et al., eq. 1 and 2).

    The activations are the tokens that leave a block: every path from there to the scores counts.
    Each channel's weight is its gradient's mean over the tokens; a token's value is the weighted
    sum of its channels, if above 0.

    Args:
        model: in evaluation mode.
        clips: standardised RGB [1, 3, T, S, S].
        inside: bool [1, N], where the head needs it.
        block: encoder block, from 1 on.
        kind: of label.
        choose: from the scores [classes], the numbers of the classes to explain.

    Returns:
        the scores before the softmax, float32 [classes], and by class float32
        [T', rows, columns], at least 0.
    """
    kept: list[Tensor] = []

    def cut(module: nn.Module, arguments: tuple, tokens: Tensor) -> Tensor:
        kept.append(tokens.detach().requires_grad_())  # nothing before is differentiated
        return kept[0]

    handle = model.encoder.blocks[block - 1].register_forward_hook(cut)
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
    clip: SeenClip, split: str, label: int, model: VideoClassifier, kind: str, block: int
) -> ClassMaps:
    if label >= model.num_classes[kind]:
        raise InputError(
            f"clip {clip.clip_id} is of class {label}, and the run knows "
            f"{model.num_classes[kind]}; the manifest is not the one it was finetuned on"
        )

    def guess_and_truth(scores: Tensor) -> list[int]:
        predicted = int(scores.argmax())
        return [predicted] if label in (-1, predicted) else [predicted, label]

    scores, maps = grad_cam(model, clip.clips, clip.inside, block, kind, guess_and_truth)
    tiny = torch.finfo(torch.float32).tiny  # where no token speaks for a class
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
