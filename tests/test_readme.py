"""Every command of the documents, one after the other in one folder, as a reader would run them.

The tables say how a command is made cheap (CHEAPER), which ones are not run (NOT_RUN), what the
reader does between them (BEFORE), and what each must leave behind (MAKES). A command that is
added to a document needs a line in MAKES; `test_every_command_has_a_place` names what has none.
"""

import contextlib
import re
import resource
import time
from pathlib import Path

import compiled_programs
import pytest
import readme_commands
import readme_files
from readme_checks import (
    Left,
    all_of,
    array,
    files,
    measured_table,
    plan_of_the_paper,
    resolved,
    says,
    trained,
    video,
)
from readme_commands import Cheaper, Command

from vidgen.assets import downloads
from vidgen.story import parse, segments
from vidgen.text import t5
from vidgen.types import STAGES

# Experiments of the sizes "demo" and "paper" take hours and machines; the same files are there for
# the size "tiny". The plan of the whole cascade costs nothing at the paper's size.
TINY = r"(experiments/\w+)_demo(\.gin)|(experiments/imagen_ssr3)_paper(\.gin)|^(\w+_\w+)_demo$"

CHEAPER = (
    Cheaper(
        r"^vidgen generate [^-]+ -o tiger.mp4$",
        "--until=ssr1 --steps=4",
        "the last four stages of the demo take minutes to compile; the tiny cascade runs all seven",
    ),
    Cheaper(r"demo/prompts.txt", "--until=base --steps=4", "four clips of the same"),
    Cheaper(
        r"^vidgen train",
        "--gin.TRAIN_STEPS=2 --gin.BATCH_SIZE=2 --gin.Train.log_every=1",
        "that it trains is to be seen, not what is learned",
    ),
    Cheaper(
        r"^launch/local|imagen_distill.*cascade8/tsr1",
        "--dry_run",
        "tests/test_launch.py runs both scripts; the student of ssr1 is trained",
    ),
    Cheaper(
        r"MODEL_DIR='runs/(demo|tiny)'|cascade/tsr1' --gin.TRAIN_STEPS",
        "--dry_run",
        "the same are trained as cascade/base, a and cascade/tsr1",
    ),
    Cheaper(
        r"^vidgen train (?!.*phenaki_cvivit_tiny\S* --gin.MODEL_DIR)(?!.*distill)",
        "--gin.SAMPLE_VIDEOS=None --gin.HELD_OUT_LOSS=None",
        "samples are looked at once, of the tokenizer, which compiles quickest",
    ),
    Cheaper(
        r"^vidgen train .*imagen_(?!distill)",
        "--gin_file=small.gin",
        "a network of one level of width 8 compiles in seconds",
    ),
    Cheaper(
        r"^vidgen train .*distill",
        "--gin.TRAIN_STEPS=1 --gin.START_STEPS=8 "
        "--gin.students.StudentSchedule.guidance_train_steps=1",
        "no halving: two phases to compile instead of five",
    ),
    Cheaper(r"experiments/lora.gin", "--gin.INIT_FROM='runs/a'", "it has the small network"),
    Cheaper(r"held_out_loss.py", "--clips=2 --draws=1", "minutes"),
    Cheaper(r"held_out_loss.py .*imagen_teachers", "--models=runs/a,runs/lora", "as above"),
    Cheaper(r"negatives.py", "--clips=3", "twenty"),
    Cheaper(r"^vidgen plan .*--topology", "--gin_file=small.gin --effort=O0", "as in training"),
    Cheaper(r"^vidgen generate .*--model=runs", "--steps=2", "minutes"),
    Cheaper(r"^vidgen generate .*--story", "--steps=1", "minutes"),
    Cheaper(r"--resample=5", "--resample=2 --resample_jump=1", "minutes"),
    Cheaper(r"^vidgen export", "--samples=0", "minutes; tests/inference/test_export.py makes one"),
    Cheaper(r"--model=tiger_model", "--steps=2", "as with --model=runs"),
    Cheaper(r"--model=imagen_teachers", "--until=ssr1 --steps=1", "minutes"),
    Cheaper(r"--steps=64,base=256", "--steps=2,base=3", "minutes"),
    Cheaper(
        r"--frames=256",
        "--frames=72 --size=64x96 --steps=1",
        "longer and wider than the tiny clip too",
    ),
    Cheaper(r"--long --frames=512", "--frames=24 --until=tsr1", "three chunks instead of hundreds"),
    Cheaper(r"training_options.py", "--steps=2 --seeds=1 --clips=4", "minutes"),
    Cheaper(
        r"--from=.*--init=holiday",
        "--until=ssr2",
        "the last stages run in the two commands beside it",
    ),
    Cheaper(r"--context=5", "--context=3", "the tiny transformer sees five frames at a time"),
    Cheaper(
        r"^vidgen evaluate .*--model=",
        "--clips=2 --batch_size=1",
        "what a metric needs is measured in its own tests",
    ),
    Cheaper(
        r"^vidgen evaluate (--model=imagen|made/)|--protocol=bair",
        "--metrics=flicker",
        "I3D takes seconds a clip; it runs in the evaluation of the arrays",
    ),
    Cheaper(r"^vidgen evaluate .*--model=imagen", "--steps=2", "minutes"),
    Cheaper(r"^vidgen evaluate --model=runs|--protocol=storybench", "--metrics=psnr", "the same"),
    Cheaper(r"^vidgen evaluate .*npz", "--batch_size=2", "a batch is filled up with blank clips"),
    Cheaper(r"^vidgen evaluate .*--given=5", "--given=3", "the tiny clip has five frames"),
    Cheaper(r"^vidgen evaluate .*maskgit", "--steps=1", "minutes"),
    Cheaper(r"--protocol=bair", "--samples=2 --steps=1", "a hundred for each clip"),
    Cheaper(r"--protocol=storybench", "--given=3", "the tiny clip has five frames"),
    Cheaper(r"sprite_probe.py", "--clips=2 --steps=2", "minutes"),
    Cheaper(r"drift.py", "--clips=2 --frames=11 --steps=1", "a window is read for two seconds"),
    Cheaper(r"held_out_sheet.py", "--clips=1 --steps=1", "minutes"),
    Cheaper(r"held_out_sheet.py .*(imagen|film)_demo", "--until=base", "it compiles in seconds"),
    Cheaper(r"held_out_sheet.py .*film_demo", "--data=shots/train", "the others are too short"),
    Cheaper(r"^vidgen generate .*film_demo", "--until=base --steps=1", "as above"),
    Cheaper(r"MODEL_DIR='runs/film/", "--dry_run", "as cascade/base and the others"),
    Cheaper(r"distillation.py", "--teacher_steps=2,base=3 --until=tsr1", "minutes"),
    Cheaper(r"tokenizer.py", "--clips=2", "64 clips of two models"),
    Cheaper(r"loader.py", "--made=2 --made_size=32x32 --clips=8", "ten thousand clips"),
    Cheaper(r"loader.py --made=24 --clips=320", "--workers=0", "a process for each row"),
    Cheaper(r"loader.py .*--workers=0,2", "--workers=0,1", "a process for each worker"),
    Cheaper(
        r"loader.py .*--rows=folder,tar", "--rows=tar", "the same; the folder is in the row before"
    ),
    Cheaper(
        r"^vidgen plan .*--fit",
        "--chips=v5p:4 --compiles=1 --gin_file=small.gin --effort=O0",
        "as in training",
    ),
    Cheaper(r"plans.py", "--from=benchmarks/plans.jsonl", "hours; the rows are those of then"),
    Cheaper(r"weak_scaling.py", "--from=benchmarks/weak_scaling.jsonl", "hours, as above"),
    Cheaper(
        r"sampling_time.py", "--from=benchmarks/sampling_time.jsonl", "11 min; rows as they were"
    ),
    Cheaper(r"hosts.py", "--from=benchmarks/hosts.jsonl", "200,000 files; the rows of then"),
    Cheaper(r"manifests.py", "--from=benchmarks/manifests.jsonl", "minutes; the rows of then"),
    Cheaper(r"faults.py", "--from=benchmarks/faults.jsonl", "an hour; the trials of then"),
    Cheaper(r"memory.py", "--batch_size=2 --gin_file=small.gin", "it compiles and runs each step"),
    Cheaper(r"restoration.py", "--from=benchmarks/restoration.jsonl", "8 min; the cells of then"),
    Cheaper(r"waiting.py", "--from=benchmarks/waiting.jsonl", "a whole cascade compiles"),
    Cheaper(r"peers.py", "--from=benchmarks/peers.jsonl", "an hour; the rows are those of then"),
)

