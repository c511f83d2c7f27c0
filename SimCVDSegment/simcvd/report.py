"""Rows of scores as CSV, JSON, a table for the terminal and one self-contained HTML page.

A row is {"case": str, "label": str, **metrics.compare(...)}; `meta` is what a reader should know of how the rows came
about: "title" heads the page, "notes" is a list of sentences, every other entry is shown as name and value.
"""

from __future__ import annotations

import base64
import csv
import html
import math
import os
import statistics
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from simcvd.files import atomic_path, write_json
from simcvd.metrics import DEFINITIONS, SURFACE_DEFINITION
from simcvd.pictures import PREDICTION_COLOUR, REFERENCE_COLOUR, case_picture, picture_description

__all__ = ["case_picture", "format_table", "summary", "write_csv", "write_html", "write_json_report"]

HEADINGS = {
    "dice": "Dice [%]",
    "jaccard": "Jaccard [%]",
    "hd95": "95HD [mm]",
    "asd": "ASD [mm]",
    "assd": "ASSD [mm]",
    "hd95_voxel": "95HD [voxel]",
    "asd_voxel": "ASD [voxel]",
    "assd_voxel": "ASSD [voxel]",
    "volume_reference_ml": "Volume, reference [ml]",
    "volume_prediction_ml": "Volume, prediction [ml]",
}
PLOTTED = ("dice", "jaccard", "hd95", "asd", "assd")
_NOTHING = "–"


def summary(rows: Iterable[Mapping]) -> dict[str, dict[str, dict]]:
    """Mean, sample standard deviation, median, n and number of rows without a number, by label and metric.

    Gives {label: {metric: {"mean", "sd", "median", "n", "empties"}}}; a figure that does not exist is None.
    """
    rows = list(rows)
    return {
        label: {m: _figures([r[m] for r in rows if r["label"] == label]) for m in HEADINGS} for label in _labels(rows)
    }


def write_csv(path: str | os.PathLike, rows: Iterable[Mapping]) -> None:
    """Write one line per row with the metrics' keys as columns; a number that does not exist is an empty cell."""
    columns = ["case", "label", *HEADINGS, "note"]
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as f:
        writer = csv.DictWriter(f, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)


def write_json_report(path: str | os.PathLike, rows: Sequence[Mapping], meta: Mapping) -> None:
    """Write meta, definitions, summary and rows as one JSON object; a number that does not exist is null."""
    definitions = {**DEFINITIONS, "surface": SURFACE_DEFINITION}
    report = {"format": 1, "meta": dict(meta), "definitions": definitions, "summary": summary(rows), "rows": list(rows)}
    write_json(path, report)


def format_table(rows: Sequence[Mapping]) -> str:
    """The rows, their summary and the definitions of what is shown, as plain text for a terminal."""
    shown = [*PLOTTED, "volume_reference_ml", "volume_prediction_ml"]
    short = {**HEADINGS, "volume_reference_ml": "Ref. [ml]", "volume_prediction_ml": "Pred. [ml]"}
    head = ["Case", "Label", *(short[m] for m in shown)]
    body = [[r["case"], r["label"], *(_number(r[m]) for m in shown)] for r in rows]
    summary_head = ["Label", "Metric", "Mean ± sd", "Median", "n", "Empty"]
    summary_body = [
        [label, short[m], _mean_and_sd(f), _number(f["median"]), str(f["n"]), str(f["empties"])]
        for label, metrics in summary(rows).items()
        for m, f in metrics.items()
        if m in shown
    ]
    notes = [f"{r['case']}, {r['label']}: {r['note']}" for r in rows if r.get("note")]
    definitions = [DEFINITIONS[m] for m in PLOTTED] + [SURFACE_DEFINITION]
    parts = [_columns(head, body), _columns(summary_head, summary_body), "\n".join(notes), "\n".join(definitions)]
    return "\n\n".join(part for part in parts if part)


