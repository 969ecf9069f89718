"""A million random steps of every signal: one call of what is one call, each recording stopped once, nothing leaks.

Blocks of 5,000 steps, each made again from the seed and its number; the edges of one ring burst are one step. Two
thirds of the choices are what a line can do, in any order; the rest is every signal at any time.
"""

from __future__ import annotations

import itertools
import json
import random
import secrets
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from drivers.signals import (
    ButtonPressed,
    CallerIdReceived,
    CallerIdSource,
    CasHeard,
    Device,
    DeviceLost,
    DeviceReady,
    KeyHeard,
    LinePresentEdge,
    LoopEdge,
    LoopReport,
    ModemRing,
    PolarityEdge,
    RingEdge,
    Tone,
    ToneHeard,
    VoiceHeard,
)
from firmware.core.call import Call, ClockRead
from firmware.core.explain import accounts, sentences, step_to_dict, verdict
from firmware.core.facts import CallLeftOpen, Input, RecordingFailed, RecordingSwitched
from firmware.core.line import Command, Line, SaveCall, ShowLine, StartRecording, State, StopRecording
from firmware.engine.journal import Journal, JournalledReads, steps
from firmware.engine.loop import Engine
from tests.proof.report import Report
from tests.test_line import config, ready

MS = 1_000_000
S = 1000 * MS
BLOCK = 5000
STEPS = 1_000_000
_SECRET_KEY = "D"  # keyed where keys are nobody's business, and nowhere else
_SECRET_NUMBER = "0900000999"
_NUMBERS = ("0300001234", "09000005678", "0300009012")
_TONES: tuple[Tone, ...] = ("dial", "second_dial", "ringback", "busy", "call_waiting", "cng", "ced")
_DEVICES: tuple[Device, ...] = ("gpio", "modem", "codec", "listener")
_SOURCES: tuple[CallerIdSource, ...] = ("line_fsk", "modem", "line_dtmf")
_UP = (State.DIALLING, State.IN_CALL, State.FLASH, State.HELD_OPEN)
_MOST_THINGS = 5000  # held by a line, whatever happened on it: marks, bursts, evidence, unfiled calls


def prove(report: Report) -> None:
    seed = secrets.randbelow(1_000_000)
    report.figure("seed", seed)
    run(STEPS, seed, report)


