"""Docstrings as Markdown: their equations as blocks, `Args:` as a list, the other sections with their name in bold."""

from __future__ import annotations

import re
from collections.abc import Callable

LISTS = ("Args", "Raises", "Attributes", "Yields")
LABEL = re.compile(r"^([A-Z][a-z]+(?: (?:per|of|an?|the|[a-z]+))*):(?= |$)")
SECTIONS = (*LISTS, "Returns", "Source", "Sources", "Assumes", "Cost", "Differs", "Departure", "Departures", "Reward")
# Code, and what is meant to be bold.
KEPT = re.compile(r"(`+)(.*?)\1|(?<![\w*])\*\*\w[^*]*?\*\*(?![\w*])", flags=re.S)


def is_section(line: str) -> bool:
    found = LABEL.match(line)
    return found is not None and found[1].split()[0] in SECTIONS


def escaped(text: str) -> str:
    """Text without what Markdown would take for HTML, emphasis, a heading, a quotation or a list by accident."""
    kept = [found.span() for found in KEPT.finditer(text)]
    parts, start = [], 0
    for begin, end in [*kept, (len(text), len(text))]:
        plain = re.sub(r"<(?=[A-Za-z/!])", r"\\<", text[start:begin])
        parts += [plain.replace("*", r"\*"), text[begin:end]]
        start = end
    return re.sub(r"^( {0,3})(?=[+>#=])", r"\1\\", "".join(parts), flags=re.M)


def blocks(lines: list[str]) -> list[list[str]]:
    """Runs of lines without a blank one, an indented run with its blank lines as one."""
    found: list[list[str]] = [[]]
    for line in lines:
        if line.strip():
            if found[-1] and found[-1][-1] == "" and not (found[-1][0].startswith("    ") and line.startswith("    ")):
                found.append([])
            found[-1].append(line)
        elif found[-1] and found[-1][-1]:
            found[-1].append("")
    return [[*run[:-1]] if run[-1] == "" else run for run in found if run]


def dedented(lines: list[str]) -> list[str]:
    least = min((len(line) - len(line.lstrip()) for line in lines if line.strip()), default=0)
    return [line[least:] for line in lines]


def prose(lines: list[str], link: Callable[[str], str]) -> str:
    """Paragraphs and equations.  What is indented by four or more after a blank line is a block of code."""
    parts = []
    for run in blocks(lines):
        if all(line.startswith("    ") or not line for line in run):
            parts.append("\n".join(["```text", *dedented(run), "```"]))
        else:
            parts.append(link(escaped("\n".join(line.strip() if not is_item(line) else line for line in run))))
    return "\n\n".join(parts)


def is_item(line: str) -> bool:
    return re.match(r" *(- |\d+\. )", line) is not None


def listed(lines: list[str], link: Callable[[str], str]) -> str:
    """`name: text` entries as a list; entries begin at the least indentation."""
    body = dedented([line for line in lines if line.strip()])
    entries: list[list[str]] = []
    for line in body:
        if not line.startswith(" ") or not entries:
            entries.append([line])
        else:
            entries[-1].append(line.strip())
    items = []
    for entry in entries:
        text = "\n  ".join(entry)
        name, colon, rest = text.partition(":")
        if colon and "\n" not in name:
            items.append(f"- `{name.strip('` ')}`: {link(escaped(rest.strip()))}")
        else:
            items.append(f"- {link(escaped(text))}")
    return "\n".join(items)


def to_markdown(text: str, link: Callable[[str], str] = lambda same: same) -> str:
    """A docstring, already without its common indentation, as Markdown.  `link` is given its running text."""
    parts: list[str] = []
    section: list[str] = []

    def close() -> None:
        if not section:
            return
        if not is_section(section[0]):
            parts.append(prose(section, link))
        else:
            name = LABEL.match(section[0])[1]  # type: ignore[index]
            rest = section[0][len(name) + 1 :].strip()
            if name in LISTS and not rest:
                title = "Arguments" if name == "Args" else name
                parts.append(f"**{title}**\n\n{listed(section[1:], link)}")
            else:
                parts.append(prose([f"**{name}:** {rest}", *section[1:]], link))
        section.clear()

    for line in text.splitlines():
        if is_section(line) or (section and is_section(section[0]) and ends(section, line)):
            close()
        section.append(line)
    close()
    return "\n\n".join(parts)


def ends(section: list[str], line: str) -> bool:
    """A section ends where a paragraph begins at the margin after a blank line."""
    return bool(line) and not line.startswith(" ") and not section[-1].strip()
