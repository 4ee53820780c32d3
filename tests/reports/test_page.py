"""The page as text, and in a real browser."""

from __future__ import annotations

import hashlib
import html
import json
import re
import shutil
from collections.abc import Iterator
from copy import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from nextbar.evaluation.verdict import Check
from nextbar.reports.drawing import drawn_days
from nextbar.reports.facts import RunFacts, _bin
from nextbar.reports.figures import folds, pictures, reliability
from nextbar.reports.model_figures import chosen_thresholds, coverage, threshold_curves
from nextbar.reports.page import PARTS, _conditions, _months, _text, _tiles, render_html, render_markdown

EVIL = "<script>alert(1)</script>"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def changed(facts: RunFacts, **changes: Any) -> RunFacts:
    """Facts of which some are others."""
    found = copy(facts)
    vars(found).update(changes)
    return found


@pytest.fixture(scope="module")
def page(facts) -> str:
    return render_html([facts["walkforward"]])


def test_a_ticker_cannot_bring_a_script(page: str, facts) -> None:
    """Neither the page nor Markdown hold the ticker as it is; the figures' JSON holds no "<" at all."""
    assert EVIL not in page
    assert "&lt;script&gt;alert(1)" in page
    assert EVIL not in render_markdown(list(facts.values()))
    figures = re.search(r'id="figures">(.*?)</script>', page, re.DOTALL)
    assert figures is not None
    assert "<" not in figures.group(1)


def test_the_page_needs_no_network(page: str) -> None:
    """Plotly is in it once, and nothing is fetched: no script, style, font or picture from elsewhere."""
    assert len(re.findall(r"plotly\.js \(basic - minified\) v[0-9]", page)) == 1
    outside = page.replace(re.search(r"<script>/\*\*.*?</script>", page, re.DOTALL).group(), "")
    assert not re.search(r"(src|href)=|url\(|@import", outside)


def test_the_bundle_is_the_published_one() -> None:
    """The file of plotly.js-basic-dist-min 4.1.1, as the registry of npm gives it."""
    digest = hashlib.sha256(_text(PARTS["plotly"]).encode()).hexdigest()
    assert digest == "99784e3abfb07b142a15e521a439e6d9addceadb3f79553fd24c72774f0649ba"


def test_units_stay_with_their_numbers(facts) -> None:
    """The space before a unit is one where no line breaks, as itself: nothing on a page of ours is spelled out."""
    for text in (render_html([facts["xgb"]]), render_markdown([facts["xgb"]])):
        assert r"\xa0" not in text
    assert "\u00a0%" in render_html([facts["xgb"]])


def test_pages_are_small(page: str) -> None:
    """Less than two megabytes, most of it Plotly."""
    assert len(page.encode()) < 2_000_000


def test_the_verdict_stands_before_every_figure(page: str, facts) -> None:
    """The first heading of second rank is the verdict."""
    assert re.search(r"<h2>(.*?)</h2>", page).group(1) == facts["walkforward"].judgement.verdict.value


def test_everything_that_must_be_said_is_said(page: str, facts) -> None:
    """Every statement and remark stands on the page and in Markdown, with the periods per year and the costs."""
    run = facts["walkforward"]
    periods = f"{run.book.terms.periods:.0f} periods a year"
    for text in (page, render_markdown([run])):
        plain = html.unescape(text)
        for said in (*run.judgement.statements, *run.remarks, periods, "5.0 basis points a trade"):
            assert said in plain


def test_suspicion_stands_above_the_verdict(facts) -> None:
    """In both twins, with the command that looks for a leak."""
    run = changed(facts["rf"], suspicious="look for a leak with: nextbar certify")
    for text in (render_html([run]), render_markdown([run])):
        assert text.index("SUSPICIOUS") < text.index("nextbar certify") < text.index(run.judgement.reason[:30])
    assert "SUSPICIOUS" not in render_html([facts["rf"]])


def test_wealth_that_overflows_is_drawn(facts) -> None:
    """A page about bars with an impossible return is still made."""
    run = facts["rf"]
    book = replace(run.book, earned=np.where(run.book.day % 9 == 0, 1e200, run.book.earned), signal=run.book.signal + 1)
    figures = re.search(r'id="figures">(.*?)</script>', render_html([changed(run, book=book)]), re.DOTALL).group(1)
    assert json.loads(figures)["equity"]["data"]
    assert "Infinity" not in figures