def run(count: int, seed: int, report: Report | None = None) -> Counter[str]:
    """Raises AssertionError, with the block's seed as its note."""
    outcomes: Counter[str] = Counter()
    taken: Counter[str] = Counter()
    states: Counter[str] = Counter()
    done = 0
    most_things = 0
    left: Call | None = None
    for number in range(-(-count // BLOCK)):
        with tempfile.TemporaryDirectory() as directory:
            block = _Block(f"{seed}-{number}", Path(directory), left)
            try:
                block.run()
            except Exception as wrong:
                wrong.add_note(f"seed {seed}, block {number}")
                raise
        left = block.was_open
        outcomes.update(str(call.outcome) for call in block.calls.values())
        taken.update(block.taken)
        states.update(block.states)
        done += block.steps
        most_things = max(most_things, block.most_things)
        if report:
            report.progress((number + 1) * BLOCK / count)
    if report:
        report.figure("steps", f"{done:,}")
        report.figure("states", ", ".join(f"{name} {n:,}" for name, n in states.most_common()))
        report.figure(
            "signals", f"{taken.total():,}: " + ", ".join(f"{name} {n:,}" for name, n in sorted(taken.items()))
        )
        report.figure("calls", f"{outcomes.total():,}: " + ", ".join(f"{o} {n:,}" for o, n in outcomes.most_common()))
        report.figure("objects held by a line, at most", most_things)
    return outcomes


class _Block:
    """An engine, a line and a journal that live for BLOCK steps."""

    def __init__(self, seed: str, directory: Path, left: Call | None) -> None:
        self.dice = random.Random(seed)
        self._directory = directory
        self._config = config(number_display=self.dice.random() < 0.5, unwanted=("+81300009012",))
        self._journal = Journal(directory, [self._config])
        ids = itertools.count(1)
        reads = JournalledReads(
            self._journal,
            lambda: f"{seed}-{next(ids):06d}",
            lambda: ClockRead(mono_ns=0, wall_ns=1_764_000_000 * S, state="ntp"),
        )
        self.line = Line(self._config, reads)
        self._engine = Engine({1: self.line}, self._journal, self._execute, lambda given: None, lambda: 0)
        self.now = 10 * S
        self.steps = 0
        self._ring_ns = 0
        self.taken: Counter[str] = Counter()
        self.states: Counter[str] = Counter()
        self.calls: dict[str, Call] = {}
        self.was_open: Call | None = None
        self.most_things = 0
        self._saves: list[SaveCall] = []
        self._open: set[str] = set()
        self._recording: str | None = None
        self._state = State.IDLE
        self._shown: str | None = None
        self._due: list[tuple[int, str]] = []  # the recorder's answers
        self._left = left

    def run(self) -> None:
        if self._left:
            reason = "not_answered" if self._left.direction == "incoming" else "nothing was written"
            call = self._left.to_dict()
            self._give(CallLeftOpen(at_ns=0, line=1, call=call, recording=None, repaired=False, no_recording=reason))
        while self.steps < BLOCK:
            for gap_ns, given in self._next():
                self._give_after(gap_ns, given)
            if self.dice.random() < 0.02:
                self._is_bounded()
        self._everybody_goes_home()
        self._journal.close()
        self._nothing_leaked()
        self._a_replay_gives_the_same()

    # -- what happens

    def _next(self) -> Iterator[tuple[int, Any]]:
        """(ns since the step before, a signal without its time)."""
        dice, state = self.dice, self.line.state
        pause = dice.choice([5 * MS, 60 * MS, 400 * MS, 2 * S, 7 * S])
        chosen = dice.random()
        if chosen < 0.32:
            yield self._any_gap(), self._any_signal()
        elif chosen < 0.36:
            yield from self._burst(pause, dice.choice([8, 16]))
        elif chosen < 0.56:
            closed = state in _UP or state is State.CID_HANDSHAKE
            yield pause, _loop(not closed)
            if dice.random() < 0.8:
                yield dice.choice([110, 350, 700, 1300, 1600, 3000, 9000]) * MS, _any_voice(dice)
        elif chosen < 0.76 and state is State.DIALLING:
            for _ in range(dice.randrange(1, 11)):
                if dice.random() < 0.7:
                    yield dice.choice([120, 500, 1500]) * MS, self._key()
                else:
                    for _ in range(dice.randrange(1, 11)):
                        yield 40 * MS, _loop(False)
                        yield 60 * MS, _loop(True)
                    yield 700 * MS, _any_voice(dice)
        elif chosen < 0.76:
            tone = dice.choice(_TONES)
            for cycles, over in ((1, False), (4, False), (dice.randrange(1, 9), True)):
                yield S, ToneHeard(at_ns=0, line=1, tone=tone, until_ns=0, cycles=cycles, over=over)
        elif chosen < 0.94:
            yield pause, self._caller()
        elif chosen < 0.942:
            storm = self._any_signal()
            for _ in range(250):
                yield dice.choice([5, 62, 400]) * MS, storm
        else:
            yield from self._whole_call()

    def _whole_call(self) -> Iterator[tuple[int, Any]]:
        """As it should be: start signal and frame where the line has them, rings, lift, talk, hang-up."""
        dice = self.dice
        yield 7 * S, _loop(False)
        if self._config.number_display:
            yield from self._burst(2 * S, 8)
            yield 500 * MS, _loop(True)
            yield 1200 * MS, self._caller()
            yield 300 * MS, _loop(False)
        for _ in range(dice.randrange(1, 5)):
            yield from self._burst(2 * S, 16)
        if dice.random() < 0.7:
            yield dice.choice([10 * MS, S]), _loop(True)
            for _ in range(dice.randrange(0, 4)):
                yield dice.choice([2 * S, 10 * S]), _any_voice(dice)
            yield 4 * S, _loop(False)

    def _burst(self, pause_ns: int, cycles: int) -> Iterator[tuple[int, Any]]:
        for cycle in range(cycles):
            yield 62 * MS if cycle else pause_ns, RingEdge(at_ns=0, line=1, active=True)

    def _any_gap(self) -> int:
        if self.dice.random() < 0.02:
            return self.dice.choice([70, 1900, 1900, 4000]) * S
        return self.dice.choice([0, 1, 5, 12, 40, 62, 99, 120, 280, 400, 1000, 1300, 2500, 6500, 8000]) * MS

    def _any_signal(self) -> Any:
        dice = self.dice
        yes = dice.random() < 0.5
        match dice.randrange(15):
            case 0:
                return _loop(yes)
            case 1:
                return RingEdge(at_ns=0, line=1, active=yes)
            case 2:
                return LinePresentEdge(at_ns=0, line=1, present=yes)
            case 3 | 4:
                return PolarityEdge(at_ns=0, line=1, reversed=yes)
            case 5:
                return self._caller()
            case 6:
                return ModemRing(at_ns=0, line=1, pattern="A" if yes else None)
            case 7:
                return LoopReport(at_ns=0, line=1, what=dice.choice(["broken", "restored", "extension"]))
            case 8:
                return self._key()
            case 9:
                return CasHeard(at_ns=0, line=1, until_ns=0)
            case 10:
                return ButtonPressed(at_ns=0)
            case 11:
                return VoiceHeard(at_ns=0, line=1)
            case 12:
                device = dice.choice(_DEVICES)
                if yes:
                    return DeviceLost(at_ns=0, device=device, line=1, reason="Unplugged; plug it in.")
                return DeviceReady(at_ns=0, device=device, line=1, detail="here")
            case 13:
                return RecordingSwitched(at_ns=0, line=1, enabled=yes)
            case _:
                call_id = self._recording if yes and self._recording else "nobody's"
                return RecordingFailed(at_ns=0, line=1, call_id=call_id, reason="The disk is full; free some space.")

    def _key(self) -> KeyHeard:
        key = self.dice.choice("0123456789*#") if self.line.state is State.DIALLING else _SECRET_KEY
        return KeyHeard(at_ns=0, line=1, key=key, until_ns=0)

    def _caller(self) -> CallerIdReceived:
        dice = self.dice
        source = dice.choice(_SOURCES)
        number = dice.choice([*_NUMBERS, None])
        if source == "line_dtmf" and self.line.state in _UP:
            number = _SECRET_NUMBER
        corrupt = dice.random() < 0.1
        return CallerIdReceived(
            at_ns=0,
            line=1,
            source=source,
            presentation="corrupt" if corrupt else "allowed" if number else "withheld",
            number=None if corrupt else number,
            name=None,
            date_raw=None,
            raw=number or "withheld",
            standard="jp" if source == "line_fsk" else None,
            until_ns=None if source == "modem" else 0,
            call_waiting=dice.random() < 0.1,
        )

    def _give_after(self, gap_ns: int, given: Any) -> None:
        self._to(self.now + gap_ns)
        if isinstance(given, KeyHeard | CallerIdReceived):
            given = self._key() if isinstance(given, KeyHeard) else self._caller()  # as the state is now
        fields = {name: getattr(given, name) for name in given.__slots__} | {"at_ns": self.now}
        if fields.get("until_ns") is not None:
            fields["until_ns"] = self.now  # known where it ends, and as long as the last pause at most
            fields["at_ns"] = self.now - min(gap_ns, S)
        self._give(type(given)(**fields))

    def _give(self, given: Input) -> None:
        self.taken[type(given).__name__] += 1
        self.steps += not (isinstance(given, RingEdge) and given.at_ns - self._ring_ns < 100 * MS)
        if isinstance(given, RingEdge):
            self._ring_ns = given.at_ns
        self._engine.take(given)

    def _to(self, at_ns: int) -> None:
        """Timers and the recorder's answers, in order."""
        while (due_ns := self._engine.due_ns()) <= at_ns or (self._due and min(self._due)[0] <= at_ns):
            if self._due and min(self._due)[0] <= due_ns:
                answer = min(self._due)
                self._due.remove(answer)
                self._give(ready(answer[1], answer[0]))
            else:
                self.now = due_ns
                self._engine.advance(due_ns)
        self.now = at_ns

    def _everybody_goes_home(self) -> None:
        self._give_after(10 * MS, LinePresentEdge(at_ns=0, line=1, present=True))
        self._give_after(10 * MS, _loop(False))
        self._to(self.now + 60 * S)
        assert self.line.state is State.IDLE and not self.line.busy
        assert not self._open, "a call that never ended"
        assert self._recording is None, "a recording went on for ever"
        assert all(call.outcome for call in self.calls.values())
        own = [call for call in self.calls.values() if self._left is None or call.call_id != self._left.call_id]
        spans = sorted((call.opened_ns, call.ended_ns or 0) for call in own)
        assert all(end <= begin for (_, end), (begin, _) in itertools.pairwise(spans)), "two calls at a time"

    # -- what must hold

    def _execute(self, command: Command) -> None:
        match command:
            case StartRecording():
                assert self._recording is None, "two recordings at a time"
                self._recording = command.call_id
            case StopRecording():
                assert self._recording == command.call_id, "stopped what was not started"
                self._recording = None
                if command.keep:
                    self._due.append((self.now + self.dice.randrange(1, 5 * S), command.call_id))
            case ShowLine():
                assert (command.state, command.call_id) != (self._state, self._shown), "shown without a change"
                self._shown = command.call_id
                self._state = command.state
                self.states[command.state.value] += 1
            case SaveCall():
                self._saved(command)

    def _saved(self, save: SaveCall) -> None:
        call, before = save.call, self.calls.get(save.call.call_id)
        ends = [event.type for event in save.events if event.type in ("call.ended", "call.missed")]
        if before and before.outcome:
            assert (call.outcome, call.ended_ns, ends) == (before.outcome, before.ended_ns, []), "filed twice"
        elif call.outcome:
            assert len(ends) == 1, "one end of one call"
            self._open.discard(call.call_id)
        else:
            self._open.add(call.call_id)
            self.was_open = call
        assert len(self._open) <= 1, "two calls at a time"
        if call.outcome and call.outcome != "interrupted":
            assert call.ended_ns is not None and call.opened_ns <= call.ended_ns
            assert call.answered_ns is None or call.opened_ns <= call.answered_ns <= call.ended_ns
            assert (call.outcome == "missed") == (call.no_recording == "not_answered")
        assert (call.recording is None) == (call.no_recording is not None)
        assert len(call.marks) <= 200 and len(call.bursts) <= 200 and len(call.heard) <= 8
        self.calls[call.call_id] = call
        self._saves.append(save)

    def _is_bounded(self) -> None:
        things = _things(self.line)
        self.most_things = max(self.most_things, things)
        assert things <= _MOST_THINGS, "the line's memory grows"

    def _nothing_leaked(self) -> None:
        """What was keyed after the answer is in no record, event or journal."""
        texts = [path.read_text(encoding="utf-8") for path in self._directory.iterdir()]
        texts += [json.dumps(save.call.to_dict()) for save in self._saves]
        texts += [json.dumps([event.data for event in save.events]) for save in self._saves]
        for text in texts:
            assert f'"{_SECRET_KEY}"' not in text and _SECRET_NUMBER not in text, "a key after the answer was kept"
        for call in self.calls.values():
            assert not call.dialled or _SECRET_KEY not in call.dialled.raw

    def _a_replay_gives_the_same(self) -> None:
        replayed = [step for path in sorted(self._directory.iterdir()) for step in steps(path)]
        saves = [command for step in replayed for command in step.commands if isinstance(command, SaveCall)]
        assert saves == self._saves, "a replay makes something else of the journal"
        told = accounts(replayed)
        assert {a.call.call_id: a.call for a in told if a.call} == self.calls
        for account in told:
            text = repr([*sentences(account), *verdict(account)])
            text += json.dumps([step_to_dict(entry, account) for entry in account.entries])
            assert not any(number[1:] in text for number in _NUMBERS), "a number in an explanation"


def _loop(closed: bool) -> LoopEdge:
    return LoopEdge(at_ns=0, line=1, closed=closed)


def _any_voice(dice: random.Random) -> Any:
    """Any sound or word of the modem that a line hears at any time."""
    return dice.choice(
        [VoiceHeard(at_ns=0, line=1), ModemRing(at_ns=0, line=1), PolarityEdge(at_ns=0, line=1, reversed=True)]
    )


def _things(of: object, depth: int = 0) -> int:
    """How many objects hang on an object of ours."""
    if isinstance(of, dict):
        return len(of) + sum(_things(value, depth + 1) for value in of.values())
    if isinstance(of, list | tuple | set | frozenset):
        return len(of) + sum(_things(value, depth + 1) for value in of)
    if depth < 8 and type(of).__module__.startswith("firmware.core") and not isinstance(of, type | State):
        names = getattr(of, "__slots__", None) or vars(of)
        return 1 + sum(_things(getattr(of, name), depth + 1) for name in names if name != "_reads")
    return 1
