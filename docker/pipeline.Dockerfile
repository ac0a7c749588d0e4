# The caption side: Ray nodes, and the driver that `ray job submit` starts on one of them.
# Build from the repository's root:  docker build -f docker/pipeline.Dockerfile -t encode-once-pipeline:0.1.0 .

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
    && /opt/venv/bin/python -m pip install --no-build-isolation --constraint constraints.txt '.[pipeline,cluster]'
COPY schemas/ schemas/
COPY pipeline/ pipeline/
RUN --mount=type=cache,target=/root/.cache/pip \
    /opt/venv/bin/python -m pip install --no-build-isolation --no-deps --force-reinstall . \
    && /opt/venv/bin/python -m pip check

FROM ${PYTHON_IMAGE}
# A C compiler is for torch.compile and triton, wget for KubeRay's probes. Debian keeps no old versions to pin to.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev wget \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 1000 encode \
    && useradd --uid 1000 --gid encode --create-home encode
COPY --from=install /opt/venv /opt/venv
# LOGNAME: torch names its cache after the user, whom a container started with another --user does not know.
# Ray kills a job 3 s after `ray job stop`, unless told otherwise; ours gives its shards --stop-grace-seconds, 60.
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    LOGNAME=encode \
    HOME=/home/encode \
    RAY_AUTH_MODE=token \
    RAY_JOB_STOP_WAIT_TIME_S=75 \
    RAY_USAGE_STATS_ENABLED=0
USER 1000:1000
WORKDIR /home/encode
CMD ["python", "-m", "pipeline", "--help"]
