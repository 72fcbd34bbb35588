# syntax=docker/dockerfile:1
# Three images from one file:
#   docker build --target api         -t axforge-api .
#   docker build --target worker-cpu  -t axforge-worker:cpu .
#   docker build --target worker-cuda -t axforge-worker:cuda .

ARG PYTHON_IMAGE=python:3.11-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_COMPILE=1 VIRTUAL_ENV=/opt/axforge PATH=/opt/axforge/bin:$PATH
RUN python -m venv /opt/axforge
WORKDIR /src
COPY constraints.txt ./

FROM build AS build-api
COPY . .
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install --constraint constraints.txt ./sdk .

FROM build AS build-worker-cpu
COPY . .
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install --constraint constraints.txt --extra-index-url https://download.pytorch.org/whl/cpu ./sdk '.[worker]'

# PyPI's torch for Linux carries the CUDA libraries; the host brings only the driver.
FROM build AS build-worker-cuda
COPY . .
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install --constraint constraints.txt ./sdk '.[gpu]'

FROM ${PYTHON_IMAGE} AS runtime
ENV PATH=/opt/axforge/bin:$PATH PYTHONUNBUFFERED=1 AXFORGE_DATA_DIR=/var/lib/axforge
RUN useradd --system --uid 10001 --create-home --home-dir /var/lib/axforge axforge
USER axforge
WORKDIR /var/lib/axforge
VOLUME /var/lib/axforge

FROM runtime AS api
COPY --from=build-api /opt/axforge /opt/axforge
EXPOSE 8000
HEALTHCHECK --interval=15s --timeout=5s --start-period=20s --retries=4 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/healthz', timeout=4)"]
CMD ["axforge", "serve", "--host", "0.0.0.0", "--port", "8000"]

FROM runtime AS worker
HEALTHCHECK --interval=30s --timeout=15s --start-period=30s --retries=4 \
    CMD ["sh", "-c", "celery -A worker.celery_app inspect ping -d celery@$HOSTNAME"]
CMD ["celery", "-A", "worker.celery_app", "worker", "--pool", "prefork", "--concurrency", "1", "--loglevel", "info"]

FROM worker AS worker-cpu
COPY --from=build-worker-cpu /opt/axforge /opt/axforge

FROM worker AS worker-cuda
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
COPY --from=build-worker-cuda /opt/axforge /opt/axforge
