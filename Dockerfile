# The service in a container: the packages of one lock file, service/ and models/. No torch, no pip, no root.
#   docker build -t quadrant .
#   docker build -t quadrant-cuda --build-arg PROVIDER=cuda .    then: docker run --gpus all
ARG BASE_IMAGE=python:3.12-slim-bookworm

FROM ${BASE_IMAGE} AS builder
# auto: with OpenVINO's plugin on x86-64; cpu: without; cuda: for NVIDIA GPUs.
ARG PROVIDER=auto
COPY requirements/service.txt requirements/service-openvino.txt requirements/service-cuda.txt /requirements/
# Both secrets are optional: for package indexes behind a certificate of their own.
RUN --mount=type=secret,id=pip_conf,target=/etc/pip.conf \
    --mount=type=secret,id=ca_bundle,target=/etc/ssl/certs/ca-certificates.crt \
    set -eu; \
    case "${PROVIDER}-$(uname -m)" in \
        auto-x86_64|openvino-*) lock=service-openvino.txt ;; \
        auto-*|cpu-*) lock=service.txt ;; \
        cuda-*) lock=service-cuda.txt ;; \
        *) echo "PROVIDER is \"${PROVIDER}\"; expected auto, cpu, openvino or cuda" >&2; exit 1 ;; \
    esac; \
    python3 -m venv /opt/venv; \
    /opt/venv/bin/pip install --no-cache-dir --disable-pip-version-check --require-hashes -r "/requirements/${lock}"
COPY service/native/ /native/
RUN set -eu; apt-get update -q; apt-get install -qy --no-install-recommends gcc libc6-dev; rm -rf /var/lib/apt/lists/*; \
    /native/build
# What is never used at run time: pip, the packages' own tests, ONNX Runtime's offline tools, Swagger UI's build for bundlers,
# NumPy's compiler of Fortran, ONNX Runtime's library for C (Python's binding has its own copy), and OpenVINO's plugins for GPUs and
# NPUs (its library is there under three names, too).
RUN set -eu; cd /opt/venv/lib/python3*/site-packages; \
    rm -rf pip pip-* setuptools setuptools-* pkg_resources _distutils_hack distutils-precedence.pth; \
    rm -rf onnxruntime/transformers onnxruntime/quantization onnxruntime/tools numpy/f2py; \
    [ "${PROVIDER}" = cuda ] || rm -f onnxruntime/capi/libonnxruntime.so.*; \
    rm -f onnxruntime_ep_openvino/cache.json onnxruntime_ep_openvino/libopenvino_intel_[gn]pu_plugin.so \
        onnxruntime_ep_openvino/libopenvino_auto*_plugin.so onnxruntime_ep_openvino/libopenvino_hetero_plugin.so \
        onnxruntime_ep_openvino/libonnxruntime_providers_openvino_plugin.so.*; \
    find . -type d -name tests -prune -exec rm -rf {} +; \
    find flask_swagger_ui \( -name '*.map' -o -name 'swagger-ui-es-*' \) -delete

FROM ${BASE_IMAGE}
ARG PROVIDER=auto
COPY --from=builder /opt/venv /opt/venv
COPY models/ /app/models/
COPY service/ /app/service/
COPY --from=builder /native/libnative.so /app/service/native/
WORKDIR /app
# Weights in the processor's own order are kept here: in a volume, so that there is a place with --read-only too.
RUN install -d -o 10001 -g 10001 -m 0700 /var/cache/quadrant
VOLUME /var/cache/quadrant
# ONNX Runtime sends usage data to its maker unless told not to.
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 ORT_DISABLE_TELEMETRY=1 \
    QUADRANT_HOST=0.0.0.0 QUADRANT_PORT=8000 QUADRANT_PROVIDER=${PROVIDER} \
    QUADRANT_PACKED_WEIGHTS=/var/cache/quadrant
USER 10001:10001
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --timeout=3s --start-period=20s --retries=3 \
    CMD ["python3", "-c", "import os, urllib.request; urllib.request.urlopen('http://127.0.0.1:' + os.environ['QUADRANT_PORT'] + '/health/ready', timeout=2)"]
CMD ["python3", "-m", "service", "serve"]