def test_several_runs_are_compared(facts) -> None:
    """One page, a verdict per run with its survivorship, forest beside booster."""
    both = [facts["rf"], facts["xgb"]]
    text = render_html(both)
    assert "2 runs compared" in text
    assert text.count('<details class="card verdict') == 2
    assert text.count("Survivorship of the tickers was not checked") == 2
    drawn = {picture.key: picture.figure for picture in pictures(both)}
    assert {trace.name for trace in drawn["importance"].data} == {"A rf", "B xgb"}
    assert {trace.name for trace in drawn["threshold"].data} == {"A rf", "A rf: chosen"}  # the booster has no score


def test_a_name_is_the_label_of_a_run(facts) -> None:
    """In the title, the legends and the table; what it is named stands there as a text."""
    run = facts["walkforward"]
    named = changed(run, label="<b>Mine", called="<b>Mine", title="<b>Mine: XGBoost")
    assert "<h1>&lt;b&gt;Mine: XGBoost</h1>" in render_html([named])
    page = render_html([named, run])
    assert "<strong>A (&lt;b&gt;Mine)</strong>" in page
    assert "<b>Mine" not in page
    assert {trace.name for trace in {one.key: one for one in pictures([named, run])}["folds"].figure.data} >= {
        "A (&lt;b&gt;Mine)",
        "B xgb",
    }


def test_runs_of_one_name_are_told_apart(facts) -> None:
    """In legends and in the table: by model and options that differ, which a legend cuts where they are long."""
    runs = [
        changed(facts["walkforward"], label="Mine", called="Mine, xgb"),
        changed(facts["walkforward"], label="Mine", called="Mine, rf, max_depth 3, min_samples_leaf 5", model="rf"),
        changed(facts["walkforward"], label="Mine", called="Mine 3"),
        facts["walkforward"],
    ]
    names = {trace.name for trace in {one.key: one for one in pictures(runs)}["folds"].figure.data}
    legends = ["A (Mine, xgb)", "B (Mine, rf, max depth 3, min sa…)", "C (Mine, xgb, 3)", "D xgb"]
    assert names == {*legends, "always long"}
    page = render_html(runs)
    assert '<strong>A (Mine)</strong> <span class="small">xgb</span>' in page
    assert '<strong>B (Mine)</strong> <span class="small">rf, max depth 3, min samples leaf 5</span>' in page
    assert '<strong>C (Mine)</strong> <span class="small">xgb, 3</span>' in page


def test_a_run_has_one_colour_in_all_pictures(facts) -> None:
    """Also where another run of the page has nothing to show."""
    both = [changed(facts["rf"], reliability=[]), facts["xgb"]]
    drawn = {picture.key: picture.figure for picture in pictures(both)}
    (wealth,) = [trace for trace in drawn["equity"].data if trace.name == "B xgb" and trace.showlegend is None]
    (points,) = [trace for trace in drawn["reliability"].data if trace.name == "B xgb"]
    assert wealth.line.color == points.line.color


def test_conditions_stand_side_by_side(facts) -> None:
    """One row per condition with a cell per run; an execution that a run lacks is a dash."""
    bound = Check(name="excess_bound", value=-0.033, needed=0.0, passed=False)
    opens = Check(name="next_open_bound", value=0.012, needed=0.0, passed=True)
    days = Check(name="days", value=1234, needed=250, passed=True)
    deflated = Check(name="deflated_sharpe", value=0.96, needed=0.95, passed=True)
    runs = [
        changed(run, judgement=replace(run.judgement, checks=checks))
        for run, checks in ((facts["rf"], (bound, opens, days)), (facts["xgb"], (bound, deflated, days)))
    ]
    assert _conditions(runs) == [
        (
            "Excess a year over a constant position of equal exposure, lower 97.5 % bound",
            "> 0",
            ["-3.3 % ✗", "-3.3 % ✗"],
        ),
        ("The same, executed at the next open", "> 0", ["1.2 % ✓", "–"]),
        ("Deflated Sharpe ratio of the excess", "≥ 0.95", ["–", "0.960 ✓"]),
        ("Days", "≥ 250", ["1,234 ✓", "1,234 ✓"]),
    ]
    assert "Side by side" in render_html(runs)
    assert "Side by side" not in render_html(runs[:1])


