"""Papers by number: what is chosen, what is run again, what a failure does to the others, and the claims table."""

from __future__ import annotations

import csv
import json
import pathlib
import re
import shutil

import pytest

from dlsim import results
from dlsim.configs import experiment_file as configs
from dlsim.results import digests
from dlsim.studies import catalogue, claims_table, reproduce
from dlsim.terminal import cli

HERE = pathlib.Path(__file__).parents[1]
ROOT = HERE.parent
SMALL = (HERE / "small_experiment.py").read_text()


@pytest.fixture
def folder(tmp_path):
    """Three papers: one that is well, one that fails as it runs, and one without claims."""
    place = tmp_path / "papers"
    place.mkdir()
    well = SMALL.replace('MODES = ("default", "tiny")', 'MODES = ("default", "tiny")\nMINUTES = {"tiny": 0.5}')
    (place / "03_well.py").write_text(well)
    (place / "07_broken.py").write_text(SMALL.replace("def claims(results):", "def claims(results):\n    1 / 0"))
    (place / "12_plain.py").write_text(SMALL.replace("def claims(", "def not_claims("))
    (place / "helper.py").write_text("def build():\n    pass\n")
    return place


def call(capsys, *words):
    status = cli.main([str(word) for word in words])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_papers_are_found_and_chosen(folder):
    found = catalogue.entries(folder)
    assert [(one.number, one.name) for one in found] == [("03", "03_well"), ("07", "07_broken"), ("12", "12_plain")]
    assert found[0].minutes == {"tiny": 0.5} and found[0].modes == ("default", "tiny")
    for words in (["3"], ["03"], ["03_well"], [str(folder / "03_well.py")], ["3", "03_well"]):
        assert [one.name for one in catalogue.choose(found, words)] == ["03_well"], words
    assert catalogue.choose(found, ["all"]) == found
    assert [one.number for one in catalogue.choose(found, ["12", "3"])] == ["03", "12"]


def test_all_run_though_one_fails(folder, tmp_path, capsys):
    words = ("reproduce", "all", "--mode", "tiny", "--folder", folder, "--out", tmp_path / "runs")
    status, printed, _ = call(capsys, *words, "--seeds", "2", "--table", tmp_path / "claims.json")
    assert status == 1
    # The time comes first.
    assert printed.index("03_well, tiny mode: about 30 s on 2 cores") < printed.index("[1/3] 03_well")
    assert "07_broken, tiny mode: time not measured" in printed
    assert "3 experiments: about 30 s, and 2 of unknown length; with their own numbers of seeds" in printed
    assert "did not run: division by zero" in printed
    assert "2 of 3 experiments ran; of 1 claims: 1 holds, 0 does not hold, 0 undecided" in printed
    table = json.loads((tmp_path / "claims.json").read_text())
    assert [(row["experiment"], row["holds"]) for row in table] == [
        ("03", "holds"),
        ("07", "did not run"),
        ("12", "undecided"),
    ]
    assert table[0]["claim"] == "the complete graph agrees" and table[0]["reported"] == "0"
    assert re.fullmatch(r"[\d.]+e-\d+", table[0]["measured"])
    assert table[0]["scale"] == "tiny, 2 seeds, 4 runs of 6 steps, cpu"
    # What broke keeps its runs, and goes on when the file is mended.
    (folder / "07_broken.py").write_text(SMALL)
    status, printed, _ = call(capsys, *words, "--seeds", "2")
    assert status == 0 and "03_well, tiny mode: done before" in printed and "3 of 3 experiments ran" in printed


