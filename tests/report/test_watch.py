"""The page, served: read only, to this machine alone, anew where files have changed, until Ctrl-C."""

import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import threading
import time

import pytest

import browser
from commands import manyview, one_line
from manyview.report.page import Wishes
from manyview.report.watch import Watched, open_server, serve
from pages_of_runs import Read, charts

pytest.importorskip("plotly", reason="plotly is not installed")


@pytest.fixture
def growing(runs, tmp_path):
    """A run that is not finished."""
    folder = tmp_path / "runs" / "growing"
    shutil.copytree(runs["tied"], folder, ignore=shutil.ignore_patterns("result.json", "features"))
    return folder


@contextlib.contextmanager
def served(*targets):
    """The port of a server that goes on meanwhile."""
    with open_server(Watched(targets, Wishes(samples=1)), 0) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


def asked(port, path="/", method="GET", **headers):
    """(status, headers, body) of a request."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read().decode()
    finally:
        connection.close()


def test_it_answers_reads_of_its_own_paths_by_its_own_name_alone(growing):
    with served(growing) as port:
        status, headers, body = asked(port)
        assert status == 200
        assert "default-src 'none'" in headers["Content-Security-Policy"]
        assert "connect-src 'self'" in headers["Content-Security-Policy"]
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert "Access-Control-Allow-Origin" not in headers
        assert "<h1>two views of digits</h1>" in body
        assert asked(port, method="HEAD")[2] == ""
        assert asked(port, method="HEAD")[1]["Content-Length"] == headers["Content-Length"]
        assert asked(port, Host=f"localhost:{port}")[0] == 200
        for name in (
            "evil.example",
            f"evil.example:{port}",
            "127.0.0.1",
            "127.0.0.1:1",
            f"localhost:{port}.evil.example",
            "",
        ):
            assert asked(port, Host=name)[0] == 421, name
        for path in (
            "/recipe.yaml",
            "/../../etc/passwd",
            "/%2e%2e/recipe.yaml",
            "/main/",
            "/?x",
            f"{growing}/recipe.yaml",
        ):
            status, _, body = asked(port, path)
            assert (status, body) == (404, "404 Not Found\n"), path
        for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "x"):
            status, headers, _ = asked(port, method=method)
            assert (status, headers["Allow"]) == (405, "GET, HEAD"), method
        with socket.create_connection(("127.0.0.1", port), timeout=30) as raw:  # a request that names no host, or two
            raw.sendall(b"GET / HTTP/1.0\r\n\r\n")
            assert raw.recv(100).startswith(b"HTTP/1.1 421 ")


def test_it_is_made_anew_where_files_have_changed(growing):
    with served(growing.parent) as port:
        status, headers, body = asked(port, "/main")
        mark = headers["ETag"]
        assert charts(body)["run-lr"]
        assert len(Read(body).scripts) == 1
        assert asked(port, "/main", **{"If-None-Match": mark})[::2] == (304, "")
        with (growing / "metrics.jsonl").open("a") as file:
            file.write(json.dumps({"step": 12, "epoch": 4.0, "loss": 0.125}) + "\n")
        status, headers, body = asked(port, "/main", **{"If-None-Match": mark})
        assert status == 200
        assert headers["ETag"] != mark
        assert charts(body)["run-loss"]["data"][0]["y"][-1] == 0.125
        assert "Answers of the network come when the run is finished." in Read(body).text
        shutil.copytree(growing, growing.parent / "later")  # a run that begins while it is served
        body = asked(port, "/main")[2]
        assert {trace["name"] for trace in charts(body)["side-0"]["data"]} == {
            folder.as_posix() for folder in (growing, growing.parent / "later")
        }
        (growing / "recipe.yaml").write_text("a: [")
        status, _, body = asked(port, "/main")
        assert (status, "recipe.yaml" in Read(body).text) == (200, True)
        shutil.rmtree(growing.parent)
        assert "is not there" in Read(asked(port, "/main")[2]).text


def test_ctrl_c_ends_it(growing):
    told = []

    def begun(place):
        told.append(place)
        threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()

    began, found = (
        time.monotonic(),
        signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # a shell's background has none
    try:
        serve([growing], Wishes(), 0, begun)
    finally:
        signal.signal(signal.SIGINT, found)
    assert time.monotonic() - began < 20
    port = int(told[0].rpartition(":")[2].rstrip("/"))
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", port), timeout=1)


def test_what_cannot_be_served_is_one_line(growing, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"--port {port}: Address already in use" in one_line(*manyview("watch", growing, "--port", port))
    assert "nothing can be changed but" in one_line(*manyview("watch", growing, "seed=1"))
    assert "is not there; give a folder with runs in it" in one_line(*manyview("watch", tmp_path / "nosuch"))


@pytest.mark.skipif(browser.FOUND is None, reason="no Chromium is here (chromium or google-chrome, or $CHROMIUM)")
@pytest.mark.slow(reason="starts a browser, and waits until it asks again")
def test_the_page_follows_the_run(growing, tab):
    last = "document.querySelector('[data-chart=run-loss]').data[0].y.at(-1)"
    with served(growing) as port:
        tab.said.clear()
        tab.see(390)
        tab.open(f"http://127.0.0.1:{port}/")
        tab.value("document.getElementById('run-loss-numbers').open = true")
        with (growing / "metrics.jsonl").open("a") as file:
            file.write(json.dumps({"step": 12, "epoch": 4.0, "loss": 0.125}) + "\n")
        tab.wait(f"{last} === 0.125")
        assert tab.value("document.getElementById('run-loss-numbers').open")
        assert tab.value("document.getElementById('status').textContent") == "Up to date."
        assert tab.value("document.documentElement.scrollWidth") == 390
        tab.call("Page.navigate", url="about:blank")
    assert [line for line in tab.said if not line.startswith(f"asks http://127.0.0.1:{port}/")] == []
