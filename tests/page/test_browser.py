"""The page in a real browser: Chromium, where this machine has it (Debian: chromium, chromium-driver)."""

import base64
import shutil

import pytest

selenium = pytest.importorskip("selenium", reason="selenium is not installed: pip install -e '.[dev]'")
from selenium.webdriver import Chrome, ChromeOptions  # noqa: E402
from selenium.webdriver.chrome.service import Service  # noqa: E402

BROWSER, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    not (BROWSER and DRIVER), reason="there is no chromium and chromedriver on this machine"
)
OPTIONS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update",
)  # fmt: skip


@pytest.fixture(scope="module")
def browser():
    options = ChromeOptions()
    options.binary_location = BROWSER
    for option in OPTIONS:
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = Chrome(options=options, service=Service(DRIVER))
    yield driver
    driver.quit()


def show(browser, page, width: int, scheme: str) -> None:
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500},
    )
    browser.get(page.as_uri())


def test_nothing_fails_and_nothing_is_asked_of_a_network(browser, merged_page):
    browser.get_log("performance")
    show(browser, merged_page, 1200, "light")
    assert browser.get_log("browser") == []
    asked = [entry["message"] for entry in browser.get_log("performance")]
    urls = [part.split('"')[0] for text in asked for part in text.split('"documentURL":"')[1:]]
    assert urls and all(url.startswith("file://") for url in urls)
    assert not any('"url":"http' in text for text in asked if "Network.requestWillBeSent" in text)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1200, 390])
def test_it_reads_on_a_desk_and_on_a_phone_in_light_and_in_dark(browser, merged_page, width, scheme):
    show(browser, merged_page, width, scheme)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    ink, paper = browser.execute_script(
        "const s = getComputedStyle(document.body); return [s.color, s.backgroundColor]"
    )
    light = [sum(map(int, color[4:-1].split(","))) for color in (ink, paper)]
    assert (light[0] < light[1]) == (scheme == "light")
    sizes = browser.execute_script(
        "return [...document.querySelectorAll('figure svg')].map((e) => [e.clientWidth, e.clientHeight])"
    )
    inside = (
        "return [...document.querySelectorAll('.gains')].every((table) => "
        "table.getBoundingClientRect().right <= table.closest('.answer').getBoundingClientRect().right)"
    )
    assert browser.execute_script(inside)
    assert len(sizes) > 20 and all(size[0] > 300 and size[1] > 100 for size in sizes)
    # What figures write is in the ink of the page.
    colors = browser.execute_script(
        "return [...document.querySelectorAll('figure svg text')].map((e) => getComputedStyle(e).fill)"
    )
    assert colors.count(ink) > len(colors) / 2
    shot = browser.execute_cdp_cmd("Page.captureScreenshot", {"format": "png"})
    assert base64.b64decode(shot["data"]).startswith(b"\x89PNG")


def test_tables_sort_by_value_and_back(browser, merged_page):
    show(browser, merged_page, 1200, "light")
    column = """
        const table = document.querySelector('#answer table');
        const at = [...table.tHead.rows[0].cells].findIndex((cell) => cell.textContent === 'tokens/s');
        %s
        return [...table.tBodies[0].rows].map((row) => parseFloat(row.cells[at].textContent.replace(',', '')))
    """
    click = "table.tHead.rows[0].cells[at].querySelector('button').click();"
    before = browser.execute_script(column % "")
    rising = browser.execute_script(column % click)
    falling = browser.execute_script(column % click)
    assert len(before) == 6 and before != rising
    assert rising == sorted(before) and falling == rising[::-1]


def test_details_open(browser, merged_page):
    show(browser, merged_page, 1200, "light")
    opened = browser.execute_script(
        "const inner = document.querySelector('.answer details'), outer = document.querySelector('#cards');"
        "for (const d of [outer, inner]) d.querySelector('summary').click();"
        "return [inner.open, inner.innerText.includes('Break-even')]"
    )
    assert opened == [True, True]
