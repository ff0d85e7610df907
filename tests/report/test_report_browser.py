"""Reports in a real browser, headless, from a disk: no errors, no requests, filters, plots, networks, keyboard, phone."""

from __future__ import annotations

import json
import os
import shutil
import time

import pytest
from patience import PATIENCE

from dlsim.report import write_report
from report import runs

FLAGS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
]


pytestmark = pytest.mark.needs("selenium")


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not os.environ.get("DLSIM_REQUIRE_BROWSER") and (chromium is None or driver is None):
        pytest.skip("needs Chromium and its driver")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    made = webdriver.Chrome(options=options, service=Service(driver))
    yield made
    made.quit()


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("browsed")
    parts = [{"seeds": [0, 1], "label": "ring", "status": [*runs.FAULTS, runs.REMARK]}]
    runs.save(folder / "runs" / "seven", runs=parts)
    long = "a very long name of a case, another very long name of a case and 25 more (5 clients of a server)"
    runs.save(folder / "runs" / "free", name="free", holds=(True,), title=f"Free {runs.EVIL}", server=long)
    return write_report([folder / "runs"], folder / "site").parent


def find(browser, selector):
    from selenium.webdriver.common.by import By

    return browser.find_element(By.CSS_SELECTOR, selector)


def opened(browser, site, name, width=1200):
    browser.set_window_size(width, 900)
    browser.get((site / name).as_uri())
    return browser


def choose(browser, selector, value):
    from selenium.webdriver.support.ui import Select

    Select(find(browser, selector)).select_by_value(value)


def shown(browser):
    cards = "[...document.querySelectorAll('.card')].filter((c) => c.offsetParent)"
    return browser.execute_script(f"return {cards}.map((c) => c.querySelector('h2').textContent)")


def curves(browser):
    return browser.execute_script(
        "return [...document.querySelectorAll('.curve')].map((c) => c.getAttribute('points'))"
    )


@pytest.mark.parametrize("name", ["index.html", "seven.html", "free.html"])
def test_pages_load_without_errors_or_requests(browser, site, name):
    browser.get_log("browser"), browser.get_log("performance")
    opened(browser, site, name)
    assert browser.get_log("browser") == []
    sent = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    addresses = [one["params"]["request"]["url"] for one in sent if one["method"] == "Network.requestWillBeSent"]
    assert addresses and all(address.startswith(("file:", "data:")) for address in addresses), addresses


def test_filters(browser, site):
    opened(browser, site, "index.html")
    assert len(shown(browser)) == 2
    find(browser, "#search").send_keys("small PAPER")
    assert shown(browser) == ["A small paper (07): what is it?"] and find(browser, "#count").text == "1 shown"
    find(browser, "#search").clear()
    find(browser, "#search").send_keys("nothing like it")
    assert shown(browser) == [] and find(browser, "#nothing").is_displayed()
    opened(browser, site, "index.html")
    choose(browser, "#verdict", "does not hold")
    assert shown(browser) == ["A small paper (07): what is it?"]
    choose(browser, "#verdict", "holds")
    assert len(shown(browser)) == 2
    choose(browser, "#kind", "experiment")
    assert shown(browser) == [f"Free {runs.EVIL}"]


def test_plots_follow_their_controls_and_show_values(browser, site):
    from selenium.webdriver.common.action_chains import ActionChains

    opened(browser, site, "seven.html")
    first = curves(browser)
    assert len(first) == 2  # a curve for each topology
    choose(browser, "#pick-1", "2")
    second = curves(browser)
    assert second[0] != first[0]
    choose(browser, "#hue", "learning_rate")
    assert len(curves(browser)) == 3
    choose(browser, "#x", "learning_rate")
    assert len(curves(browser)) == 2 and find(browser, "#hue").get_attribute("value") == "topology"
    choose(browser, "#metric", "bits_sent")
    choose(browser, "#scale", "log")
    assert curves(browser)
    choose(browser, "#metric", "accuracy")
    ActionChains(browser).move_to_element(find(browser, "#plot-svg")).perform()
    tip = find(browser, "#plot-tip")
    assert tip.is_displayed() and "learning rate" in tip.text and " to " in tip.text


