# An image with this project's packages and the code, for Ray on Kubernetes and other clusters:
#
#     docker build -t registry.example.org/mofo:latest .
#
# The versions are those of constraints.txt. On machines without GPU the smaller build of PyTorch is
# enough: docker build --build-arg INDEX=https://download.pytorch.org/whl/cpu ...
FROM python:3.11-slim-bookworm

# g++ compiles the flow solver, make runs the goals, and git records the commit of a run. KubeRay's
# health checks call wget.
RUN apt-get update \
 && apt-get install --yes --no-install-recommends g++ make git wget \
 && rm -rf /var/lib/apt/lists/*

WORKDIR /mofo
ARG INDEX=https://pypi.org/simple
COPY setup.cfg pyproject.toml constraints.txt .preflight.py ./
RUN python -m venv .venv \
 && .venv/bin/pip install --no-cache-dir --disable-pip-version-check --extra-index-url "$INDEX" \
      -c constraints.txt . \
 && touch .venv/installed
ENV PATH=/mofo/.venv/bin:$PATH PYTHONPATH=/mofo

COPY Makefile ./
COPY preprocess preprocess
COPY shared shared
COPY train train
COPY data_manifests data_manifests
CMD ["make", "help"]
