"""Visits the pages of a site in a headless browser and returns what is wrong with them.

A page of this file's own opens each page in a frame, at the width of a desktop and of a phone,
examines it from inside and posts what it found to a server of this process.
"""

import functools
import http.server
import json
import queue
import subprocess
import tempfile
import threading
from pathlib import Path

LIMIT = 300  # seconds
FAULTS = """<!doctype html><title>checks</title><body><script>
const pages = PAGES, widths = [1280, 390], found = {};
const sleep = (ms) => new Promise((done) => setTimeout(done, ms));
const absent = {};  // address -> what is missing there, or "": each is asked for once
const parse = (text) => new DOMParser().parseFromString(text, "text/html");
const documents = {};

async function missing(link) {
  const [address, anchor] = link.split("#");
  if (!(address in documents)) {
    const answer = await fetch(address);
    const isPage = (answer.headers.get("content-type") || "").includes("html");
    documents[address] = !answer.ok ? null : isPage ? parse(await answer.text()) : true;
  }
  const there = documents[address];
  if (there === null) return true;
  return there !== true && anchor && !there.getElementById(decodeURIComponent(anchor));
}

function text(document) {  // what is read, without code
  const copy = document.querySelector("article").cloneNode(true);
  copy.querySelectorAll("pre, code, script, style, math").forEach((part) => part.remove());
  return copy.textContent;
}

async function visit(page, width) {
  const frame = document.createElement("iframe");
  frame.style = `width:${width}px;height:900px;border:0`;
  const errors = found[page].errors;
  const loaded = new Promise((done) => { frame.onload = done; });
  frame.src = "/" + page + (page === "search.html" ? "?q=antithetic" : "");
  document.body.append(frame);
  await loaded;
  const inside = frame.contentDocument, view = frame.contentWindow;
  if (page === "search.html") {
    for (let i = 0; i < 100 && !inside.querySelector("#search-results li"); i++) await sleep(100);
    if (!inside.querySelector("#search-results li")) errors.push("nothing found");
  } else if (!inside.querySelector("h1")) errors.push("no heading");
  if (!inside.styleSheets.length) errors.push("no style");
  for (const image of inside.images) {
    image.loading = "eager";
    await image.decode().catch(() => errors.push("picture " + image.getAttribute("src")));
  }
  const scrolls = (part) => part && !part.matches(".content")
    && (/auto|scroll/.test(view.getComputedStyle(part).overflowX) || scrolls(part.parentElement));
  for (const part of inside.querySelectorAll("article :not(math *)")) {
    const excess = part.getBoundingClientRect().right - width;
    const what = `${width}: ${excess} px of ${part.tagName} ${part.textContent.slice(0, 80)}`;
    if (excess > 1 && !scrolls(part)) found[page].wide.push(what);
  }
  if (width > 1000) {
    for (const block of inside.querySelectorAll("article div.highlight pre")) {
      const excess = block.clientWidth ? block.scrollWidth - block.clientWidth : 0;
      if (excess > 1 && !block.closest(".output"))
        found[page].wide.push(`${excess} px: ${block.textContent.slice(0, 200)}`);
    }
    for (const formula of inside.querySelectorAll("math")) {
      found[page].formulas += 1;
      const box = formula.getBoundingClientRect();
      const hidden = formula.closest("details:not([open])");
      if (!hidden && (!box.width || !box.height)) found[page].raw.push(formula.textContent);
      if (formula.querySelector("merror")) found[page].raw.push(formula.textContent);
    }
    const raw = text(inside).match(/\\$[^$\\n]+\\$|\\\\(frac|sum|theta|rho|mathbb)\\b|:math:/g);
    found[page].raw.push(...(raw || []));
    const links = new Set([...inside.querySelectorAll("a[href]")].map((link) => link.href));
    for (const link of links) {
      if (link.startsWith(location.origin) && await missing(link)) found[page].links.push(link);
    }
  }
  frame.remove();
}

(async () => {
  for (const page of pages) {
    found[page] = { errors: [], links: [], raw: [], wide: [], formulas: 0 };
    for (const width of widths) {
      await visit(page, width).catch((error) => found[page].errors.push(String(error)));
    }
  }
  await fetch("/found", { method: "POST", body: JSON.stringify(found) });
})();
</script>"""


def visit(browser: str, site: Path, pages: list[str]) -> dict[str, dict]:
    """Returns page -> "errors", "links", "raw", "wide": lists of faults; "formulas": a number."""
    answers = queue.Queue()
    checks = FAULTS.replace("PAGES", json.dumps(pages), 1).encode()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def do_GET(self):
            if self.path != "/checks":
                return super().do_GET()
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.end_headers()
            return self.wfile.write(checks)

        def do_POST(self):
            length = int(self.headers["Content-Length"])
            answers.put(json.loads(self.rfile.read(length)))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_):
            pass

    handler = functools.partial(Handler, directory=site)
    with (
        http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server,
        tempfile.TemporaryDirectory() as profile,
    ):
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/checks"
        options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}"]
        options += ["--remote-debugging-port=0", "--window-size=1400,1000"]  # stays open
        with subprocess.Popen(
            [browser, *options, address], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as process:
            try:
                return answers.get(timeout=LIMIT)
            finally:
                process.terminate()
                process.wait()
                server.shutdown()
