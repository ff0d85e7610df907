"""Reports as files: what is found, what the pages hold, that nothing is fetched or injected, and bad input."""

from __future__ import annotations

import html.parser
import json
import re
import shutil
import threading

import numpy as np
import pytest

from dlsim.report import write_report
from dlsim.report.data import MOST_STEPS, network_data, plot_data
from dlsim.terminal import cli
from report import runs


class Reader(html.parser.HTMLParser):
    """Attributes that could fetch, ids, and whether tags are closed in order."""

    VOID = ("meta", "link", "img", "input", "br", "hr", "circle", "line")

    def __init__(self, text):
        super().__init__()
        self.addresses, self.ids, self.open, self.labels = [], [], [], 0
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        named = dict(attributes)
        self.addresses += [named[name] for name in ("src", "href") if named.get(name)]
        self.ids += [named["id"]] if "id" in named else []
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, (tag, self.open)
        self.open.pop()


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    runs.save(folder / "papers" / "seven")
    runs.save(folder / "other" / "seven", name="free", holds=(True,), title=f"Free {runs.EVIL}")
    (folder / "other" / ".hidden").mkdir()
    shutil.copytree(folder / "papers" / "seven", folder / "other" / ".hidden" / "run")
    out = folder.parent / f"{folder.name}-site"
    return write_report([folder], out).parent


def test_pages_are_whole_and_fetch_nothing(site):
    names = sorted(path.name for path in site.glob("*.html"))
    assert names == ["index.html", "seven-2.html", "seven.html"]  # hidden runs are left out, names are made unique
    for path in site.glob("*.html"):
        text = path.read_text()
        read = Reader(text)
        assert read.open == [] and len(set(read.ids)) == len(read.ids)
        for address in read.addresses:
            assert address.startswith(("data:", "#")) or (site / address).is_file(), address
        style_and_script = "".join(re.findall(r"<(?:style|script)[^>]*>(.*?)</(?:style|script)>", text, flags=re.S))
        assert "url(" not in style_and_script and "import(" not in style_and_script and "fetch(" not in style_and_script
        assert "http" not in style_and_script.replace("http://www.w3.org/2000/svg", "")
        assert "<script>alert(1)" not in text


def test_the_index_lists_runs_papers_first(site):
    text = (site / "index.html").read_text()
    assert text.index("A small paper (07)") < text.index("Free &lt;script&gt;")
    assert "2 runs, 4 claims: 2 hold, 1 do not, 1 undecided." in text
    assert text.count('<li class="card"') == 2 and text.count("data:image/png;base64,") == 2
    assert 'data-verdicts="holds|does not hold|undecided"' in text


def test_a_page_has_claims_settings_and_how_to_rerun(site):
    text = (site / ("seven.html" if "07" in (site / "seven.html").read_text()[:2000] else "seven-2.html")).read_text()
    for part in ("claim 0 of 07_small", "1 &lt; 2", "does not hold", "dlsim run 07_small.py", "A source", "jax"):
        assert part in text, part
    assert "<h2>What differs from the source</h2><p>Departures: less of it.</p>" in text
    assert "<h2>Citation</h2><p>Somebody, 2020.</p>" in text
    assert '<pre tabindex="0">    a  table' in text and "<code>dlsim run</code>" in text
    assert 'id="plot-data"' in text and 'id="network-data"' in text


def faulty(folder, status=(*runs.FAULTS, runs.REMARK), **more):
    parts = [{"seeds": [0, 1], "label": "ring", "status": list(status)}]
    return runs.save(folder, ok=False, runs=parts, data=runs.diverged(), **more)