def test_a_walk_forward_shows_its_last_threshold_curve(facts) -> None:
    """With the plateau, beside the thresholds of all folds, and both measures of importance."""
    run = facts["walkforward"]
    (curve,) = (choice["curve"] for choice in run.thresholds if "curve" in choice)
    scored = {**curve, "score": [0.5 for _ in curve["score"]]}
    run = changed(run, thresholds=[{**one, **({"curve": scored} if "curve" in one else {})} for one in run.thresholds])
    drawn = {picture.key: picture for picture in pictures([run])}
    assert f"fold {run.folds[-1]['number']} chose" in drawn["threshold"].alternative
    assert len(drawn["thresholds"].figure.data[0].x) == len(run.thresholds)
    shares, _ = drawn["importance"].figure.data
    added = {name: one["contribution"] for name, one in run.importance.items()}
    expected = {name: value / sum(added.values()) for name, value in added.items()}
    assert dict(zip(shares.y, shares.x, strict=True)) == pytest.approx(expected, rel=1e-3)
    assert "SHAP" in drawn["importance"].figure.layout.annotations[0].text


def test_many_thresholds_are_summed_up(facts) -> None:
    """A point per fold at the median, reaching to the lowest and the highest, and the text says so."""
    run = facts["walkforward"]
    folds = [fold["number"] for fold in run.folds[:2]]
    many = [{"fold": fold, "ticker": str(i), "threshold": 0.3 + i / 1000} for fold in folds for i in range(401)]
    drawn = chosen_thresholds([changed(run, thresholds=many)])
    (points,) = drawn.figure.data
    assert list(points.y) == [0.5, 0.5]
    assert (list(points.error_y.array), list(points.error_y.arrayminus)) == ([0.2, 0.2], [0.2, 0.2])
    assert "802 thresholds, from 0.3000 to 0.7000" in drawn.alternative
    assert "the median of each fold" in drawn.alternative


def test_a_curve_without_any_score_is_not_drawn(facts) -> None:
    """Where no threshold had days enough there is no empty picture; beside another run's curve it is left out."""
    (choice,) = facts["rf"].thresholds
    curve = {**choice["curve"], "score": [None] * len(choice["curve"]["score"])}
    without = {**choice, "threshold": 0.5, "score": None, "plateau": None, "curve": curve}
    bare = changed(facts["rf"], thresholds=[without])
    assert threshold_curves([bare]) is None
    assert threshold_curves([bare, facts["rf"]]).alternative.startswith("B rf (train, AAA) chose")


def test_wealth_of_a_short_record_has_several_ticks(facts) -> None:
    """Our own ticks are used where three of them or more lie in its range, else Plotly's."""
    run = facts["walkforward"]
    for earned, ours in ((0.0001, False), (0.05, True)):
        book = replace(run.book)
        track = replace(run.book.model, net=np.full(len(run.book.dates), earned))
        vars(book).update(model=track, constant=track, baselines={})
        figure = {one.key: one for one in pictures([changed(run, book=book, baselines={})])}["equity"].figure
        assert (figure.layout.yaxis.tickvals is not None) is ours


def test_coverage_shows_what_was_left_out(facts) -> None:
    """A line per test window that a ticker missed; tickers that are not drawn are said."""
    run = facts["walkforward"]
    drawn = coverage([run])
    assert sum(day is None for day in drawn.figure.data[2].x) == len(run.folds)
    assert f"Left out of a fold: {len(run.folds)} times" in drawn.alternative
    many = coverage([changed(run, coverage=run.coverage * 30)])
    assert "Tickers with bars: 90, the first 60 of them drawn" in many.alternative


def test_what_was_tried_inside_stands_on_the_page(facts) -> None:
    """Candidates of a search with their parameters, and the chosen thresholds."""
    tried = [{"fold": 0, "ticker": "AAA", "params": {"max_depth": 3}, "score": 0.512, "chosen": True}]
    text = render_html([changed(facts["rf"], candidates=tried)])
    assert '<td class="long">max_depth 3</td><td class="n">0.512</td><td>yes</td>' in text
    assert "Each the best of 201 from 0.25 to 0.75" in text


def test_markdown_has_no_foreign_link(facts) -> None:
    """A ticker cannot bring a link or a picture."""
    run = facts["rf"]
    rows = [{**row, "ticker": "[click](https://example.org)"} for row in run.per_ticker]
    text = render_markdown([changed(run, per_ticker=rows)])
    assert "click](https" in text
    assert "[" not in text