NOT_RUN = {
    "python3 -m venv .venv": ".ci/run does, and would be slow here",
    ". .venv/bin/activate": ".ci/run does",
    "pip install -e .": ".ci/run does, with extras, from the package index",
    "pip install -e .[test]": ".ci/run does, from the package index",
    "pip install -e .[web]": "the tests' packages hold those of the page",
    "vidgen web": "it serves until it is stopped; tests/web/test_page.py opens it in a browser",
    "pytest": "this is it",
    "tfds build ucf101/ucf101_1 --data_dir=tfds --file_format=array_record": "fetches 6.5 GB; "
    "tests/helpers/tfds_sets.py writes its files with TFDS itself, and these are trained on",
}

BEFORE = {
    "--model=runs/bair": readme_files.bring_model_of_bair,
    # How the demo was trained: the reader has trained these otherwise under "Train".
    "--gin.MODEL_DIR='runs/cascade/base' --gin.INIT_FROM": readme_files.bring_tiny,
    "distillation.py": readme_files.bring_students,
    "evaluations.py": readme_files.bring_evaluations,
}


COMMANDS = readme_commands.commands()
SECTIONS = list(dict.fromkeys(command.section for command in COMMANDS))


LENGTHS = ("0.02", "0.05", "0.1 ", "0.15", "0.25")  # of averages
# By section of a document and a part of the command that no other command of the section has.
MAKES = {
    "Sixty seconds": trained("a")
    | {
        "background -o tiger.mp4": video("tiger.mp4", 32),
        "prompts.txt -o clips.npy": all_of(*(files(f"clips-00{i}.npy") for i in range(4))),
        "animation.py": files("clips.webp"),
        "--model=runs/a -o tiger.mp4": video("tiger.mp4", 8),
    },
    "Train": trained(*(f"cascade/{stage}" for stage in STAGES)),
    "Tell a story": {"--story=a tiger": video("film.mp4", 59)},
    "Evaluate a model": {"--until=ssr1": all_of(files("cascade.html"), says("flicker"))},
    "Scale": {"local_multiprocess.sh": says("MODEL_DIR = 'runs/two'")},
    "First on new hardware": {"local.sh": says("MODEL_DIR = 'runs/first'")},
    "One model": resolved("demo"),
    "A tokenizer and its transformer": trained("phenaki/cvivit", "phenaki/maskgit"),
    "Flow matching, and what else a model can be told": trained("flow"),
    "Fine-tune on your own folder": trained("lora")
    | {
        "negatives.py": files("negatives/train/clip_000.mp4", "negatives/held_out/clip_002.txt"),
        "-o negative.mp4": video("negative.mp4", 8),
        "vidgen merge": files("runs/merged/model.safetensors", "runs/merged/config.gin"),
        "runs/lora --clips": says("| runs/a | 2 | 2 |", "| runs/lora | 2 | 2 |"),
        "--data=negatives/held_out": says("| runs/a | 2 | 2 |", "| runs/lora | 2 |"),
    },
    "Averages of any length": trained("averaged")
    | {f"--length={n}": files(f"runs/averaged_{n.strip()}/model.safetensors") for n in LENGTHS}
    | {"held_out_loss.py": says("| runs/averaged_0.1 | 2 | 2 |")},
    "Text encoder": trained("t5", "encoded", "tokens")
    | {
        "base_demo.gin --gin_file=data/folder.gin --gin.DATA_DIR": files("captions/manifest.json"),
        "--gin_file=runs/encode_tokens.gin": files("tokens/manifest.json"),
    },
    "What it will cost": {
        "imagen_cascade_paper.gin": plan_of_the_paper,
        "--topology=v5p:2x2x1": says("GiB"),
    },
    "Your own videos": trained("mine")
    | {"vidgen check": all_of(files("check.png"), says("5 can be used", "data/folder.gin"))},
    "Tar shards and object stores": trained("shards"),
    "Films": trained("films") | {"vidgen prepare": files("prepared/manifest.json")},
    "TFDS and seqio": trained("ucf101"),
    "Models at their published sizes": {
        "plans.py": measured_table,
        "--fit": says("ways estimated, 1 of them compiled", "those that lost"),
    },
    "The cost of a chip on more of them": {"weak_scaling.py": measured_table},
    "One clip": {"sampling_time.py": measured_table},
    "Captions": {"--captions=14000000": says("cheaper: cache")},
    "A thousand hosts": {
        "hosts.py": says("| made |", "| tar |"),
        "manifests.py": says("imagen base"),
        "faults.py": says("coordinator", "sigterm", "straggler", "checkpoint"),
    },
    "Memory": {
        "memory.py": says("phenaki_cvivit_tiny", "phenaki_maskgit_tiny", "imagen_base_tiny")
    },
    "Generate": {
        "--model=runs/a -o tiger.mp4": video("tiger.mp4", 8),
        "--prompts_file=prompts.txt": all_of(*(video(f"clips-00{i}.gif", 8) for i in range(8))),
        "-o tiger.mp4 --keep_stages": all_of(
            video("tiger.mp4", 64), *(files(f"tiger.{stage}.mp4") for stage in STAGES[:-1])
        ),
        "--until=ssr1": video("out.mp4", 16),
        "--from=ssr1 --init=holiday.mp4": video("larger.mp4", 19),
        "--frames=256 --size=128x192": video("out.mp4", 72),
    },
    "Longer than a clip": {"--long": video("long.mp4", 24)},
    "Control what is made": {
        "--negative": files("away.gif"),
        "--guidance_rescale": files("rescaled.gif"),
        "--guidance_interval": files("some.gif"),
        "--guidance_parallel": files("projected.gif"),
        "--strength": files("changed.gif"),
        "--resample": files("on.gif"),
        "--sampler=dpmpp_3m": files("third.gif"),
        "--sampler=heun": files("heun.gif"),
        "--preview": files("now.png", "tiger.gif"),
    },
    "Hand a model on": {
        "vidgen export": files("tiger_model/README.md", "tiger_model/model.safetensors"),
        "--model=tiger_model": video("tiger.mp4", 8),
    },
    "Stories, scene by scene": {"--story=story.yaml": video("film.mp4", 39)},
    "Distill": trained("cascade8/ssr1", steps=1),
    "Judge a model, or files": {
        "--model=runs/phenaki/cvivit": says("psnr"),
        "--given=5": says("psnr"),
        "made/ real/": says("flicker"),
        "--metrics=fvd,kvd": says("fvd", "kvd"),
        "--html=both.html": files("both.html"),
        "--protocol=bair": says("flicker"),
        "--protocol=storybench": files("films/made/raw/oops_1.npz"),
    },
    "The tiny base model": {
        "--model=runs/a --steps=32 --all_steps": files("runs/a/probe.jsonl", "runs/a/probe_2.png"),
        "plot_run.py": files("curves.png"),
    },
    "The demo cascade": resolved("demo")
    | {"held_out_sheet.py": files("held_out.webp"), "restoration.py": measured_table},
    "An earlier cascade and its students": trained("cascade/base")
    | resolved("tiny", "cascade/tsr1", "cascade8/tsr1")
    | {
        "-o strip/panda.npy": array("strip/panda.npy", 32, 32, 32, 3),
        "cascade_strip.py": files("strip.png"),
        "distillation.py": files("runs/cascade8/distillation.jsonl"),
    },
    "Phenaki": trained("bunny", "bunny_per_frame")
    | {
        "--story=benchmarks": array("film.npy", 71, 32, 32, 3),
        "story_strip.py": files("story.png", "story.json"),
        "held_out_sheet.py": files("held_out.webp"),
        "drift.py": all_of(files("drift.png"), says("| first of 2 videos", "| of 2 true clips")),
        "--temperature=4": files("probe.jsonl"),
        "--true": all_of(files("probe.jsonl", "probe_true.png"), says("true clips held_out")),
        "shots.py": files("shots/train/shot_001.mp4", "shots/held_out/shot_000.mp4"),
        "tokenizer.py": says("bunny", "bunny_per_frame"),
    },
    "Shots of a film": resolved("film/base", "film/ssr1")
    | {
        "shots.py": files("shots/train/captions.csv", "shots/held_out/captions.csv"),
        "held_out_sheet.py": files("shots.webp"),
        "vidgen generate": video("squirrel.mp4", 16),
    },
    "Evaluated": {"evaluations.py": says("C-ViViT", "MaskGIT", "teachers")},
    "Options of training": {"training_options.py": says("not told", "8 fps")},
    "Loading": {
        "--clips=320": says("PyAV", "folder", "tar"),
        "--clips=10000": says("tar | 0", "tar | 1"),
    },
    "How long one waits": {"waiting.py": measured_table},
    "Beside the PyTorch packages": {"peers.py": measured_table},
}


