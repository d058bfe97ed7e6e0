"""A plan's report as text: one model in detail, or a cascade as the table of Imagen Video."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Report = dict[str, Any]
_NOTES = 8  # shown to people
_BYTES = (("GiB", 2.0**30), ("MiB", 2.0**20), ("KiB", 2.0**10))
_WORK = (("PFLOP", 1e15), ("TFLOP", 1e12), ("GFLOP", 1e9), ("MFLOP", 1e6))


def tables(report: Report, details: bool) -> str:
    """Write a report as text: one model in detail, several as a table.

    Args:
      report: of `Plan.report`.
      details: write everything about each of several models too.

    Returns:
      Paragraphs, without an end of the last line.
    """
    models = report["models"]
    parts = [_model(model) for model in models] if details or len(models) == 1 else []
    if len(models) > 1:
        parts.append(_cascade(report))
    if report.get("clip"):
        parts.append(_clip(report["clip"]))
    if report["text_encoder"] is not None:
        parts.append(_text_encoder(report["text_encoder"]))
    return "\n\n".join(parts)


def _clip(clip: Report) -> str:
    """Return the line of a clip through all stages, with the weights that come meanwhile."""
    held, most, alone = max(clip["held_bytes_per_device"]), clip["overlapped"], clip["alone"]
    return (
        f"a clip: at least {most:.3g} s ({alone:.3g} s where nothing overlaps); a device holds "
        f"{_gib(held)} with the weights of the next stage"
    )


def _text_encoder(encoder: Report) -> str:
    """Return the line of the frozen encoder, which no model counts among its own."""
    share = f"{_gib(encoder['bytes_per_device'])} of a device, {encoder['devices']} device(s)"
    return f"text encoder: {encoder['parameters']:,} parameters, frozen, not in the above: {share}"


# ---- a cascade: a row for each stage -------------------------------------------------------------


def _cascade(report: Report) -> str:
    models = report["models"]
    units = (
        _unit([model["bytes_per_device"]["total"] for model in models], _BYTES),
        _unit([model["flops_per_evaluation"] for model in models], _WORK),
        _unit([model["flops_per_clip"] for model in models], _WORK),
    )
    (space, _), (each, _), (clip, scale) = units
    head = ("stage", "frames", "fps", "published", "ours", "", "space", "time", "text")
    head += (space, f"{each}/eval", "evals", f"{clip}/clip")
    total = _sum_row(report["totals"], scale)
    lines = _columns([head, *(_row(model, units) for model in models), total], left=(0, 6, 7, 8))
    rule = "-" * max(map(len, lines))
    lines = [lines[0], rule, *lines[1:-1], rule, lines[-1], "", *_legend(report, space)]
    lines += _programs(models)
    notes = sum(len(model["notes"]) for model in models)
    if notes:
        lines.append(f"{notes} parameters are not cut as the rules ask; --details lists them.")
    return "\n".join(lines)


def _row(model: Report, units: Sequence[tuple[str, float]]) -> tuple[str, ...]:
    t, h, w, _ = model["output_shape"]
    published, operators = model["published_parameters"], model["operators"]
    space, each, clip = (size for _, size in units)
    return (
        model["name"],
        f"{t} x {h} x {w}",
        f"{model['fps']:g}",
        _count(published),
        _count(model["parameters"]),
        _difference(model["parameters"], published),
        *(_used(operators, axis) for axis in ("spatial", "temporal", "text")),
        f"{model['bytes_per_device']['total'] / space:,.1f}",
        scaled(model["flops_per_evaluation"], each),
        f"{model['evaluations'] or '-'}",
        scaled(model["flops_per_clip"], clip),
    )


def _sum_row(total: Report, scale: float) -> tuple[str, ...]:
    ours, published = total["parameters"], total["published_parameters"]
    counts = (_count(published), _count(ours), _difference(ours, published))
    return ("sum", "", "", *counts, *[""] * 6, scaled(total["flops_per_clip"], scale))


def _used(operators: Report | None, axis: str) -> str:
    """Return the operators of an axis: "conv", "attn" or "conv + attn"."""
    if operators is None:
        return "?"
    names = ["conv"] if axis == "spatial" or operators.get(f"{axis} conv") else []
    names += ["attn"] if operators.get(f"{axis} attention") else []
    return " + ".join(names) or "-"


def _legend(report: Report, space: str) -> list[str]:
    models = report["models"]
    meshes = " or ".join(dict.fromkeys(_mesh(model) for model in models))
    batch = " or ".join(dict.fromkeys(str(model["batch_size"]) for model in models))
    seconds = dict.fromkeys(f"{model['seconds']:.4g}" for model in models)
    lines = [
        "ours   parameters; space, time, text: operators",
        f"{space}    of a device in training, a batch of {batch}, without activations; {meshes}",
        "evals  of the network on a whole clip; two a step where guidance needs both",
    ]
    chained = "each stage takes what the one before gives; " if report["chained"] else ""
    return [*lines, f"clips  {chained}each covers {' or '.join(seconds)} s"]


def _programs(models: Sequence[Report]) -> list[str]:
    """Return a line for each compiled program."""
    rows = []
    for model in models:
        for what, program in _compiled(model):
            words = [f"{name} {value}" for name, value in _memory_rows(program)]
            rows.append((f"{model['name']}:", what, program["compiled_for"], ", ".join(words)))
    return ["", *_columns(rows, left=(0, 1, 2, 3))] if rows else []


# ---- one model -----------------------------------------------------------------------------------


def _model(model: Report) -> str:
    """Return everything about one model."""
    t, h, w, c = model["output_shape"]
    total = model["parameters"]
    lines = [f"{model['name']}: {total:,} parameters{_against(model)}"]
    lines.append(f"  output  {t} x {h} x {w} x {c} at {model['fps']:g} fps")
    lines.append(f"  mesh    {_mesh(model)}")
    rows = [(name, f"{n:,}", f"{n / total:.1%}") for name, n in model["modules"].items()]
    lines += _aligned("parameters by module", rows)
    rows = [(name.replace("_", " "), _gib(n)) for name, n in model["bytes_per_device"].items()]
    lines += _aligned("bytes per device, activations not included", rows)
    lines += _aligned("floating-point operations", _operations(model))
    for what, program in _compiled(model):
        title = f"{what} compiled for {program['compiled_for']}, bytes per device"
        lines += _aligned(title, _memory_rows(program))
    notes = model["notes"]
    lines += [f"  note: {note}" for note in notes[:_NOTES]]
    if len(notes) > _NOTES:
        lines.append(f"  note: {len(notes) - _NOTES} more like these; --json lists them all")
    return "\n".join(lines)


def _compiled(model: Report) -> list[tuple[str, Report]]:
    """Return the programs of a model that were compiled, by what they do."""
    programs = (("training step", model), ("sampling step", model.get("sampling", {})))
    return [(what, program) for what, program in programs if "fits" in program]


def _operations(model: Report) -> list[tuple[str, str]]:
    rows = [
        (f"a step of {model['batch_size']} examples", model["flops_per_step"]),
        ("a step, per example", model["flops_per_step_per_example"]),
        ("a forward pass, per example", model["flops_forward_per_example"]),
    ]
    rows = [(what, _tera(count)) for what, count in rows if count is not None]
    if model["flops_per_clip"] is not None:
        rows.append(("sampling, an evaluation", _tera(model["flops_per_evaluation"])))
        count = model["evaluations"]
        rows.append((f"a clip, {count} evaluations", _tera(model["flops_per_clip"])))
    return rows


def _memory_rows(program: Report) -> list[tuple[str, str]]:
    peak, limit = program["peak_bytes_per_device"], program["device_bytes"]
    rows = [
        ("peak", "more than there is" if peak is None else _gib(peak)),
        ("there is", "unknown" if limit is None else _gib(limit)),
    ]
    if temporary := program.get("temporary_bytes_per_device"):
        rows.append(("temporary", _gib(temporary)))
    rows.append(("fits", {True: "yes", False: "no", None: "unknown"}[program["fits"]]))
    if received := program.get("collective_bytes_per_device"):
        rows.append(("received", _gib(sum(received.values()))))
    if most := program.get("bound"):
        rows.append(("MFU at most", f"{most['mfu_overlapped']:.1%}"))
        rows.append(("where nothing overlaps", f"{most['mfu_alone']:.1%}"))
        rows.append(("waits most for", most["waits_for"]))
    if times := program.get("seconds_per_clip"):
        rows.append(("a clip, at least", f"{times['overlapped']:.3g} s"))
    return rows


def _mesh(model: Report) -> str:
    mesh = ", ".join(f"{axis} {size}" for axis, size in model["mesh"].items())
    return f"{model['devices']} device(s): {mesh}"


def _against(model: Report) -> str:
    published = model["published_parameters"]
    if not published:
        return ""
    part = model["published_part"]
    ours = sum(n for name, n in model["modules"].items() if name.startswith(part))
    what = f", {part} {ours:,}" if part else ""
    return f"{what} ({_difference(ours, published)} against the published {published:,.0f})"


# ---- numbers and columns -------------------------------------------------------------------------


def _difference(ours: int, published: int | float | None) -> str:
    return f"{ours / published - 1:+.1%}" if published else ""


def _count(count: int | float | None) -> str:
    """Return a number of parameters as "5.572 B" or "786.3 M"."""
    if not count:
        return "-"
    for unit, size, digits in (("B", 1e9, 3), ("M", 1e6, 1), ("K", 1e3, 1)):
        if count >= size:
            return f"{count / size:,.{digits}f} {unit}"
    return f"{count:,.0f}"


def _unit(values: Sequence[Any], units: Sequence[tuple[str, float]]) -> tuple[str, float]:
    """Return the largest unit in which the largest value is 1 or more, or the smallest unit."""
    largest = max((value for value in values if value is not None), default=0)
    return next((unit for unit in units if largest >= unit[1]), units[-1])


def scaled(count: int | float | None, unit: float) -> str:
    """Return a number in a unit with three figures or more: "61.6", "1,234", "0.00123".

    Args:
      count: of one; None: unknown.
      unit: what it is divided by.

    Returns:
      The number without its unit; "-" for None.
    """
    if count is None:
        return "-"
    value = count / unit
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _gib(count: int) -> str:
    return f"{count / 2**30:,.3f} GiB"


def _tera(count: int | float) -> str:
    return f"{count / 1e12:,.4g} TFLOP"


def _aligned(title: str, rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Return a title and rows, the first column flush left and the others flush right."""
    return [f"  {title}", *("    " + line for line in _columns(rows, left=(0,)))]


def _columns(rows: Sequence[tuple[str, ...]], left: Sequence[int]) -> list[str]:
    """Return rows as lines of equal columns, those of `left` flush left."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(
            cell.ljust(width) if i in left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
