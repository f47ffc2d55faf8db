"""Debian's Chromium, without a window and without network, and what it says of a page."""

import base64
import hashlib
import html
import json
import re
import shutil
import subprocess

CHROMIUM = shutil.which("chromium")
OFFLINE = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync"),
    *("--disable-extensions", "--disable-component-update", "--disable-background-networking"),
    "--host-resolver-rules=MAP * ~NOTFOUND",
)
# At the start of the page, so that it hears of everything that follows
PROBE = """
const found = {errors: [], blocked: [], loads: []};
addEventListener("error", (event) => found.errors.push(event.message || String(event.target)), true);
addEventListener("securitypolicyviolation", (event) => found.blocked.push(event.blockedURI));
const column = () => {
  const rows = [...document.querySelector("table.sortable").tBodies[0].rows];
  return rows.map((row) => row.cells[2].textContent);
};
const size = (text) => parseFloat(getComputedStyle(text).fontSize) * text.getScreenCTM().a;
addEventListener("load", () => {
  const sort = document.querySelector("table.sortable thead th:nth-child(3) button");
  sort.click();
  found.rising = column();
  sort.click();
  found.falling = column();
  found.width = innerWidth;
  found.scrollWidth = document.documentElement.scrollWidth;
  found.text = Math.min(...[...document.querySelectorAll("svg text")].map(size).filter((x) => x > 0));
  const loads = performance.getEntriesByType("resource").map((load) => load.name);
  found.loads = loads.filter((name) => !name.startsWith("data:"));
  parent.postMessage(JSON.stringify(found), "*");
});
"""
# A window has 500 pixels at least, a frame in it any number
FRAME = """<!doctype html><pre id="probe"></pre>
<script>onmessage = (event) => { document.getElementById("probe").textContent = event.data; };</script>
<iframe src="page.html" style="width: %dpx; height: 900px; border: 0"></iframe>
"""


def look_at(page, width, folder):
    """Open a page in a frame of a width and return what PROBE finds: errors of scripts, blocked and made
    loads, widths, the smallest text of a plot, and a column of its first table sorted both ways.
    """
    digest = base64.b64encode(hashlib.sha256(PROBE.encode()).digest()).decode()
    text = page.replace("script-src ", f"script-src 'sha256-{digest}' ", 1)
    head, policy, rest = text.partition("<meta name=")
    (folder / "page.html").write_text(f"{head}<script>{PROBE}</script>{policy}{rest}")
    (folder / "frame.html").write_text(FRAME % width)
    command = [CHROMIUM, *OFFLINE, f"--user-data-dir={folder / 'profile'}", "--window-size=1400,1000"]
    address = f"file://{folder / 'frame.html'}"
    done = subprocess.run([*command, "--dump-dom", address], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(html.unescape(re.search('<pre id="probe">(.*?)</pre>', done.stdout, re.DOTALL)[1]))