# ---- the reader ----------------------------------------------------------------------------------


def cheap(command: Command) -> list[str]:
    """The words of a command as it is run here."""
    words = [re.sub(TINY, r"\1\3\5_tiny\2\4", word) for word in command.words]
    return readme_commands.cheaper(words, CHEAPER)


def processor_seconds() -> float:
    """Of this process and of those that it has waited for."""
    return sum(
        sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )


def check_of(command: Command):
    """What MAKES has for it."""
    found = [
        check for part, check in MAKES.get(command.section, {}).items() if part in str(command)
    ]
    assert len(found) == 1, (
        f"{command.place}\nhas {len(found)} places in tests/test_readme.py. Give it one in MAKES, "
        f"under {command.section!r}: a part of it that no other command there has, and what it "
        "makes; in CHEAPER what makes it quick; or, with a reason that holds, in NOT_RUN."
    )
    return found[0]


class Reader:
    """Follows the documents in a folder, section by section, each once."""

    def __init__(self, folder: Path, warm) -> None:
        self.folder, self.warm, self.left = folder, warm, list(SECTIONS)

    def follow(self, section: str) -> None:
        """All sections up to this one, since it may need what an earlier one makes.

        A command that fails does not keep the others from their turn; `pytest -rP` shows the
        processor seconds of each.
        """
        failures = []
        while section in self.left:
            now = self.left.pop(0)
            for command in COMMANDS:
                if command.section == now and str(command) not in NOT_RUN:
                    failures += self.run(command)
            compiled_programs.forget_if_large()
        assert not failures, "\n\n".join(failures)

    def run(self, command: Command) -> list[str]:
        """One command, and a look at what it leaves behind; what is wrong with it."""
        check, words = check_of(command), cheap(command)
        for part, make in BEFORE.items():
            if part in str(command):
                make(self.folder)
        began = time.time_ns() - 20_000_000  # the clock of a file system is a little late
        seconds = processor_seconds()
        told = readme_commands.run(words, self.warm)
        seconds = processor_seconds() - seconds
        print(f"{seconds:.1f} s, status {told.status}: {' '.join(words)}")
        where = f"{command.place}\nwas run as `{' '.join(words)}` and said\n{told.err}"
        without = re.findall(r"note: (--gin\.\S+) has no effect", told.err)
        if told.status:
            return [f"status {told.status}: {where}"]
        if stale := [name for name in without if f" {name}=" in str(command)]:
            return [f"{stale} of the command has no effect: {where}"]
        try:
            check(Left(told, self.folder, began))
        except (AssertionError, OSError, LookupError) as error:
            return [f"{error!r}: {where}"]
        return []


