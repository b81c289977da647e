"""Who speaks when: by embeddings that are drawn, and of tones that an untrained model tells apart."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from numpy.typing import NDArray

import framecls
from framecls.checkpoints.file import read_config
from framecls.checkpoints.network import save_model
from framecls.checkpoints.registry import locate
from framecls.config import UNKNOWN, DecisionConfig, DiarizationConfig
from framecls.errors import ConfigError, UsageError
from framecls.nn.network import Network
from framecls.recipes.prepare_sound import read_all
from framecls.speakers.diarization import NOBODY, SOMEBODY, Count, find_turns, join_short, name_speakers
from framecls.speakers.found import cut_spans, read_found
from framecls.speakers.gallery import Clip, open_gallery
from framecls.speakers.listening import Heard
from framecls.speakers.recognition import Enrolled
from support.commands import Cli
from support.models import save_tiny_voice_model, tiny_voice_config
from support.signals import RATE, make_tone, write_wav

HOP_S = 0.02
SETTINGS = DiarizationConfig(same_speaker=0.35, surely_same=0.6, unknown=0.2)
CONFIG = replace(tiny_voice_config(), decision=DecisionConfig(thresholds={}, same_voice=(20.0, -10.0)))
DIM = 64
SAMPLES = Path(framecls.__file__).parents[1] / "samples"
Turn = tuple[int, float]  # who, -1 for a pause; seconds


def draw_voices(number: int, seed: int = 0) -> NDArray[np.float32]:
    """Return (voice, number) orthogonal unit vectors."""
    basis, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((DIM, DIM)))
    return basis[:number].astype(np.float32)


def hear(turns: Sequence[Turn], voices: NDArray[np.float32], noise: float = 0.7, seed: int = 0) -> Heard:
    """Return what would be heard of turns: a window is the mean of what is said in it, and noise of a given length."""
    who = np.concatenate([np.full(round(seconds / HOP_S), speaker) for speaker, seconds in turns])
    width, step = round(SETTINGS.window_s / HOP_S), round(SETTINGS.step_s / HOP_S)
    rng = np.random.default_rng(seed)
    starts, vectors = [], []
    for start in range(0, max(1, len(who) - width + 1), step):
        inside = who[start : start + width]
        if (inside >= 0).sum() * HOP_S >= 0.3:
            mean = voices[inside[inside >= 0]].mean(axis=0)
            vector = mean / np.linalg.norm(mean) + rng.standard_normal(DIM) * noise / DIM**0.5
            starts.append(start)
            vectors.append(vector / np.linalg.norm(vector))
    speech = (who >= 0).astype(np.float32)
    rows = np.array(vectors, np.float32).reshape(-1, DIM)
    return Heard(HOP_S, speech, np.zeros_like(speech), np.array(starts, np.int64), width, rows)


def truth(turns: Sequence[Turn]) -> NDArray[np.int64]:
    """Return (frame,) who speaks."""
    return np.concatenate([np.full(round(seconds / HOP_S), speaker) for speaker, seconds in turns])


def draw_turns(n_speakers: int, n_turns: int, seed: int = 0) -> list[Turn]:
    """Draw turns of 1.5 to 6 s, in which everybody speaks, with pauses between."""
    rng = np.random.default_rng(seed)
    order = [index % n_speakers for index in range(n_turns)]
    return [
        turn
        for speaker in order
        for turn in ((speaker, float(rng.uniform(1.5, 6.0))), (-1, float(rng.choice([0.0, 0.4, 1.0]))))
    ]


@pytest.mark.parametrize("n_speakers", [1, 2, 4, 8])
def test_everybody_is_found_and_has_a_number_of_their_own(n_speakers: int) -> None:
    turns = draw_turns(n_speakers, 5 * n_speakers)
    found = find_turns(hear(turns, draw_voices(n_speakers)), SETTINGS, Count())
    assert len(found.centroids) == n_speakers
    who = truth(turns)
    number = [
        int(np.bincount(found.best[(who == speaker) & (found.best >= 0)]).argmax()) for speaker in range(n_speakers)
    ]
    assert len(set(number)) == n_speakers
    assert (found.best == NOBODY).tolist() == (who < 0).tolist()
    spoken = who >= 0
    assert (found.best[spoken] == np.array(number)[who[spoken]]).mean() > 0.95


def test_changes_are_placed_much_finer_than_a_window() -> None:
    turns = [(index % 2, 3.0) for index in range(20)]
    found = find_turns(hear(turns, draw_voices(2)), SETTINGS, Count())
    changes = (np.flatnonzero(np.diff(found.best)) + 1) * HOP_S
    assert len(changes) == 19
    assert np.abs(changes - 3.0 * np.arange(1, 20)).max() < 0.35


def test_as_many_as_are_asked_for() -> None:
    # Two pairs of voices that sound alike: of cosine 0.5, above the usual bound.
    base = draw_voices(4)
    near = 0.5 * base[[0, 2]] + 0.866 * base[[1, 3]]
    voices = np.concatenate([base[[0, 2]], near])
    heard = hear(draw_turns(4, 24), voices, noise=0.2)
    numbers = [
        len(find_turns(heard, SETTINGS, count).centroids) for count in (Count(), Count(4, 4), Count(3), Count(1, 1))
    ]
    assert numbers == [2, 4, 4, 1] or numbers == [2, 4, 3, 1]


def test_more_than_there_are_cannot_be_had() -> None:
    heard = hear(draw_turns(2, 12), draw_voices(2), noise=0.3)
    assert len(find_turns(heard, SETTINGS, Count(5, 5)).centroids) == 2


def test_a_voice_that_is_hardly_heard_is_unknown() -> None:
    turns = [(0, 8.0), (-1, 0.5), (2, 1.0), (-1, 0.5), (1, 8.0)]
    found = find_turns(hear(turns, draw_voices(3), noise=0.2), SETTINGS, Count())
    assert len(found.centroids) == 2
    middle = found.best[round(8.7 / HOP_S) : round(9.3 / HOP_S)]
    assert (middle == SOMEBODY).mean() > 0.6


def test_short_turns_go_to_the_longer_neighbour_and_pauses_end_turns() -> None:
    best = np.array(
        [0] * 9 + [1] * 3 + [SOMEBODY] * 2 + [2] * 6 + [NOBODY] * 4 + [3] * 2 + [NOBODY] * 3 + [1] * 5 + [0]
    )
    joined = join_short(best, best != NOBODY, 4)
    assert joined.tolist() == [0] * 12 + [2] * 8 + [NOBODY] * 4 + [3] * 2 + [NOBODY] * 3 + [1] * 6
    assert joined.tolist() == join_short(joined, best != NOBODY, 4).tolist()


def test_there_are_no_crumbs(home: Path) -> None:
    """Of the shipped model; it once gave 20 ms of somebody unknown here."""
    result = framecls.load("speaker", device="cpu").tag(SAMPLES / "interview_44k_stereo.ogg")
    assert result.segments
    assert all(segment.end - segment.start > 0.199 for segment in result.segments)


@pytest.mark.parametrize("turns", [[(-1, 5.0)], [(-1, 0.02)], [(0, 0.1), (-1, 4.0)]])
def test_no_speech_or_hardly_any(turns: list[Turn]) -> None:
    found = find_turns(hear(turns, draw_voices(1)), SETTINGS, Count())
    assert len(found.centroids) == 0
    assert len(found.best) == len(truth(turns))
    assert not (found.best >= 0).any()


@pytest.mark.parametrize("seconds", [0.4, 1.0, 2.9])
def test_a_short_recording_has_one_speaker(seconds: float) -> None:
    found = find_turns(hear([(0, seconds)], draw_voices(1)), SETTINGS, Count())
    assert (found.best == 0).all()


def test_what_is_nowhere_surely_speech_is_none() -> None:
    turns = [(0, 3.0), (-1, 1.0), (1, 3.0)]
    heard = hear(turns, draw_voices(2), noise=0.2)
    doubtful = np.where(truth(turns) == 1, np.float32(0.5), heard.speech)
    found = find_turns(replace(heard, speech=doubtful), SETTINGS, Count())
    assert (found.best >= 0).tolist() == (truth(turns) == 0).tolist()


def test_hours_are_clustered_in_parts() -> None:
    turns = draw_turns(5, 700)
    heard = hear(turns, draw_voices(5))
    assert len(heard.vectors) > 4000
    found = find_turns(heard, SETTINGS, Count())
    assert len(found.centroids) == 5
    who = truth(turns)
    pairs = {(int(a), int(b)) for a, b in zip(who[who >= 0], found.best[who >= 0], strict=True)}
    counts = {pair: int(((who == pair[0]) & (found.best == pair[1])).sum()) for pair in pairs}
    assert sum(sorted(counts.values())[-5:]) / (who >= 0).sum() > 0.95


@pytest.mark.parametrize(("least", "most"), [(0, None), (1, 0), (3, 2)])
def test_counts_that_cannot_be(least: int, most: int | None) -> None:
    with pytest.raises(ConfigError, match="speakers"):
        Count(least, most)


def enrol(voices: NDArray[np.float32], names: Sequence[str]) -> Enrolled:
    return Enrolled([Clip(name, "tiny", "x.wav", 6.0, vector) for name, vector in zip(names, voices, strict=True)])


def test_those_who_are_enrolled_by_name_and_others_by_number() -> None:
    voices = draw_voices(4)
    turns = draw_turns(4, 20)
    found = find_turns(hear(turns, voices, noise=0.3), SETTINGS, Count())
    enrolled = enrol(voices[[1, 3]], ["Ada", "Bob"])
    assert [speaker.name for speaker in name_speakers(found, Enrolled([]), CONFIG)] == [
        f"speaker {n}" for n in range(1, 5)
    ]
    assert [speaker.name for speaker in name_speakers(found, enrolled, CONFIG)] == [
        "speaker 1",
        "Ada",
        "speaker 2",
        "Bob",
    ]
    among = enrolled.among(["Bob"])
    assert [speaker.name for speaker in name_speakers(found, among, CONFIG)][3] == "Bob"
    alike = enrol(0.8 * voices[[1]] + 0.6 * voices[[3]], ["Ada"])  # both would be taken for her
    assert [speaker.name for speaker in name_speakers(found, alike, CONFIG)] == [
        "speaker 1",
        "Ada",
        "speaker 2",
        "speaker 3",
    ]
    taken = enrol(voices[[1]], ["speaker 1"])
    names = [speaker.name for speaker in name_speakers(found, taken, CONFIG)]
    assert names == ["speaker 2", "speaker 1", "speaker 3", "speaker 4"]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a model of voices that is untrained, and tells tones by their pitch."""
    torch.manual_seed(7)
    config = replace(
        tiny_voice_config(), diarization=replace(SETTINGS, same_speaker=0.95, surely_same=0.995, unknown=-1.0)
    )
    file = tmp_path_factory.mktemp("models") / "tiny-speaker.safetensors"
    save_model(Network(config), file)
    return file