def test_a_finished_run_is_run_again_only_if_its_file_changed(folder, tmp_path, capsys):
    def once():
        (done,) = reproduce.reproduce(["3"], "tiny", folder=folder, out=tmp_path / "runs", progress=False)
        return done.saved.provenance["finished"], (done.saved.folder / "provenance.json").stat().st_mtime_ns

    first = once()
    assert once() == first
    file = folder / "03_well.py"
    # Words are no other version: what was measured is written down after the run.
    file.write_text(file.read_text().replace('"tiny": 0.5}', '"tiny": 0.7}\nCITATION = "A, 2020."  # a remark'))
    assert once() == first
    file.write_text(file.read_text() + "\n\nMARGIN = 3\n")
    found = reproduce.found_before(catalogue.read_entry(file), "tiny", tmp_path / "runs")
    assert found.is_stale and "an earlier version of the file" in claims_table.scale(found)
    _, printed, _ = call(capsys, "reproduce", "--list", "--folder", folder, "--out", tmp_path / "runs")
    text = " ".join(printed.split())
    assert "03" in text and "default (not" in text and "none" in text and "1 of 1" in text
    assert once()[1] != first[1]
    assert not reproduce.found_before(catalogue.read_entry(file), "tiny", tmp_path / "runs").is_stale


def test_claims_that_do_not_hold_are_no_failure(folder, tmp_path, capsys):
    file = folder / "03_well.py"
    file.write_text(file.read_text().replace("< 1e-6", "< -1.0"))
    status, printed, _ = call(
        capsys, "reproduce", "03", "--mode", "tiny", "--folder", folder, "--out", tmp_path / "runs"
    )
    assert status == 0 and "1 does not hold" in printed and "0 of 1 claims hold" in printed


def test_tables_in_three_formats(folder, tmp_path):
    done = reproduce.reproduce(["3", "7"], "tiny", folder=folder, out=tmp_path / "runs", progress=False)
    assert not reproduce.all_ran(done) and reproduce.all_ran(done[:1])
    rows = claims_table.rows(done)
    with claims_table.write(done, tmp_path / "claims.csv").open() as file:
        assert list(csv.DictReader(file)) == rows
    assert json.loads(claims_table.write(done, tmp_path / "claims.json").read_text()) == rows
    text = claims_table.write(done, tmp_path / "claims.md").read_text()
    assert "## 03" in text and "[An experiment that runs in a second" in text and "](papers/03_well.py)" in text
    assert "| the complete graph agrees | 0 |" in text and "| holds |" in text
    assert "Did not run: division by zero" in text
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "claims.csv",
        "claims.json",
        "claims.md",
        "papers",
        "runs",
    ]


def test_a_run_without_claims_says_so(folder, tmp_path):
    done = reproduce.reproduce(["12"], "tiny", folder=folder, out=tmp_path / "runs", progress=False)
    text = claims_table.markdown(done)
    assert "No claim is decided in this mode." in text and "| Claim |" not in text


