# docker build -t dalle-server . && docker run --rm -p 8000:8000 dalle-server
#
# TORCH: as in the Makefile; on x86-64 the plain PyTorch of "cpu" brings unused CUDA libraries along unless pip finds a
# CPU build, so name one that it does: --build-arg TORCH="torch==2.13.0+cpu --extra-index-url ..."
FROM python:3.12-slim AS build
ARG TORCH=cpu
RUN apt-get update && apt-get install -y --no-install-recommends make && rm -rf /var/lib/apt/lists/*
WORKDIR /srv/dalle-server
COPY Makefile pyproject.toml constraints.txt README.md LICENSE ./
# torch first: its layer stays while the code changes.
RUN make .venv/.torch TORCH="$TORCH"
COPY model model
COPY app app
RUN make .venv/.installed TORCH="$TORCH"

FROM python:3.12-slim
RUN useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin dalle
WORKDIR /srv/dalle-server
COPY --from=build /srv/dalle-server .
COPY weights weights
ENV PATH=/srv/dalle-server/.venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    DALLE_HOST=0.0.0.0 \
    DALLE_PORT=8000
USER dalle
EXPOSE 8000
HEALTHCHECK --interval=15s --timeout=5s --start-period=120s \
    CMD ["python", "-c", "import os, urllib.request as u; u.urlopen(f'http://127.0.0.1:{os.environ[\"DALLE_PORT\"]}/readyz', timeout=4)"]
CMD ["dalle-server", "serve"]
