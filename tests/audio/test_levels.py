"""The mix to mono and a constant offset: heard, and nothing heard, by the model of sounds too."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

import framecls
from framecls.audio import open_audio
from framecls.errors import AudioError, ConfigError
from support.commands import ROOT
from support.signals import RATE

Samples = NDArray[np.float32]


def read(samples: NDArray[Any], block_s: float = 30.0, **options: Any) -> tuple[Samples, list[str]]:
    from framecls.config import ReadOptions

    with open_audio(samples, RATE, RATE, ReadOptions(**options)) as stream:
        return np.concatenate(list(stream.blocks(block_s))), stream.remarks.notes


@pytest.fixture(scope="module")
def sound() -> framecls.Model:
    return framecls.load("sound", device="cpu")


@pytest.fixture(scope="module")
def speech() -> Samples:
    samples, rate = soundfile.read(ROOT / "samples/speech_flite.flac", dtype="float32")
    assert rate == RATE
    return np.asarray(samples)


def heard(model: framecls.Model, samples: NDArray[Any]) -> set[str]:
    return {segment.label for segment in model.tag(samples.astype(np.float32), sample_rate=RATE).segments}


# Channels that cancel


@pytest.mark.parametrize("gain", [-1.0, -0.8, -1.2])
def test_speech_in_channels_that_cancel_is_heard(sound: framecls.Model, speech: Samples, gain: float) -> None:
    result = sound.tag(np.stack([speech, gain * speech]), sample_rate=RATE)
    assert {segment.label for segment in result.segments} == {"speech"}
    assert len(result.notes) == 1
    assert "cancel each other" in result.notes[0]


def test_the_louder_channel_is_heard_without_seams(speech: Samples) -> None:
    got, _ = read(np.stack([0.8 * speech, -speech]))
    np.testing.assert_array_equal(got[RATE:], -speech[RATE:])


def test_channels_that_cancel_only_later_fade_into_the_louder(speech: Samples) -> None:
    right = np.where(np.arange(len(speech)) < 2 * RATE, speech, -speech)
    got, notes = read(np.stack([speech, right]))
    fade = slice(2 * RATE, 2 * RATE + RATE // 100)
    assert (np.abs(got[fade]) <= np.abs(speech[fade])).all()
    got[fade] = speech[fade]
    np.testing.assert_array_equal(got, speech)  # the mean of the first half, the left channel of the second
    assert len(notes) == 1
    assert "from 2.0 s on" in notes[0]
    shorter, _ = read(np.stack([speech, right]), 0.3)
    np.testing.assert_array_equal(shorter, read(np.stack([speech, right]))[0])


@pytest.mark.parametrize(
    "gains",
    [(1, 1), (1, 0), (0, 1), (1, 0.3), (1, 1, -1), (0, 0, 1, 0, 0, 0), (1, -0.4)],
    ids=str,
)
def test_channels_that_do_not_cancel_are_mixed_by_their_mean(speech: Samples, gains: tuple[float, ...]) -> None:
    samples = np.float32(gains)[:, None] * speech
    got, notes = read(samples)
    np.testing.assert_array_equal(got, samples.T @ np.full(len(gains), 1 / len(gains), np.float32))
    assert notes == []


def test_an_offset_in_one_channel_does_not_hide_what_cancels(speech: Samples) -> None:
    got, notes = read(np.stack([speech + 0.3, -speech]))
    assert any("cancel" in note for note in notes)
    assert np.corrcoef(got, speech)[0, 1] > 0.9 or np.corrcoef(got, -speech)[0, 1] > 0.9


def test_silence_that_cancels_says_nothing() -> None:
    hiss = 1e-5 * np.random.default_rng(1).standard_normal(RATE).astype(np.float32)
    assert read(np.stack([hiss, -hiss]))[1] == []


# One channel


def test_one_channel_is_chosen_by_name_or_number(speech: Samples) -> None:
    samples = np.stack([speech, 0.5 * speech, -speech])
    for channel, row in {"left": 0, "right": 1, "3": 2, 3: 2, 1: 0}.items():
        np.testing.assert_array_equal(read(samples, channel=channel)[0], samples[row])
    np.testing.assert_array_equal(read(samples, channel="mix")[0], read(samples)[0])


def test_what_is_wrong_in_a_channel_that_is_not_heard_does_not_count(speech: Samples) -> None:
    spoilt = speech.copy()
    spoilt[100] = np.nan
    np.testing.assert_array_equal(read(np.stack([speech, spoilt]), channel="left")[0], speech)
    with pytest.raises(AudioError, match="NaN"):
        read(np.stack([speech, spoilt]))


def test_a_channel_that_is_not_there(speech: Samples) -> None:
    with pytest.raises(AudioError, match="there is no channel 3 in it: it has 2 channels"):
        read(np.stack([speech, speech]), channel=3)
    with pytest.raises(AudioError, match="there is no channel 2 in it: it has 1 channel"):
        read(speech, channel="right")


@pytest.mark.parametrize("channel", ["middle", 0, -1, "0", True, 1.5])
def test_what_is_no_channel(channel: Any) -> None:
    with pytest.raises(ConfigError, match="choose left, right, each, mix or a number from 1"):
        read(np.zeros(100, np.float32), channel=channel)


def test_each_channel_has_a_result_of_its_own(sound: framecls.Model, speech: Samples, write_audio: Any) -> None:
    path = write_audio("a.wav", np.stack([speech, np.zeros_like(speech)], axis=1))
    array = np.stack([np.zeros_like(speech), speech])
    results = list(sound.tag_many([path, "none.wav"], channel="each"))
    results += sound.tag_many([array], channel="each", sample_rate=RATE)
    left, right, failure, first, second = results
    assert isinstance(failure, AudioError)
    for result, channel, segments in ((left, 1, True), (right, 2, False), (first, 1, False), (second, 2, True)):
        assert isinstance(result, framecls.TagResult)
        assert result.channel == channel
        assert bool(result.segments) == segments
    assert left.file == right.file == str(path)  # type: ignore[union-attr]
    assert sound.tag(path, channel="left").segments == left.segments  # type: ignore[union-attr]
    assert sound.tag(path).channel is None


def test_each_channel_needs_what_can_be_read_twice_and_more_than_one_result(
    sound: framecls.Model, speech: Samples
) -> None:
    [failure] = sound.tag_many([iter([speech])], channel="each", sample_rate=RATE)
    assert isinstance(failure, AudioError)
    assert "needs a file or an array" in str(failure)
    with pytest.raises(framecls.UsageError, match="use tag_many"):
        sound.tag(speech, channel="each", sample_rate=RATE)


# A constant offset


@pytest.mark.parametrize("offset", [0.002, 0.004, -0.03, 0.1, 0.9])
@pytest.mark.parametrize("hiss", [0.0, 1e-4])
def test_an_offset_is_nothing(sound: framecls.Model, offset: float, hiss: float) -> None:
    noise = hiss * np.random.default_rng(1).standard_normal(4 * RATE)
    assert heard(sound, offset + noise) == set()


@pytest.mark.parametrize("offset", [0.02, -0.2, 0.5])
def test_speech_on_an_offset_is_speech(sound: framecls.Model, speech: Samples, offset: float) -> None:
    assert heard(sound, speech + offset) == {"speech"}
    expected = sound.tag(speech, sample_rate=RATE).segments
    found = sound.tag(speech + np.float32(offset), sample_rate=RATE).segments
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert abs(one.start - other.start) < 0.1
        assert abs(one.end - other.end) < 0.1


def test_an_offset_that_drifts_or_comes_later_is_nothing(sound: framecls.Model) -> None:
    seconds = np.arange(8 * RATE) / RATE
    assert heard(sound, 0.2 * seconds / 8) == set()
    assert heard(sound, 0.3 - 0.2 * seconds / 8) == set()
    assert heard(sound, 0.1 + 0.05 * np.sin(2 * np.pi * seconds / 8)) == set()


def test_an_offset_in_one_channel_is_nothing(sound: framecls.Model) -> None:
    assert heard(sound, np.stack([np.full(4 * RATE, 0.2), np.zeros(4 * RATE)])) == set()


def test_an_offset_at_another_rate_is_nothing(sound: framecls.Model) -> None:
    assert not sound.tag(np.full(4 * 44100, 0.1, np.float32), sample_rate=44100).segments
    assert not sound.tag(np.full(3000, 0.1, np.float32), sample_rate=RATE).segments


@pytest.mark.parametrize("block_s", [0.1, 0.7])
def test_what_is_subtracted_does_not_depend_on_blocks(speech: Samples, block_s: float) -> None:
    np.testing.assert_array_equal(read(speech + np.float32(0.1), block_s)[0], read(speech + np.float32(0.1))[0])


def test_what_has_no_offset_is_left_alone(speech: Samples) -> None:
    seconds = np.arange(4 * RATE) / RATE
    for samples in (speech, speech + np.float32(0.0025), 0.5 * np.sin(2 * np.pi * 3 * seconds).astype(np.float32)):
        np.testing.assert_array_equal(read(samples)[0], samples)
