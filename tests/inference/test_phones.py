"""IPA to the shared phone alphabet, and text to IPA where espeak-ng is installed."""

from __future__ import annotations

import shutil

import pytest

from framecls.errors import FrameclsError
from framecls.recipes import phones
from framecls.recipes.phones import (
    PHONES,
    UnspokenLanguageError,
    espeak_voice,
    phone_symbols,
    spell_out,
    to_ipa,
    to_ipa_many,
)

needs_espeak = pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="espeak-ng is not installed")


def test_the_inventory_is_compact_and_has_no_double() -> None:
    assert 60 <= len(PHONES) <= 90
    assert len(set(PHONES)) == len(PHONES)
    assert all(len(phone) == 1 for phone in PHONES)


def test_every_folded_letter_lands_in_the_inventory_and_is_not_already_there() -> None:
    for letter, neighbours in phones._FOLD.items():
        assert letter not in PHONES
        assert set(neighbours) <= set(PHONES)
    assert set(phones._DOTTED.values()) <= set(PHONES)


@pytest.mark.parametrize(
    ("ipa", "expected"),
    [
        ("həlˈoʊ wˈɜːld", "h ə l o ʊ w ɜ l d"),  # stress, length and spaces are dropped
        ("tɕhˈy5 ts.ˈonɡ5 ʐˈəɜn s.ˈi.5", "t ɕ h y t ʂ o n ɡ ʐ ə ɜ n ʂ ɨ"),  # tones, and dotted letters
        ("ʈ͡ʂˈɑs vʲˌɛra", "ʈ ʂ ɑ s v ɛ r a"),  # tie bar and palatal mark
        ("bʰˈɑ̃ tʰuː", "b ɑ t u"),  # aspiration and nasal vowels
        ("ʊnt (en)lˈaptɒp(de) ɡˈɑːmə", "ʊ n t l a p t ɒ p ɡ ɑ m ə"),  # language switches
        ("(fr-fr)bɔ̃(cmn-latn-pinyin)nˈiɜ", "b ɔ n i ɜ"),
        ("ɟˈanɪtɕ ˈiç", "ɟ a n ɪ t ɕ i ç"),  # the c with cedilla stays a letter of its own
        ("ic\u0327", "i ç"),
        ("nːn ˈɐnnjʌ", "n ɐ n j ʌ"),  # a long sound is one phone
        ("ɚ ᵻ g ɫ ɗ ʦ", "ə ɹ ɪ ɡ l d t s"),  # rare letters
        ("uSˈul- dZˌerd[eɡˈi", "u ʃ u l d ʒ e r d e ɡ i"),  # ASCII stand-ins
        ("so̞ˈɯᵝ", "s o ɯ"),
        ("¿…12 _", ""),
        ("", ""),
    ],
)
def test_phone_symbols(ipa: str, expected: str) -> None:
    assert phone_symbols(ipa) == expected.split()


@pytest.mark.parametrize(
    ("lang", "voice"),
    [
        ("de", "de"),
        ("en", "en-us"),
        ("zh", "cmn"),
        ("zh_CN", "cmn"),
        ("pt_BR", "pt-br"),
        ("sr@latin", "sr"),
        ("es", "es-419"),
        ("nb", "nb"),
    ],
)
def test_espeak_voice(lang: str, voice: str) -> None:
    assert espeak_voice(lang) == voice


def test_bengali_letters_are_made_whole() -> None:
    assert spell_out("as", "সম\u09af\u09bc") == ("as", "সম\u09df")


def test_characters_need_a_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr("importlib.import_module", missing)
    phones._kakasi.cache_clear()
    with pytest.raises(FrameclsError, match="pip install pypinyin"):
        spell_out("zh", "你好")
    with pytest.raises(FrameclsError, match="pip install pykakasi"):
        spell_out("ja", "日本")
    assert spell_out("ja", "きょう は") == ("ja", "きょう は")


def test_without_espeak_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda _: None)
    with pytest.raises(FrameclsError, match="install"):
        to_ipa("de", "Guten Tag")


@needs_espeak
def test_to_ipa_reads_a_text_on_one_line() -> None:
    ipa = to_ipa("de", "Guten Tag. Wie geht es Ihnen?")
    assert "\n" not in ipa
    assert phone_symbols(ipa)[:5] == ["ɡ", "u", "t", "ə", "n"]


@needs_espeak
def test_a_text_that_looks_like_an_option_is_read() -> None:
    assert "h" in phone_symbols(to_ipa("en", "-x hello"))


@needs_espeak
def test_an_unknown_language_is_an_error() -> None:
    with pytest.raises(UnspokenLanguageError, match="no voice 'umb'"):
        to_ipa("umb", "text")
    with pytest.raises(UnspokenLanguageError, match="no voice 'umb'"):
        to_ipa_many("umb", ["one", "two"])


@needs_espeak
def test_many_texts_keep_their_order_whatever_they_hold() -> None:
    texts = [
        "Hello world. This is a test, and another one!",
        "",
        "Second   line\nof text",
        "???",
        '"Third" -- (line) 1999?',
        "A",
        "word " * 250 + "end",  # longer than espeak-ng takes from standard input at once
        "...",
        "Last line",
    ]
    together = to_ipa_many("en", texts)
    alone = [to_ipa("en", text) if text else "" for text in texts]
    assert [phone_symbols(ipa) for ipa in together] == [phone_symbols(ipa) for ipa in alone]
    assert phone_symbols(together[-1]) == list("læstlaɪn")
    assert together[1] == ""


@needs_espeak
def test_many_texts_cost_few_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[str] = []
    run = phones._espeak

    def counted(voice: str, lines: list[str], text: str | None) -> str:
        runs.append(voice)
        return run(voice, lines, text)

    monkeypatch.setattr(phones, "_espeak", counted)
    assert len(to_ipa_many("de", [f"Satz Nummer {number}, ja." for number in range(30)])) == 30
    assert len(runs) == 1
