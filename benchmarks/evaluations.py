"""Evaluates the demo models with `vidgen evaluate`, and prints the tables of benchmarks/README.md.

    python benchmarks/evaluations.py --output=evaluations               # half an hour on 2 cores
    python benchmarks/evaluations.py --output=evaluations --from_files  # tables of what is there

Held-out sprites throughout: combinations of subject, motion and background that no training
showed. A result that is in --output is not measured again, and `vidgen evaluate` itself goes on
where it was stopped. --html writes a page with the clips of each beside its table.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from vidgen.evals.report import results
from vidgen.evals.report.facts import value_text

TOKENIZER = {"C-ViViT": ["--model=phenaki_demo/cvivit", "--clips=64"]}
TOKENIZER_METRICS = ("psnr", "ssim", "squeezenet_distance", "codes_used", "perplexity", "kvd")
VIDEO = {
    "MaskGIT, 24 steps": ["--model=phenaki_demo/maskgit"],
    "cascade to ssr1": ["--model=imagen_demo", "--until=ssr1"],
    "an earlier one's students, 3 x 8 steps": ["--model=imagen_distilled", "--until=ssr1"],
    "their teachers, 3 x 32 steps": ["--model=imagen_teachers", "--until=ssr1", "--steps=32"],
}
VIDEO_METRICS = (
    "probe_subject", "probe_motion", "probe_background", "probe_all",
    "fvd", "kvd", "flicker",
)  # fmt: skip


def measured(name: str, flags: list[str], metrics: tuple[str, ...], chosen: argparse.Namespace):
    """The result of one model; from its file where there is one."""
    stem = "".join(c if c.isalnum() else "_" for c in name)
    path = chosen.output / f"{stem}.json"
    if not path.exists():
        if chosen.from_files:
            raise SystemExit(f"{path} is not there; run without --from_files.")
        command = [sys.executable, "-m", "vidgen.cli.main", "evaluate", *flags]
        command += [f"--metrics={','.join(metrics)}", f"--output={path}"]
        command += [f"--html={chosen.output / stem}.html"] if chosen.html else []
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return results.load(path)


def table(rows: dict[str, dict], metrics: tuple[str, ...]) -> str:
    """Models as rows, metrics as columns."""
    lines = [
        f"| model | clips | size | {' | '.join(metrics)} |",
        "|---" * (3 + len(metrics)) + "|",
    ]
    for name, found in rows.items():
        protocol = found["protocol"]
        size = f"{protocol['frames']} x {protocol['height']} x {protocol['width']}"
        cells = [name, str(found["made"]["n"]), size]
        cells += [value_text(found["metrics"][metric]) for metric in metrics]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Measure what is missing, and print both tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=Path("evaluations"), metavar="FOLDER")
    parser.add_argument("--clips", type=int, default=32, help="of a text-to-video model")
    parser.add_argument("--html", action="store_true", help="pages with clips, too")
    parser.add_argument("--from_files", action="store_true", help="measure nothing")
    chosen = parser.parse_args()
    chosen.output.mkdir(parents=True, exist_ok=True)
    tokenizer = {n: measured(n, f, TOKENIZER_METRICS, chosen) for n, f in TOKENIZER.items()}
    print(table(tokenizer, TOKENIZER_METRICS), end="\n\n", flush=True)
    clips = [f"--clips={chosen.clips}"]
    video = {n: measured(n, f + clips, VIDEO_METRICS, chosen) for n, f in VIDEO.items()}
    print(table(video, VIDEO_METRICS))


if __name__ == "__main__":
    main()
