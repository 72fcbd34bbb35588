# syntax=docker/dockerfile:1
# Three images from one file:
#   docker build --target api         -t axforge-api .
#   docker build --target worker-cpu  -t axforge-worker:cpu .
#   docker build --target worker-cuda -t axforge-worker:cuda .
#
# A release names its base by digest, so that the same commit gives the same image:
#   --build-arg PYTHON_IMAGE=python:3.11-slim-trixie@sha256:...
# and itself by version and commit:
#   --build-arg VERSION=0.1.0 --build-arg REVISION=$(git rev-parse HEAD)
#
# They run with a read-only root file system: all state goes to /var/lib/axforge, the rest to /tmp.

ARG PYTHON_IMAGE=python:3.11-slim-trixie

FROM ${PYTHON_IMAGE} AS build
# Debian's mirror keeps one version of a package only, so that a pinned one would soon be missing.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install --yes --no-install-recommends tini && rm -rf /var/lib/apt/lists/*
# The environment is made without pip; the base image's own one installs into it, and compiles, since
# nothing can be compiled later into a read-only file system.
RUN python -m venv --without-pip /opt/axforge
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_PYTHON=/opt/axforge/bin/python
WORKDIR /src
COPY . .

FROM build AS build-api
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install --constraint constraints.txt ./sdk .

FROM build AS build-worker-cpu
# torch's own index has it without the CUDA libraries.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install --constraint constraints.txt --extra-index-url "${TORCH_INDEX}" ./sdk '.[worker]'

# PyPI's torch for Linux carries the CUDA libraries; the host brings only the driver.
FROM build AS build-worker-cuda
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install --constraint constraints.txt ./sdk '.[gpu]'

FROM ${PYTHON_IMAGE} AS runtime
RUN python -m pip uninstall --yes --no-cache-dir pip \
    && groupadd --system --gid 10001 axforge \
    && useradd --system --uid 10001 --gid 10001 --create-home --home-dir /var/lib/axforge axforge
COPY --from=build /usr/bin/tini-static /usr/bin/tini
ENV PATH=/opt/axforge/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    AXFORGE_DATA_DIR=/var/lib/axforge \
    HOME=/var/lib/axforge \
    XDG_CACHE_HOME=/var/lib/axforge/cache \
    HF_HOME=/var/lib/axforge/cache/huggingface \
    TMPDIR=/tmp
USER 10001:10001
WORKDIR /var/lib/axforge
VOLUME /var/lib/axforge
STOPSIGNAL SIGTERM
# Reaps what a killed run leaves behind, and hands signals on.
ENTRYPOINT ["/usr/bin/tini", "--"]
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="axforge" \
      org.opencontainers.image.description="Makes transformers smaller and faster under your constraints, and certifies it" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"

# Also the dispatcher, the reaper, the deliverer and the migrations, by another command.
FROM runtime AS api
COPY --from=build-api /opt/axforge /opt/axforge
ENV AXFORGE_ALIVE_FILE=/tmp/axforge-alive
# It listens for others, so it asks everybody for a key from the start: `axforge keys create` makes one.
ENV AXFORGE_API_AUTH=required
EXPOSE 8000
HEALTHCHECK --interval=15s --timeout=5s --start-period=20s --retries=4 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/healthz', timeout=4)"]
CMD ["axforge", "serve", "--host", "0.0.0.0", "--port", "8000"]

FROM runtime AS worker
ENV AXFORGE_ALIVE_FILE=/tmp/axforge-alive \
    TORCHINDUCTOR_CACHE_DIR=/var/lib/axforge/cache/torchinductor \
    TRITON_CACHE_DIR=/var/lib/axforge/cache/triton \
    CUDA_CACHE_PATH=/var/lib/axforge/cache/cuda
HEALTHCHECK --interval=60s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-m", "worker.alive"]
CMD ["celery", "--app", "worker.celery_app", "worker", "--pool", "prefork", "--concurrency", "1", "--loglevel", "info"]

FROM worker AS worker-cpu
COPY --from=build-worker-cpu /opt/axforge /opt/axforge

FROM worker AS worker-cuda
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
COPY --from=build-worker-cuda /opt/axforge /opt/axforge
