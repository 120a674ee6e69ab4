"""The accuracy script counts right, against a service that answers by rote."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from click.testing import CliRunner

from loadtest.accuracy import main


class Rote(BaseHTTPRequestHandler):
    """Answers each picture with the labels that its own bytes list, best first; `!` is refused, `?` abstains."""

    def do_GET(self) -> None:
        labels = [{"id": f"n{row}", "label": f"N{row}"} for row in range(1, 6)]
        self._send(200, {"default": "rote"} if self.path == "/models" else {"labels": labels})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        status = 422 if body == "!" else 200
        names = body.split()
        rows = [{"id": name, "label": name.upper(), "score": 0.9} for name in names if name != "?"]
        sets = {"prediction_set": rows[:2]} if "coverage=0.9" in self.path else {}
        self._send(status, {"predictions": rows, "abstained": "?" in names} | sets)

    def _send(self, status: int, answer: dict) -> None:
        reply = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(reply)))
        self.end_headers()
        self.wfile.write(reply)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def url() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Rote) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def lay(folder: Path, bodies: dict[str, str]) -> Path:
    """Tiny ImageNet's validation part: file → content; every true class is `n1`."""
    (folder / "val" / "images").mkdir(parents=True)
    for name, body in bodies.items():
        (folder / "val" / "images" / name).write_text(body)
    (folder / "val" / "val_annotations.txt").write_text("".join(f"{name}\tn1\t0\t0\t62\t62\n" for name in bodies))
    return folder


def ask(folder: Path, url: str, *options: str) -> tuple[int, str]:
    result = CliRunner().invoke(main, ["--data", str(folder), "--url", url, *options])
    return result.exit_code, result.stdout or result.stderr


def test_the_best_and_the_five_best_are_counted(tmp_path, url):
    """Two right at once, one among the five, one not at all: 50 % and 75 %."""
    folder = lay(tmp_path, {"a": "n1 n2 n3", "b": "n1", "c": "n2 n3 n4 n5 n1", "d": "n2 n3"})
    code, output = ask(folder, url)
    assert (code, output.splitlines()[0]) == (0, "4 pictures, 0 failed: top-1 50.00%, top-5 75.00%")


def test_calibration_abstention_and_sets_are_counted(tmp_path, url):
    """Always 90 % sure, right half of the time; abstains on one that is wrong; sets of the two best."""
    folder = lay(tmp_path, {"a": "n1 n2 n3", "b": "n1 n2", "c": "n2 n1", "d": "? n2 n3"})
    code, output = ask(folder, url, "--coverage", "0.9", "--json")
    found = json.loads(output)
    assert code == 0
    assert found["calibration_error"] == pytest.approx(0.4)
    assert found["given"] == {"share": 0.75, "right": pytest.approx(2 / 3)}
    assert found["sets"] == {"held": 0.75, "labels": 2}


def test_a_refused_picture_counts_as_wrong_and_fails_the_run(tmp_path, url):
    """An accuracy over the answered pictures alone would flatter."""
    code, output = ask(lay(tmp_path, {"a": "n1", "b": "!"}), url, "--json")
    assert code == 1
    found = json.loads(output.splitlines()[-1])
    assert (found["pictures"], found["failed"], found["top1"], found["top5"]) == (2, 1, 0.5, 0.5)


def test_folders_are_classes_by_id_or_word(tmp_path, url):
    """People's own pictures lie in one folder a class."""
    for name, body in (("n1", "n1 n2"), ("N2", "n1 n2")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.png").write_text(body)
    code, output = ask(tmp_path, url)
    assert (code, output.splitlines()[0]) == (0, "2 pictures, 0 failed: top-1 50.00%, top-5 100.00%")


def test_no_service_and_no_pictures_are_said(tmp_path):
    """A run that asked nothing must not look like a result."""
    code, output = ask(lay(tmp_path / "set", {"a": "n1"}), "http://127.0.0.1:9")
    assert (code, "no service answers at http://127.0.0.1:9" in output) == (1, True)
    (tmp_path / "empty").mkdir()
    code, output = ask(tmp_path / "empty", "http://127.0.0.1:9")
    assert (code, "holds no labelled pictures" in output) == (1, True)
