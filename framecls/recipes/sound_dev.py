"""Write the manifest of recordings that `sound` is measured on and never learns from: whole sources, by group.

FOLDER holds the audio files of public repositories, a folder each named OWNER+NAME, each file's path in the repository
with "__" for "/". What a group holds is heard by whoever marked it; where in a file, by its loudness, and for speech by
FireRed's VAD. Nobody marked where a meeting far away is talked in: `make_meetings --split dev` simulates those.

    python -m framecls.recipes.sound_dev FOLDER --teachers DIR --out dev.jsonl
    python -m framecls.recipes.compare_peers --whole dev.jsonl --teachers DIR
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from framecls.errors import AudioError
from framecls.recipes.prepare_sound import RATE, Teachers, read_all, spans

# Group, kind, repository, and what the names of its files match.
GROUPS = [
    ("singing", "music", "mir-dataset-loaders+mirdata",
     r"vocadito|jingju|cante100|tonas|dagstuhl.*_(LRX|ST[MLR])|multivox|compmusic_(raga|carnatic_varnam|indian)|saraga|scms/|iamms"),
    ("singing", "music", "spotify+basic-pitch", r"vocadito"),
    ("singing", "music", "MTG+essentia", r"singing"),
    ("singing", "music", "MTG+essentia-audio", r"vignesh"),
    ("singing", "music", "LCAV+pyroomacoustics", r"singing"),
    ("songs", "music", "mir-dataset-loaders+mirdata",
     r"dali|ikala|queen|beatles|rwc_popular|gtzan|simac|billboard|salami|fma_keys"),
    ("songs", "music", "deezer+spleeter", r"audio_example\.mp3"),
    ("songs", "music", "tyiannak+pyAudioAnalysis", r"3_class__music"),
    ("instruments", "music", "mir-dataset-loaders+mirdata",
     r"orchset|phenicx|maestro|tinysol|good_sounds|guitarset.*mono|filosax|irmas|jtd|slakh.*mix|medley_solos|"
     r"medleydb_melody|"
     r"rwc_(classical|jazz)|tonality|brid|mridangam|tabla|candombe|egfxset|idmt|hainsworth|ballroom|hindustani_rhythm"),
    ("instruments", "music", "MTG+essentia-audio", r"__(.*sax|Guitar|dubstep\.wav|flamenco\.flac|hiphop|techno)"),
    ("instruments", "music", "MTG+essentia", r"flamenco"),
    ("babies", "noise", "giulbia+baby_cry_detection", r"301 - Crying baby__(V_|Louise|margot)"),
    ("coughs", "noise", "virufy+virufy-data", r"segmented.*mp3|segmented.*wav"),
    ("coughs", "noise", "virufy+virufy-data", r"original"),
    ("animals", "noise", "UtrechtUniversity+animal-sounds", r"."),
    ("animals", "noise", "MTG+essentia-audio", r"cat_purrrr\.wav"),
    ("clips", "speech", "tyiannak+pyAudioAnalysis", r"diarization|count|3WORDS|speechEmotion|3_class__speech"),
    ("clips", "speech", "linto-ai+whisper-timestamped", r"smartphone|radio|apollo|words|bonjour|japanese|gaens|punct"),
    ("clips", "speech", "readbeyond+aeneas", r"mono\.16000|vad__|p002|p003|example7"),
    ("clips", "speech", "ina-foss+inaSpeechSegmenter", r"lamartine"),
    ("clips", "speech", "FireRedTeam+FireRedVAD", r"hello"),
    ("clips", "speech", "amsehili+auditok", r"1to6"),
    ("clips", "speech", "lhotse-speech+lhotse", r"ami|libri|common|ljspeech"),
    ("far", "speech", "fgnt+nara_wpe", r"AMI"),
    ("far", "speech", "lhotse-speech+lhotse", r"_rvb"),
]  # fmt: skip
MOST_OF_ONE = 40  # files of one line of the table


def find_files(folder: Path) -> Iterator[tuple[str, str, Path]]:
    """Yield the group, the kind and the path of each recording."""
    for group, kind, repository, pattern in GROUPS:
        names = sorted((folder / repository).glob("*"))
        fitting = [file for file in names if re.search(pattern, file.name.replace("__", "/") + "\n" + file.name)]
        every = max(1, -(-len(fitting) // MOST_OF_ONE))
        yield from ((group, kind, file) for file in fitting[::every])


def main() -> None:
    """Write a row a span."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("folder", type=Path)
    arguments.add_argument("--teachers", type=Path, required=True)
    arguments.add_argument("--out", type=Path, required=True)
    options = arguments.parse_args()
    teachers = Teachers(options.teachers)
    with options.out.open("w", encoding="utf-8") as out:
        for group, kind, file in find_files(options.folder):
            try:
                samples = read_all(file)
            except AudioError:  # repositories hold broken files on purpose, too
                continue
            if len(samples) < RATE // 2:
                continue
            samples = samples[: 60 * RATE]
            heard = np.zeros((1, 3), np.float32) if kind != "speech" else teachers.hear(samples, kind)
            for start, end in spans(samples, kind, heard):
                row = {"file": str(file.absolute()), "start": start, "end": end, "label": kind, "speaker": file.name}
                out.write(json.dumps(row | {"source": group, "split": "dev"}, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
