"""`models/` → named, versioned classifiers, each proven on its golden examples before it is ready.

Made in the process that serves, after any fork: sessions and threads don't survive one.
"""

from __future__ import annotations

import atexit
import os
import platform
import time

import onnxruntime

from service import __version__, logs, shelf
from service.admission import Admission
from service.batching import Batcher
from service.classifier import Classifier
from service.engine import Engine, EngineFault
from service.metrics import BUILD_INFO, MODEL_READY
from service.modelfile import ModelFile
from service.planning import Plan, plan
from service.problems import NotReady, StartError, UnknownModel
from service.settings import Settings
from service.shelf import Place

log = logs.get(__name__)

FORKED = "the models were loaded before a fork: let each worker load the application (gunicorn without --preload)"


class Catalog:
    """All models of one process.

    Attributes:
        default: name of the model that answers when none is asked for.
        plan: the numbers that it runs with.
    """

    def __init__(self, classifiers: list[Classifier], default: str, planned: Plan) -> None:
        """Arrange classifiers that are proven; `load` makes them from a folder."""
        self.default, self.plan = default, planned
        self._by_name: dict[str, dict[int, Classifier]] = {}
        for each in classifiers:
            self._by_name.setdefault(each.name, {})[int(each.version)] = each
        self._process = os.getpid()
        self._draining = False
        atexit.register(self.close)

    @classmethod
    def load(cls, settings: Settings, planned: Plan | None = None, only_default: bool = False) -> Catalog:
        """Load, prove and warm every version of every model in the folder.

        Args:
            settings: where they are, which is the default, where the engine runs.
            planned: the numbers; planned here unless given.
            only_default: of the default model alone.
        Raises:
            StartError: one of them can't be served as it is.
        """
        planned = planned or plan(settings)
        found = shelf.places(settings.models)
        default = shelf.choose(found, settings)
        first = shelf.latest(found, default.name)
        if only_default:
            found = [place for place in found if place.name == default.name]
        admission = Admission(planned)
        classifiers: list[Classifier] = []
        try:
            for place in found:
                model = ModelFile.open(place.path)
                if place == first:
                    shelf.check_digest(model, settings)
                classifiers.append(_classifier(place, model, settings, planned, admission))
        except BaseException:
            for each in classifiers:
                each.batcher.close()
            raise
        catalog = cls(classifiers, default.name, planned)
        log.info("models_ready", default=default.name, reason=default.reason, models=[f"{p.name}/{p.version}" for p in found])
        BUILD_INFO.labels(__version__, platform.python_version(), onnxruntime.__version__, catalog.find().engine.provider).set(1)
        catalog.ready()
        return catalog

    def find(self, name: str | None = None, version: str | None = None) -> Classifier:
        """The classifier of this name and version; the default model, the highest version where not given.

        Raises:
            UnknownModel: there is none; says which there are.
        """
        name = name or self.default
        if name not in self._by_name:
            raise UnknownModel(f'there is no model "{name}"; there is {", ".join(sorted(self._by_name))}',
                               model=name, models=sorted(self._by_name))
        versions = self._by_name[name]
        if not version:
            return versions[max(versions)]
        if not shelf.VERSION.fullmatch(version) or int(version) not in versions:
            there = [str(number) for number in sorted(versions)]
            raise UnknownModel(f'{name} has no version "{version}"; it has {", ".join(there)}',
                               model=name, version=version, versions=there)
        return versions[int(version)]

    def models(self) -> list[Classifier]:
        """All of them, by name, then version."""
        return [versions[number] for _, versions in sorted(self._by_name.items()) for number in sorted(versions)]

    def ready(self) -> tuple[bool, list[str]]:
        """Whether requests should be sent here, and if not, why not. Cheap; waits for nothing."""
        reasons = []
        if self._draining:
            reasons.append("the service is about to stop")
        if self._process != os.getpid():
            reasons.append(FORKED)
        for each in self.models():
            alive = each.ready
            MODEL_READY.labels(each.name, each.version).set(alive and not reasons)
            if not alive:
                reasons.append(each.batcher.end or f"the batch thread of {each.name} has died")
        return not reasons, reasons

    def require(self) -> None:
        """Refuse what can't be answered in this process; a drain is no reason, for it still serves.

        Raises:
            NotReady: the models were loaded before a fork.
        """
        if self._process != os.getpid():
            raise NotReady(FORKED)

    def begin_drain(self) -> None:
        """From now on unready; requests are served on."""
        self._draining = True

    def close(self) -> None:
        """End the batch threads; what waits fails, what is in an engine is finished."""
        atexit.unregister(self.close)
        if self._process == os.getpid():
            for each in self.models():
                each.batcher.close()


def _classifier(place: Place, model: ModelFile, settings: Settings, planned: Plan, admission: Admission) -> Classifier:
    """Load, prove, warm and time one model."""
    name = f"{place.name}/{place.version}"
    start = time.monotonic()
    engine = Engine(model, settings.provider, planned.engine_threads)
    try:
        worst = engine.prove()
        engine.warm(planned.batch_cap)
        line = admission.line()
        warm = time.monotonic()
        engine.warm(1)
        line.ran(1, time.monotonic() - warm)  # the first prediction of a wait; a batch's share will be less
    except EngineFault as error:
        raise StartError(f"{model.path}: {error}") from error
    batcher = Batcher(engine, planned.batch_cap, planned.queue_capacity, name, line.ran)
    log.info("model_loaded", model=name, digest=model.digest, provider=engine.provider, reason=engine.reason,
             golden_difference=worst, seconds=round(time.monotonic() - start, 3))
    return Classifier(model, engine, batcher, admission, settings, line, place.name, str(place.version))