def test_divergence_is_on_the_card_and_at_the_top_of_the_page(tmp_path):
    faulty(tmp_path / "runs" / "bad")
    faulty(tmp_path / "runs" / "worse", status=["ring: BUFFER_OVERFLOW first at step 3: a buffer was full"] * 30)
    runs.save(tmp_path / "runs" / "good", runs=[{"seeds": [0, 1], "label": "ring", "status": [runs.REMARK]}])
    site = write_report(tmp_path / "runs", tmp_path / "site").parent
    cards = (site / "index.html").read_text().split('<li class="card"')[1:]
    of = {name: next(card for card in cards if f'href="{name}.html"' in card) for name in ("bad", "worse", "good")}
    assert f"</span> 3 of 12 runs diverged</span> {runs.FAULTS[0]} (and 2 more)</p>" in of["bad"]
    assert "3 of 12 runs went wrong" in of["worse"] and "fault" not in of["good"].replace("default", "")
    bad, worse, good = ((site / f"{name}.html").read_text() for name in ("bad", "worse", "good"))
    top = bad[: bad.index("<h2>Claims</h2>")]
    assert "<h2>What went wrong</h2>" in top and "3 of 12 runs diverged" in top
    for line in runs.FAULTS:  # the run, its seed, the step and the node
        assert f"<li>{line}</li>" in top
    assert f"1 remark of the runs</summary><ul><li>{runs.REMARK}</li></ul></details>" in top
    assert (
        worse.count("<li>ring: BUFFER_OVERFLOW") == 20 and "and 10 more; diverged_step in results.nc has all" in worse
    )
    assert "What went wrong" not in good and "1 remark of the runs" in good and "<td>yes</td>" in good
    assert "<td>no: 3 of 12 runs diverged</td>" in bad
    Reader(bad), Reader(worse)


def test_a_page_has_the_table_that_the_command_line_prints(tmp_path, capsys):
    from dlsim.terminal.runs import report

    saved = faulty(tmp_path / "runs" / "bad", timing={"num_programs": 1, "compile_seconds": 1.0, "run_seconds": 2.0})
    report(saved)
    printed = capsys.readouterr().out
    lines = [line for line in printed.splitlines() if line.startswith("│")]
    cells = [[cell.strip() for cell in line.strip("│").split("│")] for line in lines]
    text = (write_report(tmp_path / "runs", tmp_path / "site").parent / "bad.html").read_text()
    rows = re.findall(r"<tr>(.*?)</tr>", text[text.index('id="results"') :].partition("</table>")[0])
    assert [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in rows[1:]] == cells and len(cells) == 6
    # ring, rate 0.1, step 40: 40/50 * 2/3, and a hundredth more in the second seed.
    assert cells[1] == ["ring", "0.1", "0.5383 ± 0.0071"] and cells[5] == ["star", "1.0", "not finite in 2 of 2"]
    assert printed.splitlines()[0] in text and 'data-name="learning rate"' in text


TOOK = {
    "old": ({}, "1.0 s compiling, 2.0 s running"),
    "one": ({"all_seconds": 7.0, "num_sittings": 1}, "7.0 s in all, 1.0 s compiling, 2.0 s running"),
    "three": (
        {"all_seconds": 4000.0, "num_sittings": 3},
        "67 min in all over 3 sittings; the last: 1.0 s compiling, 2.0 s running",
    ),
}


def test_a_page_says_what_all_sittings_took(tmp_path):
    last = {"num_programs": 1, "compile_seconds": 1.0, "run_seconds": 2.0}
    for name, (more, _) in TOOK.items():
        runs.save(tmp_path / "runs" / name, timing={**last, **more})
    site = write_report(tmp_path / "runs", tmp_path / "site").parent
    for name, (_, said) in TOOK.items():
        assert f">took</th><td>{said}</td>" in (site / f"{name}.html").read_text()


def test_plot_data_holds_every_number():
    data = runs.dataset()
    made = plot_data(data)
    assert [axis["name"] for axis in made["axes"]] == ["topology", "learning_rate"]
    assert sorted(made["metrics"]) == ["accuracy", "bits_sent"]  # one number a run and step
    assert made["seeds"] == 2 and made["steps"] == [0, 10, 20, 30, 40] and not made["thinned"]
    found = np.array(made["metrics"]["accuracy"], float).reshape(2, 3, 2, 5)
    np.testing.assert_allclose(found, data.accuracy.values, rtol=1e-4)
    json.dumps(made, allow_nan=False)


def test_long_runs_are_thinned_first_and_last_kept():
    data = runs.dataset().isel(step=[0] * 1001).assign_coords(step=np.arange(1001))
    made = plot_data(data)
    assert made["thinned"] and made["recorded"] == 1001 and len(made["steps"]) == MOST_STEPS
    assert made["steps"][0] == 0 and made["steps"][-1] == 1000