@pytest.fixture
def meeting(tmp_path: Path) -> Path:
    """Return a recording in which a low tone and a high one take turns of 4 s."""
    pitches = (200.0, 2500.0, 200.0, 2500.0)
    path = tmp_path / "meeting.wav"
    soundfile.write(path, np.concatenate([make_tone(4.0, pitch) for pitch in pitches]), RATE)
    return path


def test_nobody_need_be_enrolled(path: Path, meeting: Path, cli: Cli) -> None:
    answer = cli("tag", "-m", str(path), meeting, "-f", "jsonl")
    assert (answer.status, answer.err) == (0, "")
    [result] = [json.loads(line) for line in answer.out.splitlines()]
    assert result["labels"] == ["speaker 1", "speaker 2"]
    turns = [
        (segment["label"], round(segment["start"] / 4), round(segment["end"] / 4)) for segment in result["segments"]
    ]
    assert turns == [(f"speaker {1 + number % 2}", number, number + 1) for number in range(4)]
    for before, after in pairwise(result["segments"]):
        assert abs(before["end"] - 4 * round(before["end"] / 4)) < 0.4
        assert before["end"] == after["start"]


def test_those_who_are_enrolled_by_name(path: Path, meeting: Path, tmp_path: Path, cli: Cli) -> None:
    gallery = tmp_path / "voices.sqlite"
    clip = write_wav(tmp_path / "ada.wav", 2.0, 2500.0)
    assert cli("enroll", "Ada", clip, "-m", str(path), "--gallery", gallery).status == 0
    arguments = ("tag", "-m", str(path), meeting, "-f", "jsonl", "--gallery", gallery)
    assert json.loads(cli(*arguments).out)["labels"] == ["speaker 1", "Ada"]
    answer = cli(*arguments, "--among", "Bob")
    assert answer.status == 2
    assert "nobody is enrolled as 'Bob'" in answer.err


