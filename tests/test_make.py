"""End to end through the Make targets: the toy dataset, real clips, and wrong use."""

import json
import re
import subprocess
from pathlib import Path

import pytest

from shared.shard_index import read_index

ROOT = Path(__file__).resolve().parents[1]
SMALL = {
    "toy": "--clips 96",
    "pretrain": "--epochs 1",
    "finetune": "--epochs 1",
    "scratch": "--epochs 1",
}


def make(*arguments: str, status: int = 0) -> subprocess.CompletedProcess:
    """Run make in the repository, as a user would."""
    done = subprocess.run(
        ["make", "--no-print-directory", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == status, f"{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    assert "Traceback" not in done.stderr, done.stderr[-4000:]
    return done


@pytest.fixture(scope="module")
def toy(tmp_path_factory) -> Path:
    """OUT with a small toy dataset that went through the whole chain; its name has spaces."""
    out = tmp_path_factory.mktemp("out") / "mes données 视频"
    make("toy", f"OUT={out}", f"ARGS={SMALL['toy']}")
    # pretrain makes the manifest, flows and boxes it lacks
    for goal in ("pretrain", "finetune", "scratch"):
        make(goal, f"OUT={out}", f"ARGS={SMALL[goal]}")
    return out


def test_the_chain_ends_with_top1_and_report(toy):
    done = make("evaluate", "report", f"OUT={toy}")
    top1, report = done.stdout.strip().splitlines()[-2:]
    shown = re.fullmatch(r"(test top-1 \d+\.\d %) \(random weights (\d+\.\d) %\)", top1)
    assert shown, top1
    assert report == f"report {toy}/toy/report.html"
    text = (toy / "toy" / "report.html").read_text()
    assert "data:image/png;base64," in text
    for run, figure in (("velocity", shown[1]), ("scratch", f"test top-1 {shown[2]} %")):
        path = toy / "toy" / "runs" / f"finetune-{run}-mean" / "metrics-test.json"
        assert f"test top-1 {json.loads(path.read_text())['top1']:.1f} %" == figure


def test_shards_of_one_run_agree(toy):
    folders = [toy / "toy" / kind for kind in ("frames", "flows", "boxes")]
    indexes = [read_index(folder) for folder in folders]
    assert [index.num_clips for index in indexes] == [96, 96, 96]
    assert len({index.manifest_digest for index in indexes}) == 1


def test_second_run_reuses_what_is_there(toy):
    before = {path: path.stat().st_mtime_ns for path in (toy / "toy").rglob("*.h5")}
    done = make("manifest", "flows", "boxes", f"OUT={toy}")
    assert done.stdout.count("reuse: ") == 2 and "manifest.csv: unchanged" in done.stdout
    assert before == {path: path.stat().st_mtime_ns for path in (toy / "toy").rglob("*.h5")}


def test_other_options_are_refused_with_both_values(toy):
    done = make("flows", f"OUT={toy}", "ARGS=--jpeg-quality 50", status=2)
    assert re.search(r"error: .*jpeg.quality.*90.*50|error: .*jpeg.quality.*50.*90", done.stderr)


def test_flows_have_tracks_where_the_method_predicts_them(tmp_path):
    """Also once they have them: another method then uses the same flows."""

    def flows_command(*arguments: str) -> str:
        lines = make("-n", *arguments, f"OUT={tmp_path}").stdout.splitlines()
        return next(line for line in lines if "-m preprocess.flows" in line)

    assert "--trajectories" not in flows_command("pretrain", "METHOD=mofo")
    warped = "--trajectories --stabilise warp --track-window"
    assert f"{warped} 16x1x8" in flows_command("pretrain", "METHOD=mme")
    changed = "ARGS=--set frames.stride=2 --set frames.begins_every=16 --seed 1"
    assert f"{warped} 16x2x8" in flows_command("pretrain", "METHOD=mme", changed)
    flow = "ARGS=--set trajectories.kind=flow"
    assert "--track-window" not in flows_command("pretrain", "METHOD=mme", flow)
    dense = flows_command("flows", "METHOD=mme", "ARGS=--track-window 16x2x8")
    assert dense.count("--track-window") == 1
    for method in ("mgmae", "trackmae"):
        following = flows_command("pretrain", f"METHOD={method}")
        assert "--trajectories --track-cell 0" in following and "--stabilise" not in following
    vectors = "--source tvl1,motion-vectors --lengths"
    assert vectors not in flows_command("pretrain", "METHOD=mofo")
    assert vectors in flows_command("pretrain", "METHOD=mgm")
    assert vectors not in flows_command("flows", "METHOD=mgm", "ARGS=--source dis")
    (tmp_path / "toy" / "flows").mkdir(parents=True)
    (tmp_path / "toy" / "flows" / "dataset.json").write_text('{"config": {"track_length": 6}}')
    for method in ("mofo", "mme"):
        command = flows_command("flows", f"METHOD={method}")
        assert "--trajectories" in command and "--stabilise" not in command
    (tmp_path / "toy" / "flows" / "dataset.json").write_text(
        '{"config": {\n  "stabilise": "subtract",\n  "track_length": 6,\n'
        '  "track_window": "16x3x2"}}'
    )
    for method in ("mofo", "mme"):
        kept = "--trajectories --stabilise subtract --track-window 16x3x2"
        assert kept in flows_command("flows", f"METHOD={method}")


def test_frames_alone_are_checked_without_flows(tmp_path):
    """`flows --source none` made them; the goals that check or mend them compute no flow."""
    frames = tmp_path / "mine" / "frames"
    frames.mkdir(parents=True)
    for goal in ("verify", "retry"):
        assert "preprocess.flows" in commands(tmp_path, goal, "DATASET=mine", "VIDEOS=/data")
    (frames / "options.json").write_text("{}")
    for goal in ("verify", "retry"):
        found = commands(tmp_path, goal, "DATASET=mine", "VIDEOS=/data")
        assert list(found) == [f"preprocess.{goal}"]
    (tmp_path / "mine" / "flows").mkdir()
    assert "preprocess.flows" in commands(tmp_path, "retry", "DATASET=mine", "VIDEOS=/data")


def test_the_main_job_shows_what_pretraining_is_worth(tmp_path):
    """On the toy dataset alone it finetunes and evaluates twice; the report prints both figures."""

    def ran(*arguments: str) -> list[str]:
        lines = make("-n", *arguments, f"OUT={tmp_path}").stdout.splitlines()
        return [
            line.partition("-m ")[2].partition("||")[0] for line in lines if "-m train." in line
        ]

    chain = ran()
    pretraining = [line for line in chain if line.startswith("train.pretrain")]
    finetuned = [line for line in chain if line.startswith("train.finetune")]
    evaluated = [line for line in chain if line.startswith("train.evaluate")]
    assert pretraining and len(finetuned) == 2 and len(evaluated) == 2
    assert "--from none --run finetune-scratch-mean" in finetuned[1]
    assert "--run finetune-scratch-mean" in evaluated[0]
    assert "--method" in evaluated[1]  # the newest: that of the report's figure
    assert chain[-1].startswith("train.report") and chain[-2] == evaluated[1]
    real = ran("DATASET=mine", "VIDEOS=/data")
    assert not any("none" in line for line in real)


def test_the_flows_of_the_main_job_are_kept_by_other_methods(tmp_path):
    def flows_command(*arguments: str) -> str:
        lines = make("-n", "flows", *arguments, f"OUT={tmp_path}").stdout.splitlines()
        return next(line for line in lines if "-m preprocess.flows" in line)

    options = "--trajectories --stabilise subtract --track-length 1"
    assert f"{options} --track-points 16 " in flows_command()
    assert options not in flows_command("METHOD=mofo")
    (tmp_path / "toy" / "flows").mkdir(parents=True)
    (tmp_path / "toy" / "flows" / "dataset.json").write_text(
        '{"config": {\n  "track_length": 1,\n  "track_points": 48}}'
    )
    assert f"{options} --track-points 48 " in flows_command("METHOD=mofo")
    assert "--track-points 64 " in flows_command("DATASET=mine", "VIDEOS=v", "METHOD=descriptors")


def commands(tmp_path: Path, *arguments: str) -> dict[str, str]:
    """What Make would run, by module."""
    lines = make("-n", *arguments, f"OUT={tmp_path}").stdout.splitlines()
    found = (re.search(r"-m ((?:preprocess|train)\.\w+)(.*)", line) for line in lines)
    return {match[1]: match[2] for match in found if match}


@pytest.mark.parametrize(
    ("goal", "named"),
    [
        ("pretrain", "--like pretrain-mae"),
        ("finetune", "--from none"),
        ("finetune", "--from=pretrain-mae"),
        ("finetune", "--seed 1 --like finetune-mae"),
        ("evaluate", "--run finetune-mae-mean"),
        ("evaluate", "--run-name finetune-mae-mean"),
    ],
)
def test_the_method_is_for_runs_that_args_do_not_name(tmp_path, goal, named):
    module = f"train.{goal}"
    assert "--method" in commands(tmp_path, goal)[module]
    assert "--method" in commands(tmp_path, goal, "ARGS=--seed 1 --set a=--from")[module]
    ran = commands(tmp_path, goal, f"ARGS={named}")
    assert named in ran[module] and "--method" not in ran[module]
    if goal == "finetune":  # what it begins with is there; another pretraining is not made first
        assert "train.pretrain" not in ran and "preprocess.boxes" in ran
    # Named twice, it reaches the command, which refuses.
    assert "--method" in commands(tmp_path, goal, f"ARGS={named}", "METHOD=mme")[module]


def test_predict_takes_the_finetuned_run_that_args_do_not_name(tmp_path):
    def ran(*arguments: str) -> str:
        lines = make("-n", "predict", *arguments, f"OUT={tmp_path}").stdout
        return " ".join(lines.replace("\\\n", " ").split())

    assert '--dataset "$DATASET" --run "finetune-$METHOD-${HEAD:-mean}" a.mp4' in ran("ARGS=a.mp4")
    # Somebody else's model belongs to no dataset, unless one is named.
    named = ran("ARGS=--run theirs a.mp4")
    assert named.endswith('--out "$OUT" --run theirs a.mp4')
    assert '--dataset "$DATASET" --run theirs' in ran("ARGS=--run theirs a.mp4", "DATASET=toy")
    assert "error: METHOD" in ran("ARGS=--run theirs a.mp4", "METHOD=mofo")
    assert "error: name a video" in ran()


def test_args_for_two_goals_are_refused(tmp_path):
    done = make("flows", "boxes", f"OUT={tmp_path}", "ARGS=--dry-run", status=2)
    assert "ARGS goes to the command of one goal" in done.stderr


@pytest.mark.parametrize("goals", [["all"], ["help"], ["lint"], ["out/toy/manifest.csv"]])
def test_args_that_reach_no_command_are_refused(tmp_path, goals):
    done = make(*goals, f"OUT={tmp_path}", "ARGS=--dry-run", status=2)
    assert f"'{goals[0]}' is none that takes it. Known: toy manifest" in done.stderr


@pytest.mark.parametrize("out", ["a(b", 'a"b', "a'b", "a#b", "a:b", "a%b", "a\\b", "a;b", "~/a"])
def test_names_that_make_or_the_shell_would_change_are_refused(out):
    [character] = set(out) - set("ab/")
    done = make("-n", "flows", f"OUT={out}", status=2)
    assert f"has the character {character}" in done.stderr


@pytest.mark.parametrize(
    ("mistyped", "message"),
    [
        (["all", "METHOD=mofoo"], "METHOD 'mofoo' is unknown; did you mean mofo? Known: block"),
        (["all", "METHOD=x"], "METHOD 'x' is unknown. Known: block "),
        (["all", "METHOD=model"], "METHOD 'model' is unknown"),
        (["all", "HEAD=mcaa"], "HEAD 'mcaa' is unknown; did you mean mca? Known: mean mca"),
        (
            ["flows", "DATASET=ssv3"],
            "DATASET 'ssv3' is unknown; did you mean ssv2? Known: diving48",
        ),
        (["flows", "VIDEO=/data"], "variable 'VIDEO' is unknown; did you mean VIDEOS?"),
        (["manifest", "flos"], "goal 'flos' is unknown; did you mean flows?"),
    ],
)
def test_mistyped_names_are_reported_before_anything_is_made(tmp_path, mistyped, message):
    done = make(*mistyped, f"OUT={tmp_path}", status=2)
    assert message in done.stderr and not list(tmp_path.iterdir())


def test_names_that_are_no_mistakes_are_taken(tmp_path):
    """Variables for the environment, own data, and what was made before."""
    make("-n", "flows", f"OUT={tmp_path}", "OMP_NUM_THREADS=1", "DATASET=mine", "VIDEOS=/data")
    (tmp_path / "mine").mkdir()
    make("-n", "flows", f"OUT={tmp_path}", "DATASET=mine")
    make("-n", f"{tmp_path}/toy/manifest.csv", f"OUT={tmp_path}")
    make("-n", "lint", "DATASET=anything")


def test_unknown_dataset_lists_the_known_ones(tmp_path):
    done = make("manifest", f"OUT={tmp_path}", "DATASET=nothing", status=2)
    assert "ssv2" in done.stderr and "toy" in done.stderr


def test_help_lists_the_targets():
    targets = make("help").stdout
    assert {"make flows", "make boxes", "make pretrain"} <= set(
        re.findall(r"make [a-z-]+", targets)
    )


def test_real_clips_become_shards(samples, tmp_path):
    """Official annotation files and real videos in, boxes out; a first training step runs."""
    real = [
        f"OUT={tmp_path}",
        "DATASET=ssv2",
        f"ANNOTATIONS={samples}/ssv2",
        f"VIDEOS={samples}/ssv2",
    ]
    make("manifest", "flows", "boxes", *real)
    assert read_index(tmp_path / "ssv2" / "boxes").num_clips == 7


@pytest.mark.slow
def test_vit_b_pretrains_on_real_clips(samples, tmp_path):
    real = [
        f"OUT={tmp_path}",
        "DATASET=ssv2",
        f"ANNOTATIONS={samples}/ssv2",
        f"VIDEOS={samples}/ssv2",
    ]
    make("pretrain", *real, "ARGS=--epochs 1 --batch-size 2")
    assert (tmp_path / "ssv2" / "runs" / "pretrain-mofo" / "finished").exists()


@pytest.mark.slow
def test_flat_folder_sets_bad_clips_aside(samples, tmp_path):
    flat = [f"OUT={tmp_path}", "DATASET=mine", f"VIDEOS={samples}/clips"]
    done = make("manifest", "flows", "boxes", *flat)
    failures = (tmp_path / "mine" / "failures.jsonl").read_text().splitlines()
    assert [json.loads(line)["clip_id"] for line in failures] == ["corrupted"]
    assert "1 clip set aside; see " in done.stderr
    make("flows", *flat, "STRICT=1", status=2)
