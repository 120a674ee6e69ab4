"""Which execution provider runs a model: the one that was asked for, or with `auto` the quickest that its gates allow."""

from __future__ import annotations

from service.inference import cpu, cuda, openvino
from service.inference.session import Opening, Provider, Session
from service.modelfile import ModelFile
from service.problems import StartError

PROVIDERS: dict[str, Provider] = {provider.NAME: provider for provider in (cpu, openvino, cuda)}
PREFERRED: tuple[Provider, ...] = (cuda, openvino)  # before the CPU provider, where they don't decline


def open_session(model: ModelFile, wanted: str, opening: Opening) -> tuple[Session, str]:
    """Open a model on the provider that was asked for.

    Args:
        model: opened and checked.
        wanted: auto, cpu, openvino or cuda.
    Returns:
        The session, and why it runs where it does.
    Raises:
        StartError: the provider can't be had here, or ONNX Runtime refuses the model.
    """
    if wanted == "auto":
        return _quickest(model, opening)
    provider = PROVIDERS[wanted]
    try:
        if missing := provider.missing():
            raise StartError(missing)
        return provider.open_model(model, opening), "set by QUADRANT_PROVIDER"
    except StartError as error:
        if provider is PROVIDERS["cpu"]:
            raise
        raise StartError(f'QUADRANT_PROVIDER is "{wanted}", but {error}') from error


def _quickest(model: ModelFile, opening: Opening) -> tuple[Session, str]:
    """The first that neither declines nor fails, and why the others weren't chosen."""
    against = []
    for provider in PREFERRED:
        if not (reason := provider.declines(model) or provider.missing()):
            try:
                session = provider.open_model(model, opening)
                return session, f"auto: {session.provider} is the quickest for {session.precision} on this machine"
            except StartError as error:
                reason = str(error)
        against.append(f"not {provider.NAME}, since {reason}")
    return PROVIDERS["cpu"].open_model(model, opening), f"auto: {'; '.join(against)}"