def write_html(
    path: str | os.PathLike, rows: Sequence[Mapping], meta: Mapping, pictures: Mapping[str, bytes] | None = None
) -> None:
    """Write the report as one HTML file that needs nothing else: no script, no font, no link.

    `pictures` maps cases to the PNGs of `case_picture`; they are shown with the lowest Dice first.
    """
    title = str(meta.get("title", "Segmentation report"))
    body = [
        f"<h1>{_escape(title)}</h1>",
        _meta_list(meta),
        "<h2>Summary</h2>",
        _summary_table(rows),
        "<h2>Spread over the cases</h2>",
        "<p>Every dot is a case; the box spans the middle half of them, the line in it is the median, "
        "the whiskers reach the furthest case within one and a half box lengths.</p>",
        f'<div class="plots">{"".join(_box_plot(m, rows) for m in PLOTTED)}</div>',
        "<h2>Cases</h2>",
        _case_table(rows),
        _picture_section(rows, pictures or {}),
        "<h2>Definitions</h2>",
        _definition_list(),
    ]
    page = _PAGE.format(title=_escape(title), style=_STYLE, body="\n".join(part for part in body if part))
    with atomic_path(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def _labels(rows: Iterable[Mapping]) -> list[str]:
    return list(dict.fromkeys(r["label"] for r in rows))


def _figures(values: Sequence[float | None]) -> dict:
    there = [v for v in values if v is not None]
    return {
        "mean": statistics.fmean(there) if there else None,
        "sd": statistics.stdev(there) if len(there) > 1 else None,
        "median": statistics.median(there) if there else None,
        "n": len(there),
        "empties": len(values) - len(there),
    }


def _number(value: float | None) -> str:
    return _NOTHING if value is None else f"{value:.2f}"


def _mean_and_sd(figures: Mapping) -> str:
    return _number(figures["mean"]) if figures["sd"] is None else f"{figures['mean']:.2f} ± {figures['sd']:.2f}"


def _columns(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """Text columns, the first two to the left and the others to the right."""
    widths = [max(len(line[c]) for line in (head, *body)) for c in range(len(head))]
    aligned = [
        [cell.ljust(w) if c < 2 else cell.rjust(w) for c, (cell, w) in enumerate(zip(line, widths, strict=True))]
        for line in (head, ["-" * w for w in widths], *body)
    ]
    return "\n".join("  ".join(line).rstrip() for line in aligned)


def _escape(value) -> str:
    return html.escape(str(value))


def _table(caption: str, head: Sequence[str], body: Iterable[Sequence[str]], text_columns: Sequence[int]) -> str:
    def kind(column: int) -> str:
        return ' class="text"' if column in text_columns else ""

    heads = "".join(f'<th scope="col"{kind(c)}>{_escape(cell)}</th>' for c, cell in enumerate(head))
    lines = []
    for first, *others in body:
        cells = "".join(f"<td{kind(c)}>{_escape(cell)}</td>" for c, cell in enumerate(others, start=1))
        lines.append(f'<tr><th scope="row"{kind(0)}>{_escape(first)}</th>{cells}</tr>')
    return (
        f'<div class="scroll" role="region" aria-label="{_escape(caption)}" tabindex="0"><table>'
        f"<caption>{_escape(caption)}</caption><thead><tr>{heads}</tr></thead>"
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def _summary_table(rows: Sequence[Mapping]) -> str:
    body = [
        [label, HEADINGS[m], _mean_and_sd(f), _number(f["median"]), f["n"], f["empties"]]
        for label, metrics in summary(rows).items()
        for m, f in metrics.items()
    ]
    head = ["Label", "Metric", "Mean ± sd", "Median", "Cases with a number", "Cases without"]
    return _table("Every metric over all cases", head, body, text_columns=(0, 1))


def _case_table(rows: Sequence[Mapping]) -> str:
    body = [[r["case"], r["label"], *(_number(r[m]) for m in HEADINGS), r.get("note") or ""] for r in rows]
    head = ["Case", "Label", *HEADINGS.values(), "Note"]
    return _table("Every case and label", head, body, text_columns=(0, 1, len(head) - 1))


def _meta_list(meta: Mapping) -> str:
    entries = {name: value for name, value in meta.items() if name not in ("title", "notes")}
    parts = [f"<dt>{_escape(name)}</dt><dd>{_escape(value)}</dd>" for name, value in entries.items()]
    notes = [f"<li>{_escape(note)}</li>" for note in meta.get("notes", ())]
    listed = f'<dl class="meta">{"".join(parts)}</dl>' if parts else ""
    return listed + (f'<ul class="notes">{"".join(notes)}</ul>' if notes else "")


def _definition_list() -> str:
    items = "".join(f"<li>{_escape(sentence)}</li>" for sentence in (*DEFINITIONS.values(), SURFACE_DEFINITION))
    return f"<ul>{items}</ul>"


def _picture_section(rows: Sequence[Mapping], pictures: Mapping[str, bytes]) -> str:
    if not pictures:
        return ""
    by_case: dict[str, list[Mapping]] = {case: [] for case in pictures}
    for row in rows:
        by_case.setdefault(row["case"], []).append(row)
    # a case without a number comes before the lowest
    ordered = sorted(pictures, key=lambda case: min((_or_less(r["dice"]) for r in by_case[case]), default=-1.0))
    figures = [_figure(case, pictures[case], by_case[case]) for case in ordered]
    legend = "".join(
        f'<li><span class="line" style="background:rgb{colour};height:{height}px"></span>{name}</li>'
        for name, colour, height in (
            ("Reference (broad line)", REFERENCE_COLOUR, 6),
            ("Prediction (thin line)", PREDICTION_COLOUR, 3),
        )
    )
    return f'<h2>Pictures, lowest Dice first</h2><ul class="legend">{legend}</ul>{"".join(figures)}'


def _or_less(value: float | None) -> float:
    return -1.0 if value is None else value


def _figure(case: str, png: bytes, rows: Sequence[Mapping]) -> str:
    scores = "; ".join(
        f"{r['label']}: {r['note']}"
        if r["dice"] is None
        else f"{r['label']}: Dice {r['dice']:.2f} %, 95HD {r['hd95']:.2f} mm, ASD {r['asd']:.2f} mm"
        for r in rows
    )
    shown = picture_description(png)
    data = base64.b64encode(png).decode("ascii")
    return (
        f"<figure><figcaption><strong>{_escape(case)}</strong> {_escape(scores)}</figcaption>"
        f'<img src="data:image/png;base64,{data}" alt="Outlines of {_escape(case)}. {_escape(shown)}">'
        f"<p>{_escape(shown)}</p></figure>"
    )


def _box_plot(metric: str, rows: Sequence[Mapping]) -> str:
    """One metric over the cases as inline SVG: a lane with box, whiskers and dots for every label."""
    lanes = {label: [r for r in rows if r["label"] == label and r[metric] is not None] for label in _labels(rows)}
    lanes = {label: found for label, found in lanes.items() if found}
    if not lanes:
        return ""
    ticks = _ticks([r[metric] for found in lanes.values() for r in found])
    width, lane, left, right = 560, 56, 20, 20
    height = lane * len(lanes) + 34

    def x(value: float) -> float:
        return left + (value - ticks[0]) / (ticks[-1] - ticks[0]) * (width - left - right)

    parts = [
        f'<line class="grid" x1="{x(t):.1f}" x2="{x(t):.1f}" y1="6" y2="{height - 24}"/>'
        f'<text class="tick" x="{x(t):.1f}" y="{height - 8}">{t:g}</text>'
        for t in ticks
    ]
    for n, (label, found) in enumerate(lanes.items()):
        parts += _lane(label, [(r["case"], r[metric]) for r in found], x, n * lane + 36)
    spoken = ", ".join(f"{label}: median {_number(_median(found, metric))}" for label, found in lanes.items())
    return (
        f'<figure class="plot"><figcaption>{HEADINGS[metric]}</figcaption><svg viewBox="0 0 {width} {height}" '
        f'role="img" aria-label="{_escape(HEADINGS[metric])} over the cases; {_escape(spoken)}">{"".join(parts)}'
        "</svg></figure>"
    )


def _median(rows: Sequence[Mapping], metric: str) -> float:
    return statistics.median(r[metric] for r in rows)


def _lane(label: str, points: Sequence[tuple[str, float]], x, y: float) -> list[str]:
    values = np.array([value for _, value in points])
    low, middle, high = np.percentile(values, (25, 50, 75))
    reach = 1.5 * (high - low)
    start, stop = values[values >= low - reach].min(), values[values <= high + reach].max()
    parts = [
        f'<text class="lane" x="20" y="{y - 18}">{_escape(label)}</text>',
        f'<line class="stroke" x1="{x(start):.1f}" x2="{x(stop):.1f}" y1="{y}" y2="{y}"/>',
        f'<rect class="box" x="{x(low):.1f}" y="{y - 11}" width="{max(x(high) - x(low), 1):.1f}" height="22"/>',
        f'<line class="median" x1="{x(middle):.1f}" x2="{x(middle):.1f}" y1="{y - 11}" y2="{y + 11}"/>',
    ]
    # dots of like value stand apart by a fixed pattern
    for n, (case, value) in enumerate(points):
        dot = y + (n * 5 % 11 - 5) * 1.4
        name = f"{_escape(case)}: {value:.2f}"
        parts.append(f'<circle cx="{x(value):.1f}" cy="{dot:.1f}" r="3.5"><title>{name}</title></circle>')
    return parts


def _ticks(values: Sequence[float]) -> list[float]:
    """Round numbers that span the values: four to eight of them, at least two."""
    low, high = min(values), max(values)
    rough = (high - low) / 5 or max(abs(high), 1.0) / 5
    scale = 10.0 ** math.floor(math.log10(rough))
    step = next(m * scale for m in (1, 2, 2.5, 5, 10) if m * scale >= rough * (1 - 1e-9))
    first, last = math.floor(low / step), math.ceil(high / step)
    return [round(n * step, 10) for n in range(first, max(last, first + 1) + 1)]


_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{title}</title>
<style>{style}</style>
</head>
<body><main>
{body}
</main></body>
</html>
"""

_STYLE = """
:root { color-scheme: light dark; --ink: #1c1c1c; --soft: #5c5c5c; --line: #cfcfcf; --paper: #ffffff; --fill: #dfe9f1;
  --dot: #0072b2; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #ececec; --soft: #a9a9a9; --line: #484848; --paper: #1a1a1a; --fill: #2c3d4a; --dot: #56b4e9; }
}
body { margin: 0; background: var(--paper); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 24px; }
h1 { font-size: 1.7em; } h2 { margin-top: 1.8em; font-size: 1.25em; }
dl.meta { display: grid; grid-template-columns: max-content 1fr; gap: 2px 16px; }
dl.meta dt { color: var(--soft); } dl.meta dd { margin: 0; overflow-wrap: anywhere; }
.notes { border-left: 4px solid #e69f00; padding: 6px 6px 6px 28px; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
caption { text-align: left; color: var(--soft); padding-bottom: 4px; }
th, td { padding: 4px 10px; border-bottom: 1px solid var(--line); text-align: right; font-weight: normal; }
td, tbody th { white-space: nowrap; }
td.text:last-child { white-space: normal; min-width: 11em; }
thead th { border-bottom: 2px solid var(--soft); font-weight: 600; vertical-align: bottom; }
.text { text-align: left; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(420px, 100%), 1fr)); gap: 16px; }
figure { margin: 0 0 24px; } figure img { max-width: 100%; height: auto; display: block; }
figure p { margin: 4px 0; color: var(--soft); }
.plot figcaption { font-weight: 600; } svg { width: 100%; height: auto; display: block; }
svg text { fill: var(--ink); font-size: 13px; } svg .tick { text-anchor: middle; fill: var(--soft); }
svg .grid { stroke: var(--line); } svg .stroke { stroke: var(--ink); }
svg .median { stroke: var(--ink); stroke-width: 3; }
svg .box { fill: var(--fill); stroke: var(--ink); } svg circle { fill: var(--dot); fill-opacity: .8; }
.legend { list-style: none; padding: 0; display: flex; gap: 24px; }
.legend .line { display: inline-block; width: 28px; margin-right: 8px; vertical-align: middle; }
"""
