"""What teachers are believed: a bark that one of two networks takes for a voice stays noise."""

from __future__ import annotations

import numpy as np

from framecls.recipes.prepare_sound import RATE, Teachers, spans


def teachers(yamnet: dict[str, float], firered: dict[str, float]) -> Teachers:
    """Return teachers who hear the same in each of 50 frames."""

    def always(heard: dict[str, float]) -> object:
        return lambda samples: {label: np.full(50, score, np.float32) for label, score in heard.items()}

    made = object.__new__(Teachers)
    vars(made).update(_yamnet=always(yamnet), _firered=always(firered))
    return made


def test_noise_is_a_voice_only_where_both_hear_one(rng: np.random.Generator) -> None:
    samples = (0.1 * rng.standard_normal(RATE)).astype(np.float32)
    fooled = {"vad": 1.0, "speech": 0.9, "singing": 0.0, "music": 0.0}
    for yamnet, is_kept in (({"speech": 0.1, "music": 0.0}, True), ({"speech": 0.9, "music": 0.0}, False)):
        heard = teachers(yamnet, fooled).hear(samples, "noise")
        np.testing.assert_allclose(heard[0, 0], min(yamnet["speech"], 0.95), atol=1e-6)
        assert bool(spans(samples, "noise", heard)) == is_kept


def test_music_is_what_both_hear_on_average_and_song_is_no_talk() -> None:
    sung = {"vad": 1.0, "speech": 0.0, "singing": 1.0, "music": 0.2}
    heard = teachers({"speech": 0.1, "music": 0.8}, sung).hear(np.zeros(RATE, np.float32), "music")
    np.testing.assert_allclose(heard[0, :2], [0.05, 0.9], atol=1e-6)
    assert np.isnan(heard[0, 2])
