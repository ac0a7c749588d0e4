# The training side: no text encoder, no transformers, no Ray.
# Build from the repository's root:  docker build -f docker/trainer.Dockerfile -t encode-once-trainer:0.1.0 .

# The Python that constraints.txt is tested with. torch's wheels bring CUDA's libraries; the host has the driver.
ARG PYTHON_IMAGE=python:3.11.14-slim-bookworm

FROM ${PYTHON_IMAGE} AS install
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PYTHONDONTWRITEBYTECODE=1
WORKDIR /src
RUN python -m venv /opt/venv
# Without the sources first: a change of ours then does not install gigabytes again.
COPY pyproject.toml constraints.txt README.md LICENSE ./
RUN --mount=type=cache,target=/root/.cache/pip \
    /opt/venv/bin/python -m pip install --constraint constraints.txt setuptools \
    && /opt/venv/bin/python -m pip install --no-build-isolation --constraint constraints.txt '.[trainer]'
COPY schemas/ schemas/
COPY trainer/ trainer/
RUN --mount=type=cache,target=/root/.cache/pip \
    /opt/venv/bin/python -m pip install --no-build-isolation --no-deps --force-reinstall . \
    && /opt/venv/bin/python -m pip check

FROM ${PYTHON_IMAGE}
# A C compiler is for torch.compile and triton. Debian keeps no old versions to pin to.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 1000 train \
    && useradd --uid 1000 --gid train --create-home train
COPY --from=install /opt/venv /opt/venv
# LOGNAME: torch names its cache after the user, whom a container started with another --user does not know.
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    LOGNAME=train \
    HOME=/home/train
USER 1000:1000
WORKDIR /home/train
CMD ["python", "-m", "trainer", "--help"]
