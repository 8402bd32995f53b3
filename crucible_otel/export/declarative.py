"""``OTEL_CONFIG_FILE``: the SDK builds the providers from the file, and we join them."""

from __future__ import annotations

from collections.abc import Mapping

from crucible_otel.errors import ConfigurationError, MissingExtraError

_VARIABLE = "OTEL_CONFIG_FILE"


def configure_from_file(environ: Mapping[str, str]) -> bool:
    """Have the SDK configure itself from the file that the environment names, if it names one.

    Returns:
        Whether it did.

    Raises:
        MissingExtraError: The SDK's declarative configuration is not installed.
        ConfigurationError: The file cannot be used.
    """
    path = environ.get(_VARIABLE, "").strip()
    if not path:
        return False
    try:
        from opentelemetry.configuration import configure_sdk, load_config_file
    except ImportError as error:
        raise MissingExtraError("opentelemetry-configuration", "config-file") from error
    try:
        configure_sdk(load_config_file(path))
    except Exception as error:
        raise ConfigurationError(
            _VARIABLE, path, f"a declarative configuration that the SDK accepts ({error})"
        ) from error
    return True
