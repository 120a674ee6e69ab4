# Locust with what draws its pictures: docker compose --profile load run --rm locust
ARG BASE_IMAGE=python:3.12-slim-bookworm
FROM ${BASE_IMAGE}
COPY requirements/load.txt /requirements/
RUN --mount=type=secret,id=pip_conf,target=/etc/pip.conf \
    --mount=type=secret,id=ca_bundle,target=/etc/ssl/certs/ca-certificates.crt \
    python3 -m venv /opt/venv && /opt/venv/bin/pip install --no-cache-dir --disable-pip-version-check --require-hashes -r /requirements/load.txt
COPY loadtest/ /app/loadtest/
WORKDIR /app
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PYTHONPATH=/app
USER 10001:10001
ENTRYPOINT ["locust", "-f", "loadtest/locustfile.py", "--headless", "--only-summary", "--host", "http://quadrant:8000"]
CMD ["ClosedLoop", "--users", "32", "--spawn-rate", "32", "--run-time", "20s"]
