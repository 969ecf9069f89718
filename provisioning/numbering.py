"""Writes firmware/core/numbering.py from the phonenumbers library. For builds only; the unit never needs the library.

Run as `python provisioning/numbering.py` after a change of its version in requirements-dev.txt.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import phonenumbers
from phonenumbers import COUNTRY_CODE_TO_REGION_CODE, PhoneMetadata
from phonenumbers.geodata import GEOCODE_DATA
from phonenumbers.geodata.locale import LOCALE_DATA

TARGET = Path(__file__).parent.parent / "firmware" / "core" / "numbering.py"
HEAD = '''"""Numbering plans of the world as text. Written by provisioning/numbering.py: do not edit.

Taken from phonenumbers {version}, the Python port of libphonenumber.
Copyright (C) The Libphonenumber Authors, licensed under the Apache License, Version 2.0.
"""

# ruff: noqa: E501
'''

# Tighter than the library's pattern of what is possible, which takes a truncated 090 number for a national one of nine
# digits, and a North American exchange that begins with 0 or 1.
POSSIBLE = {
    81: r"[1-9][1-9]\d{7}|30\d{7}|[25-9]0\d{8}",
    1: r"[2-9]\d\d[2-9]\d{6}",
}
# Japanese numbers without E.164 form (0077 7xx xxxx) are no concern of a table of E.164 numbers.
DROPPED = {("JP", "toll_free"): r"(?:120|800\d)\d{6}"}
# 03-0000-xxxx, 050-0000-xxxx, 090-0000-xxxx and 07700 900xxx belong to nobody: documents and tests use them.
FICTITIOUS = {
    ("JP", "fixed_line"): r"30000\d{4}",
    ("JP", "voip"): r"500000\d{4}",
    ("JP", "mobile"): r"[6-9]00000\d{4}",
    ("GB", "mobile"): r"7700900\d{3}",
}
COUNTRIES = {
    "AC": ("アセンション島", "Ascension Island"),
    "TA": ("トリスタン・ダ・クーニャ", "Tristan da Cunha"),
    "XK": ("コソボ", "Kosovo"),
}
# Areas that the library names in Japanese alone.
AREAS = {
    "門別富川": "Monbetsu-Tomikawa, Hokkaido",
    "根室標津": "Nemuro-Shibetsu, Hokkaido",
    "十勝池田": "Tokachi-Ikeda, Hokkaido",
    "十勝清水": "Tokachi-Shimizu, Hokkaido",
    "北見枝幸": "Kitami-Esashi, Hokkaido",
    "利尻礼文": "Rishiri-Rebun, Hokkaido",
    "石狩深川": "Ishikari-Fukagawa, Hokkaido",
    "焼尻": "Yagishiri, Hokkaido",
    "鰺ケ沢": "Ajigasawa, Aomori",
    "迫": "Hasama, Miyagi",
    "築館": "Tsukidate, Miyagi",
    "古川": "Furukawa, Miyagi",
    "磐城富岡": "Iwaki-Tomioka, Fukushima",
    "会津山口": "Aizu-Yamaguchi, Fukushima",
    "新井": "Arai, Niigata",
    "巻": "Maki, Niigata",
    "小出": "Koide, Niigata",
    "大町": "Omachi, Nagano",
    "長野": "Nagano, Nagano",
    "木曾福島": "Kiso-Fukushima, Nagano",
    "水海道": "Mitsukaido, Ibaraki",
    "竜ケ崎": "Ryugasaki, Ibaraki",
    "武蔵野三鷹": "Musashino-Mitaka, Tokyo",
    "大原": "Ohara, Chiba",
    "伊豆大島": "Izu Oshima, Tokyo",
    "三宅": "Miyake, Tokyo",
    "八丈島": "Hachijojima, Tokyo",
    "浜松": "Hamamatsu, Shizuoka",
    "天竜": "Tenryu, Shizuoka",
    "鰍沢青柳": "Kajikazawa-Aoyagi, Yamanashi",
    "修善寺大仁": "Shuzenji-Ohito, Shizuoka",
    "尾張横須賀": "Owari-Yokosuka, Aichi",
    "美濃白川": "Mino-Shirakawa, Gifu",
    "郡上八幡": "Gujo-Hachiman, Gifu",
    "高富": "Takatomi, Gifu",
    "上野": "Ueno, Mie",
    "三瀬谷": "Misedani, Mie",
    "岸和田貝塚": "Kishiwada-Kaizuka, Osaka",
    "和歌山橋本": "Wakayama-Hashimoto, Wakayama",
    "大和榛原": "Yamato-Haibara, Nara",
    "五条": "Gojo, Nara",
    "峰山": "Mineyama, Kyoto",
    "播磨山崎": "Harima-Yamasaki, Hyogo",
    "竜野": "Tatsuno, Hyogo",
    "丹波柏原": "Tanba-Kaibara, Hyogo",
    "八鹿": "Yoka, Hyogo",
    "久賀": "Kuka, Yamaguchi",
    "安芸吉田": "Aki-Yoshida, Hiroshima",
    "千代田": "Chiyoda, Hiroshima",
    "甲山": "Kozan, Hiroshima",
    "石見大田": "Iwami-Oda, Shimane",
    "根雨": "Neu, Tottori",
    "福渡": "Fukuwatari, Okayama",
    "三本松": "Sanbonmatsu, Kagawa",
    "窪川": "Kubokawa, Kochi",
    "土佐中村": "Tosa-Nakamura, Kochi",
    "阿波池田": "Awa-Ikeda, Tokushima",
    "丹生谷": "Nyudani, Tokushima",
    "牟岐": "Mugi, Tokushima",
    "土佐山田": "Tosa-Yamada, Kochi",
    "嶺北": "Reihoku, Kochi",
    "郷ノ浦": "Gonoura, Nagasaki",
    "厳原": "Izuhara, Nagasaki",
    "対馬佐賀": "Tsushima-Saka, Nagasaki",
    "有川": "Arikawa, Nagasaki",
    "松橋": "Matsubase, Kumamoto",
    "熊本一の宮": "Kumamoto-Ichinomiya, Kumamoto",
    "矢部": "Yabe, Kumamoto",
    "沖縄宮古": "Okinawa-Miyako, Okinawa",
    "中之島": "Nakanoshima, Kagoshima",
    "硫黄島": "Iojima, Kagoshima",
    "大根占": "Onejime, Kagoshima",
    "中甑": "Nakakoshiki, Kagoshima",
    "種子島": "Tanegashima, Kagoshima",
}
LONGEST = {"81": 9, "1": 4, "44": 9}  # of North America the area codes only: its exchanges would be 31,000 rows
# In the order in which the library asks, and the word that it is written as.
TYPES = {
    "premium_rate": "premium",
    "toll_free": "toll_free",
    "shared_cost": "shared_cost",
    "voip": "voip",
    "personal_number": "personal",
    "pager": "pager",
    "uan": "corporate",
    "voicemail": "voicemail",
    "fixed_line": "fixed",
    "mobile": "mobile",
}


def source() -> str:
    """The whole of firmware/core/numbering.py."""
    regions = {region for shared in COUNTRY_CODE_TO_REGION_CODE.values() for region in shared} - {"001"}
    codes = sorted(COUNTRY_CODE_TO_REGION_CODE, key=str)
    out = [HEAD.format(version=phonenumbers.__version__), "# Calling code: its regions, the main one first."]
    out.append("CALLING_CODES = {")
    out += [f'    "{code}": "{" ".join(plans_of(code))}",' for code in codes]
    out += ["}", "", "# Region: its name in Japanese and in English.", "COUNTRIES = {"]
    out += [f'    "{region}": "{"=".join(country(region))}",' for region in sorted(regions)]
    out += [
        "}",
        "",
        "# Region, or calling code that is no region's: lines of `key pattern` and `=pattern leading format`.",
    ]
    out.append("PLANS = {")
    for code in codes:
        for region in plans_of(code):
            first, *more = plan(region, code)
            out += [f'    "{region}": r"""{first}', *more]
            out[-1] += '""",'
    out += ["}", "", "# Calling code: an E.164 number's first digits and their area, in Japan as Japanese=English."]
    out += ["# The longest that fits.", "AREAS = {"]
    for area_code, longest in LONGEST.items():
        out += [f'    "{area_code}": """', *areas(area_code, longest), '""",']
    out += ["}", ""]
    return "\n".join(out)


