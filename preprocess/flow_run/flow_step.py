"""The flow step: a FlowWorker turns batches of grey frames into motion maps and tracks.

A FlowWorker is a plain object. preprocess/flow_run/pool.py runs it in this process, or as a Ray
actor.
"""

from __future__ import annotations

import time

import cv2

from preprocess.flow.chunks import GreyFrames, Maps, TracksOfFrames
from preprocess.flow_run.messages import ClipFailed, FlowEvent, FlowResult, WorkerOptions
from preprocess.video.errors import ClipError
from shared.errors import InputError


class FlowWorker:
    """Computes the motion maps of batches of grey frames."""

    def __init__(self, options: WorkerOptions) -> None:
        import torch

        from preprocess.flow.pipeline import FlowPipeline

        cv2.setNumThreads(1)
        if options.device == "cpu":
            torch.set_num_threads(1)
        self.options = options
        self._pipeline = FlowPipeline(options.flow, options.map_short_side, options.device)

    def run(self, batch: list[GreyFrames], selected: list[int] | None = None) -> FlowResult:
        """Compute every chunk of the batch, or only the chunks whose numbers are in `selected`."""
        began = time.perf_counter()
        result = FlowResult()
        for index in range(len(batch)) if selected is None else selected:
            result.events += self._maps_or_failure(batch[index])
        result.busy_seconds = time.perf_counter() - began
        return result

    def _maps_or_failure(self, grey: GreyFrames) -> list[FlowEvent]:
        try:
            return [*self.maps(grey)]
        except ClipError as error:
            return [ClipFailed(grey.clip_index, error.stage, error.reason, error.code)]
        except InputError as error:
            return [ClipFailed(grey.clip_index, "flow", error.message, error.code)]
        except Exception as error:  # one clip must not stop the run, whatever its error
            if self.options.device != "cpu":
                import torch

                # A GPU whose context is broken raises again here. Every later clip would fail, so
                # this worker ends, another one replaces it, and the clip is tried once more.
                torch.cuda.synchronize()
            return [ClipFailed.by_fault(grey.clip_index, error)]

    def maps(self, grey: GreyFrames) -> list[Maps | TracksOfFrames]:
        """The maps of each output and the tracks of one chunk."""
        return self._pipeline.run(grey)
