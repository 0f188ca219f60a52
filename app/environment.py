"""Which variables of the environment are meant for this server. Leaf: imports nothing of ours."""

from __future__ import annotations

import ipaddress
import os
import re

# Kubernetes sets these variables in every container that runs beside a service named dalle or dalle-something. One of
# them is DALLE_PORT, with an address as its value. A number in DALLE_PORT is our setting.
SERVICE_LINK = re.compile(r"DALLE_(\w+_)?(SERVICE_(HOST|PORT\w*)|PORT_\d+_(TCP|UDP|SCTP)\w*)")
SERVICE_PORT = re.compile(r"DALLE_(\w+_)?PORT")
CLIENT_KEY = "DALLE_CLIENT_KEY"  # the API key with which this machine asks other servers
SERVICE_ADDRESS = re.compile(r"(tcp|udp|sctp)://.*")
# Docker sets the same ones for a container that is linked to one of such a name, and these too: its name, and its own
# variables (docs.docker.com/engine/network/links).
LINK_NAME = re.compile(r"DALLE_(\w+_)?NAME")
LINK_PATH = re.compile(r"/[^/]+/[^/]+")
LINK_VARIABLE = re.compile(r"DALLE_(\w+_)?ENV_\w+")


def environment() -> dict[str, str]:
    """The variables of this process that are set, without those that only look like settings of this server.

    Kubernetes and Docker set variables that begin with DALLE_ beside a service named dalle. Conda's compilers and some
    shells set HOST to the name of a machine, so HOST counts only if it is an address.
    """
    return {
        name: value
        for name, value in os.environ.items()
        if value and name != CLIENT_KEY and not _is_link(name, value) and (name.upper() != "HOST" or is_address(value))
    }


def _is_link(name: str, value: str) -> bool:
    """Whether Kubernetes or Docker sets this variable to lead to a service of our name."""
    return bool(
        SERVICE_LINK.fullmatch(name)
        or LINK_VARIABLE.fullmatch(name)
        or (SERVICE_PORT.fullmatch(name) and SERVICE_ADDRESS.match(value))
        or (LINK_NAME.fullmatch(name) and LINK_PATH.fullmatch(value))
    )


def is_address(host: str) -> bool:
    """Whether `host` is an IP address or localhost."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return host == "localhost"
    return True
