# The compiled part needs a C compiler, which the slim image lacks.
FROM python:3.12 AS build

WORKDIR /src
COPY pyproject.toml hatch_build.py README.md LICENSE ./
COPY walex_celery ./walex_celery
COPY example_project ./example_project
RUN pip wheel --no-deps --wheel-dir /wheels .

# The example shop's image: producer, workers, Flower and load generator are its commands.
FROM python:3.12-slim

ENV PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1

COPY --from=build /wheels /wheels
RUN pip install "$(ls /wheels/*.whl)[redis,metrics]" 'flower>=2.0'

# The volume for emails inherits the owner of this folder.
RUN useradd --system --uid 10001 --home-dir /srv/shop shop \
    && install --directory --owner=shop /srv/shop /var/lib/shop/outbox

WORKDIR /srv/shop
COPY example_project ./
USER shop
ENV SHOP_OUTBOX=/var/lib/shop/outbox

CMD ["celery", "-A", "shop", "worker", "--loglevel=INFO"]
