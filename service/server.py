"""gunicorn as a library: the address, the processes, how they start, drain and end.

The master reads and checks the models and imports the code; its workers inherit both, with the memory that they take. It makes
no session: each worker loads the application for itself, after the fork.
Exit codes: 0 after SIGTERM or SIGINT, 2 where the service can't start as it is set, 1 for a fault of its own.
"""

from __future__ import annotations

import gc
import importlib
import logging
import math
import os
import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import TYPE_CHECKING, Any

from gunicorn import glogging
from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter

from service import board, cache_folder, heap, logs, metrics, planning, shelf, stages
from service import settings as names
from service.native import library
from service.planning import Plan
from service.problems import StartError
from service.settings import Settings
from service.worker import KEY, Master, Worker

if TYPE_CHECKING:
    from flask import Flask

log = logs.get(__name__)

BOOT_S = 300  # a worker's heartbeat begins when its models are loaded and proven; later only a hung process misses it
KEEPALIVE_S = 65  # longer than a balancer keeps an idle connection (60 s is usual), so that it never picks one that is closing
CONNECTIONS = 1000  # open ones, a worker; the rest waits in the kernel's queue
BACKLOG = 1024
HEAPS = 2  # of the allocator: one a thread kept what others could have used (docs/performance.md, Memory and start)
SLACK_S = 2.0  # gunicorn's loop looks about once a second
HALTING = {Arbiter.WORKER_BOOT_ERROR: 1, Arbiter.APP_LOAD_ERROR: 2}  # how a worker that can't start ends the master → our code


class Log(glogging.Logger):  # type: ignore[misc]  # gunicorn has no types
    """gunicorn's log as lines of JSON among ours; a start that failed on purpose is one line, which is ours."""

    def setup(self, cfg: Any) -> None:
        """Let everything go to the root's handler."""
        super().setup(cfg)
        for logger in (self.error_log, self.access_log):
            logger.handlers.clear()
            logger.propagate = True

    def exception(self, msg: str, *args: Any, **kwargs: Any) -> None:
        """A reason not to start needs no traceback."""
        if not isinstance(sys.exc_info()[1], StartError):
            super().exception(msg, *args, **kwargs)

    def error(self, msg: str, *args: Any, **kwargs: Any) -> None:
        """What gunicorn adds to a failed start says nothing new."""
        echo = msg.startswith(("Shutting down", "Reason")) or (msg.startswith("Worker") and args[-1] in HALTING)
        (super().debug if echo else super().error)(msg, *args, **kwargs)


class Once:
    """Something that only one of several processes does: who comes first."""

    def __init__(self) -> None:
        self._token, writer = os.pipe()
        os.set_blocking(self._token, False)
        os.write(writer, b"1")
        os.close(writer)

    def mine(self) -> bool:
        """True for the first caller only, over all processes forked from this one."""
        return bool(os.read(self._token, 1))  # empty at the pipe's end: it has no writer any more


class Service(BaseApplication):  # type: ignore[misc]  # gunicorn has no types
    """What gunicorn runs: our configuration and our application."""

    def __init__(self, settings: Settings, plan: Plan, listener: socket.socket, default: shelf.Default) -> None:
        self._settings, self._plan, self._default = settings, plan, default
        self._address = address(listener)
        self._bind = f"fd://{listener.detach()}"
        self._announced, self._complained = Once(), Once()
        super().__init__()

    def load_config(self) -> None:
        """Hand our configuration to gunicorn."""
        for name, value in configuration(self._settings, self._plan).items():
            self.cfg.set(name, value)
        self.cfg.set("bind", self._bind)
        self.cfg.set("post_worker_init", self._ready)

    def load(self) -> Flask:
        """Load the models, in the worker."""
        from service.app import create_app

        try:
            return create_app(self._settings, default=self._default)  # the same in every worker, whatever was added since
        except StartError as error:
            if self._complained.mine():
                print(f"Error: {error}", file=sys.stderr, flush=True)
            sys.exit(Arbiter.APP_LOAD_ERROR)

    def _ready(self, worker: Worker) -> None:
        _worker_ready(worker)
        if not self._announced.mine():
            return
        first = worker.wsgi.extensions[KEY].catalog.find()
        lines = [f"Quadrant serves {self._address}",
                 f"  default model     {first.name}/{first.version} ({self._default.reason})",
                 f"  provider          {first.engine.provider} ({first.engine.reason})"]
        lines += plan_lines(self._plan)
        print("\n".join(lines), flush=True)