def plans_of(code: int) -> list[str]:
    return [str(code) if region == "001" else region for region in COUNTRY_CODE_TO_REGION_CODE[code]]


def country(region: str) -> tuple[str, str]:
    if region in COUNTRIES:
        return COUNTRIES[region]
    names = LOCALE_DATA[region]

    def name(language: str) -> str:
        held = names[language]
        return str(names[held[1:]] if held.startswith("*") else held)

    return name("ja"), name("en")


def plan(region: str, code: int) -> Iterator[str]:
    data: Any = PhoneMetadata.metadata_for_region_or_calling_code(code, "001" if region.isdigit() else region)
    lengths = "|".join(map(str, data.general_desc.possible_length))
    yield f"lengths {lengths}"
    yield f"possible {POSSIBLE.get(code, data.general_desc.national_number_pattern)}"
    if data.leading_digits:
        yield f"leading {data.leading_digits}"
    for field, kind in TYPES.items():
        described = getattr(data, field)
        pattern = described and described.national_number_pattern
        if not pattern or pattern == "NA":
            continue
        pattern = DROPPED.get((region, field), pattern)
        if (region, field) in FICTITIOUS:
            pattern += "|" + FICTITIOUS[region, field]
        kind = "navi_dial" if (region, field) == ("JP", "uan") else kind
        yield f"{kind} {pattern}"
    if region == plans_of(code)[0]:  # the library formats by a calling code's main region
        for shape in data.number_format:
            if region == "JP" and re.match(r"0", shape.leading_digits_pattern[0]):
                continue
            form = shape.format
            if shape.national_prefix_formatting_rule:
                form = re.sub(r"(\\\d)", shape.national_prefix_formatting_rule, form, count=1)
            leading = shape.leading_digits_pattern[-1] if shape.leading_digits_pattern else ""
            yield "=" + "\t".join((shape.pattern, leading, form))


def areas(code: str, longest: int) -> Iterator[str]:
    rows = {k: v for k, v in GEOCODE_DATA.items() if k.startswith(code) and len(k) <= longest}
    english = AREAS | {v["ja"]: v["en"] for v in rows.values() if {"ja", "en"} <= v.keys() and v["ja"] not in AREAS}
    for prefix, row in rows.items():  # what is missing is filled before anything is left out
        if "ja" in row and "en" not in row:
            rows[prefix] = {**row, "en": english[row["ja"]]}

    def name(prefix: str, language: str) -> str:
        """As the library finds it: by the longest prefix that has this language."""
        lengths = range(len(prefix), 0, -1)
        return next((found for i in lengths if (found := rows.get(prefix[:i], {}).get(language))), "")

    for prefix in sorted(rows):
        both = (name(prefix, "ja"), name(prefix, "en"))
        if both != (name(prefix[:-1], "ja"), name(prefix[:-1], "en")):
            yield f"{prefix} {'='.join(both) if code == '81' else both[1]}"


if __name__ == "__main__":
    TARGET.write_text(source(), encoding="utf-8")
