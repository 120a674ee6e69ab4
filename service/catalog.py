"""`models/` → named, versioned classifiers, each proven on its golden examples before it answers.

The default model is loaded before the service is ready; what the others say of themselves is read, and they are loaded at
their first request, unless QUADRANT_LOAD is "all".

Made in the process that serves, after any fork: sessions and threads don't survive one.
"""

from __future__ import annotations

import atexit
import os
import platform

import onnxruntime

from service import __version__, answer, logs, shelf
from service.answer import Answer
from service.cache import Cache
from service.classifier import Classifier
from service.loading import ABOUT_TO_STOP, Loader, Loading, State
from service.metrics import BUILD_INFO, MODEL_ENGINE, MODEL_READY
from service.modelfile import ModelFile
from service.planning import Plan, plan
from service.problems import NotReady, UnknownModel
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

    def __init__(self, classifiers: list[Classifier], default: str, planned: Plan, loader: Loader) -> None:
        """Arrange classifiers; `load` makes them from a folder."""
        self.default, self.plan = default, planned
        self._loader = loader
        self._by_name: dict[str, dict[int, Classifier]] = {}
        for each in classifiers:
            self._by_name.setdefault(each.name, {})[int(each.version)] = each
        self._process = os.getpid()
        self._draining = False
        atexit.register(self.close)

    @classmethod
    def load(
        cls, settings: Settings, planned: Plan | None = None, only_default: bool = False, default: shelf.Default | None = None,
    ) -> Catalog:
        """Read every version of every model in the folder; load, prove and warm those that shall be ready at once.

        Args:
            settings: where they are, which is the default, which are loaded now, where the engine runs.
            planned: the numbers; planned here unless given.
            only_default: of the default model alone; all its versions are loaded now.
            default: which it is; chosen here unless given.
        Raises:
            StartError: one of them is damaged, or one that is loaded now can't be served as it is.
        """
        planned = planned or plan(settings)
        found = shelf.places(settings.models)
        default = default or shelf.choose(found, settings)
        first = shelf.latest(found, default.name)
        if only_default:
            found = [place for place in found if place.name == default.name]
        loader = Loader(settings, planned)
        cache = Cache(settings.cache_bytes, answer.weight) if settings.cache_bytes else None
        classifiers = []
        for place in found:
            model = ModelFile.known(place.path)
            if place == first:
                shelf.check_digest(model, settings)
            classifiers.append(_described(place, model, settings, loader, cache))
        catalog = cls(classifiers, default.name, planned, loader)
        try:
            for place, each in zip(found, classifiers, strict=True):
                if place == first or only_default or settings.load == "all":
                    each.loading.load()
        except BaseException:
            catalog.close()
            raise
        log.info("models_ready", default=default.name, reason=default.reason, models=catalog.states())
        BUILD_INFO.labels(__version__, platform.python_version(), onnxruntime.__version__, catalog.find().engine.provider).set(1)
        catalog.ready()
        return catalog

    def find(self, name: str | None = None, version: str | None = None) -> Classifier:
        """The classifier of this name and version; the default model, the highest version where not given. Loads none.

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

    def is_default(self, classifier: Classifier) -> bool:
        """It answers when no model and no version is asked for."""
        return classifier is self.find()

    def states(self) -> dict[str, State]:
        """How far each model is, by NAME/VERSION."""
        return {each.loading.name: each.state for each in self.models()}

    def ready(self) -> tuple[bool, list[str]]:
        """Whether requests should be sent here, and if not, why not. Cheap; waits for nothing.

        A model that is loaded at its first request is no reason against it, before that request or after it failed.
        """
        reasons = []
        if self._draining:
            reasons.append(ABOUT_TO_STOP)
        if self._process != os.getpid():
            reasons.append(FORKED)
        for each in self.models():
            MODEL_READY.labels(each.name, each.version).set(each.ready and not reasons)
            if each.ready:
                MODEL_ENGINE.labels(each.name, each.version, each.engine.provider, each.engine.precision).set(1)
            if each.dead:
                reasons.append(each.batcher.end or f"the batch thread of {each.name} has died")
            if overwritten := each.loading.overwritten:
                reasons.append(overwritten)
        return not reasons, reasons

    def require(self) -> None:
        """Refuse what can't be answered in this process; a drain is no reason, for it still serves.

        Raises:
            NotReady: the models were loaded before a fork.
        """
        if self._process != os.getpid():
            raise NotReady(FORKED)

    def begin_drain(self) -> None:
        """From now on unready; requests are served on, by the models that are loaded. For a signal's handler: takes no lock."""
        self._draining = self._loader.draining = True

    def close(self) -> None:
        """End the batch threads and loads; what waits fails, what is in an engine is finished."""
        atexit.unregister(self.close)
        if self._process == os.getpid():
            self._loader.closed = True
            for each in self.models():
                each.loading.close()


def _described(
    place: Place, model: ModelFile, settings: Settings, loader: Loader, cache: Cache[Answer] | None,
) -> Classifier:
    """One model before it is loaded."""
    line = loader.admission.line()
    loading = Loading(f"{place.name}/{place.version}", model, line, loader)
    return Classifier(model, loading, loader.admission, settings, line, place.name, str(place.version), cache)