def test_network_data_is_that_of_its_topology(tmp_path):
    saved = runs.save(tmp_path / "run")
    made = network_data(saved.results, saved.folder)
    ring, star = made["drawings"]
    assert (ring["label"], star["label"]) == ("ring of 6", "star of 6") and len(ring["places"]) == 6
    assert (len(ring["segments"]), ring["links"], len(star["segments"]), star["links"]) == (6, 6, 5, 5)
    views = made["views"]
    assert [(view["drawing"], view["run"]) for view in views] == [
        (i, f"learning_rate {rate}") for i in (0, 1) for rate in ("0.01", "0.1", "1")
    ]
    assert {view["metric"] for view in views} == {"distance"}
    assert views[0]["values"][2] == [0, 20, 40, 60, 80, 100]
    (saved.folder / "networks.json").unlink()
    assert network_data(saved.results, saved.folder) is None


def test_a_report_is_replaced_and_other_files_are_not(tmp_path):
    runs.save(tmp_path / "runs" / "one")
    runs.save(tmp_path / "more" / "two")
    write_report([tmp_path / "runs", tmp_path / "more"], tmp_path / "site")
    assert (tmp_path / "site" / "two.html").exists()
    first = write_report(tmp_path / "runs", tmp_path / "site").read_text()
    assert write_report(tmp_path / "runs", tmp_path / "site").read_text() == first
    assert sorted(path.name for path in (tmp_path / "site").iterdir()) == [".dlsim-report", "index.html", "one.html"]
    for name in ("thesis.txt", "own.html"):
        (tmp_path / "site" / name).write_text("all of it")  # beside the pages of the report
        with pytest.raises(ValueError, match=rf"or one of an earlier report, got .*site with other files \({name}\)"):
            write_report(tmp_path / "runs", tmp_path / "site")
        assert (tmp_path / "site" / name).read_text() == "all of it"
        (tmp_path / "site" / name).unlink()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("all of it")
    with pytest.raises(ValueError, match="report: out must be an empty folder, or one of an earlier report"):
        write_report(tmp_path / "runs", tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "all of it"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "more", "runs", "site"]


def test_what_lies_beside_a_report_is_left_alone(tmp_path):
    """A killed report leaves its pages in hidden folders, which the next one clears; anything else stays."""
    runs.save(tmp_path / "runs" / "one")
    write_report(tmp_path / "runs", tmp_path / "site")
    shutil.copytree(tmp_path / "site", tmp_path / ".site.new")
    shutil.copytree(tmp_path / "site", tmp_path / ".site.old")
    write_report(tmp_path / "runs", tmp_path / "site")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["runs", "site"]
    (tmp_path / ".site.new").mkdir()
    (tmp_path / ".site.new" / "thesis.txt").write_text("all of it")
    with pytest.raises(ValueError, match=r"report: out must be a folder beside which .site.new is free"):
        write_report(tmp_path / "runs", tmp_path / "site")
    assert (tmp_path / ".site.new" / "thesis.txt").exists() and (tmp_path / "site" / "one.html").exists()


def test_reports_of_earlier_versions_are_replaced(tmp_path):
    """Their mark names no files: the pages are theirs."""
    runs.save(tmp_path / "runs" / "one")
    write_report(tmp_path / "runs", tmp_path / "site")
    (tmp_path / "site" / ".dlsim-report").write_text("")
    (tmp_path / "site" / "old.html").write_text("")
    write_report(tmp_path / "runs", tmp_path / "site")
    assert sorted(path.name for path in (tmp_path / "site").iterdir()) == [".dlsim-report", "index.html", "one.html"]


def unsealed(folder):
    path = folder / "provenance.json"
    held = json.loads(path.read_text())
    path.write_text(json.dumps({name: held[name] for name in held if name not in ("files", "digest")}))
    return path


TAMPERED = {
    "claims.json": ("[5]", "{", '[{"text": "x"}]'),
    "networks.json": ('{"ring": 5}', '{"ring": {}}', '{"ring": {"places": [[0, 0]], "segments": 7}}', "[1]", "{"),
    "provenance.json": ('{"experiment": 5}', "{", '{"experiment": "x", "mode": "tiny", "runs": [7]}'),
    "results.nc": ("", "not NetCDF"),
    "config.json": ("[]", ""),
    "figure.png": ("no picture",),
}


