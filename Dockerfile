# docker build -t dalle-server . && docker run --rm -p 127.0.0.1:8000:8000 dalle-server
# With NVIDIA GPUs: docker build --build-arg TORCH=cuda ..., docker run --gpus all ...
#
# BASE    Debian with Python 3.11 or newer and its venv module.
# TORCH   cpu, cuda or a pip requirement of your own, as in the Makefile.
# PIP_EXTRA_INDEX_URL
#         one more package index. For cpu on x86-64 give that of PyTorch's CPU builds, which pytorch.org's page on
#         installing names: the image is 1.1 GB then. Without it pip finds the CUDA build only, which runs on a CPU
#         too: some 5 GB.
# A pip.conf of your own, which stays out of the image: docker build --secret id=pip.conf,src=pip.conf .
ARG BASE=python:3.12-slim-bookworm

FROM ${BASE} AS build
# Debian keeps one version of a package at a time; a pinned one could not be installed for long.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends make && rm -rf /var/lib/apt/lists/*
WORKDIR /srv/dalle-server
ARG TORCH=cpu
ARG PIP_EXTRA_INDEX_URL
ENV PIP_NO_CACHE_DIR=1
COPY Makefile constraints.txt ./
# What PyTorch brings for compiling against it, and its own tests, are a fifth of its CPU build.
RUN --mount=type=secret,id=pip.conf,target=/etc/pip.conf \
    make .venv/.torch TORCH="${TORCH}" \
    && torch="$(echo .venv/lib/python3*/site-packages/torch)" \
    && rm -rf "${torch}/include" "${torch}/test" "${torch}"/bin/test_*
# The package is installed where it stands, and needs no more of itself for that than its version.
COPY pyproject.toml README.md LICENSE ./
COPY app/__init__.py app/
COPY model/__init__.py model/
RUN --mount=type=secret,id=pip.conf,target=/etc/pip.conf \
    make .venv/.installed TORCH="${TORCH}" && .venv/bin/python -c 'import torch'
COPY weights weights
COPY model model
COPY app app
RUN .venv/bin/python -m compileall -q app model && chmod -R u=rwX,go=rX app model weights

FROM ${BASE}
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends tini && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 10001 dalle \
    && useradd --uid 10001 --gid dalle --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin dalle
WORKDIR /srv/dalle-server
# What changes least comes first: an update of the code sends the last layer only.
COPY --from=build /srv/dalle-server/.venv .venv
COPY LICENSE ./
COPY --from=build /srv/dalle-server/weights weights
COPY --from=build /srv/dalle-server/model model
COPY --from=build /srv/dalle-server/app app
ENV PATH=/srv/dalle-server/.venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    DALLE_HOST=0.0.0.0
# By number, so that Kubernetes can tell that it is not root.
USER 10001:10001
EXPOSE 8000
# Live, not ready: who restarts what is unhealthy shall not do so while it loads or finishes accepted work.
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s --retries=3 CMD ["python", "-Ic", "\
from http.client import HTTPConnection; from os import environ; from sys import exit; \
ports = [environ.get('DALLE_PORT', ''), environ.get('PORT', ''), '8000']; \
server = HTTPConnection('127.0.0.1', int([port for port in ports if port and '://' not in port][0]), timeout=4); \
server.request('GET', '/livez'); \
exit(server.getresponse().status != 200)"]
ENTRYPOINT ["/usr/bin/tini", "--", "dalle-server"]
CMD ["serve"]
