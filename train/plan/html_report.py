"""A plan as one HTML page, with a picture and without scripts or anything from elsewhere."""

from collections.abc import Sequence
from html import escape

from flaxmill.train.plan.cost import published_runs
from flaxmill.train.plan.memory import in_words
from flaxmill.train.plan.report import (
    GAVE_UP,
    GIB,
    KINDS,
    MEANINGS,
    Plan,
    as_flags,
    describe_host,
    effect_row,
    layout_flags,
    layouts_table,
    merge_collectives,
    verdict_of,
)

# Lengths in pixels.
_WIDTH, _HEIGHT = 720, 34

_STYLE = """
:root { color-scheme: light dark; --ink: #1c2128; --paper: #ffffff; --faint: #d0d7de; --good: #1a7f37;
        --bad: #c2271d; --k0: #2f6f9f; --k1: #7a5aa6; --k2: #b0640c; --k3: #2a8a73; --k4: #8a6d3b; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e9ee; --paper: #15191f; --faint: #39414c; --good: #57c26f; --bad: #ff7b70;
          --k0: #6cb2e6; --k1: #b99be0; --k2: #f0a35e; --k3: #5fc9ae; --k4: #cbb07a; }
}
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
       max-width: 860px; margin: 2rem auto; padding: 0 1rem; }
h1, h2 { line-height: 1.2; overflow-wrap: anywhere; }
.fits { color: var(--good); } .large { color: var(--bad); }
.wide { overflow-x: auto; }
table { border-collapse: collapse; margin: 1rem 0; }
caption { text-align: left; font-weight: 600; white-space: nowrap; }
th, td { text-align: left; vertical-align: top; padding: 0.2rem 1rem 0.2rem 0;
         border-bottom: 1px solid var(--faint); }
td.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
svg { display: block; max-width: 100%; height: auto; }
svg .frame { fill: none; stroke: var(--faint); }
i { display: inline-block; width: 0.8em; height: 0.8em; margin-right: 0.5em; }
"""


def page_of(plan: Plan) -> str:
    """The page; it asks nothing of any other place."""
    title = f"{plan.name} on {plan.topology}"
    state = "fits" if plan.memory.fits else "large"
    body = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="{state}"><strong>{escape(verdict_of(plan))}</strong></p>',
        f"<p>{escape(plan.description)}</p>",
        *_memory(plan),
        *_proposals(plan),
        *_roofline(plan),
        *_cost(plan),
        *_collectives(plan),
        *_effects(plan),
        *_candidates(plan),
        *_list("Warnings", plan.warnings),
        *_list("Replaced in the compiled program", plan.replaced),
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(body)
        + "\n</body>\n</html>\n"
    )


def _memory(plan: Plan) -> list[str]:
    memory = plan.memory
    rows = [(kind, f"{getattr(memory, kind) / GIB:.3f}", MEANINGS[kind]) for kind in KINDS]
    rows.append(("all", f"{memory.total / GIB:.3f}", ""))
    if memory.limit is not None:
        rows.append(("limit", f"{memory.limit / GIB:.3f}", "of the device"))
    if memory.host.total:
        rows.append(("on the host", f"{memory.host.total / GIB:.3f}", describe_host(plan)))
    marks = [f'<i style="background:var(--k{number})"></i>' for number in range(len(KINDS))]
    marks += [""] * (len(rows) - len(KINDS))
    return [
        "<h2>Memory a device</h2>",
        _bar(plan),
        _table("Memory by kind", ("kind", "GiB", "what"), rows, marks),
        *([] if plan.is_compiled else [f"<p>{escape(GAVE_UP)}</p>"]),
    ]


def _bar(plan: Plan) -> str:
    memory = plan.memory
    whole = max(memory.total, memory.limit or 0, 1)
    parts, left = [], 0.0
    for number, kind in enumerate(KINDS):
        width = _WIDTH * getattr(memory, kind) / whole
        parts.append(
            f'<rect x="{left:.1f}" y="2" width="{width:.1f}" height="{_HEIGHT - 4}" '
            f'style="fill:var(--k{number})">'
            f"<title>{kind}: {getattr(memory, kind) / GIB:.3f} GiB</title></rect>"
        )
        left += width
    end = _WIDTH * (memory.limit or memory.total) / whole
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" '
        f'height="{_HEIGHT}" role="img" aria-label="Memory of a device by kind; see the table">'
        + "".join(parts)
        + f'<rect class="frame" x="0" y="1" width="{end:.1f}" height="{_HEIGHT - 2}"/></svg>'
    )