@pytest.mark.parametrize("is_sealed", [True, False])
@pytest.mark.parametrize("name", TAMPERED)
def test_one_bad_run_does_not_stop_a_report(name, is_sealed, tmp_path, capsys):
    for i, text in enumerate(TAMPERED[name]):
        bad = runs.save(tmp_path / "runs" / f"bad-{i}").folder
        if not is_sealed:
            unsealed(bad)
        (bad / name).write_text(text)
    runs.save(tmp_path / "runs" / "good", title="A sound run")
    status, printed, err = call(capsys, "report", tmp_path / "runs", "--out", tmp_path / "site")
    assert status == 1 and printed == f"report: {tmp_path / 'site' / 'index.html'}\n"
    lines = err.splitlines()
    assert len(lines) == len(TAMPERED[name]) and all(line.startswith("dlsim: left out: ") for line in lines), err
    for i, line in enumerate(lines):
        assert str(tmp_path / "runs" / f"bad-{i}") in line
    index = (tmp_path / "site" / "index.html").read_text()
    assert "A sound run" in index and index.count('<li class="card"') == 1 and "<h2>Left out</h2>" in index
    assert sorted(path.name for path in (tmp_path / "site").glob("*.html")) == ["good.html", "index.html"]
    Reader(index)


def test_pages_say_whether_the_files_are_as_they_were_written(tmp_path):
    one, other = (runs.save(tmp_path / "runs" / name).folder for name in ("one", "other"))
    unsealed(other)
    write_report(tmp_path / "runs", tmp_path / "site")
    texts = [(tmp_path / "site" / f"{folder.name}.html").read_text() for folder in (one, other)]
    assert "as the run wrote them" in texts[0]
    assert "not checked: saved before runs kept digests" in texts[1]


def test_two_reports_of_one_folder(tmp_path):
    from dlsim import locks

    runs.save(tmp_path / "runs" / "one")
    errors = []

    def other():
        try:
            write_report(tmp_path / "runs", tmp_path / "site")
        except ValueError as error:
            errors.append(str(error))

    with locks.beside(tmp_path / "site", "report", "out"):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join(60)
    assert len(errors) == 1 and "report: out must be a folder that no other process is writing, got" in errors[0]
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]


def call(capsys, *words):
    status = cli.main([str(word) for word in words])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_command_line(tmp_path, capsys):
    runs.save(tmp_path / "runs" / "one")
    status, printed, err = call(capsys, "report", tmp_path / "runs", "--out", tmp_path / "site")
    assert (status, err) == (0, "") and printed == f"report: {tmp_path / 'site' / 'index.html'}\n"


def test_mistakes_are_one_line(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    runs.save(tmp_path / "newer" / "run")
    about = tmp_path / "newer" / "run" / "provenance.json"
    about.write_text(json.dumps({**json.loads(about.read_text()), "format_version": 99}))
    runs.save(tmp_path / "damaged" / "run")
    (tmp_path / "damaged" / "run" / "claims.json").write_text("{")
    runs.save(tmp_path / "good" / "run")
    (tmp_path / "file").write_text("")
    cases = {
        ("empty",): "report: runs must be a folder with finished runs",
        ("nowhere",): "report: runs must be a folder of runs",
        (
            "newer",
        ): "report: runs must be folders with a run that can be read, got none. The first: results.load: format",
        ("damaged",): "The first: results.load: claims.json must be the file that the run wrote, got ",
        ("good", "empty"): "report: runs must be a folder with finished runs",
        ("good", "--out", "file"): "report: out must be a folder",
        ("good", "--out", ""): "report: out must be a path, got ''",
        ("",): "report: runs must be a path, got ''",
    }
    for words, message in cases.items():
        given = [word if word.startswith("--") or not word else tmp_path / word for word in words]
        out = [] if "--out" in words else ["--out", tmp_path / "site"]
        status, printed, err = call(capsys, "report", *given, *out)
        assert (status, printed) == (2, ""), words
        assert err.splitlines()[-1].startswith("dlsim: error: ") and message in err and err.count("\n") == 1, err
        assert not (tmp_path / "site").exists()
