"""The pages, as text.  Whatever comes from a run is escaped."""

from __future__ import annotations

import base64
import html
import importlib.resources
import json
import pathlib
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dlsim.analysis.tables import MOST_ROWS, last_values
from dlsim.palette import COLORS, RAMP_STOPS
from dlsim.report.collect import VERDICTS, Page, facts, faults
from dlsim.report.data import network_data, plot_data

if TYPE_CHECKING:
    import xarray

SHAPES = {"holds": "●", "does not hold": "▲", "undecided": "○"}
CLASSES = {"holds": "yes", "does not hold": "no", "undecided": "open"}
WORDS = {"holds": "hold", "does not hold": "do not", "undecided": "undecided"}
THUMBNAIL = 480  # pixels wide
MOST_CLAIMS = 4  # of a run in the index
MOST_LINES = 20  # of what went wrong


def esc(value: Any) -> str:
    """Text that HTML shows as it is."""
    return html.escape(str(value), quote=True)


def as_json(value: Any) -> str:
    """JSON that can stand in a script element, which only a "<" could end."""
    return json.dumps(value, separators=(",", ":")).replace("<", "\\u003c")


def asset(name: str) -> str:
    """A file of this package."""
    return importlib.resources.files("dlsim.report").joinpath(name).read_text(encoding="utf-8")


def document(title: str, body: str, scripts: Sequence[str] = (), data: dict[str, Any] | None = None) -> str:
    """A whole page; `data` is what its scripts read, by the id of its element."""
    blocks = "".join(
        f'<script type="application/json" id="{esc(name)}">{as_json(value)}</script>\n'
        for name, value in (data or {}).items()
    )
    code = "".join(f"<script>\n{asset(name)}</script>\n" for name in scripts)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<link rel="icon" href="data:,">\n'
        f"<title>{esc(title)}</title>\n<style>\n{asset('style.css')}</style>\n</head>\n<body>\n"
        '<a class="skip" href="#main">Skip to the content</a>\n'
        f"{body}\n<footer>Made by dlsim. This page holds everything it shows.</footer>\n{blocks}{code}</body>\n</html>\n"
    )


def badge(verdict: str) -> str:
    """A verdict in words, colour and shape."""
    return f'<span class="badge {CLASSES[verdict]}"><span aria-hidden="true">{SHAPES[verdict]}</span> {verdict}</span>'


def index(pages: Sequence[Page], cards: Sequence[str], left_out: Sequence[str] = ()) -> str:
    """All runs, with filters, as their `card`s; `left_out` says which could not be read, a line for each."""
    verdicts = [verdict for page in pages for verdict in page.verdicts]
    counts = ", ".join(f"{verdicts.count(name)} {word}" for name, word in WORDS.items())
    kinds = sorted({page.kind for page in pages})
    options = "".join(f'<option value="{esc(kind)}">{esc(kind)}</option>' for kind in kinds)
    choices = "".join(f'<option value="{esc(name)}">{esc(name)}</option>' for name in VERDICTS.values())
    listed = "".join(f"<li>{esc(line)}</li>" for line in left_out)
    shown = "\n".join(cards)
    missing = f"\n<section><h2>Left out</h2><ul>{listed}</ul></section>" if left_out else ""
    body = f"""<header><h1>Runs and claims</h1>
<p>{len(pages)} run{"s" if len(pages) != 1 else ""}, {len(verdicts)} claims: {esc(counts)}.</p></header>
<main id="main">
<form class="filters" role="search" aria-label="Filter the runs">
<label>Search <input type="search" id="search" autocomplete="off" placeholder="title, claim, setting"></label>
<label>Claims <select id="verdict"><option value="">any</option>{choices}</select></label>
<label>Kind <select id="kind"><option value="">all</option>{options}</select></label>
</form>
<p id="count" role="status" aria-live="polite">{len(pages)} shown</p>
<ul class="cards">
{shown}
</ul>
<p id="nothing" hidden>No run fits these filters.</p>{missing}
</main>"""
    return document("Runs and claims", body, ["index.js"])


