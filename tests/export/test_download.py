"""Downloads end in the right file or in none; what has arrived isn't asked for twice."""

from __future__ import annotations

import fcntl
import hashlib
import random
import socket
import threading

import pytest

from export import download
from tests.export.delivery import Server, serving

CONTENT = random.Random(1).randbytes(700_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def server():
    """Delivers `CONTENT` at `server.url`."""
    with serving(Server(CONTENT)) as running:
        yield running


def files(cache):
    """All files of the cache, by name."""
    return sorted(file.name for file in cache.rglob("*") if file.is_file())


def begun(cache, content):
    """A file that an earlier run left half-way."""
    part = download.place(cache, "net.pth.part", SHA256)
    part.parent.mkdir(parents=True)
    part.write_bytes(content)
    return part


def test_a_file_comes_once(server, tmp_path):
    """The second run needs no network."""
    first = download.download(server.url, tmp_path, SHA256)
    assert (first.read_bytes(), files(tmp_path)) == (CONTENT, ["net.pth"])
    assert download.download(server.url, tmp_path, SHA256[:8]) == first
    assert server.asked == [None]


def test_a_broken_connection_is_taken_up_where_it_ended(server, tmp_path):
    """A network that drops for a moment costs no megabyte twice."""
    server.cuts = [20 * download.CHUNK, 10 * download.CHUNK + 5]
    assert download.download(server.url, tmp_path, SHA256).read_bytes() == CONTENT
    assert server.asked == [None, f"bytes={20 * download.CHUNK}-", f"bytes={30 * download.CHUNK}-"]


def test_an_interrupted_run_is_resumed(server, tmp_path):
    """Ctrl-C, or a machine that went to sleep."""
    begun(tmp_path, CONTENT[:400_000])
    assert download.download(server.url, tmp_path, SHA256).read_bytes() == CONTENT
    assert (server.asked, files(tmp_path)) == (["bytes=400000-"], ["net.pth"])


def test_a_server_without_ranges_sends_all_of_it_again(server, tmp_path):
    """It answers 200; appending that would spoil the file."""
    server.ranges = False
    begun(tmp_path, CONTENT[:400_000])
    assert download.download(server.url, tmp_path, SHA256).read_bytes() == CONTENT
    assert server.asked == ["bytes=400000-"]


def test_a_part_that_is_the_whole_is_taken(server, tmp_path):
    """The machine stopped between the last byte and the renaming; the server answers 416."""
    begun(tmp_path, CONTENT)
    assert download.download(server.url, tmp_path, SHA256).read_bytes() == CONTENT
    assert files(tmp_path) == ["net.pth"]


@pytest.mark.parametrize("had", [pytest.param(b"", id="fresh"), pytest.param(b"other" * 1000, id="resumed")])
def test_another_file_is_refused_and_removed(server, tmp_path, had):
    """Never left where the next run would take it, or go on with it."""
    begun(tmp_path, had)
    server.content = had + CONTENT[len(had) :] if had else CONTENT[::-1]
    with pytest.raises(download.WrongBytes) as caught:
        download.download(server.url, tmp_path, SHA256)
    found = hashlib.sha256(server.content).hexdigest()
    host = server.url.split("/")[2]
    assert str(caught.value) == (
        f"{host} sent a net.pth with SHA-256 {found[:16]}…; expected {SHA256[:16]}…: the file has been removed"
    )
    assert files(tmp_path) == []


def test_a_damaged_file_of_the_cache_is_fetched_anew(server, tmp_path):
    """Disks forget."""
    file = download.download(server.url, tmp_path, SHA256)
    file.write_bytes(CONTENT[:-1] + b"?")
    assert download.download(server.url, tmp_path, SHA256).read_bytes() == CONTENT


def test_what_keeps_breaking_off_is_given_up_and_kept(server, tmp_path):
    """Bytes that came are there for the next run."""
    server.cuts = [6 * download.CHUNK] * 9
    with pytest.raises(download.Undelivered, match=r"broke off 5 times .*; 491,520 bytes of net\.pth are kept"):
        download.download(server.url, tmp_path, SHA256)
    assert files(tmp_path) == ["net.pth.part"]
    server.cuts = []
    assert download.download(server.url, tmp_path, SHA256).read_bytes() == CONTENT
    assert server.asked[-1] == "bytes=491520-"


def test_offline_is_told_in_one_line(tmp_path):
    """Which host, and why; not forty lines of traceback."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        host = f"127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(download.Undelivered) as caught:
            download.download(f"http://{host}/net.pth", tmp_path, SHA256)
    assert str(caught.value) == f"{host} can't be reached (Connection refused); expected net.pth from it"
    assert files(tmp_path) == []


def test_an_unknown_host_is_told_in_one_line(tmp_path, monkeypatch):
    """What a machine without internet says."""

    def unresolved(*_, **__):
        raise socket.gaierror(-3, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", unresolved)
    begun(tmp_path, CONTENT[:1000])
    with pytest.raises(download.Undelivered) as caught:
        download.download("https://somewhere.invalid/models/net.pth", tmp_path, SHA256)
    assert str(caught.value) == (
        "somewhere.invalid can't be reached (Temporary failure in name resolution); expected net.pth from it; "
        "1,000 bytes of it are kept: run the command again to go on"
    )


def test_a_silent_server_is_left(server, tmp_path):
    """It took the connection and says nothing."""
    server.silent = threading.Event()
    with pytest.raises(download.Undelivered, match=r"can't be reached \(no answer within 0\.2 s\)"):
        download.download(server.url, tmp_path, SHA256, timeout_s=(0.2, 0.2))


@pytest.mark.parametrize("status", [404, 403, 500])
def test_an_answer_without_the_file_is_refused(server, tmp_path, status):
    """Its page about the error isn't the file."""
    server.status = status
    with pytest.raises(download.Undelivered, match=rf"127\.0\.0\.1:\d+ answered {status} .*; expected net\.pth from it"):
        download.download(server.url, tmp_path, SHA256)
    assert not download.place(tmp_path, "net.pth", SHA256).exists()


def test_a_full_disk_leaves_no_file(server, tmp_path):
    """/dev/full refuses every byte, as a full disk does."""
    part = download.place(tmp_path, "net.pth.part", SHA256)
    part.parent.mkdir(parents=True)
    part.symlink_to("/dev/full")
    with pytest.raises(download.Undelivered, match=r"net\.pth\.part can't be written \(No space left on device\)"):
        download.download(server.url, tmp_path, SHA256)
    assert not part.with_name("net.pth").exists()


def test_two_at_once_do_not_mix(server, tmp_path):
    """Both would append to the same file."""
    with begun(tmp_path, b"").open("ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(download.Undelivered, match="is being written by another fetch"):
            download.download(server.url, tmp_path, SHA256)
    assert server.asked == []


@pytest.mark.parametrize("url", ["ftp://host/net.pth", "file:///etc/passwd", "net.pth", "http://", "http://[::1/net.pth", ""])
def test_only_http_is_spoken(tmp_path, url):
    """A path typed by mistake gets an answer that helps."""
    with pytest.raises(download.Undelivered, match="expected one that begins with https:// or http://"):
        download.download(url, tmp_path, SHA256)
    assert files(tmp_path) == []


@pytest.mark.parametrize("sha256", ["", "7be5be7", "7be5be79.", "g" * 8, "0" * 65])
def test_a_hash_has_eight_digits_at_least(tmp_path, sha256):
    """Less would prove nothing."""
    with pytest.raises(ValueError, match="expected the first 8 to 64 of its hexadecimal digits"):
        download.download("http://127.0.0.1/net.pth", tmp_path, sha256)


def test_passwords_stay_where_they_are(server, tmp_path):
    """Addresses of mirrors hold tokens; messages and model files are passed on."""
    server.status = 404
    url = server.url.replace("//", "//me:secret@") + "?token=secret"
    with pytest.raises(download.Undelivered) as caught:
        download.download(url, tmp_path, SHA256)
    assert "secret" not in str(caught.value)
    assert download.without_password(url) == server.url


def test_a_name_of_dots_stays_inside_the_cache(tmp_path):
    """The name comes out of an address."""
    assert download.place(tmp_path, "..", SHA256) == tmp_path / SHA256[:8] / "weights"