def test_a_gallery_of_another_model_is_refused_before_anything_is_decoded(
    path: Path, meeting: Path, tmp_path: Path, cli: Cli
) -> None:
    gallery = tmp_path / "voices.sqlite"
    other = save_tiny_voice_model(tmp_path, seed=8)
    assert cli("enroll", "Ada", meeting, "-m", str(other), "--gallery", gallery).status == 0
    answer = cli("tag", "-m", str(path), tmp_path / "missing.wav", meeting, "--gallery", gallery)
    assert (answer.status, answer.out) == (1, "")
    assert "cannot be compared" in answer.err


def test_the_usual_gallery_of_another_model_names_nobody(
    path: Path, meeting: Path, home: Path, tmp_path: Path, cli: Cli
) -> None:
    other = save_tiny_voice_model(tmp_path, seed=8)
    assert cli("enroll", "Ada", meeting, "-m", str(other)).status == 0
    answer = cli("tag", "-m", str(path), meeting, "-f", "jsonl")
    assert answer.status == 0
    assert json.loads(answer.out)["labels"] == ["speaker 1", "speaker 2"]
    [note] = answer.err.splitlines()
    assert "cannot be compared" in note
    assert "voices have numbers for names" in note
    assert cli("identify", "-m", str(path), meeting).status == 1