@pytest.fixture(scope="module")
def reader(tmp_path_factory, tfds_sets, warm, kept_programs, shared_steps):
    """In a folder of its own, with caches of its own but for what is fetched."""
    folder = tmp_path_factory.mktemp("reader")
    readme_files.bring(folder, tfds_sets)
    fetched = downloads.cache_folder()
    fetched.mkdir(parents=True, exist_ok=True)
    (folder / "cache" / "vidgen").mkdir(parents=True)
    (folder / "cache" / "vidgen" / "assets").symlink_to(fetched)
    with pytest.MonkeyPatch.context() as patch, contextlib.chdir(folder):
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        patch.setitem(t5.__dict__, "SIZES", {**t5.SIZES, "base": readme_files.T5_BASE})
        yield Reader(folder, warm)


# ---- the tests -----------------------------------------------------------------------------------


def test_what_bash_would_run():
    block = """a "b c" && d --e="'f'"  # g
for h in i j; do
  a --k="$h" \\
      ${h}l; d
done"""
    found = [["a", "b c"], ["d", "--e='f'"]]
    found += [["a", "--k=i", "il"], ["d"], ["a", "--k=j", "jl"], ["d"]]
    assert list(readme_commands.statements(block)) == found
    for unknown in ("a | b", "a > b", "a $b", "a `b`"):
        with pytest.raises(ValueError, match="does not know"):
            list(readme_commands.statements(unknown))


