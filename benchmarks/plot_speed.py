"""Draws what train_speed.py measured as an SVG, without any library: `plot_speed.py train_speed.json [other.json]`.

In results/, by the first file's name. Bars are tokens a second by the mean of the steps' wall times, the line across a
bar is by the median; failed measurements aren't drawn. What failed in the first file and not in the other is taken from
there, and marked.
"""

from __future__ import annotations

import json
import sys
from html import escape
from pathlib import Path
from typing import Any

WIDTH, LEFT, RIGHT, BAR, GAP, TITLE = 860, 250, 160, 22, 8, 44
RESULTS = Path(__file__).resolve().parent / "results"
TITLES = {"dense": "Rows of 2,048 tokens", "real": "Realistic lengths (log-normal, median 200, at most 2,048)"}
STYLE = """
text { font: 13px system-ui, sans-serif; fill: #1f2328 } .title { font-weight: 600 } .small { font-size: 11px }
.ours { fill: #0969da } .peer { fill: #8c959f } .median { stroke: #1f2328 } .ground { fill: #ffffff }
@media (prefers-color-scheme: dark) {
text { fill: #e6edf3 } .ours { fill: #4493f8 } .peer { fill: #656c76 } .median { stroke: #e6edf3 }
.ground { fill: #0d1117 } }
"""


def main() -> int:
    """Writes the chart; exit code 2 without anything to draw."""
    if len(sys.argv) not in (2, 3):
        print(__doc__.splitlines()[0])
        return 2
    report, *others = (json.loads(Path(name).read_text(encoding="utf-8")) for name in sys.argv[1:])
    runs = [run for run in report["runs"] if run.get("tokens_per_second")]
    failed = {run["name"] for run in report["runs"]} - {run["name"] for run in runs}
    for other in others:
        found = [run for run in other["runs"] if run["name"] in failed and run.get("tokens_per_second")]
        runs += [run | {"name": f"{run['name']} *"} for run in found]
    if not runs:
        print(f"{sys.argv[1]} has no measurement")
        return 2
    target = RESULTS / f"{Path(sys.argv[1]).stem}.svg"
    target.write_text(chart(report, runs), encoding="utf-8")
    print(target)
    return 0


def chart(report: dict[str, Any], runs: list[dict[str, Any]]) -> str:
    """Two groups of bars on one scale, the fastest first."""
    most = max(max(run["tokens_per_second"], run["tokens_per_second_median"]) for run in runs)
    scale = (WIDTH - LEFT - RIGHT) / most
    parts, y = [], 0.0
    for kind, title in TITLES.items():
        group = sorted((run for run in runs if run["rows"] == kind), key=lambda run: -run["tokens_per_second"])
        if not group:
            continue
        parts.append(f'<text class="title" x="12" y="{y + 28:.0f}">{escape(title)}, tokens a second</text>')
        y += TITLE
        for run in group:
            parts += bar(run, y, scale)
            y += BAR + GAP
        y += GAP
    cards = ", ".join(sorted({card["name"] for card in report["device"]})) or "no GPU"
    versions = report["libraries"]
    told = ", ".join(
        f"{name} {versions[name]}" for name in ("torch", "transformers", "trl", "unsloth") if name in versions
    )
    foot = (
        (
            f"{cards}, {report['cap_gib']:g} GiB of it; QLoRA r=16, {report['model']}; {report['date']}; "
            "bars: mean, lines: median"
        ),
        told + ("; *: of another run, see benchmarks/README.md" if any(r["name"].endswith("*") for r in runs) else ""),
    )
    for line in foot:
        y += 16
        parts.append(f'<text class="small" x="12" y="{y:.0f}">{escape(line)}</text>')
    height = y + 14
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" role="img" '
        f'aria-label="Training speed beside other tools">\n<style>{STYLE}</style>\n'
        f'<rect class="ground" width="{WIDTH}" height="{height:.0f}"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )


def bar(run: dict[str, Any], y: float, scale: float) -> list[str]:
    """A bar with its name on the left and its figure on the right."""
    name = run["name"].replace(f", {run['rows']}", "")
    mean, median = run["tokens_per_second"], run["tokens_per_second_median"]
    at, middle = LEFT + median * scale, y + BAR * 0.7
    shown = f"{mean:,.0f}"
    if run.get("peak_allocated_gib"):
        shown += f" · {run['peak_allocated_gib']:.1f} GiB"
    kind = "ours" if run["tool"] == "solotune" else "peer"
    return [
        f'<text x="{LEFT - 8}" y="{middle:.0f}" text-anchor="end">{escape(name)}</text>',
        f'<rect class="{kind}" x="{LEFT}" y="{y:.0f}" width="{mean * scale:.1f}" height="{BAR}"/>',
        f'<line class="median" x1="{at:.1f}" x2="{at:.1f}" y1="{y - 2:.0f}" y2="{y + BAR + 2:.0f}"/>',
        f'<text x="{LEFT + max(mean, median) * scale + 6:.0f}" y="{middle:.0f}">{escape(shown)}</text>',
    ]


if __name__ == "__main__":
    sys.exit(main())
