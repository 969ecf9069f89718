"""Settings: each mistake is one sentence that names file, section, key and how to mend it."""

from __future__ import annotations

import typing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers.modem import MODELS
from firmware.settings import (
    LineSettings,
    Patch,
    SettingsError,
    load,
    parse,
    patched,
    public,
    public_hash,
    read_patch,
    write_patch,
)

GOOD = """
[unit]
site = "shop"
unit = "unit-1"
data_dir = "/var/lib/tsuroku"
[[line]]
number = 1
codec = "linetap"
"""
HOOK = GOOD + '[[webhook]]\nname = "crm"\n'
ZAMMAD = HOOK + 'url = "https://a"\nformat = "zammad"\n'
NOTIFY = GOOD + '[[notify]]\nname = "owner"\nurls_file = "/u"\n'


def test_a_short_file_is_enough() -> None:
    settings = parse(GOOD, "s.toml")
    assert settings.line[0].off_hook_ms == 100
    assert settings.broker == ()


def test_numbers_that_are_not_recorded_stand_as_they_were_written() -> None:
    numbers = ("03-0000-1234", "+819000001234", "21", "０３００００１２３５")
    listed = ", ".join(f'"{number}"' for number in numbers)
    assert parse(f"{GOOD}[recording]\ndo_not_record = [{listed}]\n", "s.toml").recording.do_not_record == numbers


@pytest.mark.parametrize("entry", ["", "me", "+81", "0900000123", "1234567", "2025550123"])
def test_a_number_that_no_line_can_show_is_refused_and_not_repeated(entry: str) -> None:
    with pytest.raises(SettingsError) as error:
        parse(f'{GOOD}[recording]\ndo_not_record = ["{entry}"]\n', "s.toml")
    assert str(error.value) == (
        "s.toml: [recording] do_not_record: entry 1 is no telephone number; write it in full as the line shows it "
        '("03-0000-1234"), with + and calling code, or as a short number of up to 6 digits.'
    )


def test_what_is_told_of_the_settings_holds_no_address_behind_which_a_token_may_stand() -> None:
    text = GOOD + '[console]\ncrm_url = "https://crm.example/s3cret?tel={number}"\n'
    assert public(parse(text, "s.toml"))["console"]["crm_url"] == "crm.example"


