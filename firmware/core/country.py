"""How a country's exchanges ring and announce a caller: what the line's state machine depends on. Pure data.

Sources: Japan: NTT's technical reference for analog lines; UK: BT SIN 227 and 351; others: ETSI ES 200 778.
Tones stand with the receiver that hears them (drivers/softmodem/tones.py), timing of the hook in the settings.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from drivers.signals import Country


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """start_signal_ms: bursts shorter than this are Number Display's start signal; None: the country has none.
    ring_gap_ms: bursts with a shorter gap between them are one ring. ring_pause_ms: the longest pause between rings.
    fixed_length: the calling code, where the plan tells when a dialled number of the country is whole.
    short: numbers, as a pattern, that are whole although the plan does not list them: emergencies and services.
    alerts: a call can begin with the alerting signal (CAS) on the idle line.
    """

    start_signal_ms: int | None
    ring_gap_ms: int
    ring_pause_ms: int
    fixed_length: str | None
    short: str
    alerts: bool


PROFILES: Mapping[Country, Profile] = {
    # Start signal 0.5 s on, 0.5 s off; an ordinary ring is one burst of 1 s (+-20 %) and 2 s of pause.
    # 110, 171 ...: three digits from 1 on; 184 and 186 are prefixes, and so is 122.
    "jp": Profile(
        start_signal_ms=750,
        ring_gap_ms=0,
        ring_pause_ms=2400,
        fixed_length="+81",
        short="1(?!22|84|86)[0-9]{2}",
        alerts=False,
    ),
    # 2 s on, 4 s off; distinctive ringing has gaps of 0.2 to 0.5 s within a ring.
    "us": Profile(
        start_signal_ms=None,
        ring_gap_ms=1000,
        ring_pause_ms=4800,
        fixed_length="+1",
        short="[2-9]11",
        alerts=False,
    ),
    # 0.4 s on, 0.2 s off, 0.4 s on, 2 s off.
    "uk": Profile(
        start_signal_ms=None,
        ring_gap_ms=1000,
        ring_pause_ms=2400,
        fixed_length=None,
        short="999|112|101|105|111|123|159",
        alerts=True,
    ),
    # 1 s on, 4 s off.
    "etsi": Profile(
        start_signal_ms=None,
        ring_gap_ms=1000,
        ring_pause_ms=4800,
        fixed_length=None,
        short="112",
        alerts=True,
    ),
}
