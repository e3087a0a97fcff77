"""The report: one file, complete in itself, that shows what was fitted and escapes what it was given."""

from __future__ import annotations

import base64
import gzip
import html
import json
import re

import pandas as pd
import pytest

import analysis
from analysis.errors import UserError
from analysis.report import MOST_ROWS, write_report
from analysis.text import flops_text
from tests.analysis.planted import CHINCHILLA, isoflop_table, samples_table


@pytest.fixture(scope="module")
def runs():
    dearer = (1.9, *CHINCHILLA[1:])
    families = [
        isoflop_table(family="ar", noise=0.002, sizes=7),
        isoflop_table(dearer, family="masked", noise=0.002, sizes=7, seed=1),
    ]
    return pd.concat(families, ignore_index=True)


def fitted(runs, *, methods=("isoflop", "surface"), bootstrap=50):
    families = runs["family"].unique()
    own = {family: runs[runs["family"] == family] for family in families}
    return {f: {m: analysis.fit_law(own[f], m, bootstrap=bootstrap) for m in methods} for f in families}


def unpacked(page: str, name: str) -> str:
    packed = re.search(rf'id="packed-{name}">([^<]*)<', page)
    assert packed is not None
    return gzip.decompress(base64.b64decode(packed[1])).decode()


def test_the_report_has_every_law_and_needs_nothing_else(runs, tmp_path):
    laws = fitted(runs)
    comparison = analysis.compare(runs, bootstrap=50)
    path = write_report(
        tmp_path / "deep" / "report.html", runs, laws, source="a table", comparison=comparison
    )
    page = path.read_text()
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]
    for family in ("ar", "masked"):
        for law in laws[family].values():
            assert str(law.exponents["params"]) in page
            assert law.sha256[:16] in page
    assert analysis.diagnose(laws["ar"]["isoflop"]).verdict in html.unescape(page)
    assert "a table" in page
    assert page.count(f"surface law of {len(laws['ar']['surface'].runs)} runs, data ") >= 2
    assert "times the compute of ar" in page
    drawn = json.loads(unpacked(page, "figures"))
    assert set(re.findall(r'class="figure" id="([^"]+)"', page)) == set(drawn["figures"])
    assert len(drawn["figures"]) == 7
    assert set(drawn["templates"]) == {"light", "dark"}
    assert "Plotly" in unpacked(page, "library")
    outside = re.sub(r'id="packed-[a-z]+">[^<]*<', "", page)
    assert not re.search(r"""(src|href)=["'](?!#)""", outside)
    assert "default-src 'none'" in outside


def test_samples_have_a_section_of_their_own_where_there_are_some(runs, tmp_path):
    samples = samples_table({"ar": (20.0, 120.0, 2e5), "masked": (26.0, 60.0, 1.8e5)})
    laws = fitted(runs, methods=("surface",), bootstrap=5)
    page = write_report(tmp_path / "r.html", runs, laws, samples=samples).read_text()
    section = html.unescape(page[page.index('<section id="speed">') :].split("</section>")[0])
    speed = analysis.speed_quality(samples)
    assert speed.sentence in section
    for cell in (row[1] for at in ("many texts", "one text") for row in speed.leads_table(at).rows):
        assert cell in section
    assert '<a href="#speed">' in page
    assert "speed_quality" in unpacked(page, "figures")
    refused = write_report(tmp_path / "s.html", runs, laws, samples=samples.assign(judge=samples["steps"]))
    assert "samples have 6 values of judge" in refused.read_text()
    assert 'id="speed"' not in write_report(tmp_path / "t.html", runs, laws).read_text()


def test_the_report_begins_with_the_answer_for_the_largest_budget_and_for_ten_times_it(runs, tmp_path):
    page = write_report(tmp_path / "r.html", runs, fitted(runs, bootstrap=5)).read_text()
    main = html.unescape(page[page.index("<main>") :])
    largest = runs["budget"].max()
    beyond, within = (analysis.recommend(runs, flops) for flops in (10 * largest, largest))
    first = main[: main.index("</section>")]
    assert re.findall(r"<strong>(.*?)</strong></p><p>(.*?)</p>", first) == [
        (answer.sentence, answer.confidence) for answer in (beyond, within)
    ]
    assert first.count("<table") == 2
    assert "best in" in first


def test_a_report_of_runs_that_give_no_answer_says_why(runs, tmp_path):
    laws = {"ar": {"isoflop": fitted(runs, methods=("isoflop",), bootstrap=0)["ar"]["isoflop"]}}
    page = write_report(tmp_path / "r.html", runs.head(3), laws).read_text()
    assert "There is no answer yet: " in page


def test_names_from_a_table_are_text_not_html(runs, tmp_path):
    evil = '<script>alert("x")</script>'
    table = runs[runs["family"] == "ar"].assign(family=evil)
    page = write_report(tmp_path / "r.html", table, fitted(table), title=evil, source=evil).read_text()
    assert evil not in page
    assert "&lt;script&gt;alert(" in page
    assert 'id="family-<' not in page
    assert 'href="#family-<' not in page


def test_the_report_shows_no_login_and_one_form_of_a_number(runs, tmp_path):
    table = runs.assign(key="k" + runs.index.astype(str))
    where = "http://bob:S3cr3tPass@h:5000"
    page = write_report(tmp_path / "r.html", table, fitted(table, bootstrap=50), source=where).read_text()
    assert "http://***@h:5000" in page
    assert "S3cr3tPass" not in page
    budget = runs["budget"].max()
    assert f"<td>{flops_text(budget)}</td>" in page
    assert f"params at {flops_text(budget)} FLOPs" in page
    tables = re.sub(r'id="packed-[a-z]+">[^<]*<', "", page)
    assert not re.search(r"\de\+\d", tables)


def test_ten_thousand_runs_stay_under_six_megabytes(tmp_path):
    table = isoflop_table(family="ar", noise=0.002, sizes=2000)
    path = write_report(tmp_path / "r.html", table, fitted(table, methods=("isoflop",), bootstrap=5))
    assert len(table) == 10_000
    assert path.stat().st_size < 6e6
    assert f"The first {MOST_ROWS} of 10000 runs" in path.read_text()


def test_a_family_without_a_law_says_why(runs, tmp_path):
    laws = {**fitted(runs, bootstrap=0), "uniform": {}}
    refused = {"uniform": ["runs: no finished run to fit"]}
    page = write_report(tmp_path / "r.html", runs, laws, refused=refused).read_text()
    assert "no finished run to fit" in page


def test_nothing_to_report_and_nowhere_to_write(runs, tmp_path):
    with pytest.raises(UserError, match="no law to report"):
        write_report(tmp_path / "r.html", runs, {"ar": {}})
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="cannot be written"):
        write_report(tmp_path / "file" / "r.html", runs, fitted(runs, bootstrap=0))
    assert (tmp_path / "file").read_text() == "mine"