def card(page: Page) -> str:
    """A run in the index."""
    claims = page.saved.claims
    counts = " ".join(
        f'<span class="badge {CLASSES[name]}"><span aria-hidden="true">{SHAPES[name]}</span> '
        f"{page.verdicts.count(name)} {WORDS[name]}</span>"
        for name in VERDICTS.values()
        if name in page.verdicts
    )
    first = sorted(claims, key=lambda claim: claim.holds is True)[:MOST_CLAIMS]  # what does not hold is not hidden
    listed = "".join(f"<li>{badge(VERDICTS[claim.holds])} {esc(claim.text)}</li>" for claim in first)
    more = len(claims) - len(first)
    listed += f'<li class="meta">and {more} more</li>' if more else ""
    words = [page.title, page.name, json.dumps(page.saved.config), *(f"{c.text} {c.measured}" for c in claims)]
    image = picture(page.saved.folder, THUMBNAIL)
    shown = f'<img src="{image}" alt="" loading="lazy">' if image else '<div class="blank" aria-hidden="true"></div>'
    return f"""<li class="card" data-kind="{esc(page.kind)}" data-verdicts="{esc("|".join(page.verdicts))}" \
data-text="{esc(" ".join(words).lower())}">
<a href="{esc(page.name)}.html">{shown}<h2>{esc(page.title)}</h2></a>
<p class="meta">{esc(page.kind)}, {esc(page.saved.provenance.get("mode"))} mode</p>
{fault_note(page)}<p class="counts">{counts or "no claims"}</p>
<ul class="claims">{listed}</ul></li>"""


def run(page: Page) -> str:
    """The page of one run."""
    saved = page.saved
    plots, networks = plot_data(saved.results), network_data(saved.results, saved.folder)
    figure = picture(saved.folder)
    parts = [
        f'<header><nav><a href="index.html">All runs</a></nav><h1>{esc(page.title)}</h1>\n'
        f'<p class="meta">{esc(page.kind)}, {esc(saved.provenance.get("mode"))} mode</p></header>\n<main id="main">'
    ]
    parts.append(fault_section(page))
    if saved.claims:
        parts.append(claims_table(page))
    if figure:
        image = f'<img class="figure" src="{figure}" alt="Figure of {esc(page.title)}">'
        parts.append(f"<section><h2>Figure</h2>{image}</section>")
    parts.append(last_table(saved.results))
    data: dict[str, Any] = {}
    if plots or networks:
        data["palette"] = {"colors": COLORS, "ramp": RAMP_STOPS}
    if plots:
        parts.append(plot_section(plots))
        data["plot-data"] = plots
    if networks:
        parts.append(NETWORK)
        data["network-data"] = networks
    texts = "".join(paragraph(text) for text in page.paragraphs)
    if texts:
        parts.append(f"<section><h2>What this is</h2>{texts}</section>")
    if page.departures:
        parts.append(f"<section><h2>What differs from the source</h2><p>{prose(page.departures)}</p></section>")
    if page.citation:
        parts.append(f"<section><h2>Citation</h2><p>{esc(page.citation)}</p></section>")
    command = esc(saved.provenance.get("command", ""))
    parts.append(f'<section><h2>Run it again</h2><pre tabindex="0"><code>{command}</code></pre></section>')
    parts.append(table("Settings", [(name, f"<code>{esc(json.dumps(v))}</code>") for name, v in saved.config.items()]))
    known = [(name, esc(value)) for name, value in facts(saved) if value not in (None, "")]
    parts.append(table("Provenance", known))
    sources = sorted({str(source) for source in saved.provenance.get("sources", [])})
    if sources:
        listed = "".join(f"<li>{esc(source)}</li>" for source in sources)
        parts.append(f"<section><h2>Sources of the parts</h2><ul>{listed}</ul></section>")
    parts.append("</main>")
    return document(page.title, "\n".join(filter(None, parts)), ["plot.js", "network.js"] if data else [], data)


def paragraph(text: str) -> str:
    """A paragraph, or a block whose lines are kept."""
    if text.startswith(" "):
        return f'<pre tabindex="0">{esc(text)}</pre>'
    return f"<p>{prose(text)}</p>"


