"""`sparsemm report --serve`: on this machine alone, and newer when the sweep is."""

import http.client
import json
import signal
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, suppress

import pytest

from sparsemm import cli
from sparsemm.report import PageOptions, serve
from sparsemm.report.serve import HOST, Live, Server, status_line, version_of
from tests.evaluation.provoking import process
from tests.report.browser import launched, opened, until
from tests.report.conftest import put


@pytest.fixture
def server(results) -> Iterator[Server]:
    live = Live(results, PageOptions())
    live.refresh()
    server = Server(live, 0)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def address(server: Server) -> str:
    return f"http://{HOST}:{server.server_address[1]}/"


def get(server: Server, path: str, **headers: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(HOST, server.server_address[1], timeout=10)
    connection.request("GET", path, headers=headers)
    answer = connection.getresponse()
    return answer.status, answer.read()


def test_two_addresses_for_this_machine_alone(server, results):
    assert server.server_address[0] == "127.0.0.1"
    status, page = get(server, "/")
    assert (status, page) == (200, server.live.page)
    status, news = get(server, "/version")
    assert json.loads(news) == {
        "version": version_of(results),
        "status": "13 of 13 cells are finished; no sweep is running.",
    }
    for path in ("/run.json", "/../run.json", "/page", "//etc/passwd"):
        assert get(server, path)[0] == 404
    assert get(server, "/", Host="evil.example:80")[0] == 403
    assert get(server, "/", Host=f"localhost:{server.server_address[1]}")[0] == 200


def test_the_version_changes_with_the_files_alone(results):
    first = version_of(results)
    assert version_of(results) == first
    put(results, "later", "adakv", 16.0, {1})
    second = version_of(results)
    assert second != first
    (results / "run.json").write_text("{}")
    assert version_of(results) != second


def test_tables_alone_are_served(results):
    for cell in (results / "cells").glob("*.json"):
        cell.unlink()
    (results / "cells").rmdir()
    assert status_line(results) == "Only tables of a finished sweep are here."


def test_a_folder_without_finished_cells_waits(tmp_path):
    live = Live(tmp_path, PageOptions())
    live.refresh()
    assert live.status == "No sweep has begun here."
    assert "No cell is finished yet." in live.page.decode()
    put(tmp_path, "first", "fullkv", None, {1})
    live.refresh()
    assert "No cell is finished yet." in live.page.decode()  # the last page is too new
    live.rest_until = 0.0
    live.refresh()
    assert "No cell is finished yet." not in live.page.decode()
    assert "these are of the 1 cells that are finished" in live.page.decode()


def test_damage_while_it_runs_is_said_and_the_page_stays(results):
    live = Live(results, PageOptions())
    live.refresh()
    page = live.page
    (results / "cells" / "broken.json").write_text("{")
    ended = threading.Event()
    threading.Timer(4, ended.set).start()
    live.follow(ended)
    assert live.page == page
    assert "broken.json is no cell's file" in live.status
    assert str(results) in live.status


def test_following_goes_on_after_an_unexpected_exception(results, monkeypatch):
    live = Live(results, PageOptions())
    monkeypatch.setattr(serve, "POLL_S", 0.05)
    raised = threading.Event()

    def broken() -> None:
        monkeypatch.setattr(live, "refresh", refresh)
        raised.set()
        raise KeyError("a fault of our own")

    refresh, ended = live.refresh, threading.Event()
    monkeypatch.setattr(live, "refresh", broken)
    thread = threading.Thread(target=live.follow, args=(ended,), daemon=True)
    thread.start()
    deadline = time.monotonic() + 120
    while not live.page and time.monotonic() < deadline:
        time.sleep(0.05)
    ended.set()
    thread.join()
    assert raised.is_set()
    assert live.page
    assert live.status.startswith("13 of 13 cells are finished")


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\nHost: ", b"GET /version HTTP/1.1\r\nX: "])
def test_clients_that_never_end_are_hung_up_on(server, monkeypatch, sent):
    """As many as are answered at a time, and more; some send a byte now and then."""
    monkeypatch.setattr(serve, "PATIENCE_S", 1.0)
    monkeypatch.setattr(serve, "CLIENTS", 8)
    before = threading.active_count()
    with ExitStack() as stack:
        clients = [
            stack.enter_context(socket.create_connection(server.server_address[:2], timeout=30))
            for _ in range(40)
        ]
        for client in clients:
            with suppress(OSError):
                client.sendall(sent)
        assert threading.active_count() <= before + 8
        for client in clients:
            for byte in (sent and b"x", b""):
                with suppress(OSError):
                    client.sendall(byte)
            with suppress(OSError):
                assert client.recv(1) == b""
        assert get(server, "/version")[0] == 200


def test_a_port_that_is_taken(server, results, capsys):
    assert cli.main(["report", str(results), "--serve", "--port", str(server.server_address[1])]) == 2
    assert "name another with --port" in capsys.readouterr().err


def test_ctrl_c_ends_cleanly(results):
    with process(["report", str(results), "--serve", "--port", "0"], results.parent) as running:
        assert running.stdout is not None
        said = running.stdout.readline()
        with urllib.request.urlopen(said.split()[0], timeout=120) as answer:
            assert answer.read().startswith(b"<!doctype html>")
        running.send_signal(signal.SIGINT)
        _, errors = running.communicate(timeout=120)
    assert running.returncode == 0
    assert errors == ""


def test_the_page_loads_itself_again_and_keeps_its_filters(server, results):
    with launched() as browser, opened(browser, address(server)) as (page, trouble):
        page.get_by_role("button", name="SparseMM", exact=True).click()
        page.select_option("#sample-show", "wrong")
        page.click("#sample-next")
        before = page.url, page.input_value("#sample-document")
        until(page, "document.querySelector('#live').textContent.startsWith('13 of 13')")
        put(results, "later", "adakv", 16.0, {1})
        server.live.rest_until = 0.0
        server.live.refresh()
        page.wait_for_selector("#summary-table tbody tr:nth-child(14)", state="attached")
        page.wait_for_selector("html[data-drawn]", state="attached")
        assert (page.url, page.input_value("#sample-document")) == before
        assert (
            page.get_by_role("button", name="SparseMM", exact=True).get_attribute("aria-pressed") == "false"
        )
        trouble.none(address(server), f"{address(server)}version")
        server.shutdown()
        server.server_close()
        until(page, "document.querySelector('#live').textContent.startsWith('The server has ended')")