def test_no_such_gallery_is_refused_where_it_is_named(path: Path, meeting: Path, tmp_path: Path, cli: Cli) -> None:
    answer = cli("tag", "-m", str(path), meeting, "--gallery", tmp_path / "nobody.sqlite")
    assert answer.status == 1
    assert "there is no such gallery" in answer.err


def test_more_speakers_than_are_heard(path: Path, meeting: Path, cli: Cli) -> None:
    answer = cli("tag", "-m", str(path), meeting, "-f", "jsonl", "--speakers", "5")
    assert answer.status == 0
    assert json.loads(answer.out)["labels"] == ["speaker 1", "speaker 2"]
    assert "2 speakers are heard in it, not 5" in answer.err


@pytest.mark.parametrize(
    ("options", "wrong"),
    [
        (["--speakers", "0"], "--speakers 0: at least 1"),
        (["--speakers", "2", "--max-speakers", "3"], "leave --min-speakers and --max-speakers out"),
        (["--min-speakers", "3", "--max-speakers", "2"], "--min-speakers 3 is more than --max-speakers 2"),
        (["-m", "sound", "--speakers", "2"], "goes with a model of voices"),
    ],
)
def test_options_that_cannot_be(options: list[str], wrong: str, path: Path, meeting: Path, cli: Cli) -> None:
    model = [] if "-m" in options else ["-m", str(path)]
    answer = cli("tag", meeting, *model, *options)
    assert answer.status == 2
    assert wrong in answer.err


