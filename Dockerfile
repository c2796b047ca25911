# Images with the locked environment, all commands and the recipes.
#
#   docker build --target cpu -t mmonepeace:cpu --build-arg TORCH_INDEX=URL .
#   docker build --target cuda -t mmonepeace:cuda .
#   docker run --gpus all --shm-size 8g -v "$PWD/data:/opt/mmonepeace/data" \
#     -v "$PWD/runs:/opt/mmonepeace/work_dirs" \
#     mmonepeace:cuda train configs/onepeace_upernet_ade20k.py
#
# URL is the index of PyTorch for CPUs, see "Install" of README; without it the image has CUDA's libraries.

FROM python:3.11-bookworm AS cpu
ARG TORCH_INDEX=
ENV XDG_CACHE_HOME=/opt/cache PATH=/opt/mmonepeace/.venv/bin:$PATH
WORKDIR /opt/mmonepeace
# Packages change seldom, the code often: what make needs to install them is copied alone.
COPY Makefile ./
COPY requirements requirements
RUN make packages TORCH_INDEX="$TORCH_INDEX" && rm -rf /root/.cache/pip
COPY . .
RUN make env TORCH_INDEX="$TORCH_INDEX"
ENTRYPOINT ["mmonepeace"]
CMD ["--help"]

# mmcv's operators are compiled for GPUs, which takes nvcc. Its Python is 3.12.
FROM nvidia/cuda:13.0.2-devel-ubuntu24.04 AS cuda
ARG TORCH_CUDA_ARCH_LIST="8.0;8.6;8.9;9.0;10.0;12.0+PTX"
ENV XDG_CACHE_HOME=/opt/cache PATH=/opt/mmonepeace/.venv/bin:$PATH DEBIAN_FRONTEND=noninteractive
RUN apt-get update && apt-get install -y --no-install-recommends g++ git make python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /opt/mmonepeace
COPY Makefile ./
COPY requirements requirements
RUN FORCE_CUDA=1 make packages && rm -rf /root/.cache/pip
COPY . .
RUN make env
ENTRYPOINT ["mmonepeace"]
CMD ["--help"]