@pytest.mark.parametrize("name", ["a|b", "`code`", "**EDGE**", "https://x.y", "www.x.y", "me@x.y", "~~no~~"])
def test_markdown_makes_nothing_of_a_ticker(facts, name: str) -> None:
    """A foreign string is no cell, no code, no emphasis and no link that a reader makes by itself."""
    run = facts["rf"]
    plain = render_markdown([changed(run, per_ticker=[{**run.per_ticker[0], "ticker": "AAA"}])])
    text = render_markdown([changed(run, per_ticker=[{**run.per_ticker[0], "ticker": name}], remarks=[name])])
    assert name not in text
    assert html.unescape(text).count(name) == 2
    (row,) = [line for line in text.splitlines() if html.unescape(line).startswith(f"| {name} |")]
    assert row.count("|") == plain[plain.index("| AAA |") :].splitlines()[0].count("|")


@pytest.mark.parametrize("render", [render_html, render_markdown])
def test_pages_hold_no_control_character(facts, render) -> None:
    """Escapes and bidirectional overrides in tickers and remarks are spelled out."""
    run, name = facts["rf"], "A\x1b[31m\u202eB\x9b"
    rows = [{**row, "ticker": name} for row in run.per_ticker]
    text = render(
        [
            changed(
                run,
                per_ticker=rows,
                remarks=[name],
                model=name,
                skipped=[{"ticker": "B", "fold": None, "reason": name}],
            )
        ]
    )
    found = text if render is render_markdown else text.replace(_text(PARTS["plotly"]), "")
    assert not set("\x1b\u202e\x9b") & set(found)
    assert "\\x1b" in found


def test_every_figure_has_a_text(facts) -> None:
    """What a picture shows is said in words with a number."""
    for picture in pictures(list(facts.values())):
        assert re.search(r"\d", picture.alternative) or picture.key == "importance"


def test_markdown_tables_are_whole(facts) -> None:
    """Each row has as many cells as its heading."""
    lines = render_markdown(list(facts.values())).splitlines()
    for number, line in enumerate(lines):
        if line.startswith("|") and lines[number - 1].startswith("|"):
            assert line.count("|") == lines[number - 1].count("|")


def test_the_first_screen_says_what_it_is_worth(page: str, facts) -> None:
    """A title that a person understands, the verdict in a sentence, and six figures with their intervals."""
    run = facts["walkforward"]
    text = html.unescape(page)
    assert re.search(r"<h1>(.*?)</h1>", text).group(1) == run.title == "XGBoost, 2 stocks, 2011–2012"
    assert f'<p class="headline">{run.judgement.headline}</p>' in text
    assert text.count("<dt>") == 6
    tiles = {name: (value, beside) for name, value, beside in _tiles(run)}
    excess, accuracy = run.judgement.excess, run.judgement.directions
    assert tiles["excess a year"][0] == f"{100 * excess.mean:+.1f} %"
    assert tiles["excess a year"][1] == f"95\u00a0%: {100 * excess.low:+.1f} to {100 * excess.high:+.1f}\u00a0%"
    assert tiles["balanced accuracy"][1] == f"95\u00a0%: {accuracy.low:.3f} to {accuracy.high:.3f}"
    assert tiles["days"][0] == f"{len(run.book.dates):,}"
    assert tiles["configurations tried"][0] == "3"


def test_reasons_unfold_and_suspicion_does_not(facts) -> None:
    """The statements stand in a closed part; the warning stands in the open, in the colour of faults."""
    text = render_html([changed(facts["rf"], suspicious="look for a leak")])
    body = text[text.index("<main>") :]
    folded = body[body.index("<details") :]
    assert facts["rf"].judgement.reason in html.unescape(folded)
    assert body.index('<p class="suspicious">') < body.index('<section class="verdict') < body.index("<details")


def test_a_trial_is_shown_with_its_time(facts) -> None:
    """A time of the ledger stands on the page as in tables, to the minute in UTC."""
    about = {"id": "0123456789", "kind": "train", "model": "xgb", "tickers": ["A"]}
    trial = {**about, "first": "2020-01-01", "last": "2020-02-01", "recorded": "2026-01-02T03:04:05+00:00"}
    assert "<td>2026-01-02 03:04 UTC</td>" in render_html([changed(facts["rf"], trials=[trial])])


def test_a_comparison_begins_with_its_table(facts) -> None:
    """A row per run, named by what differs, before every card and chart; each card is closed."""
    runs = [
        changed(facts["rf"], called="rf, seed 1"),
        changed(facts["rf"], called="rf, seed <2>", judgement=replace(facts["rf"].judgement, tries=None)),
    ]
    text = render_html(runs)
    main = text[text.index("<main>") : text.index("</main>")]
    assert main.index("<table") < main.index('class="chart"') < main.index("<details")
    rows = main[main.index("<tbody>") : main.index("</tbody>")]
    assert '<strong>A rf</strong> <span class="small">seed 1</span>' in rows
    assert '<strong>B rf</strong> <span class="small">seed &lt;2&gt;</span>' in rows
    assert "<details open" not in main


