"""Downloads from a server on loopback that does what servers and networks do: break off, refuse, send other bytes."""
import hashlib
import http.server
import os
import socket
import threading

import pytest

import run
from data.errors import DataError
from data.sources import fetch as module
from data.sources.fetch import SOURCES, Source, fetch

CONTENT = {"a.gz": os.urandom(200_000), "b.gz": b"small"}


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        server, name = self.server, self.path.rpartition("/")[2]
        server.asked.append((name, self.headers.get("Range")))
        data, begin = server.content.get(name), 0
        if data is None:
            return self.send_error(404)
        if server.ranges and (asked := self.headers.get("Range")):
            begin = int(asked.removeprefix("bytes=").removesuffix("-"))
            if begin >= len(data):
                return self.send_error(416)
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {begin}-{len(data) - 1}/{len(data)}")
        else:
            self.send_response(200)
        if server.length:
            self.send_header("Content-Length", str(len(data) - begin))
        self.end_headers()
        self.wfile.write(data[begin:][:server.most])
        if server.silent:
            server.released.wait(20)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    """A server whose `content`, `ranges` (may resume), `length` (says it), `most` (bytes, then it closes) and `silent` can
    be set; `asked` lists what was asked of it."""
    monkeypatch.setenv("no_proxy", "*")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.content, server.asked, server.released = dict(CONTENT), [], threading.Event()
    server.ranges, server.length, server.most, server.silent = True, True, None, False
    address = f"http://127.0.0.1:{server.server_port}/sets"
    md5 = {name: hashlib.md5(data).hexdigest() for name, data in CONTENT.items()}
    monkeypatch.setitem(SOURCES, "letters", Source("https://letters.example/", address, md5))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server
    server.released.set()
    server.shutdown()
    server.server_close()
    thread.join()


def refuse(folder, *words, **options):
    with pytest.raises(DataError) as caught:
        fetch("letters", str(folder), **options)
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


def assert_whole(folder):
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == CONTENT


def test_all_of_it(server, tmp_path):
    folder = tmp_path / "new" / "folder"
    assert fetch("letters", str(folder)) == 2
    assert_whole(folder)
    assert fetch("letters", str(folder)) == 0  # checked, not asked for again
    assert server.asked == [("a.gz", None), ("b.gz", None)]
    (folder / "b.gz").unlink()
    assert fetch("letters", str(folder)) == 1


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("length", [True, False])
def test_an_interrupted_download_goes_on(server, tmp_path, ranges, length):
    server.most, server.ranges = 120_000, ranges
    refuse(tmp_path, "the connection broke", "closed after 120,000 of 200,000 bytes", "goes on where it stopped",
           f"put a.gz of https://letters.example/ into {tmp_path} by hand")
    assert (tmp_path / "a.gz.part").read_bytes() == CONTENT["a.gz"][:120_000]
    server.most, server.length = None, length
    fetch("letters", str(tmp_path))
    assert_whole(tmp_path)
    assert server.asked[1] == ("a.gz", "bytes=120000-")


def test_without_a_length_the_checksum_tells(server, tmp_path):
    server.most, server.length = 120_000, False
    refuse(tmp_path, "MD5", "deleted; run this again")
    assert list(tmp_path.iterdir()) == []


def test_a_whole_part(server, tmp_path):
    """Killed between the last byte and the renaming."""
    (tmp_path / "a.gz.part").write_bytes(CONTENT["a.gz"])
    fetch("letters", str(tmp_path))
    assert_whole(tmp_path)


def test_a_part_of_something_else(server, tmp_path):
    (tmp_path / "a.gz.part").write_bytes(b"another file" * 100)
    refuse(tmp_path, "a.gz: what came has MD5", "deleted; run this again")
    fetch("letters", str(tmp_path))
    assert_whole(tmp_path)


def test_wrong_checksum(server, tmp_path):
    server.content["a.gz"] = b"<html>log in to this network</html>"
    refuse(tmp_path, "a.gz: what came has MD5", SOURCES["letters"].files["a.gz"], "as published")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_another(server, tmp_path):
    (tmp_path / "b.gz").write_bytes(b"mine")
    refuse(tmp_path, "b.gz: is there, but is not the published file", "move it away")
    assert (tmp_path / "b.gz").read_bytes() == b"mine" and server.asked == []


def test_not_found(server, tmp_path):
    del server.content["b.gz"]
    refuse(tmp_path, "b.gz: the server says 404 Not Found", "--from ADDRESS")
    assert [path.name for path in tmp_path.iterdir()] == ["a.gz"]


def test_no_network(server, tmp_path):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        refuse(tmp_path, "cannot be reached", "when there is a network", "by hand",
               address=f"http://127.0.0.1:{unused.getsockname()[1]}")
    refuse(tmp_path, "cannot be reached", address="http://no-such-host.invalid")
    refuse(tmp_path, "cannot be reached", address="http://[")
    refuse(tmp_path, "begins with http", address="file:///etc")


def test_silence(server, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "TIMEOUT", 0.2)
    server.most, server.silent = 1000, True
    refuse(tmp_path, "the connection broke (timed out)")


def test_disk(server, tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(b"")
    refuse(tmp_path / "file", "cannot be written: File exists")

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    refuse(tmp_path, "cannot be written: No space left on device; make room")


def test_command(server, tmp_path, capsys):
    mirror, SOURCES["letters"] = SOURCES["letters"].address, SOURCES["letters"]._replace(address="http://127.0.0.1:1/")
    assert run.main(["fetch", "letters", str(tmp_path)]) == 1
    assert "error: http://127.0.0.1:1/a.gz: cannot be reached" in capsys.readouterr().err
    assert run.main(["fetch", "letters", str(tmp_path), "--from", mirror]) == 0
    assert "all 2 files are there and whole, 2 of them new; go on with python run.py prepare" in capsys.readouterr().out
    assert run.main(["fetch", "mnist", str(tmp_path)]) == 1
    assert "there are fashion-mnist, cifar-10" in capsys.readouterr().err
