# The server of sspsam, for a CPU; see docs/serving.md.
#   docker build -t sspsam .
#   docker build -t sspsam --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu128 .    # for an NVIDIA GPU
#   docker build -t sspsam --build-arg MODEL=ssp-sam-224-grefcoco .                            # with its weights inside
FROM python:3.13-slim

ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
# the bundled model for drawn shapes unless named; "" for none, where weights are mounted
ARG MODEL=shapes

ENV PYTHONUNBUFFERED=1 \
    HF_HOME=/models/hub \
    SSPSAM_MODEL=${MODEL}

# a user without rights, and a folder for weights that may be a volume
RUN useradd --create-home --uid 10001 sspsam \
    && mkdir --parents /models \
    && chown sspsam:sspsam /models

WORKDIR /app
# PyTorch first: it is the largest layer, and does not change with the code. Lower bounds as in setup.cfg, no exact pins:
# hadolint ignore=DL3013
RUN pip install --no-cache-dir "torch>=2.10" "torchvision>=0.25" --index-url "${TORCH_INDEX}"
COPY setup.cfg pyproject.toml README.md LICENSE NOTICE ./
COPY sspsam ./sspsam
# hadolint ignore=DL3013
RUN pip install --no-cache-dir ".[serve]" && rm -rf /app/*

USER 10001
RUN if [ -n "${MODEL}" ]; then sspsam download "${MODEL}"; fi

EXPOSE 8000
STOPSIGNAL SIGTERM
# the first answer is ready when the weights are loaded; a process that failed is replaced
HEALTHCHECK --interval=30s --timeout=5s --start-period=120s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/healthz', timeout=4)"]
ENTRYPOINT ["/bin/sh", "-c", "exec sspsam serve --host 0.0.0.0 --port 8000 --model \"$SSPSAM_MODEL\" \"$@\"", "sspsam"]
