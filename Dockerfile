# The images of all services; docs/compose.md tells how they are built and what they expect.
#
#   docker build --target frontend --tag cotenant/frontend .
#
# Targets: predictor, scheduler, frontend, executor. Each is a Python with one service's packages in /opt/cotenant, and
# runs as user 10001 without writing to its root. A pip.conf of yours (an index, certificates) is given as a secret:
# --secret id=pip.conf,src=FILE.

ARG BASE_IMAGE=docker.io/library/python:3.11-slim-bookworm


# ---- the project's own packages; nothing else of this stage ships
FROM ${BASE_IMAGE} AS project
WORKDIR /build
COPY LICENSE NOTICE README.md pyproject.toml ./
COPY protos protos
COPY frontend frontend
COPY scheduler scheduler
COPY executor executor
COPY predictor predictor
COPY cli cli
RUN --mount=type=secret,id=pip.conf,target=/etc/pip.conf --mount=type=cache,target=/root/.cache/pip \
    python3 -m venv /tmp/venv && /tmp/venv/bin/pip install --no-deps --target site .


# ---- what all services share: the user, the environment, the packages that each of them needs
FROM ${BASE_IMAGE} AS base
# The same as cotenant.cli.stack.ENVIRONMENT, which says why.
ENV MALLOC_MMAP_THRESHOLD_=268435456 \
    MALLOC_TRIM_THRESHOLD_=4294967296 \
    MALLOC_TOP_PAD_=67108864 \
    OMP_NUM_THREADS=1 \
    GRPC_VERBOSITY=ERROR \
    PYTHONUNBUFFERED=1
ENV PATH=/opt/cotenant/bin:${PATH}
# Volumes take over the owner of these folders; segments of shared memory open only for the user that made them, so
# all services have one.
RUN groupadd --system --gid 10001 cotenant \
 && useradd --system --uid 10001 --gid 10001 --no-create-home --home-dir /var/cache/cotenant cotenant \
 && install --directory --owner=10001 --group=10001 --mode=0750 /var/lib/cotenant /var/cache/cotenant \
 && python3 -m venv --without-pip /opt/cotenant \
 && echo /opt/cotenant/site > "$(echo /opt/cotenant/lib/python3*/site-packages)/cotenant.pth"
COPY pyproject.toml constraints.txt deploy/install.py /opt/cotenant/build/
RUN --mount=type=secret,id=pip.conf,target=/etc/pip.conf --mount=type=cache,target=/root/.cache/pip \
    python3 /opt/cotenant/build/install.py
STOPSIGNAL SIGTERM


# ---- the services: first packages, which change seldom, then our own
FROM base AS predictor
RUN --mount=type=secret,id=pip.conf,target=/etc/pip.conf --mount=type=cache,target=/root/.cache/pip \
    python3 /opt/cotenant/build/install.py predictor
COPY --from=project /build/site /opt/cotenant/site
USER 10001:10001
ENV COTENANT_PREDICTOR_LISTEN=0.0.0.0:8004 \
    COTENANT_PREDICTOR_METRICS=0.0.0.0:8014 \
    COTENANT_PREDICTOR_STATE=/var/lib/cotenant/predictor.sqlite
EXPOSE 8004 8014
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python", "-m", "cotenant.runtime.probe", "127.0.0.1:8004"]
ENTRYPOINT ["python", "-m", "cotenant.predictor"]


FROM base AS scheduler
RUN --mount=type=secret,id=pip.conf,target=/etc/pip.conf --mount=type=cache,target=/root/.cache/pip \
    python3 /opt/cotenant/build/install.py scheduler
COPY --from=project /build/site /opt/cotenant/site
USER 10001:10001
ENV COTENANT_SCHEDULER_LISTEN=0.0.0.0:8003 \
    COTENANT_SCHEDULER_METRICS=0.0.0.0:8012
EXPOSE 8003 8012
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python", "-m", "cotenant.runtime.probe", "127.0.0.1:8003"]
ENTRYPOINT ["python", "-m", "cotenant.scheduler"]


FROM base AS frontend
RUN --mount=type=secret,id=pip.conf,target=/etc/pip.conf --mount=type=cache,target=/root/.cache/pip \
    python3 /opt/cotenant/build/install.py frontend,opentelemetry
COPY --from=project /build/site /opt/cotenant/site
USER 10001:10001
ENV COTENANT_FRONTEND_LISTEN=0.0.0.0:8001 \
    COTENANT_FRONTEND_METRICS=0.0.0.0:8002
EXPOSE 8000 8001 8002
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python", "-m", "cotenant.runtime.probe", "127.0.0.1:8001"]
ENTRYPOINT ["python", "-m", "cotenant.frontend"]


# The only image with inference libraries. BACKENDS are extras of pyproject.toml, separated by commas; TORCH is `cpu` or
# `cuda`, and the build fails rather than install the other one; TORCH_INDEX is a package index asked beside PyPI.
FROM base AS executor
ARG BACKENDS=onnxruntime,torch
ARG TORCH=cpu
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN --mount=type=secret,id=pip.conf,target=/etc/pip.conf --mount=type=cache,target=/root/.cache/pip \
    TORCH="${TORCH}" TORCH_INDEX="${TORCH_INDEX}" \
    python3 /opt/cotenant/build/install.py "executor,${BACKENDS}"
COPY --from=project /build/site /opt/cotenant/site
USER 10001:10001
ENV COTENANT_EXECUTOR_LISTEN=0.0.0.0:8005 \
    COTENANT_EXECUTOR_METRICS=0.0.0.0:8015 \
    COTENANT_EXECUTOR_MODEL_REPOSITORY=/models \
    COTENANT_EXECUTOR_PROFILE_CACHE=/var/cache/cotenant \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
EXPOSE 8005 8015
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-m", "cotenant.runtime.probe", "127.0.0.1:8005"]
ENTRYPOINT ["python", "-m", "cotenant.executor"]