def test_each_run_has_its_own_constant_line(facts) -> None:
    """In the run's colour, dotted; always long is drawn as text is, and other baselines of one run wait to be asked."""
    both = [facts["rf"], facts["walkforward"]]
    drawn = {picture.key: picture.figure for picture in pictures(both)}
    lines = {trace.name: trace for trace in drawn["equity"].data if trace.xaxis == "x"}
    for name, run in zip(("A rf", "B xgb"), both, strict=True):
        constant = lines[f"{name}, constant, own exposure"]
        assert constant.line.color == lines[name].line.color
        assert constant.line.dash == "dot"
        assert constant.y[-1] == pytest.approx(np.prod(1 + run.book.constant.net), rel=1e-3)
    assert lines["always long"].line.color == "black"
    falls = [trace for trace in drawn["equity"].data if trace.xaxis == "x2" and trace.name == "B xgb"]
    assert min(falls[0].y) == pytest.approx(both[1].table[0]["max_drawdown"], rel=1e-3)
    (alone,) = [picture.figure for picture in pictures([facts["rf"]]) if picture.key == "equity"]
    shown = {trace.name: trace.visible for trace in alone.data if trace.xaxis == "x"}
    assert [name for name, visible in shown.items() if visible == "legendonly"] == [
        "yesterday's direction",
        "majority class of train",
    ]


def test_short_folds_are_hatched(facts) -> None:
    """A window with less than three quarters of the usual rows, on an axis of categories; n stands at the bars."""
    run = facts["walkforward"]
    windows = [*run.folds[:-1], {**run.folds[-1], "rows": 10}]
    drawn = folds([changed(run, folds=windows)])
    bars = drawn.figure.data[0]
    assert list(bars.marker.pattern.shape) == [""] * (len(windows) - 1) + ["/"]
    assert list(bars.text)[-1] == "10"
    assert drawn.figure.layout.xaxis.type == "category"
    assert "Hatched: 1 with less than three quarters" in drawn.alternative


def test_small_bins_are_not_drawn(facts) -> None:
    """Of fewer than 30 rows; the others have an interval that holds their share."""
    counts = (29, 30, 400)
    bins = [
        _bin({"lower": 0.4, "upper": 0.5, "count": n, "mean_probability": 0.45, "positive_share": 0.5}) for n in counts
    ]
    drawn = reliability([changed(facts["rf"], reliability=bins)])
    points = drawn.figure.data[1]
    assert len(points.y) == 2
    assert points.error_y.array[0] == pytest.approx(0.168, abs=1e-3)  # Wilson's interval of 15 of 30
    assert "Left out: 1 with fewer than 30 rows" in drawn.alternative


def test_months_stand_in_a_heat_map(page: str, facts) -> None:
    """Twelve months and the year, blue for gains and orange for losses; months without days are empty."""
    (first, months), *_ = _months(facts["walkforward"])
    known = {(one["year"], one["month"]): one["return"] for one in facts["walkforward"].by_month}
    assert len(months) == 13
    for number, (text, colour) in enumerate(months[:12], start=1):
        value = known.get((first, number))
        assert text == ("" if value is None else f"{100 * value:.1f}")
        assert colour.startswith("rgba(15" if value and value > 0 else "rgba(213" if value else "")
        assert f'style="background: {colour}">{text}' in page or not colour


def test_long_records_are_thinned(facts) -> None:
    """Thousands of days give no more points than a page can hold, the last day among them."""
    for n in (0, 1, 7, 1_200, 9_999):
        found = drawn_days(n, 1_200)
        assert len(found) <= 1_201
        assert found.tolist() == sorted(set(found.tolist()))
        assert not n or (found[0], found[-1]) == (0, n - 1)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("no chromium on PATH")
    with playwright.sync_playwright() as started:
        running = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield running
        running.close()


@pytest.fixture(scope="module")
def opened(browser: Any, page: str, tmp_path_factory) -> Iterator[Any]:
    """The page without network, and what its console said."""
    path = tmp_path_factory.mktemp("page") / "page.html"
    path.write_text(page, encoding="utf-8")
    context = browser.new_context(viewport={"width": 390, "height": 844}, offline=True)
    tab = context.new_page()
    tab.said = []
    tab.on("console", lambda message: tab.said.append(message.text))
    tab.on("pageerror", lambda error: tab.said.append(str(error)))
    tab.on("dialog", lambda dialog: tab.said.append(dialog.message))
    tab.goto(path.as_uri())
    tab.wait_for_selector("#coverage .main-svg")
    yield tab
    context.close()