def test_flags_that_make_a_command_cheaper():
    table = [Cheaper("^a", "--b=2 --c=3 --gin_file=d", "why"), Cheaper("^e", "--f=1", "why")]
    words = readme_commands.cheaper(["a", "--gin_file=x", "--b=9", "--g"], table)
    assert words == ["a", "--gin_file=x", "--b=2", "--g", "--c=3", "--gin_file=d"]


def test_the_readme_is_short_and_headings_are_unique():
    assert len(readme_commands.text_of("README.md").encode()) < 10_000
    places = [(c.document, c.section) for c in COMMANDS]
    assert len(set(places)) == len({section for _, section in places})


@pytest.mark.parametrize("document", readme_commands.DOCUMENTS)
def test_links_lead_somewhere(document):
    folder = (readme_commands.ROOT / document).parent
    for link in re.findall(r"\]\(([^)#]+)(?:#[\w-]*)?\)", readme_commands.text_of(document)):
        assert link.startswith("http") or (folder / link).exists(), link


def test_every_command_has_a_place():
    for command in COMMANDS:
        if str(command) not in NOT_RUN:
            check_of(command)


def test_nothing_is_said_of_commands_that_are_gone():
    texts = [str(command) for command in COMMANDS]
    assert not NOT_RUN.keys() - set(texts)
    assert not [part for part in BEFORE if not any(part in text for text in texts)]
    assert not [row for row in CHEAPER if not any(re.search(row.pattern, t) for t in texts)]
    parts = [(section, part) for section, rows in MAKES.items() for part in rows]
    said = {(c.section, part) for c in COMMANDS for _, part in parts if part in str(c)}
    assert not set(parts) - said


def test_the_story_fits_the_demo(tmp_path):
    """Whose clips have 11 frames, 5 of them of the part before, and 2 frames a token."""
    text = readme_commands.text_of("vidgen/inference/README.md")
    ((*_, story),) = readme_commands.blocks(text, "yaml")
    (tmp_path / "story.yaml").write_text(story)
    told = parse.load(str(tmp_path / "story.yaml"))
    assert segments.plan(told, 11, 5, 2, 8.0)[-1].end_frame == 39


@pytest.mark.parametrize("section", SECTIONS)
def test_section(reader, section):
    reader.follow(section)