def test_values_by_keyboard_are_those_of_the_run(browser, site):
    from selenium.webdriver.common.keys import Keys

    opened(browser, site, "seven.html")
    plot = find(browser, "#plot-svg")
    browser.execute_script("arguments[0].focus()", plot)
    plot.send_keys(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    # ring, rate 0.01: 20/50 * 1/3, and a hundredth more in the second seed.
    assert find(browser, "#plot-tip").text == "ring, step 20: 0.1383 (0.1333 to 0.1433)"


def test_the_network_has_a_slider_and_plays(browser, site):
    from selenium.webdriver.common.keys import Keys

    opened(browser, site, "seven.html")

    def fills():
        return browser.execute_script(
            "return [...document.querySelectorAll('#network-svg .node')].map((n) => n.getAttribute('fill'))"
        )

    slider = find(browser, "#network-step")
    assert find(browser, "#network-at").text == "40" and len(fills()) == 6
    last = fills()
    slider.send_keys(Keys.HOME)
    assert find(browser, "#network-at").text == "0" and fills() != last and len(set(fills())) == 1
    find(browser, "#network-play").click()
    assert find(browser, "#network-play").get_attribute("aria-pressed") == "true"
    deadline = time.monotonic() + PATIENCE
    while find(browser, "#network-at").text != "40" and time.monotonic() < deadline:
        time.sleep(0.1)
    assert fills() == last and find(browser, "#network-play").text == "Play"
    choose(browser, "#network-view", "1")
    assert find(browser, "#network-at").text == "40"
    before = fills()
    choose(browser, "#network-run", "5")
    assert fills() == before and len(fills()) == 6  # the rate changes nothing here
    assert "6 nodes, 5 links. Colour: distance in the first seed." in find(browser, "#network-what").text
    assert len(browser.execute_script("return [...document.querySelectorAll('#network-svg .link')]")) == 5


@pytest.mark.parametrize("name", ["index.html", "seven.html", "free.html"])
def test_a_phone_shows_everything_without_scrolling_sideways(browser, site, name):
    # Smaller than the least window that the browser allows.
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 375, "height": 740, "deviceScaleFactor": 2, "mobile": True}
    )
    try:
        browser.get((site / name).as_uri())
        width, inner = browser.execute_script("return [document.documentElement.scrollWidth, window.innerWidth]")
        assert inner == 375 and width <= 375
        if name == "index.html":
            return
        # Rows stand below each other with their headings, and nothing is cut at the edge.
        assert find(browser, "#results thead").location["x"] < 0
        places = "[...document.querySelectorAll('#results tbody td')].slice(0, 3).map((e) => e.getBoundingClientRect())"
        left, top = zip(*browser.execute_script(f"return {places}.map((box) => [box.left, box.top])"), strict=True)
        assert len(set(left)) == 1 and list(top) == sorted(set(top))
        wide = "[...document.querySelectorAll('.scroll')].filter((e) => e.scrollWidth > e.clientWidth + 1)"
        assert browser.execute_script(f"return {wide}.map((e) => e.getAttribute('aria-label'))") == []
        size = "parseFloat(getComputedStyle(document.querySelector('#plot-svg text')).fontSize)"
        scale = "document.querySelector('#plot-svg').getBoundingClientRect().width / 420"
        assert browser.execute_script(f"return {size} * {scale}") > 10  # pixels of the numbers on the axes
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_a_server_stands_among_its_clients_and_has_no_slider(browser, site):
    opened(browser, site, "free.html")
    choose(browser, "#network-view", "2")
    assert find(browser, "#network-svg .server").is_displayed() and not find(browser, "#network-step").is_displayed()
    assert find(browser, "#network-what").text == "5 clients, which exchange messages with a server."


def test_every_control_is_reached_and_named(browser, site):
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    for name, wanted in (
        ("index.html", ["search", "verdict", "kind"]),
        (
            "seven.html",
            [
                "metric",
                "x",
                "hue",
                "pick-1",
                "scale",
                "plot-svg",
                "network-view",
                "network-run",
                "network-step",
                "network-play",
            ],
        ),
    ):
        opened(browser, site, name)
        met = []
        for _ in range(40):
            ActionChains(browser).send_keys(Keys.TAB).perform()
            met.append(browser.switch_to.active_element)
            if met[-1].tag_name == "body":
                break
        ids = [element.get_attribute("id") for element in met if element.tag_name != "body"]
        assert [one for one in ids if one in wanted] == wanted
        assert met[0].get_attribute("class") == "skip"
        for element in met:
            if element.tag_name in ("input", "select", "button"):
                assert element.accessible_name, element.get_attribute("outerHTML")


def test_enter_opens_a_run(browser, site):
    from selenium.webdriver.common.keys import Keys

    opened(browser, site, "index.html")
    find(browser, '.card a[href="seven.html"]').send_keys(Keys.ENTER)
    assert browser.current_url.endswith("seven.html") and find(browser, "h1").text == "A small paper (07): what is it?"
