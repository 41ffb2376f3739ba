# One image for every service: `docker build -t nextclick:local .`
# For the small CPU-only build of torch give its index:
#   docker build --build-arg PIP_INDEX_ARGS="--extra-index-url <index of CPU wheels>" .
# With other extras of pyproject.toml than the HTTP service, such as a registry on S3:
#   docker build --build-arg EXTRAS="api s3" .

FROM python:3.12-slim AS build
ARG PIP_INDEX_ARGS=""
ARG EXTRAS="api"
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH
WORKDIR /src

# The dependencies alone first: this large layer is built anew only when they change.
COPY pyproject.toml constraints.txt ./
RUN python -c "import os, tomllib; p = tomllib.load(open('pyproject.toml', 'rb'))['project']; print(*p['dependencies'], *(d for e in os.environ['EXTRAS'].split() for d in p['optional-dependencies'][e]), sep='\n')" > requirements.txt \
 && pip install $PIP_INDEX_ARGS -c constraints.txt -r requirements.txt

COPY README.md LICENSE ./
COPY bench ./bench
COPY services ./services
COPY shared ./shared
COPY trainer ./trainer
RUN pip install $PIP_INDEX_ARGS -c constraints.txt --no-deps .


FROM python:3.12-slim
RUN groupadd --gid 10001 nextclick \
 && useradd --uid 10001 --gid nextclick --no-create-home --home-dir /tmp nextclick \
 && install -d -o nextclick -g nextclick /data /data/registry /data/event_log
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