def _proposals(plan: Plan) -> list[str]:
    if not plan.proposals:
        return []
    rows = [
        (as_flags(one.overrides), f"{one.estimate.memory.total / GIB:.1f}", one.reason)
        for one in plan.proposals
    ]
    return [
        "<h2>What would make it fit</h2>",
        _table("The cheapest first, by the estimate", ("flags", "GiB", "why"), rows),
    ]


def _roofline(plan: Plan) -> list[str]:
    roofline, chip = plan.roofline, plan.chip
    if roofline is None or chip is None:
        return []
    rows = [(name, f"{seconds:.3f}") for name, seconds in roofline.resources.items()]
    mfu = roofline.mfu
    marked = f" No page confirms {', '.join(chip.unchecked)}." if chip.unchecked else ""
    said = (
        f"MFU at this ceiling: {mfu.causal:.1%} with causal attention halved, {mfu.full:.1%} with all of it. "
        f"Peaks: {chip.source}.{marked}"
    )
    return [
        f"<h2>A step takes at least {roofline.seconds:.3f} s</h2>",
        _table(f"Seconds that each resource needs; {roofline.binds} binds", ("resource", "seconds"), rows),
        f"<p>{escape(said)}</p>",
    ]


def _cost(plan: Plan) -> list[str]:
    cost = plan.cost
    said = (
        f"{cost.steps:,} steps of {cost.num_tokens:,} tokens. A checkpoint takes "
        f"{plan.checkpoint_bytes / GIB:,.2f} GiB."
    )
    if plan.is_compiled:
        said += f" Compiling took {plan.compile_cpu_seconds:.1f} CPU seconds."
    parts = ["<h2>The run</h2>", f"<p>{said}</p>"]
    if plan.roofline is not None:
        rows = [
            (what, f"{rate * 86_400:.3e}", f"{days:,.2f}", f"{hours:,.0f}")
            for what, rate, days, hours in cost.rows(plan.roofline.tokens_per_second)
        ]
        header = ("if it runs", "tokens a day", "days", "device-hours")
        parts.append(_table("To the last step", header, rows))
        parts += _list(
            "The shares of the ceiling are of", [f"{run.what}: {run.share:.2f}" for run in published_runs()]
        )
    return parts


def _collectives(plan: Plan) -> list[str]:
    rows = [
        (*key, str(sites), f"{times:,}", in_words(largest), in_words(wire))
        for key, (sites, times, largest, wire) in merge_collectives(plan.collectives).items()
    ]
    header = ("kind", "dtype", "axes", "where", "sites", "times", "largest", "sent")
    return (
        ["<h2>Collectives of a step, of one device</h2>", _table("Those that send most first", header, rows)]
        if rows
        else []
    )


def _effects(plan: Plan) -> list[str]:
    if not plan.effects:
        return []
    header = ("flag", "memory", "a device sends", "least time")
    rows = [effect_row(effect) for effect in plan.effects]
    return [
        "<h2>Settings</h2>",
        _table("What they would change, by the estimate; * as planned", header, rows),
    ]


def _candidates(plan: Plan) -> list[str]:
    if not plan.candidates:
        return []
    caption = "The best first; memory and seconds by the estimate"
    return [
        "<h2>Layouts</h2>",
        _table(caption, *layouts_table(plan)),
        f"<p>Take the first with <code>{escape(layout_flags(plan))}</code></p>",
    ]


def _list(title: str, lines: Sequence[str]) -> list[str]:
    if not lines:
        return []
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return [f"<h2>{escape(title)}</h2>", f"<ul>{items}</ul>"]


def _table(
    caption: str, header: Sequence[str], rows: Sequence[Sequence[str]], marks: Sequence[str] = ()
) -> str:
    """Each row's first cell is its heading; `marks` are HTML before it."""
    head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in header)
    lines = []
    for number, (first, *rest) in enumerate(rows):
        mark = marks[number] if marks else ""
        cells = "".join(
            f'<td class="number">{escape(cell)}</td>' if cell[:1].isdigit() else f"<td>{escape(cell)}</td>"
            for cell in rest
        )
        lines.append(f'<tr><th scope="row">{mark}{escape(first)}</th>{cells}</tr>')
    body = "\n".join(lines)
    return (
        f'<div class="wide"><table><caption>{escape(caption)}</caption>\n'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>"
    )