def test_from_python(path: Path, home: Path) -> None:
    model = framecls.load(path, device="cpu")
    sound = np.concatenate([make_tone(4.0, 200.0), make_tone(4.0, 2500.0)])
    result = model.tag(sound, sample_rate=RATE)
    assert result.overlapping
    assert result.labels == ("speaker 1", "speaker 2")
    assert result.scores.shape == (len(result.times), 2)
    assert result.times[1] - result.times[0] == pytest.approx(result.hop)
    bare = model.tag(sound, sample_rate=RATE, keep_scores=False)
    assert (bare.segments, len(bare.scores)) == (result.segments, 0)
    assert model.tag(sound, sample_rate=RATE, speakers=1).labels == ("speaker 1",)
    with pytest.raises(UsageError, match="model of voices"):
        framecls.load("sound", device="cpu").tag(sound, sample_rate=RATE, speakers=2)


def test_silence_and_short_recordings(home: Path) -> None:
    """With the shipped model, which has a gate."""
    model = framecls.load("speaker", device="cpu")
    silent = model.tag(np.zeros(3 * RATE, np.float32), sample_rate=RATE)
    assert (silent.labels, silent.segments) == ((), ())
    assert silent.notes == ("no speech is heard in it",)
    clip, rate = soundfile.read(SAMPLES / "speech_flite.flac", dtype="float32")
    short = model.tag(clip[rate : 2 * rate], sample_rate=rate)
    assert short.labels in {("speaker 1",), (UNKNOWN,)}
    assert short.duration == pytest.approx(1.0)
    hardly = model.tag(clip[rate : rate + rate // 3], sample_rate=rate)
    assert not any("0 speakers" in note for note in hardly.notes)


def test_a_voice_that_was_found_is_enrolled(path: Path, meeting: Path, tmp_path: Path, cli: Cli) -> None:
    gallery, found = tmp_path / "voices.sqlite", tmp_path / "found.jsonl"
    tag = ("tag", "-m", str(path), meeting, "--gallery", gallery)
    assert (
        cli("enroll", "Bob", write_wav(tmp_path / "bob.wav", 2.0, 900.0), "-m", str(path), "--gallery", gallery).status
        == 0
    )
    assert cli(*tag, "-f", "jsonl", "-o", found).status == 0
    enroll = ("enroll", "-m", str(path), "--gallery", gallery, "--from")
    answer = cli(*enroll, found, "speaker 2", "Ada")
    assert (answer.status, answer.out) == (0, "")
    assert "Ada: 1 clip" in answer.err
    with open_gallery(gallery) as opened:
        [clip] = opened.clips(["Ada"])
    assert clip.file == str(meeting)
    assert 7.0 < clip.heard_s < 9.0
    high = framecls.load(path, device="cpu").embed(make_tone(4.0, 2500.0), sample_rate=RATE)
    assert float(high @ clip.vector) > 0.99
    assert json.loads(cli(*tag, "-f", "jsonl").out)["labels"] == ["speaker 1", "Ada"]


@pytest.mark.parametrize(
    ("content", "words", "said"),
    [
        ("{}", ["speaker 1", "Ada"], "not what tag wrote"),
        ("no json", ["speaker 1", "Ada"], "not what tag wrote"),
        (None, ["speaker 1", "Ada"], "cannot be read"),
        ("ROW", ["speaker 3", "Ada"], "nobody is called 'speaker 3' in it: did you mean speaker 1"),
        ("ROW\nROW", ["speaker 1", "Ada"], "in 2 of its recordings"),
        ("ROW", ["speaker 1"], ""),
        ("ROW", ["speaker 1", "Ada", "Bob"], "--from wants whom it found and their name"),
        ("ROW", ["speaker 1", "Ada"], "no such file"),
        ('{"file": "a.wav", "tiers": [ROW]}', ["speaker 1", "Ada"], "not what tag wrote"),
        ('{"file": "a.wav", "tiers": {}}', ["speaker 1", "Ada"], "nobody is called 'speaker 1'"),
        ('{"file": "a.wav", "tiers": {"x": ROW}}', ["speaker 9", "Ada"], "did you mean speaker 1"),
    ],
)
def test_what_cannot_be_enrolled_from(
    content: str | None, words: list[str], said: str, path: Path, tmp_path: Path, cli: Cli
) -> None:
    row = {"file": "gone.wav", "segments": [{"start": 0.0, "end": 2.0, "label": "speaker 1", "score": 1.0}]}
    if content is not None:
        (tmp_path / "found.jsonl").write_text(content.replace("ROW", json.dumps(row)))
    answer = cli("enroll", "-m", str(path), "--from", tmp_path / "found.jsonl", *words)
    assert answer.status in (1, 2)
    assert answer.out == ""
    assert said in answer.err
    assert len(answer.err.splitlines()) == 1


def test_a_voice_is_taken_from_what_several_models_found(tmp_path: Path) -> None:
    sound = {"segments": [{"start": 0, "end": 9, "label": "speech"}]}
    turns = [{"start": 1, "end": 5, "label": "speaker 1"}, {"start": 4, "end": 8, "label": "speaker 2"}]
    row = {"file": "x.wav", "channel": 1, "tiers": {"sound": sound, "mine": {"segments": turns}}}
    (tmp_path / "found.jsonl").write_text(json.dumps(row))
    voice = read_found(tmp_path / "found.jsonl", "speaker 2")
    assert (voice.file, voice.channel, voice.spans) == (Path("x.wav"), 1, ((5, 8),))


def test_a_voice_is_taken_where_it_speaks_alone(tmp_path: Path) -> None:
    spans = {"Ada": [(0, 5), (10, 12)], "Bob": [(4, 6), (10.5, 11)]}
    segments = [{"start": a, "end": b, "label": who} for who, turns in spans.items() for a, b in turns]
    (tmp_path / "found.json").write_text(json.dumps([{"file": "x.wav", "channel": 2, "segments": segments}]))
    voice = read_found(tmp_path / "found.json", "Ada")
    assert (voice.file, voice.channel) == (Path("x.wav"), 2)
    assert voice.spans == ((0, 4), (10, 10.5), (11, 12))
    ramp = np.arange(1200, dtype=np.float32)
    heard = cut_spans(np.split(ramp, [7, 450, 451]), voice.spans, 100)
    assert heard.tolist() == [*range(400), *range(1000, 1050), *range(1100, 1200)]


def test_the_usual_settings_are_those_chosen_for_the_shipped_model() -> None:
    """A model file that was written before they were chosen holds what was usual then."""
    assert read_config(locate("speaker")).diarization == DiarizationConfig()


def test_two_who_speak_at_once_are_both_named(home: Path) -> None:
    """Two voices of samples/: 4 s of each alone, then 4 s of both, by the shipped models."""
    first, second = (read_all(SAMPLES / name)[RATE : 9 * RATE] for name in ("speech_it.opus", "speech_en.ogg"))
    first, second = (0.05 * sound / np.float32(np.square(sound).mean() ** 0.5) for sound in (first, second))
    n_alone = 4 * RATE
    sound = np.concatenate([first[:n_alone], second[:n_alone], (first + second)[n_alone:]])
    result = framecls.load("speaker", device="cpu").tag(sound, sample_rate=RATE)
    assert result.labels == ("speaker 1", "speaker 2")

    def spoken_s(label: str, start: float, end: float) -> float:
        own = [(max(s.start, start), min(s.end, end)) for s in result.segments if s.label == label]
        return sum(max(0.0, last - first) for first, last in own)

    assert spoken_s("speaker 1", 0, 4) > 2.5
    assert spoken_s("speaker 2", 0, 3.5) < 0.3
    assert spoken_s("speaker 2", 4, 8) > 2.5
    assert spoken_s("speaker 1", 4.5, 8) < 0.3
    assert all(spoken_s(label, 8, 12) > 2.5 for label in result.labels)
