# One image for every service: `docker build -t nextclick:local .`
# It computes on the CPU. For GPUs, with NVIDIA's 4 GB:  --build-arg TORCH=cuda
# With an index that has CPU wheels of torch:            --build-arg PIP_INDEX_ARGS="--extra-index-url …"
# With other extras of pyproject.toml than those of HTTP service and trainer, such as a registry on S3:
#   docker build --build-arg EXTRAS="api train s3" .

FROM python:3.12-slim AS build
ARG TORCH=cpu
ARG PIP_INDEX_ARGS=""
ARG EXTRAS="api train"
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv --upgrade-deps /opt/venv
ENV PATH=/opt/venv/bin:$PATH
WORKDIR /src

# torch alone first: a CPU build does not want the NVIDIA libraries that it requires on Linux.
RUN case "$TORCH" in \
      cpu) apt-get update && apt-get install -y --no-install-recommends binutils gcc libc6-dev ;; \
      cuda) ;; \
      *) echo "TORCH is cpu or cuda, not '$TORCH'" >&2; exit 1 ;; \
    esac
COPY constraints.txt deploy/torch_without_cuda.py ./
RUN case "$TORCH" in \
      cpu) pip install $PIP_INDEX_ARGS -c constraints.txt --no-deps torch \
           && python torch_without_cuda.py ;; \
      cuda) pip install $PIP_INDEX_ARGS -c constraints.txt torch ;; \
    esac

# The other dependencies: these large layers are built anew only when they change.
COPY pyproject.toml requirements.lock ./
RUN python -c "import os, tomllib; p = tomllib.load(open('pyproject.toml', 'rb'))['project']; print(*p['dependencies'], *(d for e in os.environ['EXTRAS'].split() for d in p['optional-dependencies'][e]), sep='\n')" > requirements.txt \
 && pip install $PIP_INDEX_ARGS -c requirements.lock -r requirements.txt

COPY README.md LICENSE ./
COPY nextclick ./nextclick
COPY bench ./bench
COPY services ./services
COPY shared ./shared
COPY trainer ./trainer
RUN pip install $PIP_INDEX_ARGS --build-constraint requirements.lock --no-deps . \
 && pip check \
 && pip uninstall --yes pip \
 && find /opt/venv -type d -name tests -prune -exec rm -r {} + \
 && find /opt/venv -type d -name include -prune -exec rm -r {} + \
 && nextclick --help > help.txt \
 && python -c "import torch; torch.nn.TransformerEncoderLayer(8, 2)(torch.ones(1, 2, 8)).sum().backward()"


FROM python:3.12-slim
RUN groupadd --gid 10001 nextclick \
 && useradd --uid 10001 --gid nextclick --no-create-home --home-dir /tmp nextclick \
 && install -d -o nextclick -g nextclick /data /data/registry /data/event_log /data/keys
COPY --from=build /opt/venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    NEXTCLICK_REGISTRY__URL=/data/registry \
    NEXTCLICK_TRAINER__EVENT_LOG=/data/event_log
USER 10001:10001
WORKDIR /data
ENTRYPOINT ["nextclick"]
CMD ["--help"]
