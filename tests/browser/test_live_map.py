"""The live map in a real Chromium: `make test-browser`."""

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.outside import DEADLINE, until

webdriver = pytest.importorskip("selenium.webdriver", reason="pip install selenium")
CHROMIUM, DRIVER = (shutil.which(name) for name in ("chromium", "chromedriver"))

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="no chromium and chromedriver: apt-get install chromium-driver"),
]

EXAMPLE = Path(__file__).parents[2] / "examples" / "flask_live_map"


def run(script, *arguments, database):
    """Start a script of the example."""
    return subprocess.Popen(
        [sys.executable, EXAMPLE / script, *arguments],
        env={**os.environ, "AIRPORTS_DB": str(database), "PYTHONPATH": str(EXAMPLE.parents[1])},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


class Site:
    """The example's server, which can be killed and started again on its port."""

    def __init__(self, database):
        self.database = database
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.start()

    def start(self):
        self.process = run("app.py", "--port", str(self.port), database=self.database)
        self.url = self.process.stdout.readline().strip()

    def kill(self):
        self.process.kill()
        self.process.communicate()

    def imports(self, *arguments):
        """Run the importer to its end."""
        with run("importer.py", *arguments, database=self.database) as importer:
            printed, _ = importer.communicate(timeout=DEADLINE)
        assert importer.returncode == 0
        return printed


@pytest.fixture
def site(tmp_path):
    site = Site(tmp_path / "airports.db")
    yield site
    site.kill()


@pytest.fixture
def page(site):
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1280,800"):
        options.add_argument(argument)
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    driver.get(site.url)
    yield Map(driver)
    severe = [entry["message"] for entry in driver.get_log("browser") if entry["level"] == "SEVERE"]
    errors = [message for message in severe if "ERR_" not in message]  # those are of the killed server
    driver.quit()
    assert not errors


class Map:
    """What a person sees on the page."""

    def __init__(self, driver):
        self.driver = driver
        self.until("status", "live")

    def text(self, id_):
        return self.driver.find_element("id", id_).text

    def until(self, id_, text):
        until(lambda: self.text(id_) == text, f"{id_} is {text}, not {self.text(id_)!r},")

    def colours(self):
        """How many points of each kind are drawn."""
        return self.driver.execute_script(
            "const c = document.getElementById('map'), d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;"
            "let yellow = 0, green = 0;"
            "for (let i = 0; i < d.length; i += 4) {"
            " if (d[i] > 150 && d[i + 2] < 130) yellow++; if (d[i] < 160 && d[i + 1] > 200) green++; }"
            "return [yellow, green]"
        )

    def logged(self):
        return [row.text for row in self.driver.find_elements("css selector", "#log li")]


def test_airports_appear_when_they_are_committed_and_not_when_they_are_rolled_back(site, page):
    assert page.colours() == [0, 0]
    assert site.imports("--rate", "0", "--limit", "50", "--rollback") == "50 airports written and rolled back\n"
    site.imports("--rate", "0", "--limit", "40")
    page.until("total", "40")
    assert len(page.logged()) == 40
    assert page.colours()[0] > 40
    assert page.text("lag").endswith("ms")


def test_the_page_goes_on_after_the_server_was_killed_and_misses_nothing(site, page):
    site.imports("--rate", "0", "--limit", "30")
    page.until("total", "30")
    site.kill()
    page.until("status", "reconnecting")
    site.imports("--rate", "0", "--limit", "25")
    site.start()
    page.until("total", "55")
    page.until("status", "live")
    assert len(page.logged()) == 55  # by events, not by loading the page anew
    assert len(set(page.logged())) == 55


def test_a_page_that_is_opened_later_shows_what_is_there(site, page):
    site.imports("--rate", "0", "--limit", "200")
    page.driver.refresh()
    page.until("total", "200")
    assert page.logged() == []


def test_a_country_is_chosen_by_the_keyboard(site, page):
    site.imports("--rate", "0", "--limit", "200")
    page.until("total", "200")
    keys = webdriver.Keys
    first = page.driver.find_element("css selector", "#ranking button")
    page.driver.switch_to.active_element.send_keys(keys.TAB)
    until(lambda: page.driver.switch_to.active_element == first, "Tab leads to the first country")
    first.send_keys(keys.ENTER)
    assert first.get_attribute("aria-pressed") == "true"
    assert page.colours()[1] > 0
    first.send_keys(keys.ESCAPE)
    assert first.get_attribute("aria-pressed") == "false"
    assert page.colours()[1] == 0


def test_on_a_phone_nothing_is_wider_than_the_screen(site, page):
    page.driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}
    )
    site.imports("--rate", "0", "--limit", "100")
    page.until("total", "100")
    assert page.driver.execute_script("return document.documentElement.scrollWidth") == 390
    assert page.colours()[0] > 100
