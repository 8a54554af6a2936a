"""Where settings come from: keywords, the environment, ``.env`` and ``app.conf``, each with a url of its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from pydantic import SecretStr
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

from walex_celery.settings.url import parse_url

# None while nothing is being loaded. Pydantic makes the sources itself, and hands them nothing.
_conf: ContextVar[Mapping[str, Any] | None] = ContextVar("_conf", default=None)


@contextmanager
def loading_from(conf: Mapping[str, Any]) -> Iterator[None]:
    """Within, settings are loaded: from the environment, ``.env`` and *conf* too, not from keywords alone."""
    token = _conf.set(conf)
    try:
        yield
    finally:
        _conf.reset(token)


def sources_of(
    settings: type[BaseSettings],
    keywords: PydanticBaseSettingsSource,
    environment: PydanticBaseSettingsSource,
    dotenv: PydanticBaseSettingsSource,
) -> tuple[PydanticBaseSettingsSource, ...]:
    """Keywords, the environment, ``.env``, then ``app.conf``; each with the parts of its own url."""
    if _conf.get() is None:
        # Settings made of others (see changes.py), which have been read from all sources.
        return (keywords,)
    sources = (keywords, environment, dotenv, _CelerySource(settings))
    return tuple(_UrlParts(source) for source in sources) if "url" in settings.model_fields else sources


class _CelerySource(PydanticBaseSettingsSource):
    """``app.conf.walex_<name>``, of the application whose settings are being loaded."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        return (_conf.get() or {}).get(f"walex_{field_name}"), field_name, False

    def __call__(self) -> dict[str, Any]:
        found = {
            name: self.get_field_value(field, name)[0]
            for name, field in self.settings_cls.model_fields.items()
        }
        return {name: value for name, value in found.items() if value is not None}


class _UrlParts(PydanticBaseSettingsSource):
    """A source, its ``url`` taken apart: a part that it also gives singly wins, and both win over later sources."""

    def __init__(self, source: PydanticBaseSettingsSource) -> None:
        super().__init__(source.settings_cls)
        self._source = source

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        return self._source.get_field_value(field, field_name)

    def __call__(self) -> dict[str, Any]:
        self._source._set_current_state(self.current_state)
        self._source._set_settings_sources_data(self.settings_sources_data)
        values = self._source()
        url = values.get("url")
        text = url.get_secret_value() if isinstance(url, SecretStr) else url
        try:
            parts = parse_url(text) if text and isinstance(text, str) else {}
        except ValueError:
            # The url's own validator says what is wrong with it; that its database is missing too is not worth a line.
            parts = {"database": "?"}
        return {**parts, **values}
