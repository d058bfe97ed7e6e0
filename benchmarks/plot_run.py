"""Draws a training run: loss by noise level, and what the sprite probe read.

    python benchmarks/plot_run.py --model=runs/a -o curves.png

Also prints the probe as a Markdown table; its minutes are those that training took up to that
step (pauses for samples, checkpoints and held-out loss not counted), on whatever machine it was.
Reads MODEL_DIR/metrics.jsonl, which training writes, and MODEL_DIR/probe.jsonl, which
benchmarks/sprite_probe.py writes. Needs matplotlib (extra `eval`).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt

from vidgen.evals.report.plots import draw_losses


def rows(path: Path) -> list[dict]:
    """The objects of a .jsonl file; none if there is no such file."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def draw_probe(axes: plt.Axes, probes: list[dict]) -> None:
    """Share of generated clips read right over steps; dashed for held-out combinations."""
    colors = {"background": "tab:green", "subject": "tab:blue", "motion": "tab:red"}
    for split, style in (("train", "o-"), ("held_out", "s--")):
        for name, color in colors.items():
            points = [(row["step"], row[split][name]) for row in probes]
            label = f"{name}, {split.replace('_', ' ')}"
            axes.plot(*zip(*points, strict=True), style, color=color, label=label, markersize=4)
    axes.set(xlabel="step", ylabel="share read right", ylim=(-0.02, 1.02))
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)


def minutes_at(step: int, metrics: list[dict]) -> float:
    """Minutes of training from the first step to `step`."""
    total, before = 0.0, 0
    for row in metrics:
        if before < row["step"] <= step and row.get("seconds_per_step") is not None:
            total += (row["step"] - before) * row["seconds_per_step"] / 60
        before = row["step"]
    return total


def table(probes: list[dict], metrics: list[dict]) -> str:
    """The probe as Markdown; each cell is trained / held-out combinations."""
    names = ("background", "subject", "motion", "all", "error")
    lines = [
        "| minutes | steps | background | subject | motion | all three | error |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in probes:
        cells = [f"{row['train'][name]:.2f} / {row['held_out'][name]:.2f}" for name in names]
        minutes = minutes_at(row["step"], metrics)
        lines.append(f"| {minutes:.0f} | {row['step']:,} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Write the picture, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", required=True, help="a MODEL_DIR that vidgen train wrote")
    parser.add_argument("-o", "--output", default="curves.png")
    flags = parser.parse_args()
    probes = sorted(rows(Path(flags.model) / "probe.jsonl"), key=lambda row: row["step"])
    metrics = rows(Path(flags.model) / "metrics.jsonl")
    figure, panels = plt.subplots(1, 2, figsize=(11, 4), constrained_layout=True)
    draw_losses(panels[0], metrics)
    panels[0].set_ylabel("squared error of v")
    if probes:
        draw_probe(panels[1], probes)
        print(table(probes, metrics))
    figure.savefig(flags.output, dpi=110)


if __name__ == "__main__":
    main()