def test_a_line_of_any_country_may_know_the_number() -> None:
    text = f'{GOOD}country = "etsi"\n[recording]\ndo_not_record = ["0123456789"]\n'
    assert parse(text, "s.toml").recording.do_not_record == ("0123456789",)
    with pytest.raises(SettingsError):
        parse(text.replace("etsi", "us"), "s.toml")


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ("[unit", "s.toml: is not TOML: "),
        ("", "s.toml: top level lacks the key 'unit'; add it (see the commented example)."),
        (GOOD + "of_hook_ms = 5\n", "s.toml: [[line]] has no key 'of_hook_ms'; did you mean 'off_hook_ms'?"),
        (GOOD + "[recordin]\n", "s.toml: top level has no key 'recordin'; did you mean 'recording'?"),
        (GOOD + "off_hook_ms = 5\n", "s.toml: [[line]] off_hook_ms = 5 is out of range; allowed is 20 to 1000."),
        (GOOD + "off_hook_ms = true\n", "s.toml: [[line]] off_hook_ms = True must be a whole number."),
        (GOOD + 'modem = ""\n', "s.toml: [[line]] modem = '' is empty; fill it in or leave the key out."),
        (GOOD + 'country = "fr"\n', "s.toml: [[line]] country = 'fr' is not one of: 'jp', 'us', 'uk', 'etsi'."),
        (GOOD.replace("/var", "var"), "data_dir = 'var/lib/tsuroku' must be an absolute path in quotes."),
        (GOOD.replace("unit-1", "090 0000"), "[unit] unit = '090 0000' cannot stand in a topic; use 1 to 32 of a-z"),
        (GOOD.replace("[[line]]", "[line]"), "s.toml: [line] must be written as [[line]], once for each."),
        (GOOD.replace("number = 1", "number = 2"), "lines must be numbered 1, 2, ... in order, found [2]."),
        (GOOD + "hang_up_ms = 300\n", "off_hook_ms < flash_min_ms < hang_up_ms must hold, found 100, 300, 300."),
        (GOOD + "[recording]\nring_s = 20\npre_roll_s = 19\n", "ring_s = 20.0 is too short; give it pre_roll_s + 15"),
        (GOOD + "[recording]\nrate_hz = 44100\n", "rate_hz = 44100: use 8000, 16000 or 32000."),
        (GOOD + '[recording]\ndo_not_record = "0300001234"\n', "[recording] do_not_record must be a list of texts in"),
        (GOOD + "[recording]\ndo_not_record = [300001234]\n", "[recording] do_not_record must be a list of texts in"),
        (GOOD + '[recording]\ndo_not_record = ["110", "0300012"]\n', "do_not_record: entry 2 is no telephone number;"),
        (GOOD + '[[broker]]\nhost = "b.example"\ntls = false\n', "tls = false is allowed for this machine itself only"),
        (GOOD + '[[broker]]\nhost = "b"\ncert_file = "/c"\n', "cert_file and key_file must be given together."),
        (GOOD + '[[broker]]\nhost = "b"\nprefix = "a/#"\n', "prefix = 'a/#' cannot begin a topic; use 1 to 3 names"),
        (GOOD + '[[broker]]\nhost = "b"\nprefix = "a/b/c/d"\n', "cannot begin a topic"),
        (GOOD.replace("unit-1", "0300001234"), "[unit] unit = '0300001234' looks like a phone number"),
        (GOOD + "[recording]\nbuffer_frames = 8000\n", "is more than half a second; give at most 4000."),
        (
            GOOD + '[[broker]]\nhost = "a"\n[[broker]]\nhost = "b"\n',
            "every broker, webhook and notify needs a name of its own",
        ),
        (HOOK + 'url = "https://a"\n[[broker]]\nhost = "b"\nname = "crm"\n', "needs a name of its own"),
        (HOOK + 'url = "crm.example"\n', "[[webhook]] crm: url must be an address like https://crm.example/hook."),
        (HOOK + 'url = "https://a:b/"\n', "[[webhook]] crm: url must be an address"),
        (HOOK + 'url = "http://crm.example/s3cret"\n', "[[webhook]] crm: url: http is allowed for this machine itself"),
        (GOOD + '[[line]]\nnumber = 2\ncodec = "linetap"\n', "two lines are on one channel of one codec"),
        (GOOD + '[callbacks]\nhours = "9-18"\n', "[callbacks] hours = '9-18': write it as 09:00-18:00."),
        (GOOD + '[callbacks]\nclosed_on = ["Sunday"]\n', "[callbacks] closed_on: 'Sunday': use mon, tue"),
        (
            GOOD + '[console]\ncrm_url = "https://crm.example/"\n',
            "give the page of a caller with {number} or {national}",
        ),
        (GOOD + '[console]\ncrm_url = "javascript:alert({number})"\n', "give the page of a caller with {number}"),
        (HOOK + 'url = "https://me:pw@crm.example"\n', "url holds a user or password; put a token into token_file"),
        (
            HOOK + 'url = "https://a"\nevents = ["call.mised"]\n',
            "'call.mised' is no event; did you mean 'call.missed'?",
        ),
        (HOOK + 'url = "https://a"\nformat = "template"\n', 'format = "template" and template_file must be given'),
        (HOOK + 'url = "https://a"\ntemplate_file = "/t"\n', 'format = "template" and template_file must be given'),
        (HOOK + 'url = "https://a"\ncontent_type = "a/b"\n', 'content_type is for format = "template" only.'),
        (HOOK + 'url = "https://a"\nnumbers = ["+81300000001"]\n', 'numbers is for format = "zammad" and "zoho" only.'),
        (ZAMMAD, '[[webhook]] crm: format = "zammad" needs numbers: the shop\'s own, one for each line'),
        (ZAMMAD + 'numbers = ["0300"]\n', "needs numbers: the shop's own, one for each line"),
        (ZAMMAD + 'privacy = "last4"\n', 'format = "zammad" is about numbers; it needs privacy = "full".'),
        (ZAMMAD + 'events = ["call.missed"]\n', 'format = "zammad" chooses its events itself; take events out.'),
        (ZAMMAD.replace("zammad", "zoho") + 'numbers = ["+81300000001"]\n', 'format = "zoho" needs token_file'),
        (NOTIFY + 'digest_at = "25:00"\n', "[[notify]] owner: digest_at = '25:00' is no time of day; write it as"),
        (NOTIFY + 'quiet = "22-7"\n', "[[notify]] owner: quiet = '22-7' is no stretch of the day; write it as"),
        (NOTIFY + "urgent = true\n", "[[notify]] owner: urgent = true does nothing without quiet and alarms"),
        (NOTIFY + "missed = false\nalarms = false\n", "[[notify]] owner: it would tell nothing; set missed, alarms"),
    ],
)
def test_a_mistake_is_one_sentence(wrong: str, sentence: str) -> None:
    with pytest.raises(SettingsError) as error:
        parse(wrong, "s.toml")
    assert sentence in str(error.value)
    assert "\n" not in str(error.value).rstrip()


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be read"):
        load(tmp_path / "none.toml")
    (tmp_path / "latin.toml").write_bytes(b"\xe9")
    with pytest.raises(SettingsError, match="is not UTF-8 text at byte 0"):
        load(tmp_path / "latin.toml")


