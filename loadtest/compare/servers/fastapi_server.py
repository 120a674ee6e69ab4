"""FastAPI on uvicorn, written by hand: one process, a pool of four threads, a run of the engine for each image; raw bodies."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import uvicorn
from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse

from loadtest.compare.servers.classifier import Classifier, port

app, classifier, pool = FastAPI(), Classifier(threads=1), ThreadPoolExecutor(4)


def answer(data: bytes) -> dict[str, Any]:
    """A body → its answer, in a thread of the pool."""
    return classifier.classify([classifier.decode(data)])[0]


@app.post("/classify")
async def classify(request: Request) -> JSONResponse:
    """The only route."""
    data = await request.body()
    try:
        return JSONResponse(await asyncio.get_running_loop().run_in_executor(pool, answer, data))
    except OSError as error:
        raise HTTPException(400, str(error)) from error


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=port(), log_level="warning", access_log=False)
