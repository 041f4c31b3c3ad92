"""Process the clips again that failures.jsonl lists: those that `flows` set aside.

    python -m preprocess.retry --dataset ssv2 --out out --videos /data/ssv2/videos
    python -m preprocess.retry --dataset ssv2 --out out --max-seconds 7200 --clip-timeout 900

Use it after a damaged or missing video was replaced, or to raise a limit. The options of the
`flows` run hold; options that are given here replace them. A shard that gains a clip is written
again, with its other clips copied, and replaces the old file. This includes flows/, flows-SOURCE/
and boxes/. If clips fail again, the exit status is 3, and failures.jsonl lists them with the new
reason.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from preprocess.flow_run.options import replacing_options
from preprocess.rebuilding.boxes import renew_boxes
from preprocess.rebuilding.finished_plan import finished_plan
from preprocess.rebuilding.shards import rebuild
from preprocess.running.failures import read_failures, report_failures
from preprocess.running.options import dataset_options
from shared.errors import user_errors
from shared.layout import DatasetLayout
from shared.run_record import RunLock
from shared.wording import counted


@click.command(
    help=f"{__doc__.splitlines()[0]}\n\nAn option that has no default here and is not given has "
    "the value of the run that made the dataset.",
    context_settings={"show_default": True, "max_content_width": 100},
)
@dataset_options("shards")
@replacing_options()
@user_errors
def main(dataset: str, out: Path, **given: Any) -> None:
    layout = DatasetLayout(out, dataset)
    with RunLock(layout.lock):
        plan = finished_plan(layout, given)
        failed = {record["clip_id"] for record in read_failures(layout.failures)}
        chosen = [index for index, clip in enumerate(plan.clips) if clip.clip_id in failed]
        clips = counted(len(chosen), "clip")
        print(f"retry: {clips} of {layout.failures}, with videos in {plan.config.video_root}.")
        failures = rebuild(plan, chosen, "retry") if chosen else []
        # Also without clips to try: an earlier run may have been killed before this.
        renew_boxes(layout, {})
    report_failures(layout.failures, failures)


if __name__ == "__main__":
    main()