def test_the_models_of_the_settings_are_the_driver_s() -> None:
    hint = typing.get_type_hints(LineSettings)["modem_model"]
    assert typing.get_args(hint) == ("auto", *MODELS)


@given(st.text(max_size=200))
def test_any_text_is_settings_or_one_sentence(text: str) -> None:
    try:
        parse(GOOD + text, "s.toml")
    except SettingsError as error:
        assert str(error).startswith("s.toml: ")


json_: st.SearchStrategy[object] = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.lists(st.integers()), st.just({})
)
FILED = parse(GOOD + "[recording]\npre_roll_s = 4.0\ndo_not_record = ['03-0000-1234']\n", "s.toml")


def test_what_is_changed_from_afar_stands_over_the_file() -> None:
    settings = patched(FILED, {"recording": {"pre_roll_s": 9}, "watch": {"disk_free_mb": 5}}, "patch")
    assert settings.recording.pre_roll_s == 9 and settings.watch.disk_free_mb == 5
    assert settings.recording.do_not_record == FILED.recording.do_not_record
    assert public_hash(settings) != public_hash(FILED)
    assert patched(FILED, {}, "patch") == FILED


@pytest.mark.parametrize(
    ("patch", "sentence"),
    [
        ([], "patch: must be an object of sections."),
        ({"broker": {}}, "patch: only recording, events, watch can be changed from afar, not 'broker'."),
        ({"unit": {"data_dir": "/"}}, "patch: only recording, events, watch can be changed from afar, not 'unit'."),
        ({"recording": {"do_not_record": []}}, "patch: do_not_record can be changed in the settings file only."),
        ({"recording": {"seal_to": "/k"}}, "patch: seal_to can be changed in the settings file only."),
        ({"recording": 5}, "patch: [recording] must be a section (write it as [recording])."),
        (
            {"recording": {"pre_rol_s": 5}},
            "patch: [recording] has no key 'pre_rol_s'; did you mean 'pre_roll_s'?",
        ),
        (
            {"recording": {"ring_s": 20, "pre_roll_s": 20}},
            "patch: [recording] ring_s = 20.0 is too short; give it pre_roll_s + 15 or more.",
        ),
        ({"watch": {"disk_free_mb": True}}, "patch: [watch] disk_free_mb = True must be a whole number."),
    ],
)
def test_what_cannot_be_changed_from_afar_is_told(patch: object, sentence: str) -> None:
    with pytest.raises(SettingsError) as error:
        patched(FILED, patch, "patch")
    assert str(error.value) == sentence


@given(st.dictionaries(st.sampled_from(["recording", "events", "watch", "unit"]), st.dictionaries(st.text(), json_)))
def test_any_patch_is_taken_whole_or_refused_in_a_sentence(patch: dict[str, dict[str, object]]) -> None:
    try:
        changed = patched(FILED, patch, "patch")
    except SettingsError as error:
        assert str(error).startswith("patch: ")
    else:
        assert public(changed)["unit"] == public(FILED)["unit"]


def test_whoever_edits_the_file_has_the_last_word(tmp_path: Path) -> None:
    filed = parse(GOOD.replace("/var/lib/tsuroku", str(tmp_path)), "s.toml")
    assert read_patch(filed) is None
    patch = Patch(base=public_hash(filed), values={"events": {"keep_days": 3}}, by="crm", at="2026-11-26T00:00:00.000Z")
    write_patch(filed, patch)
    path = tmp_path / "settings-patch.json"
    assert read_patch(filed) == patch and path.stat().st_mode & 0o777 == 0o600
    edited = parse(GOOD.replace("/var/lib/tsuroku", str(tmp_path)) + "[watch]\ndisk_free_mb = 7\n", "s.toml")
    with pytest.raises(SettingsError, match="another settings file"):
        read_patch(edited)
    for damaged in ("", "[]", "{}", path.read_text()[:-9]):
        path.write_text(damaged)
        with pytest.raises(SettingsError, match="is damaged, so the settings file counts alone; remove it"):
            read_patch(filed)