def serve(settings: Settings) -> None:
    """Serve until told to stop.

    Raises:
        StartError: the address, a model or a setting can't be used.
        SystemExit: with the exit code.
    """
    logs.configure(settings.log_level)
    for sentence in names.unknown():
        log.warning("unknown_setting", detail=sentence)
    metrics.prepare_directory()
    plan = planning.plan(settings)
    listener = listen(settings.host, settings.port)
    stages.mark("settings")
    service = Service(settings, plan, listener, inherit(settings))
    master = os.getpid()
    try:
        Master(service).run()
    except SystemExit as end:
        if os.getpid() == master and end.code in HALTING:
            raise SystemExit(HALTING[end.code]) from None
        raise


def inherit(settings: Settings) -> shelf.Default:
    """Do once, before any fork, what each worker would do again: hash the models, import the application; the default model.

    Raises:
        StartError: a model can't be served.
    """
    heap.share(HEAPS)
    # Nothing here multiplies matrices with NumPy; its library would start a thread a core, which no fork survives.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    with ThreadPoolExecutor(1) as pool:  # hashing leaves the interpreter's lock to the imports
        checked = pool.submit(shelf.check, settings)
        importlib.import_module("service.app")
        library.configure(settings.native, cache_folder.folder(settings.packed_weights))
        library.native()  # the workers inherit it
        stages.mark("imports")
        default = checked.result()
    gc.collect()
    heap.trim()
    gc.freeze()  # the collector's marks would make workers copy the pages of what they inherit
    stages.mark("models")
    return default


def configuration(settings: Settings, plan: Plan) -> dict[str, Any]:
    """gunicorn's settings, by their names there."""
    return {
        "bind": f"[{settings.host}]:{settings.port}" if ":" in settings.host else f"{settings.host}:{settings.port}",
        "workers": plan.workers,
        "threads": plan.request_threads,
        "worker_class": Worker,
        "worker_connections": max(CONNECTIONS, 2 * plan.request_threads),
        "backlog": BACKLOG,
        "keepalive": KEEPALIVE_S,
        "timeout": BOOT_S,
        "graceful_timeout": math.ceil(settings.drain_delay_s + settings.drain_timeout_s + SLACK_S),
        "logger_class": Log,
        "loglevel": "debug" if settings.log_level == "debug" else "warning",
        "control_socket_disable": True,  # nobody asks it, and it would lie about in the working directory
        "proc_name": "quadrant",
        "on_starting": lambda arbiter: board.open_for(
            plan.workers, planning.usable_cpus(), homes=bool(plan.own_cpus) and arbiter.cfg.workers == plan.workers),
        "pre_fork": _pre_fork,
        "post_worker_init": _worker_ready,
        "child_exit": _child_exit,
    }


def for_gunicorn() -> dict[str, Any]:
    """The same for those who start gunicorn themselves, from `gunicorn.conf.py`; run in the master, before any fork.

    Raises:
        SystemExit: the settings can't be used.
    """
    sys.excepthook = _one_line
    try:
        settings = Settings.read()
        logs.configure(settings.log_level)
        metrics.prepare_directory()
        plan = planning.plan(settings)
        stages.mark("settings")
        inherit(settings)
        return configuration(settings, plan)
    except StartError as error:
        print(f"Error: {error}", file=sys.stderr)
        raise SystemExit(2) from None


def listen(host: str, port: int) -> socket.socket:
    """A bound socket; the master keeps it over the life of its workers.

    Raises:
        StartError: the address can't be had.
    """
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise StartError(f'QUADRANT_HOST is "{host}": {error.strerror}; expected an address of this machine') from error
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(place)
        listener.listen(BACKLOG)  # now, so that a second service on this port is refused here
    except OSError as error:
        listener.close()
        raise StartError(
            f"{host}:{port} can't be listened on: {error.strerror}; choose another with --port (0: a free one)") from error
    return listener


def address(listener: socket.socket) -> str:
    """`http://HOST:PORT`."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def plan_lines(plan: Plan) -> list[str]:
    """The plan for people: each number with its reason."""
    lines = []
    for name, reason in plan.reasons.items():
        number = getattr(plan, name)
        shown = f"{number // 2**20:,} MiB" if name == "decode_memory" else str(number)
        lines.append(f"  {name.replace('_', ' '):<17} {shown} ({reason})")
    return lines


def _pre_fork(_: Arbiter, worker: Worker) -> None:
    worker.row = board.take()
    if worker.age == 1:
        stages.mark("gunicorn")
    else:
        stages.restart()


def _worker_ready(worker: Worker) -> None:
    """From here on connections are taken."""
    board.seat().serve()
    stages.mark("application")
    took = stages.took()
    log.info("worker_ready", worker=worker.age, seconds=round(sum(took.values()), 3), stages=took)


def _child_exit(_: Arbiter, worker: Worker) -> None:
    board.leave(worker.row)
    metrics.mark_dead(worker.pid)
    logging.getLogger("gunicorn.error").debug("worker %s is gone", worker.pid)


def _one_line(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """What ends gunicorn's own command line: a reason not to start needs no traceback."""
    if isinstance(error, StartError):
        print(f"Error: {error}", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)
