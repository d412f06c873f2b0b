# citybeat's own processes (ingest, API). The steps are those of the Makefile; a test compares them.
FROM python:3.12-slim

# No root inside: the processes need no rights at all.
RUN useradd --uid 10001 --create-home citybeat
WORKDIR /opt/citybeat

# The lock first: this layer changes only when a dependency does.
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

# Ingest's spool lies here; a volume, so that it outlives the container.
RUN install -d -o citybeat -g citybeat /var/lib/citybeat
# What `citybeat dashboards build` writes for Grafana: a volume takes its owner from here.
RUN install -d -o citybeat -g citybeat /srv/grafana
VOLUME /var/lib/citybeat
ENV CITYBEAT_HOME=/var/lib/citybeat PATH=/opt/citybeat/.venv/bin:$PATH PYTHONUNBUFFERED=1

USER citybeat
ENTRYPOINT ["citybeat"]
CMD ["--help"]
