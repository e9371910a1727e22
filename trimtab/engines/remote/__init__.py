"""Models that only an endpoint offers: what it can do, a policy of what it tells, and engines of what it samples."""

from trimtab.engines.remote.bias import BiasEngine
from trimtab.engines.remote.capabilities import Capabilities
from trimtab.engines.remote.client import Client, Refused
from trimtab.engines.remote.engine import RemoteEngine
from trimtab.engines.remote.limits import Limits
from trimtab.engines.remote.meter import Meter
from trimtab.engines.remote.probe import probe
from trimtab.engines.remote.remote import Remote, connect
from trimtab.engines.remote.toy import ToyEndpoint

__all__ = [
    "BiasEngine",
    "Capabilities",
    "Client",
    "Limits",
    "Meter",
    "Refused",
    "Remote",
    "RemoteEngine",
    "ToyEndpoint",
    "connect",
    "probe",
]
