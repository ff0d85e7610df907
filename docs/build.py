"""Builds the documentation site.

    python docs/build.py build/site

Pages of reference are made from the docstrings, the list of experiments from the experiments' files.  It fails on a
public symbol without documentation and on a broken link.  Nothing is asked of a network, neither now nor by the pages.
"""

from __future__ import annotations

import argparse
import pathlib
import shutil
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
PACKAGE = "dlsim"
WRITTEN = ("*.md", "how_to/*.md", "conf.py", "static/*")


def gather(target: pathlib.Path) -> None:
    """The written pages and those that are made, side by side."""
    import papers_page
    import peers_page
    import reference

    import dlsim

    for pattern in WRITTEN:
        for path in sorted(HERE.glob(pattern)):
            place = target / path.relative_to(HERE)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, place)
    (target / "reference").mkdir()
    for name, text in reference.pages(PACKAGE).items():
        (target / "reference" / name).write_text(text, encoding="utf-8")
    (target / "papers.md").write_text(papers_page.page(HERE.parent / "experiments"), encoding="utf-8")
    (target / "peers.md").write_text(peers_page.page(dlsim), encoding="utf-8")


def build(out: pathlib.Path) -> int:
    """The site in the folder `out`; 0, or 1 after the lines that say what is wrong."""
    sys.path[:0] = [str(HERE), str(HERE.parent)]
    import symbols
    from sphinx.cmd.build import main as sphinx

    missing = symbols.undocumented(PACKAGE)
    if missing:
        print(*(f"docs: {line}" for line in missing), sep="\n", file=sys.stderr)
        print(f"docs: {len(missing)} gaps in the documentation; nothing was built.", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as folder:
        pages = pathlib.Path(folder) / "pages"
        pages.mkdir()
        gather(pages)
        status = sphinx(["-W", "--keep-going", "-q", "-b", "html", "-d", f"{folder}/trees", str(pages), str(out)])
    return int(status != 0)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="Build the documentation site.")
    parser.add_argument("out", type=pathlib.Path, help="the folder to write, e.g. build/site")
    return build(parser.parse_args().out.resolve())


if __name__ == "__main__":
    sys.exit(main())