@pytest.mark.browser
def test_charts_are_drawn_without_errors(opened: Any, facts) -> None:
    """Every figure with all of its traces; nothing on the console, no dialog, no sideways scrolling on a phone."""
    for picture in pictures([facts["walkforward"]]):
        drawn = opened.evaluate(f"document.getElementById('{picture.key}')._fullData.length")
        assert drawn == len(picture.figure.data), picture.key
    assert opened.said == []
    assert opened.evaluate("document.documentElement.scrollWidth") == 390


@pytest.mark.browser
def test_the_table_sorts(opened: Any) -> None:
    """A heading sorts down, then up; numbers as numbers, and it says so to a screen reader."""
    shown = "[...document.querySelectorAll('table.sortable tbody th')].map(cell => cell.textContent)"
    heading = opened.get_by_role("button", name="ticker", exact=True)
    heading.click()
    assert opened.evaluate(shown) == ["AAA", EVIL]
    heading.click()
    assert opened.evaluate(shown) == [EVIL, "AAA"]
    assert opened.evaluate("document.querySelector('table.sortable th').getAttribute('aria-sort')") == "ascending"
    opened.get_by_role("button", name="Sharpe", exact=True).click()
    values = opened.evaluate(
        "[...document.querySelectorAll('table.sortable tbody tr')].map(row => Number(row.cells[4].dataset.value))"
    )
    assert values == sorted(values, reverse=True)


@pytest.mark.browser
def test_dark_and_light_have_their_colours(opened: Any) -> None:
    """Axes take the page's text colour when the reader's preference changes."""
    colours = []
    for scheme in ("light", "dark"):
        opened.emulate_media(color_scheme=scheme)
        opened.wait_for_timeout(300)
        colours.append(opened.evaluate("document.getElementById('equity').layout.font.color"))
    assert colours == ["#1c2330", "#e6e9ee"]


@pytest.mark.browser
def test_only_our_scripts_run(browser: Any, page: str, tmp_path) -> None:
    """A script or a handler that got into the page all the same is refused by the browser; the charts are drawn."""
    path = tmp_path / "page.html"
    intruder = "<script>document.title = 'taken'</script><img src=x onerror=\"document.title = 'taken'\">"
    path.write_text(page.replace("</header>", f"{intruder}</header>"), encoding="utf-8")
    tab = browser.new_page()
    tab.goto(path.as_uri())
    tab.wait_for_selector("#equity .main-svg")
    assert tab.title() != "taken"
    tab.close()


@pytest.mark.browser
@pytest.mark.parametrize("width", [400, 1280])
def test_six_runs_fit_on_a_page(browser: Any, facts, tmp_path, width: int) -> None:
    """Below 6,000 px, no sideways scrolling, and the charts of a closed part are drawn when it opens."""
    path = tmp_path / "page.html"
    path.write_text(render_html([copy(run) for run in [*facts.values()] * 2]), encoding="utf-8")
    tab = browser.new_page(viewport={"width": width, "height": 900})
    tab.goto(path.as_uri())
    tab.wait_for_selector("#equity .main-svg")
    assert tab.evaluate("document.documentElement.scrollHeight") < 6000
    assert tab.evaluate("document.documentElement.scrollWidth") == width
    assert tab.locator("#coverage .main-svg").count() == 0
    tab.locator("summary", has_text="More pictures").click()
    tab.wait_for_selector("#coverage .main-svg")
    tab.close()


@pytest.mark.browser
def test_titles_do_not_lie_on_tick_labels(opened: Any) -> None:
    """On a phone no title or heading of a chart overlaps a tick label."""
    overlaps = opened.evaluate(
        """[...document.querySelectorAll('.chart')].flatMap(chart => {
          const boxes = query => [...chart.querySelectorAll(query)].map(node => node.getBoundingClientRect());
          const titles = boxes('.xtitle, .ytitle, .annotation-text');
          const ticks = boxes('.xtick text, .ytick text');
          return titles.filter(a => ticks.some(b => a.left < b.right - 1 && b.left < a.right - 1
            && a.top < b.bottom - 1 && b.top < a.bottom - 1)).map(() => chart.id);
        })"""
    )
    assert overlaps == []
