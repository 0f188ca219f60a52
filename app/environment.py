"""Which variables of the environment are meant for this server. Leaf: imports nothing of ours."""

from __future__ import annotations

import ipaddress
import os
import re

# Kubernetes sets these variables in every container that runs beside a service named dalle or dalle-something. One of
# them is DALLE_PORT, with an address as its value. A number in DALLE_PORT is our setting.
SERVICE_LINK = re.compile(r"DALLE_(\w+_)?(SERVICE_(HOST|PORT\w*)|PORT_\d+_(TCP|UDP|SCTP)\w*)")
SERVICE_PORT = re.compile(r"DALLE_(\w+_)?PORT")
SERVICE_ADDRESS = re.compile(r"(tcp|udp|sctp)://.*")


def environment() -> dict[str, str]:
    """The variables of this process that are set, without those that only look like settings of this server.

    Kubernetes sets variables that begin with DALLE_ beside a service named dalle. Conda's compilers and some shells set
    HOST to the name of a machine, so HOST counts only if it is an address.
    """
    found = {}
    for name, value in os.environ.items():
        of_kubernetes = SERVICE_LINK.fullmatch(name) or (SERVICE_PORT.fullmatch(name) and SERVICE_ADDRESS.match(value))
        if value and not of_kubernetes and (name.upper() != "HOST" or is_address(value)):
            found[name] = value
    return found


def is_address(host: str) -> bool:
    """Whether `host` is an IP address or localhost."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return host == "localhost"
    return True