def test_markdown_escapes_bars(folder, tmp_path):
    (one,) = reproduce.reproduce(["3"], "tiny", folder=folder, out=tmp_path / "runs", progress=False)
    claim = results.Claim("|a|\nb", "here", "x", "y", None)
    text = claims_table.markdown([one._replace(saved=one.saved._replace(claims=[claim]))])
    assert "| \\|a\\| b | x | y | undecided |" in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["99"], "experiment must be all, papers, studies, or one of 03 (well), 07 (broken), 12 (plain), got '99'."),
        (["well"], "experiment must be all, papers, studies, or one of 03 (well)"),
        (["3", "--mode", "tny"], "reproduce 03: mode must be one of tiny, default, got 'tny'. Did you mean"),
        (["3", "--mode", "paper"], "reproduce 03: mode must be one of default, tiny, got 'paper'"),
        ([], "experiment must be numbers, names or all, got none. --list shows them."),
        (["3", "--table", "claims.txt"], "--table must be a file that ends in .md, .csv, .json, got claims.txt"),
        (["3", "--table", "nowhere/claims.md"], "--table must be a file in a folder that is there"),
        (["3", "--folder", "nowhere"], "folder must be a folder of experiments, got nowhere"),
        (["3", "--folder", "empty"], "folder must be a folder of experiments, got one without any"),
    ],
)
def test_mistakes_are_one_line(words, message, folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    given = words if "--folder" in words else [*words, "--folder", folder]
    status, printed, err = call(capsys, "reproduce", *given)
    assert (status, printed) == (2, "")
    assert err.startswith("dlsim: error: ") and message in err and err.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_a_run_of_other_settings_is_left_alone(folder, tmp_path):
    out = tmp_path / "runs"
    reproduce.reproduce(["3"], "tiny", seeds=2, folder=folder, out=out, progress=False)
    (one,) = reproduce.reproduce(["3"], "tiny", seeds=3, folder=folder, out=out, progress=False)
    assert one.saved is None and "num_seeds = 3 (was 2)" in one.error
    assert results.load(out / "03_well-tiny").config["num_seeds"] == 2


def test_a_damaged_run_is_told(folder, tmp_path):
    out = tmp_path / "runs"
    reproduce.reproduce(["3"], "tiny", folder=folder, out=out, progress=False)
    (out / "03_well-tiny" / "results.nc").write_text("no")
    assert reproduce.found_before(catalogue.read_entry(folder / "03_well.py"), "tiny", out) is None
    shutil.rmtree(out / "03_well-tiny")
    (one,) = reproduce.reproduce(["3"], "tiny", folder=folder, out=out, progress=False)
    assert one.saved is not None


@pytest.fixture
def both(tmp_path):
    """A paper, and two studies, one of which has a mode of its own for two cores."""
    place = tmp_path / "experiments"
    (place / "papers").mkdir(parents=True)
    (place / "sweeps").mkdir()
    (place / "papers" / "03_well.py").write_text(SMALL)
    (place / "first.py").write_text(SMALL)
    own = SMALL.replace('MODES = ("default", "tiny")', 'MODES = ("default", "tiny")\nTWO_CORES = "tiny"')
    (place / "sweeps" / "large.py").write_text(own)
    return place


def test_studies_are_taken_by_name(both, tmp_path):
    found = catalogue.entries(both)
    assert [(one.group, one.name) for one in found] == [
        ("papers", "03_well"),
        ("studies", "first"),
        ("studies", "large"),
    ]
    for words, names in (
        (["all"], ["03_well", "first", "large"]),
        (["papers"], ["03_well"]),
        (["studies"], ["first", "large"]),
        (["large", "3"], ["03_well", "large"]),
    ):
        assert [one.name for one in catalogue.choose(found, words)] == names
    (one,) = reproduce.reproduce(["large"], folder=both, out=tmp_path / "runs", progress=False)
    assert one.mode == "tiny" and one.saved.folder.name == "large-tiny"
    (wrong,) = [one for one in found if one.name == "large"]
    wrong.path.write_text(wrong.path.read_text().replace('TWO_CORES = "tiny"', 'TWO_CORES = "small"'))
    with pytest.raises(ValueError, match="reproduce large: mode must be one of default, tiny, got 'small'"):
        reproduce.find(["large"], None, both)


def test_lists_have_two_groups_and_the_times_of_runs(both, tmp_path, capsys):
    file = both / "first.py"
    file.write_text(file.read_text().replace("MODES = (", 'MINUTES = {"tiny": 300}\nMODES = ('))
    words = ("reproduce", "--list", "--folder", both, "--out", tmp_path / "runs")
    _, printed, _ = call(capsys, *words)
    assert printed.index("papers") < printed.index("03") < printed.index("studies") < printed.index("first")
    assert "tiny (5.0 h)" in " ".join(printed.split())
    (one,) = reproduce.reproduce(["first"], "tiny", folder=both, out=tmp_path / "runs", progress=False)
    took = one.saved.provenance["timing"]["total_seconds"]
    assert 0 < one.saved.provenance["timing"]["compile_seconds"] < took < 60
    _, printed, _ = call(capsys, *words)
    assert f"tiny ({took:.0f} s here)" in " ".join(printed.split())
    # Of another version of the file the time of the last run is the best guess.
    file.write_text(file.read_text() + "\n\nMARGIN = 3\n")
    _, printed, _ = call(capsys, *words[:1], "first", "--mode", "tiny", *words[2:])
    assert f"first, tiny mode: about {took:.0f} s as the last time; its file has changed" in printed


def test_an_interrupted_run_does_not_say_what_it_took(both, tmp_path, capsys):
    (one,) = reproduce.reproduce(["first"], "tiny", folder=both, out=tmp_path / "runs", progress=False)
    about = one.saved.folder / "provenance.json"
    held = json.loads(about.read_text())
    held["timing"]["total_seconds"] = None
    about.write_text(json.dumps(digests.sealed(held, about.parent)))
    assert claims_table.seconds(reproduce.found_before(one.paper, "tiny", tmp_path / "runs")) is None


def test_links_of_a_table_start_where_it_lies(both, tmp_path):
    done = reproduce.reproduce(["all"], "tiny", folder=both, out=tmp_path / "runs", progress=False)
    for place, heading in ((both, "Experiments"), (both / "papers", "Papers"), (tmp_path, "Studies")):
        chosen = [one for one in done if heading == "Experiments" or one.paper.group == heading.lower()]
        text = claims_table.write(chosen, place / "README.md").read_text()
        assert text.startswith(f"# {heading} and their claims\n")
        links = re.findall(r"\]\(([^#)]+)\)", text)
        assert len(links) == len(chosen) and all((place / link).is_file() for link in links), links


def test_every_paper_of_the_checkout_says_what_it_takes():
    found = catalogue.entries(ROOT / "experiments" / "papers")
    assert len(found) >= 6 and {one.group for one in found} == {"papers"}
    for one in found:
        assert one.number and f"({int(one.number):02d})" in one.title, one.name
        assert {"tiny", "default", "paper"} <= set(one.modes), one.name
        assert {"tiny", "default"} <= set(one.minutes), one.name
        assert one.two_cores in one.minutes


def test_every_paper_is_cited():
    for one in catalogue.entries(ROOT / "experiments" / "papers"):
        assert re.search(r"^CITATION = ", one.path.read_text(), flags=re.M), one.name
        assert one.citation.endswith(".") and re.search(r"\b20\d\d\b", one.citation), one.name


def test_citations_of_files_that_have_no_constant():
    assert configs.cited("A title.\n\nSomebody, A study,\nICML 2020.  Command: `x`") == "Somebody, A study, ICML 2020."
    for doc in ("A title.", "A title.\n\nCommand: `x`", "A title.\n\nWhat it does, at length.\n\nSomebody, 2020."):
        assert configs.cited(doc) == ""


def test_every_study_of_the_checkout_says_what_it_takes():
    found = [one for one in catalogue.entries(ROOT / "experiments") if one.group == "studies"]
    assert {"quickstart", "asynchrony", "scaling", "thousand_nodes"} <= {one.name for one in found}
    for one in found:
        assert one.two_cores in one.modes and "tiny" in one.modes, one.name


def test_the_papers_readme_has_every_paper():
    text = (ROOT / "experiments" / "papers" / "README.md").read_text()
    for one in catalogue.entries(ROOT / "experiments" / "papers"):
        assert f"## {one.number}\n\n[{one.title}]({one.path.name})" in text, one.name
    assert "Did not run" not in text


def test_the_studies_readme_has_every_study():
    text = (ROOT / "experiments" / "README.md").read_text()
    for one in catalogue.entries(ROOT / "experiments"):
        if one.group == "studies":
            link = one.path.relative_to(ROOT / "experiments").as_posix()
            assert f"## {one.name}\n\n[{one.title}]({link})" in text, one.name
    assert "Did not run" not in text
