"""Opens a page in a browser; fails if that takes more than two seconds of the processor: `PAGE`.

Seconds are of the processor, as other programs may have it, from the begin of loading until all is shown.
"""

import shutil
import sys
from pathlib import Path

MOST_SECONDS = 2.0


def main(page: Path) -> int:
    """Print how long it takes, or how large the page is where there is no browser."""
    size = f"{page.stat().st_size / 1e6:.1f} MB"
    browser = shutil.which("chromium")
    if browser is None:
        print(f"{size}; no chromium here, so it was not opened")
        return 0
    from playwright.sync_api import sync_playwright

    with sync_playwright() as tools:
        opened = tools.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        shown = opened.new_page(viewport={"width": 1280, "height": 800})
        session = shown.context.new_cdp_session(shown)
        session.send("Performance.enable", {"timeDomain": "threadTicks"})
        shown.goto(page.absolute().as_uri())
        # Two frames later, what was loaded has been drawn.
        shown.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
        metrics = {each["name"]: each["value"] for each in session.send("Performance.getMetrics")["metrics"]}
        opened.close()
    seconds = metrics["TaskDuration"]
    print(f"{size}, {seconds:.2f} s until it is drawn")
    return int(seconds > MOST_SECONDS)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
