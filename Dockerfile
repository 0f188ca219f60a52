# docker build -t dalle-server . && docker run --rm -p 127.0.0.1:8000:8000 dalle-server
# With NVIDIA GPUs: docker build --build-arg TORCH=cuda ..., docker run --gpus all ...
#
# BASE    Debian with Python 3.11 or newer and its venv module.
# TORCH   cpu, cuda or a pip requirement of your own, as in the Makefile.
# PIP_EXTRA_INDEX_URL
#         one more package index. For cpu on x86-64 name the index of PyTorch's CPU builds. pytorch.org's page on
#         installing states it. The image then has 1.1 GB. Without it pip finds the CUDA build only, which also runs
#         on a CPU. The image then has some 5 GB.
# To use a pip.conf of your own, which stays out of the image: docker build --secret id=pip.conf,src=pip.conf .
ARG BASE=python:3.12-slim-bookworm

FROM ${BASE} AS build
# Versions are not pinned, because Debian keeps only one version of a package at a time.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends g++ make && rm -rf /var/lib/apt/lists/*
WORKDIR /srv/dalle-server
ARG TORCH=cpu
ARG PIP_EXTRA_INDEX_URL
ENV PIP_NO_CACHE_DIR=1
COPY Makefile constraints.txt ./
# PyTorch's headers and its own tests are removed. They are a fifth of its CPU build.
RUN --mount=type=secret,id=pip.conf,target=/etc/pip.conf \
    make .venv/.torch TORCH="${TORCH}" \
    && torch="$(echo .venv/lib/python3*/site-packages/torch)" \
    && rm -rf "${torch}/include" "${torch}/test" "${torch}"/bin/test_*
# The package is installed in place (editable). For that it needs only the files that state its version, and the sources
# of the kernels that are compiled.
COPY pyproject.toml README.md LICENSE ./
COPY app/__init__.py app/
COPY model/__init__.py model/
COPY model/kernels/source model/kernels/source
RUN --mount=type=secret,id=pip.conf,target=/etc/pip.conf \
    make .venv/.installed TORCH="${TORCH}" && .venv/bin/python -c 'import torch'
COPY weights weights
COPY model model
COPY app app
RUN .venv/bin/python -m compileall -q app model && chmod -R u=rwX,go=rX app model weights

FROM ${BASE}
ARG TORCH=cpu
# On a GPU Triton compiles the step's kernels at the first start. It needs a C compiler, and keeps them in the volume.
# hadolint ignore=DL3008
RUN if [ "${TORCH}" = cuda ]; then set -- gcc libc6-dev; fi \
    && apt-get update && apt-get install -y --no-install-recommends tini "$@" && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 10001 dalle \
    && useradd --uid 10001 --gid dalle --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin dalle \
    && install -d -o dalle -g dalle /var/lib/dalle
WORKDIR /srv/dalle-server
# Layers that change least come first, so an update of the code sends only the last layers.
COPY --from=build /srv/dalle-server/.venv .venv
COPY LICENSE ./
COPY --from=build /srv/dalle-server/weights weights
COPY --from=build /srv/dalle-server/model model
COPY --from=build /srv/dalle-server/app app
ENV PATH=/srv/dalle-server/.venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    DALLE_HOST=0.0.0.0 \
    DALLE_STORE=/var/lib/dalle \
    TRITON_CACHE_DIR=/var/lib/dalle/triton
# The user is given by number, so that Kubernetes can see that it is not root.
USER 10001:10001
EXPOSE 8000
VOLUME /var/lib/dalle
# This asks /livez and not /readyz, so that nobody restarts a server that loads or finishes accepted work.
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s --retries=3 CMD ["python", "-Ic", "\
from http.client import HTTPConnection; from os import environ; from sys import exit; \
ports = [environ.get('DALLE_PORT', ''), environ.get('PORT', ''), '8000']; \
server = HTTPConnection('127.0.0.1', int([port for port in ports if port and '://' not in port][0]), timeout=4); \
server.request('GET', '/livez'); \
exit(server.getresponse().status != 200)"]
ENTRYPOINT ["/usr/bin/tini", "--", "dalle-server"]
CMD ["serve"]
