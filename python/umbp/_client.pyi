# SPDX-License-Identifier: Apache-2.0
from . import (Client as Client, Entry as Entry, ExternalMatch as ExternalMatch,
               HostBuffer as HostBuffer, Tier as Tier)
