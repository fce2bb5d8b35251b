"""Fetching from a local server: resumed after a broken connection, checked, unpacked; and the table of origins."""

import hashlib
import http.server
import io
import tarfile
import threading
import zipfile

import pytest

from rembert_jax.xtreme import origins
from rembert_jax.xtreme.benchmark import TASKS
from rembert_jax.xtreme.origins import FetchError, Origin

CONTENT = bytes(range(256)) * 400


def zipped(name, data):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(name, data)
    return file.getvalue()


def tarred(name, data):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        info = tarfile.TarInfo(name)
        info.size = len(data)
        archive.addfile(info, io.BytesIO(data))
    return file.getvalue()


class Server(http.server.BaseHTTPRequestHandler):
    """Serves `files`; of the first `breaks` requests only a part, though it announces the whole."""

    files: dict[str, bytes]
    breaks: int
    ranges: bool
    requests: list[str]

    def do_GET(self):
        type(self).requests.append(self.headers.get("Range", ""))
        data = self.files.get(self.path.partition("?")[0])
        if data is None:
            self.send_error(404, "Gone")
            return
        start = (
            int(self.headers["Range"].removeprefix("bytes=").removesuffix("-"))
            if "Range" in self.headers and self.ranges
            else 0
        )
        if start and start >= len(data):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        if type(self).breaks > 0:
            type(self).breaks -= 1
            self.wfile.write(data[start : start + (len(data) - start) // 2])
            self.close_connection = True
        else:
            self.wfile.write(data[start:])

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    handler = type("Handler", (Server,), {"files": {"/data.bin": CONTENT}, "breaks": 0, "ranges": True, "requests": []})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        handler.address = f"http://127.0.0.1:{running.server_port}"
        yield handler
        running.shutdown()


DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest.mark.parametrize(("ranges", "requests"), [(True, 3), (False, 3)])
def test_broken_connections_are_gone_on_with(server, tmp_path, ranges, requests):
    server.breaks, server.ranges = 2, ranges
    origins.download(f"{server.address}/data.bin", tmp_path / "data.bin", DIGEST)
    assert (tmp_path / "data.bin").read_bytes() == CONTENT and not (tmp_path / "data.bin.partial").exists()
    assert len(server.requests) == requests
    half = len(CONTENT) // 2
    assert server.requests[1] == f"bytes={half}-", "asked for the rest, whether or not the host can send it"


def test_a_later_command_goes_on_where_one_gave_up(server, tmp_path):
    server.breaks = origins.ATTEMPTS
    with pytest.raises(
        FetchError, match=r"the connection ended early \(after [\d,]+ bytes, 5 times\); the same command goes on"
    ):
        origins.download(f"{server.address}/data.bin", tmp_path / "data.bin", DIGEST)
    left = (tmp_path / "data.bin.partial").stat().st_size
    assert 0 < left < len(CONTENT)
    origins.download(f"{server.address}/data.bin", tmp_path / "data.bin", DIGEST)
    assert server.requests[-1] == f"bytes={left}-" and (tmp_path / "data.bin").read_bytes() == CONTENT


def test_a_file_that_is_complete_but_was_not_renamed_is_not_fetched_again(server, tmp_path):
    (tmp_path / "data.bin.partial").write_bytes(CONTENT)
    origins.download(f"{server.address}/data.bin", tmp_path / "data.bin", DIGEST)
    assert (tmp_path / "data.bin").read_bytes() == CONTENT


def test_another_checksum_is_refused_and_the_file_not_kept(server, tmp_path):
    with pytest.raises(FetchError, match=f"sha256 is {DIGEST}, expected 00; the file has changed, it was not kept"):
        origins.download(f"{server.address}/data.bin", tmp_path / "data.bin", "00")
    assert not list(tmp_path.iterdir())


def test_hosts_that_refuse_or_do_not_answer_are_named(server, tmp_path):
    with pytest.raises(
        FetchError, match=r"/absent: the host answers 404 Gone; look for the file elsewhere and put it at"
    ):
        origins.download(f"{server.address}/absent", tmp_path / "a")
    with pytest.raises(FetchError, match=r"http://127\.0\.0\.1:1/x: .*refused.* put the file at"):
        origins.download("http://127.0.0.1:1/x", tmp_path / "a")


def test_archives_are_unpacked_once_and_stay_in_their_folder(server, tmp_path):
    server.files |= {
        "/a.zip": zipped("in/a.txt", b"zip"),
        "/b.tar.gz": tarred("b.txt", b"tar"),
        "/c.tgz": tarred("../c", b"x"),
    }
    origin = Origin(((f"{server.address}/a.zip?dl=1", ""), (f"{server.address}/b.tar.gz", "")), "free")
    assert [path.name for path in origins.fetch(origin, tmp_path)] == ["a.zip", "b.tar.gz"]
    assert (tmp_path / "in" / "a.txt").read_bytes() == b"zip" and (tmp_path / "b.txt").read_bytes() == b"tar"
    server.files["/panx.tar"] = tarred("panx/de.tar.gz", tarred("test", b"de:x\tO\n"))
    origins.fetch(Origin(((f"{server.address}/panx.tar", ""),), "free"), tmp_path / "panx")
    assert (tmp_path / "panx" / "de" / "test").read_bytes() == b"de:x\tO\n", "where prepare looks for it"
    count = len(server.requests)
    origins.fetch(origin, tmp_path)
    assert len(server.requests) == count
    with pytest.raises(FetchError, match=r"c\.tgz cannot be unpacked .*fetch it again"):
        origins.fetch(Origin(((f"{server.address}/c.tgz", ""),), "free"), tmp_path / "folder")
    assert not (tmp_path / "c").exists()


def test_every_task_has_an_origin_and_every_checksum_is_one():
    known = origins.origins()
    assert set(TASKS) <= set(known)
    for origin in known.values():
        assert origin.files and origin.licence
        assert all(
            address.startswith("https://") and (not digest or len(digest) == 64) for address, digest in origin.files
        )
    assert len(known["tatoeba"].files) == 72 and len(known["xquad"].files) == 11 and len(known["bucc2018"].files) == 8
