"""Whether the files that a session has mapped still hold what was checked.

A file that is replaced (written beside it and renamed, as careful copies do) is a new one; the session keeps the old. A file
that is overwritten in place changes under the session, and its answers with it: that can't be prevented, but noticed.
"""

from __future__ import annotations

import threading

from service import logs
from service.modelfile import ModelFile
from service.problems import StartError

log = logs.get(__name__)


class Intact:
    """Looks after one model whose weights are mapped.

    `problem` may be called from any thread; it waits for nothing.
    """

    def __init__(self, model: ModelFile) -> None:
        self._model = model
        self._seen = model.stamps
        self._problem: str | None = None
        self._reading = threading.Lock()

    def problem(self) -> str | None:
        """What is wrong, or `None`. A file that was touched is read again in a thread of its own; until then nothing is."""
        if self._problem is None and any(stamp.overwritten for stamp in self._seen) and self._reading.acquire(blocking=False):
            try:
                threading.Thread(target=self._read, name=f"reads {self._model.path}", daemon=True).start()
            except RuntimeError:  # no more threads now; the next look tries again
                self._reading.release()
        return self._problem

    def _read(self) -> None:
        """The thread."""
        try:
            if reason := self._difference():
                log.error("model_overwritten", reason=reason)
                place = self._model.path.parent
                self._problem = (f"the files of {place.parent.name}/{place.name} were overwritten while they are served; copy a "
                                 "model beside its place and rename it, then start the service anew")
        finally:
            self._reading.release()

    def _difference(self) -> str | None:
        try:
            now = ModelFile.open(self._model.path)
        except StartError as error:
            return str(error)
        except Exception as error:  # whatever it is: files that can't be read are not those that were checked
            log.exception("model_not_read", path=str(self._model.path))
            return repr(error)
        if now.digest != self._model.digest:
            return f"SHA-256 {now.digest}; expected {self._model.digest}"
        self._seen = now.stamps  # somebody set a time or a mode
        return None
