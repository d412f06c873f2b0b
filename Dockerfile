# The image of citybeat's own processes (ingest, API). A test checks that its steps are those of the Makefile.
FROM python:3.12-slim

# The processes need no privileges, so they do not run as root.
RUN useradd --uid 10001 --create-home citybeat
WORKDIR /opt/citybeat

# The lock file first, so that this layer changes only with a dependency.
COPY requirements.lock ./
RUN python -m venv .venv \
 && .venv/bin/python -m pip --quiet --disable-pip-version-check --no-input install --require-hashes -r requirements.lock

COPY pyproject.toml README.md LICENSE ./
COPY devices devices
COPY storage storage
COPY ingest ingest
COPY api api
COPY dashboards dashboards
COPY simulator simulator
COPY stack stack
COPY citybeat citybeat
RUN .venv/bin/python -m pip --quiet --disable-pip-version-check --no-input install --no-deps --no-build-isolation -e .

# A volume for ingest's spool, which must outlive the container.
RUN install -d -o citybeat -g citybeat /var/lib/citybeat
# Target of `citybeat dashboards build`: a new volume takes its owner from this directory.
RUN install -d -o citybeat -g citybeat /srv/grafana
VOLUME /var/lib/citybeat
ENV CITYBEAT_HOME=/var/lib/citybeat PATH=/opt/citybeat/.venv/bin:$PATH PYTHONUNBUFFERED=1

USER citybeat
ENTRYPOINT ["citybeat"]
CMD ["--help"]
