"""Settings from variables and flags, and the one line that a wrong one stops the start with."""

from __future__ import annotations

import os
import re
from typing import Any

import pytest
import typer.main
from typer.testing import CliRunner

from app.cli import app
from app.load_settings import load_settings, shown, unused_host, variables
from app.settings import Settings, SettingsError
from app.wording import allowed


@pytest.fixture(autouse=True)
def _bare(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [*os.environ]:
        if name.upper().startswith("DALLE_") or name in ("HOST", "PORT"):
            monkeypatch.delenv(name)


def test_defaults_listen_on_this_machine_only() -> None:
    settings = load_settings()
    assert (settings.host, settings.port, settings.weights) == ("127.0.0.1", 8000, ("weights/default",))
    assert settings.devices == ("auto",)


def test_flags_win_over_variables_and_ours_over_the_plain_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORT", "81")
    monkeypatch.setenv("HOST", "0.0.0.0")
    assert (load_settings().port, load_settings().host) == (81, "0.0.0.0")
    monkeypatch.setenv("DALLE_PORT", "82")
    assert load_settings().port == 82
    assert load_settings(port=83, slots=None).port == 83


def test_several_devices_are_several_workers() -> None:
    assert load_settings(device="cuda:0,cuda:1").devices == ("cuda:0", "cuda:1")


def test_settings_are_frozen_and_an_empty_variable_counts_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DALLE_SLOTS", "")
    settings = load_settings()
    assert settings.slots == 16
    with pytest.raises(ValueError, match="frozen"):
        settings.slots = 1  # type: ignore[misc]


def test_what_kubernetes_sets_beside_a_service_of_our_name_is_no_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SERVER_PORT", "SERVER_SERVICE_HOST", "SERVER_SERVICE_PORT_HTTP", "SERVER_PORT_8000_TCP_ADDR"):
        monkeypatch.setenv(f"DALLE_{name}", "tcp://10.0.0.1:8000")
    assert load_settings().port == 8000


def test_beside_a_service_that_is_called_dalle_its_address_is_no_port(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PORT", "PORT_8000_TCP", "PORT_53_UDP"):
        monkeypatch.setenv(f"DALLE_{name}", "tcp://10.0.0.1:8000")
    for name in ("SERVICE_HOST", "PORT_8000_TCP_ADDR"):
        monkeypatch.setenv(f"DALLE_{name}", "10.0.0.1")
    for name in ("SERVICE_PORT", "SERVICE_PORT_HTTP", "PORT_8000_TCP_PORT", "PORT_8000_TCP_PROTO"):
        monkeypatch.setenv(f"DALLE_{name}", "8000")
    assert load_settings().port == 8000
    monkeypatch.setenv("PORT", "81")
    assert load_settings().port == 81
    monkeypatch.setenv("PORT", "abc")
    with pytest.raises(SettingsError, match=r"^PORT must be an integer from 0 to 65535, got abc$"):
        load_settings()
    assert load_settings(port="82").port == 82


@pytest.mark.parametrize("alias", ["DALLE", "DALLE_WEB"])
def test_what_docker_sets_for_a_link_of_our_name_is_no_setting(monkeypatch: pytest.MonkeyPatch, alias: str) -> None:
    monkeypatch.setenv(f"{alias}_PORT", "tcp://172.17.0.5:8000")
    monkeypatch.setenv(f"{alias}_NAME", "/page/dalle")
    for name in ("PATH", "SLOTS", "DALLE_SLOTS", "PYTHON_VERSION"):
        monkeypatch.setenv(f"{alias}_ENV_{name}", "3")
    assert (load_settings().port, load_settings().slots) == (8000, 16)
    monkeypatch.setenv(f"{alias}_NAME", "walrus")
    with pytest.raises(SettingsError, match=rf"^{alias}_NAME is not a setting"):
        load_settings()


@pytest.mark.parametrize("value", ["x86_64-conda-linux-gnu", "walrus", "*", "10.0.0.1:80"])
def test_a_host_that_is_no_address_is_ignored(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("HOST", value)
    assert (load_settings().host, unused_host(load_settings())) == ("127.0.0.1", value)
    assert unused_host(load_settings(host="::1")) is None
    monkeypatch.setenv("DALLE_HOST", "walrus")
    assert (load_settings().host, unused_host(load_settings())) == ("walrus", None)


@pytest.mark.parametrize("value", ["0.0.0.0", "::", "localhost", "192.0.2.1"])
def test_a_host_that_is_an_address_counts(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("HOST", value)
    assert (load_settings().host, unused_host(load_settings())) == (value, None)


@pytest.mark.parametrize(
    ("value", "origins"),
    [
        ("", ()),
        ("*", ("*",)),
        ("null", ("null",)),
        ("https://a.org, http://localhost:3000", ("https://a.org", "http://localhost:3000")),
        ("https://a.org/", ("https://a.org",)),
        (
            "https://A.org:443/ ,http://b.org:80,http://c.org:8080",
            ("https://a.org", "http://b.org", "http://c.org:8080"),
        ),
        ("http://[::1]:3000,chrome-extension://abc", ("http://[::1]:3000", "chrome-extension://abc")),
    ],
)
def test_origins_are_taken_as_people_write_them(value: str, origins: tuple[str, ...]) -> None:
    assert load_settings(cors_origins=value).origins == origins


def test_networks_of_proxies_are_known_on_sockets_for_both_kinds_of_addresses() -> None:
    found = load_settings(trusted_proxies="10.1.2.3/8, 127.0.0.1,::1").proxies
    assert found == ("10.0.0.0/8", "127.0.0.1/32", "::1/128", "::ffff:10.0.0.0/104", "::ffff:127.0.0.1/128")


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("DALLE_PORT", "abc", "DALLE_PORT must be an integer from 0 to 65535, got abc"),
        ("PORT", "70000", "PORT must be an integer from 0 to 65535, got 70000"),
        ("DALLE_SLOTS", "1", "DALLE_SLOTS must be an integer from 2 to 1024, got 1"),
        ("DALLE_QUEUE", "9", "DALLE_QUEUE"),
        ("DALLE_DEADLINE", "nan", "DALLE_DEADLINE must be a number above 0, up to 86400, got nan"),
        ("DALLE_STRICT", "perhaps", "DALLE_STRICT must be true or false, got perhaps"),
        ("DALLE_LOG", "xml", "DALLE_LOG must be one of plain, json, got xml"),
        (
            "DALLE_DEVICE",
            "tpu",
            "DALLE_DEVICE must be auto, cpu, cuda, cuda:0 or a list such as cuda:0,cuda:1, got tpu",
        ),
        ("DALLE_API_KEYS", "sesame", "DALLE_API_KEYS must be SHA-256 hashes of API keys"),
        ("DALLE_CORS_ORIGINS", "a.org", "DALLE_CORS_ORIGINS must be origins separated by commas, such as"),
        ("DALLE_SLOT", "4", "DALLE_SLOT is not a setting; did you mean DALLE_SLOTS?"),
        ("DALLE_SLOT_PORT", "9000", "DALLE_SLOT_PORT is not a setting; `dalle-server serve --help` lists"),
        ("DALLE_LOGLEVEL", "debug", "DALLE_LOGLEVEL is not a setting; did you mean DALLE_LOG_LEVEL?"),
        ("DALLE_PORT", "10.0.0.1:8000", "DALLE_PORT must be an integer from 0 to 65535, got 10.0.0.1:8000"),
        ("DALLE_ALLOWED_HOSTS", "http://a.org", "DALLE_ALLOWED_HOSTS must be names without scheme and port"),
        ("DALLE_ALLOWED_HOSTS", "a.org:80", "DALLE_ALLOWED_HOSTS must be names without scheme and port"),
        ("DALLE_TRUSTED_PROXIES", "nginx", "DALLE_TRUSTED_PROXIES must be addresses or networks"),
        ("DALLE_TRUSTED_PROXIES", "10.0.0.0/33", "DALLE_TRUSTED_PROXIES must be addresses or networks"),
    ],
)
def test_a_wrong_variable_is_one_line_with_its_name_and_value(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, says: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert str(caught.value).startswith(says)
    if name != "DALLE_API_KEYS" and " must be " in says:
        assert str(caught.value).endswith(f", got {value}")
    assert "sesame" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_wrong_flag_is_named_as_a_flag(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DALLE_HEARTBEAT_TIMEOUT", "3")
    with pytest.raises(SettingsError, match=r"^--heartbeat-timeout must be a number from 1 to 600, got 0$"):
        load_settings(heartbeat_timeout=0)


SCHEMA = Settings.model_json_schema(by_alias=False)["properties"]


@pytest.fixture(scope="module")
def helped() -> dict[str, tuple[str, str]]:
    """What `dalle-server serve --help` says of each setting: the heading that it stands under, and its line."""
    done = CliRunner().invoke(app, ["serve", "--help"], env={"COLUMNS": "600", "NO_COLOR": "1"})
    assert done.exit_code == 0
    panel, found = "", {}
    for line in done.output.splitlines():
        if line.startswith("╭─"):
            panel = line.strip("╭─╮ ")
        elif flag := re.match(r"│ --([a-z-]+) ", line):
            found[flag[1].replace("-", "_")] = (panel, " ".join(line.split()))
        elif variable := re.match(r" DALLE_([A-Z_]+)  ", line):
            found[variable[1].lower()] = ("", " ".join(line.split()))
    return found


def test_the_help_shows_every_setting_and_nothing_else(helped: dict[str, tuple[str, str]]) -> None:
    assert set(helped) == {*Settings.model_fields, "help"}


@pytest.mark.parametrize("name", Settings.model_fields)
def test_the_help_tells_default_range_and_variable_of_a_setting(helped: dict[str, tuple[str, str]], name: str) -> None:
    panel, line = helped[name]
    field = Settings.model_fields[name]
    assert panel == SCHEMA[name].get("panel", "") != "Options"
    assert str(field.description) in line
    told = re.search(r"default: ([^];\s]+)[];]", line)
    assert told
    assert told[1] == shown(field.default)
    if field.annotation in (int, float):
        assert float(told[1]) == field.default
    assert f"DALLE_{name.upper()}" in variables(name)
    assert all(variable in line for variable in variables(name))
    numbers = re.findall(r"\d[\d.]*", allowed(SCHEMA[name])) if field.annotation in (int, float) else []
    assert len(numbers) == 2 * (field.annotation in (int, float)), "a number has both its bounds"
    assert all(number in line for number in numbers)


@pytest.mark.parametrize("name", [name for name in Settings.model_fields if "panel" not in SCHEMA[name]])
def test_a_setting_without_a_flag_has_a_variable(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    value, other = VALUES.get(name, ("20", "30"))
    found = set()
    for text in (value, other):
        monkeypatch.setenv(f"DALLE_{name.upper()}", text)
        found.add(getattr(load_settings(), name))
    assert len(found) == 2


@pytest.mark.parametrize("name", [name for name in Settings.model_fields if "panel" in SCHEMA[name]])
def test_a_flag_wins_over_its_variable(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    command: Any = typer.main.get_command(app)
    dashed = name.replace("_", "-")
    if Settings.model_fields[name].annotation is bool:
        wanted = not Settings.model_fields[name].default
        arguments, value = [f"--{dashed}" if wanted else f"--no-{dashed}"], str(not wanted)
    else:
        value, other = VALUES.get(name, ("20", "30"))
        arguments = [f"--{dashed}", other]
    flags = command.commands["serve"].make_context("serve", arguments).params
    assert [flag for flag, given in flags.items() if given not in (None, [], ())] == [name]
    monkeypatch.setenv(variables(name)[0], value)
    of_variable, of_flag = getattr(load_settings(), name), getattr(load_settings(**flags), name)
    assert of_flag != of_variable
    assert of_flag == getattr(load_settings(**{name: flags[name]}), name)


VALUES = {  # two of each setting that is no number, or none of this size
    "answer_bytes": ("2000000", "3000000"),
    "max_body": ("2000", "3000"),
    "max_upload": ("2000", "3000"),
    "private_webhooks": ("on", "off"),
    "host": ("::1", "0.0.0.0"),
    "root_path": ("/a", "/a/b"),
    "on_unknown": ("paint", "refuse"),
    "weights": ("a", "b"),
    "device": ("cpu", "cuda:1"),
    "dtype": ("float32", "bfloat16"),
    "api_keys": ("0" * 64, "1" * 64),
    "api_keys_file": ("a", "b"),
    "cors_origins": ("http://a.org", "http://b.org,http://c.org:80"),
    "allowed_hosts": ("a.org", "b.org,*.c.org"),
    "trusted_proxies": ("::1", "10.0.0.0/8,127.0.0.1"),
    "log": ("json", "plain"),
    "log_level": ("debug", "error"),
}


def test_a_wrong_flag_on_the_command_line_is_a_usage_error_naming_it() -> None:
    done = CliRunner().invoke(app, ["serve", "--port", "abc"], env={"COLUMNS": "200"})
    assert done.exit_code == 2
    assert "--port must be an integer from 0 to 65535, got abc" in done.output