def prose(text: str) -> str:
    """Escaped text in which `code` is set as such."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", esc(text))


def claims_table(page: Page) -> str:
    """What was claimed, reported and measured."""
    rows = "".join(
        f'<tr><td>{badge(VERDICTS[c.holds])}</td><td>{esc(c.text)}</td><td data-name="Reported">{esc(c.reported)}</td>'
        f'<td data-name="Measured">{esc(c.measured)}</td><td data-name="Source">{esc(c.source)}</td></tr>'
        for c in page.saved.claims
    )
    head = "".join(f'<th scope="col">{name}</th>' for name in ("", "Claim", "Reported", "Measured", "Source"))
    return (
        '<section><h2>Claims</h2><div class="scroll" tabindex="0" role="region" aria-label="Claims">'
        f'<table class="by-row"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div></section>'
    )


def fault_note(page: Page) -> str:
    """On a card: how many runs diverged, and the first of them."""
    found = faults(page.saved)
    if not found.headline:
        return ""
    first = f" {esc(found.errors[0])}" if found.errors else ""
    more = f" (and {len(found.errors) - 1} more)" if len(found.errors) > 1 else ""
    return f'<p class="fault">{fault(found.headline)}{first}{more}</p>\n'


def fault(text: str) -> str:
    """What went wrong, in colour and shape."""
    return f'<span class="badge no"><span aria-hidden="true">{SHAPES["does not hold"]}</span> {esc(text)}</span>'


def fault_section(page: Page) -> str:
    """At the top of a page: which run diverged at which step, at which node; and remarks, folded."""
    found, parts = faults(page.saved), []
    if found.headline:
        lines = items(found.errors)
        parts.append(f'<section class="fault"><h2>What went wrong</h2><p>{fault(found.headline)}</p>{lines}</section>')
    if found.remarks:
        count = f"{len(found.remarks)} remark{'s' if len(found.remarks) > 1 else ''} of the runs"
        parts.append(f"<details><summary>{count}</summary>{items(found.remarks)}</details>")
    return "\n".join(parts)


def items(lines: Sequence[str]) -> str:
    """A list, cut where it is long."""
    listed = "".join(f"<li>{esc(line)}</li>" for line in lines[:MOST_LINES])
    more = len(lines) - MOST_LINES
    listed += f'<li class="meta">and {more} more; diverged_step in results.nc has all</li>' if more > 0 else ""
    return f"<ul>{listed}</ul>" if listed else ""


def last_table(results: xarray.Dataset) -> str:
    """The table that the command line prints: what the runs have come to."""
    if "step" not in results.dims:
        return ""
    found = last_values(results)
    if not found.metrics:
        return ""
    names = [*found.keys, *found.metrics]
    head = "".join(f'<th scope="col">{esc(name)}</th>' for name in names)
    rows = "".join(
        "<tr>"
        + "".join(f'<td data-name="{esc(name)}">{esc(cell)}</td>' for name, cell in zip(names, row, strict=True))
        + "</tr>"
        for row in found.rows[:MOST_ROWS]
    )
    more = len(found.rows) - MOST_ROWS
    note = f'<p class="meta">and {more} more rows in results.nc</p>' if more > 0 else ""
    return (
        f'<section><h2>Results</h2><p class="meta">{esc(found.title)}</p>'
        '<div class="scroll" tabindex="0" role="region" aria-label="Results">'
        f'<table class="by-row numbers" id="results"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>{note}'
        "</section>"
    )


def table(title: str, rows: Sequence[tuple[str, str]]) -> str:
    """A section of names and values; the values are HTML."""
    listed = "".join(f'<tr><th scope="row">{esc(name)}</th><td>{value}</td></tr>' for name, value in rows)
    return (
        f'<section><h2>{title}</h2><div class="scroll" tabindex="0" role="region" aria-label="{title}">'
        f"<table>{listed}</table></div></section>"
    )


def plot_section(plots: dict[str, Any]) -> str:
    """Where `plot.js` draws."""
    note = f"Thinned from {plots['recorded']} records. " if plots["thinned"] else ""
    return f"""<section id="plot"><h2>Explore</h2>
<div class="controls" id="plot-controls"></div>
<div class="canvas"><svg id="plot-svg" role="img" aria-label="Curves" tabindex="0"></svg>
<div id="plot-tip" role="status" aria-live="polite" hidden></div></div>
<div id="plot-legend"></div>
<p class="meta">{esc(note)}Bands reach from the least to the greatest seed. Point at a curve for values, or use the arrow
keys.</p>
</section>"""


NETWORK = """<section id="network"><h2>Network</h2>
<div class="controls">
<label>Network <select id="network-view"></select></label>
<label>Colour <select id="network-metric"></select></label>
<label>Run <select id="network-run"></select></label>
</div>
<div class="controls" id="network-time">
<label>Step <input type="range" id="network-step" min="0" value="0"> <output id="network-at"></output></label>
<button type="button" id="network-play" aria-pressed="false">Play</button>
</div>
<div class="canvas"><svg id="network-svg" role="img" aria-label="Nodes coloured by their value"></svg></div>
<p class="meta scale" id="network-scale"><span id="network-low"></span><span id="network-ramp"></span>\
<span id="network-high"></span></p>
<p class="meta" id="network-what" role="status"></p>
</section>"""


def picture(folder: pathlib.Path, width: int | None = None) -> str:
    """A run's figure as a data address, smaller where a width is given; empty if it has none."""
    path = folder / "figure.png"
    if not path.is_file():
        return ""
    content = path.read_bytes()
    if width is not None:
        import io

        from PIL import Image

        with Image.open(path) as image:
            image.thumbnail((width, width))
            small = io.BytesIO()
            image.convert("RGB").save(small, "PNG", optimize=True)
            content = small.getvalue()
    return "data:image/png;base64," + base64.b64encode(content).decode()
