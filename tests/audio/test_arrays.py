"""Arrays of any library and blocks as recordings: their type, the order of their axes, their scale."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from numpy.typing import NDArray

import framecls
from framecls.audio import open_audio
from framecls.errors import AudioError
from support.signals import RATE

Samples = NDArray[np.float32]


@pytest.fixture
def clip() -> Samples:
    """Return (sample,) a second of noise whose numbers fit 16 bits."""
    noise = 0.2 * np.random.default_rng(1).standard_normal(RATE)
    return (np.round(noise.clip(-0.99, 0.99) * 2**15) / 2**15).astype(np.float32)


def read(source: Any, sample_rate: int = RATE) -> tuple[Samples, list[str]]:
    with open_audio(source, raw_sample_rate=sample_rate) as stream:
        return np.concatenate(list(stream.blocks())), stream.remarks.notes


class Series:
    """What of a pandas Series counts."""

    def __init__(self, values: NDArray[Any]) -> None:
        self._values = values

    def __array__(self, dtype: Any = None, copy: Any = None) -> NDArray[Any]:
        return self._values if dtype is None else self._values.astype(dtype)


SOURCES: dict[str, Callable[[Samples], Any]] = {
    "list": lambda x: x.tolist(),
    "float64": lambda x: x.astype(np.float64),
    "byte-swapped": lambda x: x.astype(">f4"),
    "not contiguous": lambda x: np.repeat(x, 3)[::3],
    "series": Series,
    "tensor": torch.from_numpy,
    "tensor with gradients": lambda x: torch.from_numpy(x).requires_grad_(),
    "negated tensor": lambda x: torch._neg_view(torch.from_numpy(-x)),
    "list of tensors": lambda x: [torch.from_numpy(x), torch.from_numpy(x)],
}


@pytest.mark.parametrize("kind", SOURCES)
def test_what_holds_numbers_is_a_source(clip: Samples, kind: str) -> None:
    np.testing.assert_array_equal(read(SOURCES[kind](clip))[0], clip)
    np.testing.assert_array_equal(read(iter([SOURCES[kind](part) for part in np.split(clip, 10)]))[0], clip)


@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
def test_half_precision_is_a_source(clip: Samples, kind: str) -> None:
    tensor = torch.from_numpy(clip).to(getattr(torch, kind))
    np.testing.assert_array_equal(read(tensor)[0], tensor.float().numpy())
    if kind == "float16":
        np.testing.assert_array_equal(read(clip.astype(np.float16))[0], tensor.float().numpy())


def test_a_read_only_array_is_left_alone(clip: Samples) -> None:
    clip.flags.writeable = False
    np.testing.assert_array_equal(read(clip)[0], clip)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_tensor_on_a_gpu_is_a_source(clip: Samples) -> None:
    np.testing.assert_array_equal(read(torch.from_numpy(clip).cuda())[0], clip)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (np.zeros(9, bool), "true and false"),
        (np.array(["a", "b"]), "text"),
        (["a.wav", "b.wav"], "text"),
        (np.array([None, 1.0]), "objects"),
        (torch.zeros(9, dtype=torch.complex64), "complex64"),
        (torch.zeros(9, device="meta"), "cannot be read as an array"),
        ([[1.0, 2.0], [3.0]], "cannot be read as an array"),
        (np.ma.array([0.5, 0.5], mask=[True, False]), "masked"),
        (np.zeros((500, 300)), "500 channels are too many: transpose it"),
    ],
)
def test_what_holds_no_samples_is_refused_in_a_line(source: Any, message: str) -> None:
    for given in (source, iter([source])):
        with pytest.raises(AudioError, match=message) as caught:
            read(given)
        assert "\n" not in str(caught.value)


def test_a_model_takes_any_array_wherever_it_takes_one(clip: Samples) -> None:
    sound, speaker = framecls.load("sound", device="cpu"), framecls.load("speaker", device="cpu")
    speech, rate = soundfile.read("samples/speech_en.ogg", dtype="float32")
    expected = sound.tag(speech, sample_rate=rate)
    for given in (torch.from_numpy(speech), speech.tolist(), np.stack([speech, speech], axis=1)):
        assert sound.tag(given, sample_rate=rate).segments == expected.segments
    [many] = sound.tag_many([torch.from_numpy(speech)], sample_rate=rate)
    assert not isinstance(many, Exception)
    assert many.segments == expected.segments
    assert list(sound.stream(torch.from_numpy(speech), sample_rate=rate))
    vector = speaker.embed(speech, sample_rate=rate)
    np.testing.assert_array_equal(speaker.embed(torch.from_numpy(speech), sample_rate=rate), vector)
    language = framecls.load("language", device="cpu")
    assert language.identify(torch.from_numpy(speech), sample_rate=rate).label == "en"


# The order of the axes


@pytest.mark.parametrize("shape", [(RATE, 2), (RATE, 1), (RATE, 6), (3, 2)])
def test_more_rows_than_channels_are_samples(shape: tuple[int, int]) -> None:
    samples = np.random.default_rng(2).standard_normal(shape).astype(np.float32) / 10
    got, notes = read(samples)
    np.testing.assert_array_equal(got, read(samples.T)[0])
    assert notes == [f"{shape} is taken for (sample, channel), as the first axis is too long for channels"]


def test_many_channels_in_the_documented_order_are_believed_and_said() -> None:
    samples = np.random.default_rng(2).standard_normal((64, RATE)).astype(np.float32) / 10
    got, notes = read(samples)
    np.testing.assert_allclose(got, samples.mean(axis=0), atol=1e-6)
    assert notes == [f"(64, {RATE}) is taken for 64 channels"]
    assert read(samples[:2])[1] == []


def test_blocks_as_a_sound_card_gives_them(clip: Samples, caplog: pytest.LogCaptureFixture) -> None:
    stereo = np.stack([clip, clip * 0.5], axis=1)
    blocks = [stereo[first : first + 512] for first in range(0, len(stereo), 512)]
    got, notes = read(iter(blocks))
    np.testing.assert_array_equal(got, read(stereo.T)[0])
    assert len(notes) == 1
    assert sum(notes[0] in record.message for record in caplog.records) == 1
    np.testing.assert_array_equal(read(block[:, :1] for block in blocks)[0], clip)


def test_the_first_block_decides_and_the_others_must_fit(clip: Samples) -> None:
    with pytest.raises(AudioError, match="a block has 512 channels, the first 2"):
        read(iter([np.zeros((512, 2)), np.zeros((2, 512))]))
    with pytest.raises(AudioError, match="a block has 1 channels, the first 2"):
        read(iter([np.zeros((512, 2)), np.zeros(512)]))


@pytest.mark.parametrize("shape", [(0,), (2, 0), (0, 2)])
def test_an_empty_block_ends_nothing(clip: Samples, shape: tuple[int, ...]) -> None:
    stereo, empty = np.stack([clip, clip]), np.zeros(shape, np.float32)
    got, _ = read(iter([empty, stereo[:, :5000], empty, empty, stereo[:, 5000:], empty]))
    np.testing.assert_array_equal(got, clip)


# The scale


def as_integers(clip: Samples, bits: int, dtype: str) -> NDArray[Any]:
    return (clip.astype(np.float64) * 2 ** (bits - 1)).round().astype(dtype)


@pytest.mark.parametrize(
    ("bits", "dtype"),
    [
        (16, "int32"),
        (16, "int64"),
        (16, "float32"),
        (16, "float64"),
        (24, "int32"),
        (24, "int64"),
        (32, "int64"),
        (32, "float64"),
    ],
)
def test_integers_in_a_wider_type_are_on_their_own_scale(clip: Samples, bits: int, dtype: str) -> None:
    fine = clip + np.float32(2**-23)  # so that the last byte of 24 bits is used
    numbers = as_integers(clip if bits == 16 else fine, bits, dtype)
    got, notes = read(numbers)
    np.testing.assert_allclose(got, numbers / 2.0 ** (bits - 1), atol=1e-7)
    assert len(notes) == 1
    assert f"{bits}-bit integers" in notes[0]


@pytest.mark.parametrize(
    ("dtype", "centre"), [("int8", 0), ("int16", 0), ("int32", 0), ("uint8", 128), ("uint16", 2**15)]
)
def test_integers_over_the_range_of_their_type_are_as_before(clip: Samples, dtype: str, centre: int) -> None:
    bits = 8 * np.dtype(dtype).itemsize
    numbers = (np.round(clip.astype(np.float64) * 2 ** (bits - 1)) + centre).astype(dtype)
    got, notes = read(numbers)
    np.testing.assert_array_equal(got, ((numbers.astype(np.float64) - centre) / 2 ** (bits - 1)).astype(np.float32))
    assert notes == []


def test_16_bits_on_top_of_32_are_32() -> None:
    quiet = (np.random.default_rng(1).standard_normal(RATE) * 20).astype(np.int32) << 16
    got, notes = read(quiet)
    np.testing.assert_array_equal(got, (quiet / 2**31).astype(np.float32))
    assert notes == []


def test_a_wide_unsigned_type_that_holds_16_bits(clip: Samples) -> None:
    numbers = (clip.astype(np.float64) * 2**15 + 2**15).astype(np.uint32)
    np.testing.assert_array_equal(read(numbers)[0], clip)


def test_64_bits_that_fit_no_integers_are_refused(clip: Samples) -> None:
    with pytest.raises(AudioError, match="the scale of no integers"):
        read(as_integers(clip, 45, "int64"))


def test_floats_on_the_scale_of_integers_need_not_be_whole(clip: Samples) -> None:
    resampled = np.convolve(clip, [0.3, 0.5, 0.2])[:RATE].astype(np.float32)
    got, notes = read(resampled * 2**15)
    np.testing.assert_allclose(got, resampled, atol=1e-6)
    assert "16-bit integers" in notes[0]


def test_a_quiet_recording_on_the_scale_of_integers(clip: Samples) -> None:
    quiet = np.round(clip * 30).astype(np.float32)  # -60 dB
    np.testing.assert_array_equal(read(quiet)[0], quiet / 2**15)


@pytest.mark.parametrize("loud", [1.5, 3.9])
def test_floats_above_full_scale_are_loud_and_no_more(clip: Samples, loud: float) -> None:
    samples = clip / np.abs(clip).max() * np.float32(loud)
    got, notes = read(samples)
    np.testing.assert_array_equal(got, samples)
    assert notes == []


def test_a_click_is_no_scale(clip: Samples) -> None:
    for height in (3.0, 1e4):
        samples = clip.copy()
        samples[800:803] = height
        np.testing.assert_array_equal(read(samples)[0], samples)


def test_a_float_file_on_the_scale_of_integers(clip: Samples, write_audio: Any) -> None:
    path = write_audio("a.wav", np.concatenate([np.zeros(5000, np.float32), clip * 2**15]), subtype="FLOAT")
    with open_audio(path) as stream:
        got = np.concatenate(list(stream.blocks()))
        assert ["taken for 16-bit integers" in note for note in stream.remarks.notes] == [True]
    np.testing.assert_array_equal(got[5000:], clip)


def test_the_first_block_that_sounds_decides_on_the_scale(clip: Samples) -> None:
    def blocks(samples: NDArray[Any]) -> Iterator[NDArray[Any]]:
        yield np.zeros(4000, samples.dtype)
        yield from np.split(samples, 20)

    for numbers in (as_integers(clip, 16, "int32"), as_integers(clip, 16, "float32")):
        np.testing.assert_array_equal(read(blocks(numbers))[0][4000:], clip)


def test_blocks_that_change_their_scale_are_refused(clip: Samples) -> None:
    floats, integers = clip, as_integers(clip, 16, "float32")
    with (
        open_audio(iter([floats, integers]), raw_sample_rate=RATE) as stream,
        pytest.raises(AudioError, match=r"after earlier ones on the scale of -1\.\.1"),
    ):
        list(stream.blocks(0.5))
    with pytest.raises(AudioError, match="scale of 16-bit integers"):
        read(iter([as_integers(clip, 16, "int32"), as_integers(clip, 32, "int32")]))


def test_a_quiet_start_of_32_bit_blocks_decides_nothing(clip: Samples) -> None:
    numbers = as_integers(clip, 32, "int32")
    hiss = np.random.default_rng(3).integers(-100, 100, 4000).astype(np.int32)
    got, notes = read(iter([hiss, numbers]))
    np.testing.assert_allclose(got[4000:], clip, atol=1e-7)
    assert notes == []
