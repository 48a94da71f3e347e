# `atrous serve` in a container: docs/serving.md tells how to build and run it.
#
# tests/serve/test_container.py reads this file and runs its steps without a container engine: instructions of other
# kinds than those below have to be added to tests/serve/dockerfile.py.
ARG PYTHON=3.11

FROM python:${PYTHON}-slim AS build
# torch from this index does not bring the libraries of CUDA, which take several gigabytes.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
# Extras of the package, separated by commas: openvino runs networks in bfloat16 or 8 bits.
ARG EXTRAS=serve
# Ids of released weights, separated by spaces, that become part of the image beside those of the package.
ARG WEIGHTS=""
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
RUN python -m venv /opt/atrous
WORKDIR /build
COPY constraints.txt ./
RUN /opt/atrous/bin/pip install --extra-index-url "${TORCH_INDEX}" -c constraints.txt torch
COPY pyproject.toml README.md LICENSE ./
COPY recipes recipes
COPY examples examples
COPY src src
RUN /opt/atrous/bin/pip install --extra-index-url "${TORCH_INDEX}" -c constraints.txt ".[${EXTRAS}]"
RUN mkdir /opt/weights && \
    for id in ${WEIGHTS}; do ATROUS_CACHE=/opt/weights /opt/atrous/bin/atrous weights "$id" --download || exit 1; done

FROM python:${PYTHON}-slim
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin atrous && \
    install -d -o atrous -g atrous -m 700 /var/cache/atrous && \
    install -d -m 755 /weights
COPY --from=build /opt/atrous /opt/atrous
COPY --from=build /opt/weights /opt/weights
# Networks converted for this processor, compiled functions and downloads are kept in the cache; nothing of a request is.
ENV PATH=/opt/atrous/bin:$PATH \
    ATROUS_CACHE=/var/cache/atrous \
    ATROUS_WEIGHTS=/weights:/opt/weights \
    NUMBA_CACHE_DIR=/var/cache/atrous/numba \
    MPLCONFIGDIR=/tmp/matplotlib \
    GRADIO_TEMP_DIR=/tmp/gradio \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
USER 10001:10001
WORKDIR /tmp
VOLUME /var/cache/atrous
EXPOSE 8000
STOPSIGNAL SIGTERM
# Without a proxy, which urllib would take from the environment.
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s --retries=3 CMD ["python", "-c", "import http.client, sys; c = http.client.HTTPConnection('127.0.0.1', 8000, timeout=4); c.request('GET', '/healthz'); sys.exit(c.getresponse().status != 200)"]
ENTRYPOINT ["atrous", "serve", "--host", "0.0.0.0", "--port", "8000"]
