"""Try again the clips that were set aside: exactly those of failures.jsonl.

    python -m preprocess.retry --dataset ssv2 --out out --videos /data/ssv2/videos
    python -m preprocess.retry --dataset ssv2 --out out --max-seconds 7200 --clip-timeout 900

For when a video was damaged, absent or above a cap. The options of the `flows` run hold but for
those given here. Shards that gain a clip are written anew, their other clips taken over as they
are, and put in place whole; flows/, flows-SOURCE/ and boxes/ follow. The exit status is 3 where
clips fail again; failures.jsonl then has those, with what is now the reason.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from preprocess.rebuild import finished_plan, rebuild, renew_boxes
from preprocess.running.failures import read_failures, report_failures
from preprocess.running.taken_options import flows_options
from shared.errors import user_errors
from shared.layout import DatasetLayout
from shared.run_record import RunLock
from shared.wording import counted


@flows_options()
@click.command(
    help=__doc__.split("\n")[0],
    context_settings={"show_default": True, "max_content_width": 100},
)
@click.option("--dataset", required=True, metavar="NAME", help="folder of OUT with shards")
@click.option("--out", type=click.Path(path_type=Path), default=Path("out"), metavar="FOLDER",
              show_default=True, help="folder of all datasets")  # fmt: skip
@user_errors
def main(dataset: str, out: Path, **given: Any) -> None:
    layout = DatasetLayout(out, dataset)
    with RunLock(layout.lock):
        plan, options = finished_plan(layout, given)
        failed = {record["clip_id"] for record in read_failures(layout.failures)}
        places = [place for place, clip in enumerate(plan.clips) if clip.clip_id in failed]
        clips = counted(len(places), "clip")
        print(f"retry: {clips} of {layout.failures}, videos in {options['videos']}")
        failures = rebuild(plan, options, places, "retry") if places else []
        # Also where there was nothing to try: an earlier run may have been killed before this.
        renew_boxes(layout, {})
    report_failures(layout.failures, failures)


if __name__ == "__main__":
    main()
