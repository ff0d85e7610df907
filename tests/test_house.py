"""The rooms of the package: imports lead to earlier rooms, files hold no circle, the page shows them all."""

from __future__ import annotations

import ast
import pathlib
import re

import networkx as nx

ROOT = pathlib.Path(__file__).parent.parent
# Who may import whom: a room imports from rooms that stand before it.  The ground imports nothing of ours.
GROUND = ("version", "checks", "files", "locks", "core", "keys", "trees", "palette")
ORDER = (
    *GROUND,
    "running",
    "problems",
    "channels",
    "networks",
    "privacy",
    "analysis",
    "plotting",
    "clocks",
    "arrivals",
    "aggregators",
    "algorithms",
    "learning",
    "environments",
    "marl",
    "trust",
    "results",
    "configs",
    "sweeps",
    "studies",
    "report",
    "bench",
    "terminal",
)
FACES = ("__init__", "__main__", "experiment")  # what users import and start; no room imports them
FILES = sorted((ROOT / "dlsim").rglob("*.py"))
MODULES = {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in FILES}


def is_for_types(node):
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def imported(tree):
    """Modules that a file imports, at its top or inside a function; those for types alone are left out."""
    skipped = {id(inner) for node in ast.walk(tree) if is_for_types(node) for inner in ast.walk(node)}
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from (one.name for one in node.names if one.name.partition(".")[0] == "dlsim")
        elif isinstance(node, ast.ImportFrom) and (node.level or (node.module or "").partition(".")[0] == "dlsim"):
            assert not node.level, "imports are absolute"
            for one in node.names:
                whole = f"{node.module}.{one.name}"
                yield whole if whole in MODULES else node.module


def room(module):
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


IMPORTS = {
    module: sorted(set(imported(ast.parse(path.read_text(encoding="utf-8"))))) for module, path in MODULES.items()
}


def test_every_room_has_its_place():
    rooms = {room(module) for module in MODULES}
    assert rooms == {*ORDER, *FACES}
    flat = {name for name in (*GROUND, *FACES) if not (ROOT / "dlsim" / name).is_dir()}
    assert sorted(path.name for path in (ROOT / "dlsim").glob("*.py")) == sorted(f"{name}.py" for name in flat)


def test_files_of_tests_have_a_name_of_their_own():
    """Two of one name in two folders are one module to Python: the second would not be collected."""
    named = [path.name for path in (ROOT / "tests").rglob("*.py") if path.name != "__init__.py"]
    assert not {name for name in named if named.count(name) > 1}


def test_imports_lead_to_earlier_rooms():
    place = {name: number for number, name in enumerate(ORDER)}
    wrong = [
        f"{module} imports {other}"
        for module, others in IMPORTS.items()
        for other in others
        if room(module) not in FACES
        and room(module) != room(other)
        and place.get(room(other), 99) >= place[room(module)]
    ]
    assert wrong == []
    assert [
        f"{m}: {others}"
        for m, others in IMPORTS.items()
        if room(m) in GROUND and any(room(o) not in GROUND for o in others)
    ] == []


def test_files_hold_no_circle():
    """Inside a room too: a file never imports, by way of others, itself."""
    graph = nx.DiGraph((module, other) for module, others in IMPORTS.items() for other in others if module != other)
    assert [sorted(found) for found in nx.strongly_connected_components(graph) if len(found) > 1] == []


def test_the_pages_say_the_order():
    concepts = (ROOT / "docs" / "concepts.md").read_text(encoding="utf-8")
    said = re.search(r"<!-- order -->\n(.*?)\n<!-- /order -->", concepts, flags=re.S)
    assert said is not None and tuple(re.findall(r"`(\w+)`", said.group(1))) == ORDER
    house = (ROOT / "docs" / "house.md").read_text(encoding="utf-8")
    shown = re.findall(r"^\| `(?:dlsim/)?(\w+)(?:\.py|/)`", house, flags=re.M)
    assert [name for name in shown if name in ORDER] == list(ORDER)
