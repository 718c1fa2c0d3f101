# The server alone: no compiler, no Postgres, no root.
FROM python:3.13-slim AS build
WORKDIR /src
COPY requirements/run.txt requirements/run.txt
# The build backend is pinned too: it comes with the requirements, and so needs no environment of its own.
RUN python -m venv /opt/rowcast && pip install --no-cache-dir -c requirements/run.txt hatchling
COPY pyproject.toml README.md CHANGELOG.md LICENSE ./
COPY realtime realtime
COPY migrations migrations
COPY sdk sdk
RUN pip wheel --no-cache-dir --no-deps --no-build-isolation -w /wheels . ./sdk \
 && /opt/rowcast/bin/pip install --no-cache-dir -c requirements/run.txt /wheels/*.whl

FROM python:3.13-slim
RUN useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin rowcast
COPY --from=build /opt/rowcast /opt/rowcast
ENV PATH=/opt/rowcast/bin:$PATH PYTHONUNBUFFERED=1
# Nothing is kept here, and no .env file is found here.
WORKDIR /tmp
# By number, so that Kubernetes can tell that it is not root.
USER 10001
EXPOSE 4000
HEALTHCHECK --interval=5s --timeout=3s --start-period=20s --retries=6 CMD ["python", "-c", "import os, urllib.request as r; \
  r.build_opener(r.ProxyHandler({})).open('http://127.0.0.1:' + os.environ.get('PORT', '4000') + '/readyz', timeout=2)"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["rowcast"]
CMD ["serve"]
