# The service in a container: the packages of requirements/service.txt, service/ and models/; no torch, no pip, no root.
ARG BASE_IMAGE=python:3.12-slim-bookworm

FROM ${BASE_IMAGE} AS builder
# service.txt for CPUs; service-cuda.txt for NVIDIA GPUs.
ARG REQUIREMENTS=service.txt
COPY requirements/ /requirements/
# The secrets are optional: where packages come through a mirror with a certificate of its own.
RUN --mount=type=secret,id=pip_conf,target=/etc/pip.conf \
    --mount=type=secret,id=ca_bundle,target=/etc/ssl/certs/ca-certificates.crt \
    python3 -m venv /opt/venv \
    && /opt/venv/bin/pip install --no-cache-dir --require-hashes -r /requirements/${REQUIREMENTS} \
    # Swagger's editor, source maps and pip itself are never used at run time.
    && find /opt/venv \( -name 'swagger-editor*' -o -name '*.map' -o -name 'swagger-ui-es-*' \) -delete \
    && rm -rf /opt/venv/lib/python3*/site-packages/pip /opt/venv/lib/python3*/site-packages/pip-* \
              /opt/venv/lib/python3*/site-packages/setuptools /opt/venv/lib/python3*/site-packages/setuptools-* \
              /opt/venv/lib/python3*/site-packages/pkg_resources /opt/venv/lib/python3*/site-packages/_distutils_hack \
    && find /opt/venv -type d \( -name tests -o -name __pycache__ \) -prune -exec rm -rf {} +

FROM ${BASE_IMAGE}
COPY --from=builder /opt/venv /opt/venv
COPY service/ /app/service/
COPY models/ /app/models/
WORKDIR /app
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 QUADRANT_HOST=0.0.0.0 QUADRANT_PORT=8000
USER 10001:10001
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --timeout=3s --start-period=20s --retries=3 \
    CMD ["python3", "-c", "import os, urllib.request; urllib.request.urlopen(f'http://127.0.0.1:{os.environ[\"QUADRANT_PORT\"]}/health/ready', timeout=2)"]
CMD ["python3", "-m", "service", "serve"]
