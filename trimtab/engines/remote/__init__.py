"""Models that only an endpoint offers: a client, what an endpoint can do, and a policy of what it tells."""

from trimtab.engines.remote.capabilities import Capabilities
from trimtab.engines.remote.client import Client, Refused
from trimtab.engines.remote.limits import Limits
from trimtab.engines.remote.meter import Meter
from trimtab.engines.remote.probe import probe
from trimtab.engines.remote.remote import Remote
from trimtab.engines.remote.toy import ToyEndpoint

__all__ = ["Capabilities", "Client", "Limits", "Meter", "Refused", "Remote", "ToyEndpoint", "probe"]
